// Weighted sums of the centroids of packed rows, in the rotated domain: every row is decoded once for SUMS sums.

#include "codes.cuh"

enum { TQ_CHUNK = 64, TQ_MOST_SUMS = 8 };  // rows whose weights lie in shared memory at once

struct TqSumming {
    const u8* packed;  // of the part in the first row
    i64 begin, end, rows;
    int row_bytes, bytes, dim;
    const float* weights;  // of the first of this block's sums
    int sums;
    float factor;
    const void* factors;
    int factor_dtype;
    float* out;  // (sums, dim) of this block's rows, from its first sum on
};

// A thread takes one group of coordinates of every slices-th row; `across` threads take a row.
template <int FORMAT, int SUMS>
TQ_DEVICE void tq_sum_rows(const TqSumming& s, int across, const float* levels, int table, float (*held)[TQ_CHUNK], float* partial) {
    constexpr int COUNT = tq_group(FORMAT);
    const int slices = blockDim.x / across, slice = threadIdx.x / across;
    const int group = blockIdx.y * across + threadIdx.x % across;
    const bool there = group * COUNT < s.dim;
    float total[SUMS][COUNT] = {};
    for (i64 start = s.begin; start < s.end; start += TQ_CHUNK) {
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < SUMS * TQ_CHUNK; i += blockDim.x) {
            const int sum = i / TQ_CHUNK;
            const i64 row = start + i % TQ_CHUNK;
            float weight = 0;
            if (sum < s.sums && row < s.end)
                weight = s.weights[sum * s.rows + row] * (tq_load(s.factors, s.factor_dtype, row) * s.factor);
            held[sum][i % TQ_CHUNK] = weight;
        }
        __syncthreads();
        const int left = s.end - start < TQ_CHUNK ? (int)(s.end - start) : TQ_CHUNK;
#pragma unroll 1
        for (int r = slice; there && r < left; r += slices) {
            u32 codes[COUNT];
            tq_unpack<FORMAT>(s.packed + (start + r) * s.row_bytes, s.bytes, s.dim, group, codes);
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                const int place = i & (tq_places(FORMAT) - 1);
                const float centroid = levels[tq_entry<FORMAT>(place, codes[i], table)];
#pragma unroll
                for (int sum = 0; sum < SUMS; sum++) total[sum][i] = fmaf(held[sum][r], centroid, total[sum][i]);
            }
        }
    }
#pragma unroll
    for (int sum = 0; sum < SUMS; sum++) {
        if (sum >= s.sums) break;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < COUNT; i++) partial[threadIdx.x * COUNT + i] = total[sum][i];
        __syncthreads();
#pragma unroll 1
        for (int j = threadIdx.x; j < across * COUNT; j += blockDim.x) {
            const int coordinate = blockIdx.y * across * COUNT + j;
            float all = 0;
#pragma unroll 1
            for (int other = 0; other < slices; other++) all += partial[other * across * COUNT + j];
            if (coordinate < s.dim) s.out[(i64)sum * s.dim + coordinate] = all;
        }
    }
}

// Sums (splits, sums, dim) of one part of packed rows, its codes in `bytes` bytes from byte `offset` on: weights (sums, rows)
// times `factor` and the row's own, times the centroids. Blocks are (splits of the rows, tiles of coordinates, groups of
// SUMS sums); `across`, a power of two, is the number of threads of a block that take a row. `centroids` and shared
// memory as in tq_products.
template <int SUMS>
TQ_DEVICE void tq_combine(
    const u8* packed, i64 rows, int row_bytes, int offset, int bytes, int dim, int format, const float* centroids,
    int table, const float* weights, int sums, float factor, const void* factors, int factor_dtype, int across,
    float* out) {
    TQ_DYNAMIC_SHARED(shared);
    float* levels = (float*)shared;
    __shared__ float held[SUMS][TQ_CHUNK];
    __shared__ float partial[256 * 8];
    for (int i = threadIdx.x; i < table; i += blockDim.x) levels[i] = centroids[i];
    const int first = blockIdx.z * SUMS;
    const i64 share = (rows + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * share;
    const TqSumming s = {packed + offset, begin, begin + share < rows ? begin + share : rows, rows, row_bytes, bytes, dim,
                         weights + first * rows, sums - first < SUMS ? sums - first : SUMS, factor, factors,
                         factor_dtype, out + ((i64)blockIdx.x * sums + first) * dim};
    switch (format) {
        case 1: tq_sum_rows<1, SUMS>(s, across, levels, table, held, partial); break;
        case 2: tq_sum_rows<2, SUMS>(s, across, levels, table, held, partial); break;
        case 3: tq_sum_rows<3, SUMS>(s, across, levels, table, held, partial); break;
        case 4: tq_sum_rows<4, SUMS>(s, across, levels, table, held, partial); break;
        case 5: tq_sum_rows<5, SUMS>(s, across, levels, table, held, partial); break;
        case 6: tq_sum_rows<6, SUMS>(s, across, levels, table, held, partial); break;
        case 7: tq_sum_rows<7, SUMS>(s, across, levels, table, held, partial); break;
        case 8: tq_sum_rows<8, SUMS>(s, across, levels, table, held, partial); break;
        case 9: tq_sum_rows<9, SUMS>(s, across, levels, table, held, partial); break;
        case 10: tq_sum_rows<10, SUMS>(s, across, levels, table, held, partial); break;
        case 11: tq_sum_rows<11, SUMS>(s, across, levels, table, held, partial); break;
        case 12: tq_sum_rows<12, SUMS>(s, across, levels, table, held, partial); break;
        case 13: tq_sum_rows<13, SUMS>(s, across, levels, table, held, partial); break;
        case 14: tq_sum_rows<14, SUMS>(s, across, levels, table, held, partial); break;
        case 15: tq_sum_rows<15, SUMS>(s, across, levels, table, held, partial); break;
        case 16: tq_sum_rows<16, SUMS>(s, across, levels, table, held, partial); break;
    }
}

// One sum, whose every code costs a look-up and one multiply-add.
extern "C" __global__ void __launch_bounds__(256, 4) tq_combine_one(
    const u8* packed, i64 rows, int row_bytes, int offset, int bytes, int dim, int format, const float* centroids,
    int table, const float* weights, int sums, float factor, const void* factors, int factor_dtype, int across,
    float* out) {
    tq_combine<1>(packed, rows, row_bytes, offset, bytes, dim, format, centroids, table, weights, sums, factor, factors,
                  factor_dtype, across, out);
}

// Any number.
extern "C" __global__ void __launch_bounds__(256, 2) tq_combine_many(
    const u8* packed, i64 rows, int row_bytes, int offset, int bytes, int dim, int format, const float* centroids,
    int table, const float* weights, int sums, float factor, const void* factors, int factor_dtype, int across,
    float* out) {
    tq_combine<TQ_MOST_SUMS>(packed, rows, row_bytes, offset, bytes, dim, format, centroids, table, weights, sums, factor,
                             factors, factor_dtype, across, out);
}
