// Sums and norms over the threads of one block.

#include "rotation.cuh"

// The sum of all threads' values, to all of them. `slots`: 32 numbers in shared memory; barriers are its own.
TQ_DEVICE i64 tq_block_sum(i64 value, i64* slots) {
#pragma unroll
    for (int reach = 16; reach; reach >>= 1) value += __shfl_xor_sync(TQ_ALL_LANES, value, reach);
    if (blockDim.x == 32) return value;
    if ((threadIdx.x & 31) == 0) slots[threadIdx.x >> 5] = value;
    __syncthreads();
    i64 total = 0;
    for (int warp = 0; warp < (int)blockDim.x >> 5; warp++) total += slots[warp];
    __syncthreads();
    return total;
}

// The Euclidean norm of a row to all threads, squares added by the halving tree of docs/format.md, section 3. `sums`:
// room for (dim + 1) / 2 float64 in shared memory, free again when it returns. blockDim.x is a multiple of 32.
TQ_DEVICE double tq_norm(const void* in, int dtype, i64 start, int dim, double* sums) {
    int left = (dim + 1) / 2;
    for (int i = threadIdx.x; i < left; i += blockDim.x) {
        const double low = tq_load_double(in, dtype, start + i);
        double sum = low * low;
        if (i + left < dim) {
            const double high = tq_load_double(in, dtype, start + i + left);
            sum = sum + high * high;
        }
        sums[i] = sum;
    }
    __syncthreads();
    while (left > 32) {
        const int half = (left + 1) / 2;
        for (int i = threadIdx.x; i < left - half; i += blockDim.x) sums[i] = sums[i] + sums[i + half];
        left = half;
        __syncthreads();
    }
    const int lane = threadIdx.x & 31;
    double sum = lane < left ? sums[lane] : 0;
    while (left > 1) {  // every warp does the same
        const int half = (left + 1) / 2;
        const double other = __shfl_down_sync(TQ_ALL_LANES, sum, half);
        if (lane < left - half) sum = sum + other;
        left = half;
    }
    sum = __shfl_sync(TQ_ALL_LANES, sum, 0);
    __syncthreads();
    return sqrt(sum);
}

// Loads a row as float32 to x: divided by its norm, which is returned, or as it is if `strict`, whose norm is 1. The row
// may be read after a barrier of the caller's.
TQ_DEVICE double tq_load_unit(const void* in, int dtype, i64 start, int dim, int strict, float* x) {
    if (strict) {
        for (int i = threadIdx.x; i < dim; i += blockDim.x) x[tq_at(i)] = tq_load(in, dtype, start + i);
        return 1.0;
    }
    const double norm = tq_norm(in, dtype, start, dim, (double*)x);
    const double inverse = 1.0 / (norm > 0 ? norm : 1.0);
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        x[tq_at(i)] = (float)(tq_load_double(in, dtype, start + i) * inverse);
    return norm;
}
