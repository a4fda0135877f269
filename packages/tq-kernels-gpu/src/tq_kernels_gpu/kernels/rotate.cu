// Rotation of rows of float32 on their own: of queries, and of sums in the rotated domain.

#include "rotation.cuh"

// z = sqrt(dim) P x, or with `inverse` P^T x / sqrt(dim): (rows, dim) float32. One row a block at a time. The row lies
// in dynamic shared memory, or in `scratch` (blocks, 1 or 2, tq_row_floats) if that is given.
extern "C" __global__ void __launch_bounds__(256, 3) tq_rotate(
    const float* in, float* out, i64 rows, const u32* signs, const i32* permutations, int dim, int rounds, int order,
    float factor, int inverse, float* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    const TqRotation rotation = {signs, permutations, dim, rounds, order, factor};
    const int floats = tq_row_floats(dim);
    float* x = scratch ? scratch + (i64)blockIdx.x * floats * (permutations ? 2 : 1) : (float*)shared;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        for (int i = threadIdx.x; i < dim; i += blockDim.x) x[tq_at(i)] = in[row * dim + i];
        const float* z = inverse ? tq_inverse(rotation, x, x + floats) : tq_forward(rotation, x, x + floats);
        for (int i = threadIdx.x; i < dim; i += blockDim.x) out[row * dim + i] = z[tq_at(i)];
        __syncthreads();
    }
}
