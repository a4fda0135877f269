// Attention in float32 for any dims and formats, and the joining of splits of the tokens.

#include "attention.cuh"

enum { TQ_TOKENS = 64, TQ_ROWS = 8, TQ_THREADS = 128, TQ_QUERY_LANES = 8 };  // of a tile; of a block; of one token

// Logits of the tile's tokens for the block's rows, (TQ_ROWS, TQ_TOKENS). Eight threads have a token.
TQ_DEVICE void tq_tile_logits(const TqAttention& a, int tile, int end, int first_row, int rows, const float* queries,
                              int stride, float* logits) {
    const TqCode& code = a.keys.code;
    const float* table = (const float*)a.keys.table;
    const float factor = a.scale / (float)code.dim;
    const int part = threadIdx.x % TQ_QUERY_LANES;
    for (int at = threadIdx.x / TQ_QUERY_LANES; at < TQ_TOKENS; at += TQ_THREADS / TQ_QUERY_LANES) {
        const int token = tile + at;
        const u8* packed = a.keys.packed + blockIdx.z * a.keys.stride + (i64)token * code.bytes;
        float dots[TQ_ROWS] = {};
        if (token < end)
            for (int unit = part; 8 * unit < code.dim; unit += TQ_QUERY_LANES) {
                u32 index[8];
                tq_indices(code, packed, unit, index);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const int at_dim = 8 * unit + i;
                    if (at_dim >= code.dim) break;
                    const float centroid = table[index[i]];
#pragma unroll
                    for (int row = 0; row < TQ_ROWS; row++)
                        if (row < rows) dots[row] = fmaf(centroid, queries[row * stride + at_dim], dots[row]);
                }
            }
        const float scale =
            token < end ? tq_scale(a.keys.scales, a.keys.scale_dtype, blockIdx.z * a.keys.scale_stride + token) : 0;
#pragma unroll
        for (int row = 0; row < TQ_ROWS; row++) {
            float dot = dots[row];
#pragma unroll
            for (int reach = 1; reach < TQ_QUERY_LANES; reach *= 2) dot += __shfl_xor_sync(TQ_ALL_LANES, dot, reach);
            if (part != 0 || row >= rows) continue;
            const TqSight sight = tq_sight(a, first_row + row);
            const bool seen =
                token < end && token >= sight.first && token < sight.last && !tq_masked(a, first_row + row, token);
            logits[row * TQ_TOKENS + at] = seen ? tq_capped(dot * (scale * factor), a.softcap) : TQ_NOTHING;
        }
    }
}

// Logits to weights of the values' centroids, exp(logit - maximum) times the token's scale, a warp a row. `states`: the
// maximum, the sum and the factor of what was added before, a row.
TQ_DEVICE void tq_tile_weights(const TqAttention& a, int tile, int end, int rows, float* logits, float (*states)[3]) {
    const int lane = threadIdx.x & 31;
    for (int row = threadIdx.x >> 5; row < rows; row += TQ_THREADS / 32) {
        float* own = logits + row * TQ_TOKENS;
        float highest = fmaxf(own[lane], own[lane + 32]), sum = 0;
#pragma unroll
        for (int reach = 1; reach < 32; reach *= 2)
            highest = fmaxf(highest, __shfl_xor_sync(TQ_ALL_LANES, highest, reach));
        const float before = states[row][0], maximum = fmaxf(before, highest);
#pragma unroll
        for (int at = lane; at < TQ_TOKENS; at += 32) {
            const float weight = tq_faded(own[at], maximum);
            const int token = tile + at;
            own[at] = token < end ? weight * tq_scale(a.values.scales, a.values.scale_dtype,
                                                      blockIdx.z * a.values.scale_stride + token)
                                  : 0;
            sum += weight;
        }
#pragma unroll
        for (int reach = 1; reach < 32; reach *= 2) sum += __shfl_xor_sync(TQ_ALL_LANES, sum, reach);
        __syncwarp();
        if (lane == 0) {
            const float faded = tq_faded(before, maximum);
            states[row][0] = maximum;
            states[row][1] = states[row][1] * faded + sum;
            states[row][2] = faded;
        }
    }
}

// Of up to eight query rows a block, value dims in chunks of at most 8 * TQ_THREADS. Dynamic shared memory: rows of
// queries, then (TQ_ROWS, TQ_TOKENS) logits; sums of threads take their place, a row at a time.
TQ_DEVICE void tq_attend_rows(const TqAttention& a, int block_rows) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ float states[TQ_ROWS][3];
    const int first_row = blockIdx.x % a.row_blocks * block_rows, rows = min(block_rows, a.rows - first_row);
    const int key_dim = a.keys.code.dim, chunk = blockIdx.x / a.row_blocks;
    const int first_unit = chunk * TQ_THREADS, units = min((int)TQ_THREADS, (a.values.code.dim + 7) / 8 - first_unit);
    const int lanes = 1 << (32 - __clz(units - 1)), parts = TQ_THREADS / lanes;  // threads a token; tokens at once
    float* queries = (float*)shared;
    float* logits = queries + block_rows * key_dim;

    for (int i = threadIdx.x; i < rows * key_dim; i += TQ_THREADS)
        queries[i] = a.queries[((i64)blockIdx.z * a.rows + first_row) * key_dim + i];
    for (int row = threadIdx.x; row < TQ_ROWS; row += TQ_THREADS) {
        states[row][0] = TQ_NOTHING;
        states[row][1] = 0;
    }
    __syncthreads();
    const TqSpan span = tq_span<TQ_TOKENS>(a, first_row, rows);
    const int unit = first_unit + threadIdx.x % lanes, part = threadIdx.x / lanes;
    float sums[TQ_ROWS][8] = {};
    for (int tile = span.begin; tile < span.end; tile += TQ_TOKENS) {
        tq_tile_logits(a, tile, span.end, first_row, rows, queries, key_dim, logits);
        __syncthreads();
        tq_tile_weights(a, tile, span.end, rows, logits, states);
        __syncthreads();
        if (unit < first_unit + units) {
#pragma unroll
            for (int row = 0; row < TQ_ROWS; row++) {
                const float faded = row < rows ? states[row][2] : 0;
#pragma unroll
                for (int i = 0; i < 8; i++) sums[row][i] *= faded;
            }
            for (int at = part; at < TQ_TOKENS && tile + at < span.end; at += parts) {
                u32 index[8];
                tq_indices(a.values.code,
                           a.values.packed + blockIdx.z * a.values.stride + (i64)(tile + at) * a.values.code.bytes,
                           unit, index);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    const float centroid = ((const float*)a.values.table)[index[i]];
#pragma unroll
                    for (int row = 0; row < TQ_ROWS; row++)
                        if (row < rows) sums[row][i] = fmaf(logits[row * TQ_TOKENS + at], centroid, sums[row][i]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int row = 0; row < TQ_ROWS; row++) {
        if (row >= rows) break;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 8; i++) ((float*)shared)[i * TQ_THREADS + threadIdx.x] = sums[row][i];
        __syncthreads();
        for (int i = threadIdx.x; i < 8 * units && 8 * first_unit + i < a.values.code.dim; i += TQ_THREADS) {
            float total = 0;
            for (int p = 0; p < parts; p++) total += ((float*)shared)[(i & 7) * TQ_THREADS + p * lanes + (i >> 3)];
            a.part_values[tq_part(a, first_row + row) * a.values.code.dim + 8 * first_unit + i] = total;
        }
        if (threadIdx.x == 0 && chunk == 0) {
            a.part_maxima[tq_part(a, first_row + row)] = states[row][0];
            a.part_sums[tq_part(a, first_row + row)] = states[row][1];
        }
    }
}

// Eight query rows a block, or fewer where that many do not fit; exact_launch of ops/attend.py.
extern "C" __global__ void __launch_bounds__(128, 4) tq_attend_exact(TQ_ATTENTION_PARAMETERS, int block_rows) {
    const TqAttention attention = TQ_ATTENTION;
    tq_attend_rows(attention, block_rows);
}

// Parts (rows, splits) to one each, in ascending order: values (rows, dim), maxima and sums (rows,). A block a row.
// What a split that saw nothing holds is not looked at.
extern "C" __global__ void __launch_bounds__(128) tq_merge_splits(
    const float* part_values, const float* part_maxima, const float* part_sums, int splits, int dim, float* values,
    float* maxima, float* sums) {
    const i64 row = blockIdx.x;
    part_maxima += row * splits;
    part_sums += row * splits;
    part_values += row * splits * dim;
    float maximum = TQ_NOTHING;
    for (int split = 0; split < splits; split++) maximum = fmaxf(maximum, part_maxima[split]);
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float total = 0;
        for (int split = 0; split < splits; split++) {
            const float faded = tq_faded(part_maxima[split], maximum);
            if (faded > 0) total += part_values[(i64)split * dim + i] * faded;
        }
        values[row * dim + i] = total;
    }
    if (threadIdx.x == 0) {
        float total = 0;
        for (int split = 0; split < splits; split++) total += part_sums[split] * tq_faded(part_maxima[split], maximum);
        maxima[row] = maximum;
        sums[row] = total;
    }
}
