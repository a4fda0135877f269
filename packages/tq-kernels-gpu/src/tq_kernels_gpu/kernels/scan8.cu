// Scores of one query in 8 bits, and the search for the best of them, in one pass over packed rows.

#include "scan8.cuh"
#include "scores.cuh"

// A query (dim,) of each block in int8: steps[block] is the size of one step, sums[block] the sum of the integers, and
// words (queries, dim / 4) hold them in the order of tq_query_place.
extern "C" __global__ void __launch_bounds__(256) tq_query8(
    const float* queries, int dim, int format, u32* words, float* steps, i32* sums) {
    __shared__ float maxima[8];
    __shared__ int total;
    if (threadIdx.x == 0) total = 0;
    const float* query = queries + (i64)blockIdx.x * dim;
    float most = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) most = fmaxf(most, fabsf(query[i]));
#pragma unroll
    for (int reach = 16; reach; reach >>= 1) most = fmaxf(most, __shfl_xor_sync(TQ_ALL_LANES, most, reach));
    if ((threadIdx.x & 31) == 0) maxima[threadIdx.x >> 5] = most;
    __syncthreads();
#pragma unroll
    for (int warp = 0; warp < 8; warp++) most = fmaxf(most, maxima[warp]);
    int sum = 0;
    for (int i = threadIdx.x; i < dim / 4; i += blockDim.x) {
        u32 word = 0;
#pragma unroll
        for (int b = 0; b < 4; b++) {
            const float value = query[i / TQ_QUERY_WORDS * TQ_SPAN + tq_query_place(format, i % TQ_QUERY_WORDS, b)];
            const int level = most > 0 ? (int)rintf(value / most * 127.0f) : 0;
            sum += level;
            word |= (u32)(level & 255) << (8 * b);
        }
        words[(i64)blockIdx.x * (dim / 4) + i] = word;
    }
    atomicAdd(&total, sum);
    __syncthreads();
    if (threadIdx.x == 0) {
        steps[blockIdx.x] = most / 127.0f;
        sums[blockIdx.x] = total;
    }
}

// Copies the words of a query to shared memory; no barrier.
TQ_DEVICE void tq_load_query8(const u32* words, int dim, u32* to) {
    for (int i = threadIdx.x; i < dim / 4; i += blockDim.x)
        to[i / TQ_QUERY_WORDS * TQ_QUERY_PITCH + i % TQ_QUERY_WORDS] = words[i];
}

// As tq_scan_one, with the query of tq_query8 for each part: `words`, `steps` and `sums` of one query. `format` is 1 to
// 4; `low` and `high` are its codebook (TqBook8), whose step `factor` includes. Dimensions are multiples of 32.
//
// A word of eight 4-bit codes takes four permutations, four __dp4a, a flip and two shifts: 1.4 instructions a code.
extern "C" __global__ void __launch_bounds__(256, 3) tq_scan8(
    const u8* packed, i64 rows, int row_bytes, int dim, int format, u32 low, u32 high, const u32* words,
    const float* steps, const i32* sums, float factor, const void* scales, int scale_dtype, int sketch_offset,
    int sketch_dim, const u32* sketch_words, const float* sketch_steps, const i32* sketch_sums, float sketch_factor,
    const void* gammas, int gamma_dtype, int lanes, float* out, const u8* mask, u64* keys, int keep, int capacity) {
    constexpr int ROWS = 4;
    TQ_DYNAMIC_SHARED(shared);
    __shared__ u64 least;
    __shared__ int held;
    TqList lists[1] = {{(u64*)shared, &least, &held, keep, capacity}};
    lists[0].start();
    u32* stage_query = (u32*)(lists[0].keys + capacity);
    tq_load_query8(words, dim, stage_query);
    u32* sketch_query = stage_query + tq_spans(dim) * TQ_QUERY_PITCH;
    if (sketch_words) tq_load_query8(sketch_words, sketch_dim, sketch_query);
    const int sketch_spans = sketch_words ? tq_spans(sketch_dim) : 0;
    float* dots = (float*)(sketch_query + sketch_spans * TQ_QUERY_PITCH);
    const TqPart8 stage = {packed, row_bytes, dim, {low, high}, stage_query, sums[0]};
    const u8* bits = packed + sketch_offset;
    const TqPart8 sketch = {bits, row_bytes, sketch_dim, {0, 0}, sketch_query, sketch_words ? sketch_sums[0] : 0};
    const TqFactors factors = {factor * steps[0], sketch_words ? sketch_factor * sketch_steps[0] : 0.0f, scales, gammas,
                               scale_dtype, gamma_dtype};
    const int count = blockDim.x / lanes * ROWS;
    __syncthreads();
    for (i64 first = (i64)blockIdx.x * count; first < rows; first += (i64)gridDim.x * count) {
        if (format == 4) tq_dots8<4, ROWS>(stage, first, rows, lanes, dots);
        if (format == 3) tq_dots8<3, ROWS>(stage, first, rows, lanes, dots);
        if (format == 2) tq_dots8<2, ROWS>(stage, first, rows, lanes, dots);
        if (format == 1) tq_dots8<1, ROWS>(stage, first, rows, lanes, dots);
        if (sketch_words) tq_dots8<1, ROWS>(sketch, first, rows, lanes, dots + count);
        __syncthreads();
        tq_finish_rows<1>(factors, first, rows, count, 1, dots, mask, out, lists);
        __syncthreads();
    }
    if (!out) tq_deliver<1>(lists, 1, keys);
}
