// Decoding of packed rows of a trellis code: centroids, rotation back, scale.

#include "rotation.cuh"
#include "trellis.cuh"

template <int BITS>
TQ_DEVICE void tq_trellis_row(const u8* row, int dim, const float* table, u32 mask, float* x) {
    for (int group = threadIdx.x; group * 8 < dim; group += blockDim.x) {
        float values[8];
        tq_trellis_centroids<BITS>(row, dim, group, table, mask, values);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (group * 8 + i < dim) x[tq_at(group * 8 + i)] = values[i];
    }
}

// Packed rows of `row_bytes` to (rows, dim) of `out_dtype`: the centroids rotated back, or without `signs` as they are;
// times the scale of the row where there are `scales`. Dynamic shared memory: the table of 2^window floats, and then the
// row, unless it lies in `scratch` (blocks, 1 or 2, tq_row_floats).
extern "C" __global__ void __launch_bounds__(256) tq_trellis_decode(
    const u8* packed, i64 rows, int row_bytes, const void* scales, int scale_dtype, void* out, int out_dtype,
    const float* centroids, int bits, int window, const u32* signs, const i32* permutations, int dim, int rounds, int order,
    float factor, float* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    float* table = (float*)shared;
    const u32 mask = (1u << window) - 1;
    for (int i = threadIdx.x; i <= (int)mask; i += blockDim.x) table[i] = centroids[i];
    __syncthreads();
    const TqRotation rotation = {signs, permutations, dim, rounds, order, factor};
    const int floats = tq_row_floats(dim);
    float* held = scratch ? scratch + (i64)blockIdx.x * floats * (permutations ? 2 : 1) : table + mask + 1;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const u8* codes = packed + row * row_bytes;
        float* x = held;
        switch (bits) {
            case 1: tq_trellis_row<1>(codes, dim, table, mask, x); break;
            case 2: tq_trellis_row<2>(codes, dim, table, mask, x); break;
            case 3: tq_trellis_row<3>(codes, dim, table, mask, x); break;
            case 4: tq_trellis_row<4>(codes, dim, table, mask, x); break;
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
