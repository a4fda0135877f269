// The rotation of dimensions 64, 128, 256 and 512 in the registers of one warp: coordinate lane + 32 e is v[e]. Stages
// below 32 exchange lanes, the others registers; nothing waits for shared memory.

#include "hadamard.cuh"

template <int PER, bool INVERSE>
TQ_DEVICE void tq_turn_registers(const TqRotation& r, float* x) {
    const int lane = threadIdx.x & 31;
    float v[PER];
#pragma unroll
    for (int e = 0; e < PER; e++) v[e] = x[tq_at(lane + 32 * e)];
#pragma unroll 1
    for (int step = 0; step < r.rounds; step++) {
        // bit `lane` of word e is the sign of coordinate lane + 32 e
        const u32* signs = r.signs + (INVERSE ? r.rounds - 1 - step : step) * PER;
        if (!INVERSE)
#pragma unroll
            for (int e = 0; e < PER; e++) v[e] = tq_flip(v[e], signs[e] >> lane & 1);
#pragma unroll
        for (int h = 1; h < 32; h *= 2) {
            const u32 upper = (lane & h) != 0;  // a + b below, a - b above
#pragma unroll
            for (int e = 0; e < PER; e++) v[e] = __shfl_xor_sync(TQ_ALL_LANES, v[e], h) + tq_flip(v[e], upper);
        }
        tq_butterflies(v);
        if (INVERSE)
#pragma unroll
            for (int e = 0; e < PER; e++) v[e] = tq_flip(v[e], signs[e] >> lane & 1);
    }
#pragma unroll
    for (int e = 0; e < PER; e++) x[tq_at(lane + 32 * e)] = v[e] * r.factor;
    __syncthreads();
}

// Turns the row in place and returns true, or returns false where the block or the dimension is another. Barriers
// before it are the caller's.
template <bool INVERSE>
TQ_DEVICE bool tq_turn_in_warp(const TqRotation& r, float* x) {
    if (blockDim.x != 32) return false;
    switch (r.dim) {
        case 64: tq_turn_registers<2, INVERSE>(r, x); return true;
        case 128: tq_turn_registers<4, INVERSE>(r, x); return true;
        case 256: tq_turn_registers<8, INVERSE>(r, x); return true;
        case 512: tq_turn_registers<16, INVERSE>(r, x); return true;
    }
    return false;
}
