// Decoding of packed rows: centroids, rotation back, scale.

#include "codes.cuh"
#include "rotation.cuh"

// Writes the centroids of a packed row to x. `centroids`: the tables of all places, `table` numbers.
template <int FORMAT>
TQ_DEVICE void tq_centroids(const u8* row, int bytes, int dim, const float* centroids, int table, float* x) {
    constexpr int COUNT = tq_group(FORMAT);
    for (int group = threadIdx.x; group * COUNT < dim; group += blockDim.x) {
        u32 codes[COUNT];
        tq_unpack<FORMAT>(row, bytes, dim, group, codes);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int place = i & (tq_places(FORMAT) - 1);
            if (group * COUNT + i < dim)
                x[tq_at(group * COUNT + i)] = centroids[tq_entry<FORMAT>(place, codes[i], table)];
        }
    }
}

// Packed rows of `row_bytes`, the first stage in `stage_bytes` of them, to (rows, dim) of `out_dtype`: the centroids
// rotated back, or without `signs` as they are; times the scale of the row where there are `scales`. `centroids`: the
// tables of all places, `table` numbers, or of all windows. Dynamic shared memory: the table, its size rounded up to 16
// bytes, and then the row, unless there is `scratch` as in tq_rotate.
extern "C" __global__ void __launch_bounds__(256, 3) tq_decode(
    const u8* packed, i64 rows, int row_bytes, int stage_bytes, const void* scales, int scale_dtype, void* out,
    int out_dtype, const float* centroids, int table, int format, const u32* signs, const i32* permutations, int dim,
    int rounds, int order, float factor, float* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    float* levels = (float*)shared;
    for (int i = threadIdx.x; i < table; i += blockDim.x) levels[i] = centroids[i];
    __syncthreads();
    const TqRotation rotation = {signs, permutations, dim, rounds, order, factor};
    const int floats = tq_row_floats(dim);
    float* held = scratch ? scratch + (i64)blockIdx.x * floats * (permutations ? 2 : 1) : levels + ((table + 3) & ~3);
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const u8* codes = packed + row * row_bytes;
        float* x = held;
        switch (format) {
            case 1: tq_centroids<1>(codes, stage_bytes, dim, levels, table, x); break;
            case 2: tq_centroids<2>(codes, stage_bytes, dim, levels, table, x); break;
            case 3: tq_centroids<3>(codes, stage_bytes, dim, levels, table, x); break;
            case 4: tq_centroids<4>(codes, stage_bytes, dim, levels, table, x); break;
            case 5: tq_centroids<5>(codes, stage_bytes, dim, levels, table, x); break;
            case 6: tq_centroids<6>(codes, stage_bytes, dim, levels, table, x); break;
            case 7: tq_centroids<7>(codes, stage_bytes, dim, levels, table, x); break;
            case 8: tq_centroids<8>(codes, stage_bytes, dim, levels, table, x); break;
            case 9: tq_centroids<9>(codes, stage_bytes, dim, levels, table, x); break;
            case 10: tq_centroids<10>(codes, stage_bytes, dim, levels, table, x); break;
            case 11: tq_centroids<11>(codes, stage_bytes, dim, levels, table, x); break;
            case 12: tq_centroids<12>(codes, stage_bytes, dim, levels, table, x); break;
            case 13: tq_centroids<13>(codes, stage_bytes, dim, levels, table, x); break;
            case 14: tq_centroids<14>(codes, stage_bytes, dim, levels, table, x); break;
            case 15: tq_centroids<15>(codes, stage_bytes, dim, levels, table, x); break;
            case 16: tq_centroids<16>(codes, stage_bytes, dim, levels, table, x); break;
        }
        if (signs)
            x = tq_inverse(rotation, x, x + floats);
        else
            __syncthreads();
        const float scale = scales ? tq_load(scales, scale_dtype, row) : 1.0f;
        for (int i = threadIdx.x; i < dim; i += blockDim.x) tq_store(out, out_dtype, row * dim + i, x[tq_at(i)] * scale);
        __syncthreads();
    }
}
