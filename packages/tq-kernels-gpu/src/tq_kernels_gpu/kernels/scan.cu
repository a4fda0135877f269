// Scores of a few queries in one pass over packed rows, and the search for the best of them in the same pass.

#include "scan.cuh"
#include "scores.cuh"

// Dynamic shared memory: the table, the keys of each list, queries of both parts, dots.
template <int QUERIES, int ROWS>
TQ_DEVICE void tq_scan_rows(
    const TqCodes& stage, const TqCodes& sketch, const TqFactors& factors, i64 rows, int format, const float* centroids,
    int table, int copies, const float* stage_queries, const float* sketch_queries, int queries, int lanes, float* out,
    const u8* mask, u64* keys, int keep, int capacity) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ u64 least[QUERIES];
    __shared__ int counts[QUERIES];
    const TqTable levels = tq_load_table(centroids, table, copies, shared);
    u64* kept = (u64*)(shared + (table << levels.bit));
    TqList lists[QUERIES];
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        lists[q] = {kept + q * capacity, &least[q], &counts[q], keep, capacity};
        lists[q].start();
    }
    float* at = (float*)(kept + QUERIES * capacity);
    const TqQueries first_queries = tq_load_queries<QUERIES>(stage_queries, queries, stage.dim, at);
    at += QUERIES * first_queries.stride;
    TqQueries second_queries = {at, 0};
    if (sketch_queries) second_queries = tq_load_queries<QUERIES>(sketch_queries, queries, sketch.dim, at);
    float* dots = at + QUERIES * second_queries.stride;
    const int count = blockDim.x / lanes * ROWS;
    __syncthreads();
    for (i64 first = (i64)blockIdx.x * count; first < rows; first += (i64)gridDim.x * count) {
        tq_dots_of<QUERIES, ROWS>(format, stage, first, rows, lanes, first_queries, levels, dots);
        if (sketch_queries)
            tq_dots<1, QUERIES, ROWS>(
                sketch, first, rows, lanes, second_queries, levels, dots + QUERIES * count);
        __syncthreads();
        tq_finish_rows<QUERIES>(factors, first, rows, count, queries, dots, mask, out, lists);
        __syncthreads();
    }
    if (!out) tq_deliver<QUERIES>(lists, queries, keys);
}

// Scores (queries, rows) of packed rows to `out`, or without it the best `keep` keys that each block found among rows of
// `mask` (or all) to `keys` (queries, blocks, keep), descending and ended by zeros.
//
// A row's codes: a first stage of `dim` coordinates in its first `bytes` bytes, to be multiplied by `factor` and the row's
// scale, and with `sketch_queries` signs of `sketch_dim` projections from byte `sketch_offset` on, by `sketch_factor` and
// its gamma. Queries (queries, dim) float32, rotated; (queries, sketch_dim) projected. `centroids`: `table` floats, of all
// places or windows, held in `copies`; none for one bit, which counts as -1 and 1. `lanes` lanes share a row. `capacity`
// keys a list.
//
// Each code costs a shift, a mask, a look-up and QUERIES multiply-adds: docs/decisions/0018-gpu-scan.md counts them.
#define TQ_SCAN_PARAMETERS                                                                                             \
    const u8 *packed, i64 rows, int row_bytes, int bytes, int dim, int format, const float *centroids, int table,      \
        int copies, const float *stage_queries, float factor, const void *scales, int scale_dtype, int sketch_offset,  \
        int sketch_dim, const float *sketch_queries, float sketch_factor, const void *gammas, int gamma_dtype,         \
        int queries, int lanes, float *out, const u8 *mask, u64 *keys, int keep, int capacity
#define TQ_SCAN(QUERIES, ROWS)                                                                                         \
    const TqCodes stage = {packed, row_bytes, bytes, dim};                                                             \
    const TqCodes sketch = {packed + sketch_offset, row_bytes, (sketch_dim + 7) / 8, sketch_dim};                      \
    const TqFactors factors = {factor, sketch_factor, scales, gammas, scale_dtype, gamma_dtype};                       \
    tq_scan_rows<QUERIES, ROWS>(stage, sketch, factors, rows, format, centroids, table, copies, stage_queries,         \
                                sketch_queries, queries, lanes, out, mask, keys, keep, capacity)

// One query: four rows a group of lanes keep enough bytes in flight.
extern "C" __global__ void __launch_bounds__(256, 3) tq_scan_one(TQ_SCAN_PARAMETERS) { TQ_SCAN(1, 4); }

// Up to four.
extern "C" __global__ void __launch_bounds__(256, 2) tq_scan_four(TQ_SCAN_PARAMETERS) { TQ_SCAN(4, 2); }
