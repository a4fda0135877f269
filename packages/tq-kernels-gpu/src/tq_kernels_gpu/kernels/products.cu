// Scores of many queries: a tile of rows is decoded once into shared memory and used for a tile of queries.

#include "codes.cuh"

enum { TQ_TILE = 64, TQ_DEPTH = 32, TQ_PITCH = TQ_TILE + 4 };  // rows and queries of a block, coordinates at a time

// Centroids of TQ_DEPTH coordinates from `start` on of a tile of rows, [coordinate][row]; 0 behind the rows and their ends.
template <int FORMAT>
TQ_DEVICE void tq_decode_tile(
    const u8* packed, i64 first, i64 rows, int row_bytes, int bytes, int dim, int start, const float* centroids,
    int table, float (*tile)[TQ_PITCH]) {
    constexpr int COUNT = tq_group(FORMAT);
    for (int task = threadIdx.x; task < TQ_TILE * TQ_DEPTH / COUNT; task += blockDim.x) {
        const int r = task % TQ_TILE, inside = task / TQ_TILE * COUNT;
        const bool there = first + r < rows;
        u32 codes[COUNT];
        if (there) tq_unpack<FORMAT>(packed + (first + r) * row_bytes, bytes, dim, (start + inside) / COUNT, codes);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int place = i & (tq_places(FORMAT) - 1);
            const bool held = there && start + inside + i < dim;
            tile[inside + i][r] = held ? centroids[tq_entry<FORMAT>(place, codes[i], table)] : 0.0f;
        }
    }
}

// A trellis or not is a choice of kernels: in one kernel, what every format needs at hand would take too many registers.
template <bool TRELLIS>
TQ_DEVICE void tq_decode_tile_of(
    int format, const u8* packed, i64 first, i64 rows, int row_bytes, int bytes, int dim, int start,
    const float* centroids, int table, float (*tile)[TQ_PITCH]) {
    if constexpr (TRELLIS) {
        switch (format) {
            case 13: tq_decode_tile<13>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 14: tq_decode_tile<14>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 15: tq_decode_tile<15>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 16: tq_decode_tile<16>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
        }
    } else {
        switch (format) {
            case 1: tq_decode_tile<1>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 2: tq_decode_tile<2>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 3: tq_decode_tile<3>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 4: tq_decode_tile<4>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 5: tq_decode_tile<5>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 6: tq_decode_tile<6>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 7: tq_decode_tile<7>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 8: tq_decode_tile<8>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 9: tq_decode_tile<9>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 10: tq_decode_tile<10>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 11: tq_decode_tile<11>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
            case 12: tq_decode_tile<12>(packed, first, rows, row_bytes, bytes, dim, start, centroids, table, tile); break;
        }
    }
}

// Scores (queries, rows) of one part of packed rows, its codes in `bytes` bytes from byte `offset` on: the product with
// queries (queries, dim) times `factor` and the row's own; added to `out` if `add`. Blocks are (row tiles, query tiles) of
// 256 threads, 16 by 16, each with four rows and four queries. `centroids`: `table` floats, of all places or
// all windows, which dynamic shared memory has room for.
#define TQ_PRODUCTS_PARAMETERS                                                                                    \
    const u8 *packed, i64 rows, int row_bytes, int offset, int bytes, int dim, int format, const float *centroids, \
        int table, const float *queries, i64 count, float factor, const void *factors, int factor_dtype, int add,  \
        float *out

template <bool TRELLIS>
TQ_DEVICE void tq_products_of(TQ_PRODUCTS_PARAMETERS) {
    TQ_DYNAMIC_SHARED(shared);
    float* levels = (float*)shared;
    __align__(16) __shared__ float of_rows[TQ_DEPTH][TQ_PITCH];
    __align__(16) __shared__ float of_queries[TQ_DEPTH][TQ_PITCH];
    for (int i = threadIdx.x; i < table; i += blockDim.x) levels[i] = centroids[i];
    const i64 first_row = (i64)blockIdx.x * TQ_TILE, first_query = (i64)blockIdx.y * TQ_TILE;
    const int row = threadIdx.x % 16 * 4, query = threadIdx.x / 16 * 4;
    float sums[4][4] = {};
    for (int start = 0; start < dim; start += TQ_DEPTH) {
        __syncthreads();
        tq_decode_tile_of<TRELLIS>(format, packed + offset, first_row, rows, row_bytes, bytes, dim, start, levels, table, of_rows);
        for (int i = threadIdx.x; i < TQ_TILE * TQ_DEPTH; i += blockDim.x) {
            const int q = i / TQ_DEPTH, j = i % TQ_DEPTH;
            const bool there = first_query + q < count && start + j < dim;
            of_queries[j][q] = there ? queries[(first_query + q) * dim + start + j] : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int j = 0; j < TQ_DEPTH; j++) {
            const float4 a = *(const float4*)&of_rows[j][row], b = *(const float4*)&of_queries[j][query];
            const float left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int q = 0; q < 4; q++)
#pragma unroll
                for (int r = 0; r < 4; r++) sums[q][r] = fmaf(left[r], right[q], sums[q][r]);
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const i64 at = first_row + row + r;
        if (at >= rows) continue;
        const float own = (factors ? tq_load(factors, factor_dtype, at) : 1.0f) * factor;
#pragma unroll
        for (int q = 0; q < 4; q++) {
            if (first_query + query + q >= count) continue;
            float* to = out + (first_query + query + q) * rows + at;
            *to = sums[q][r] * own + (add ? *to : 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) tq_products(TQ_PRODUCTS_PARAMETERS) {
    tq_products_of<false>(packed, rows, row_bytes, offset, bytes, dim, format, centroids, table, queries, count, factor,
                          factors, factor_dtype, add, out);
}

extern "C" __global__ void __launch_bounds__(256) tq_products_trellis(TQ_PRODUCTS_PARAMETERS) {
    tq_products_of<true>(packed, rows, row_bytes, offset, bytes, dim, format, centroids, table, queries, count, factor,
                         factors, factor_dtype, add, out);
}
