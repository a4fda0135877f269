// One-bit sketches: exact integer sums of a Gaussian matrix, signs to bits and back.

#include "types.cuh"

enum { TQ_SKETCH_ROWS = 64, TQ_SKETCH_BYTES = 8, TQ_SKETCH_DEPTH = 32 };  // of a block: 64 rows, 64 projections

// Integer: i32 for residuals of an encoder, whose products then take one instruction; i64 for any.
template <class Integer>
TQ_DEVICE void tq_project(
    const i16* matrix, int projections, int dim, const Integer* residuals, i64 rows, u8* packed, int row_bytes,
    int offset, i32 (*of_matrix)[TQ_SKETCH_DEPTH + 1], Integer (*of_rows)[TQ_SKETCH_DEPTH + 1]) {
    const i64 first_row = (i64)blockIdx.x * TQ_SKETCH_ROWS;
    const int first = blockIdx.y * TQ_SKETCH_BYTES * 8;
    const int byte = threadIdx.x % TQ_SKETCH_BYTES, row = threadIdx.x / TQ_SKETCH_BYTES * 4;
    i64 sums[4][8] = {};
    for (int start = 0; start < dim; start += TQ_SKETCH_DEPTH) {
        __syncthreads();
        for (int i = threadIdx.x; i < 64 * TQ_SKETCH_DEPTH; i += blockDim.x) {
            const int one = i / TQ_SKETCH_DEPTH, j = i % TQ_SKETCH_DEPTH;
            const bool there = start + j < dim;
            of_matrix[one][j] = there && first + one < projections ? matrix[(i64)(first + one) * dim + start + j] : 0;
            of_rows[one][j] = there && first_row + one < rows ? residuals[(first_row + one) * dim + start + j] : 0;
        }
        __syncthreads();
        for (int j = 0; j < TQ_SKETCH_DEPTH; j++) {
            i32 own[8];
#pragma unroll
            for (int p = 0; p < 8; p++) own[p] = of_matrix[byte * 8 + p][j];
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const Integer residual = of_rows[row + r][j];
#pragma unroll
                for (int p = 0; p < 8; p++) sums[r][p] += (i64)own[p] * residual;
            }
        }
    }
    if (first + byte * 8 >= projections) return;
#pragma unroll
    for (int r = 0; r < 4; r++) {
        if (first_row + row + r >= rows) continue;
        u32 bits = 0;
#pragma unroll
        for (int p = 0; p < 8; p++)
            if (first + byte * 8 + p < projections && sums[r][p] >= 0) bits |= 1u << p;
        packed[(first_row + row + r) * row_bytes + offset + first / 8 + byte] = (u8)bits;
    }
}

// Bit i of a row is 1 where the exact sum of matrix (projections, dim) row i and the integer residuals (rows, dim) is not
// negative; int64 where `wide`, else int32. Bits go to byte `offset` and following of packed rows. Blocks are (row tiles,
// projection tiles) of 128 threads.
extern "C" __global__ void __launch_bounds__(128) tq_sketch(
    const i16* matrix, int projections, int dim, const void* residuals, int wide, i64 rows, u8* packed, int row_bytes,
    int offset) {
    __shared__ i32 of_matrix[64][TQ_SKETCH_DEPTH + 1];
    __shared__ i64 of_rows[TQ_SKETCH_ROWS][TQ_SKETCH_DEPTH + 1];
    if (wide)
        tq_project<i64>(matrix, projections, dim, (const i64*)residuals, rows, packed, row_bytes, offset, of_matrix, of_rows);
    else
        tq_project<i32>(matrix, projections, dim, (const i32*)residuals, rows, packed, row_bytes, offset, of_matrix,
                        (i32(*)[TQ_SKETCH_DEPTH + 1])of_rows);
}

// Bits of the signs of values (rows, count), 1 where not negative, to byte `offset` and following of packed rows.
extern "C" __global__ void __launch_bounds__(256) tq_signs_to_bits(
    const float* values, i64 rows, int count, u8* packed, int row_bytes, int offset) {
    const int bytes = (count + 7) / 8;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * bytes; i += (i64)gridDim.x * blockDim.x) {
        const i64 row = i / bytes;
        const int byte = (int)(i % bytes);
        u32 bits = 0;
#pragma unroll
        for (int b = 0; b < 8; b++)
            if (byte * 8 + b < count && values[row * count + byte * 8 + b] >= 0) bits |= 1u << b;
        packed[row * row_bytes + offset + byte] = (u8)bits;
    }
}

// 1 and -1 for the `count` bits of each packed row from byte `offset` on, (rows, count) float32.
extern "C" __global__ void __launch_bounds__(256) tq_bits_to_signs(
    const u8* packed, i64 rows, int row_bytes, int offset, int count, float* signs) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < rows * count; i += (i64)gridDim.x * blockDim.x) {
        const i64 row = i / count;
        const int bit = (int)(i % count);
        signs[i] = packed[row * row_bytes + offset + (bit >> 3)] >> (bit & 7) & 1 ? 1.0f : -1.0f;
    }
}
