// The Hadamard rotation of docs/format.md, section 2, of one row held by one block in shared memory (or, where the row
// is too long for that, in a scratch part of global memory).

#include "hadamard.cuh"
#include "warp_rotation.cuh"

// T, or its transpose: all stages and the small matrix, or blocks and their factors. Barriers before and after are its
// own: the row may be written by any thread before, and read by any after.
template <bool INVERSE>
TQ_DEVICE void tq_transform(const TqRotation& r, float* x) {
    __syncthreads();
    if (r.order) {
        const int part = r.dim / r.order;
        const int stages = 31 - __clz(part);
        for (int log = 0; log < stages; log += 3) {
            tq_some_stages(x, 0, r.dim, log, stages - log);
            __syncthreads();
        }
        if (r.order == 12) tq_order12<INVERSE>(x, part);
        if (r.order == 20) tq_order20<INVERSE>(x, part);
        __syncthreads();
        return;
    }
    for (int log = 0; log < 31 - __clz(r.dim); log += 3) {
        int start = 0;
        for (int bit = 31 - __clz(r.dim); bit > log; bit--)
            if (r.dim >> bit & 1) {
                tq_some_stages(x, start, 1 << bit, log, bit - log);
                start += 1 << bit;
            }
        __syncthreads();
    }
    int start = 0;
    for (int bit = 31 - __clz(r.dim); bit >= 0; bit--)
        if (r.dim >> bit & 1) {
            const float factor = (float)(1.0 / sqrt((double)(1 << bit)));
            for (int i = threadIdx.x; i < 1 << bit; i += blockDim.x) x[tq_at(start + i)] *= factor;
            start += 1 << bit;
        }
    __syncthreads();
}

TQ_DEVICE void tq_flip_signs(const TqRotation& r, float* x, int round) {
    const u32* signs = r.signs + (i64)round * ((r.dim + 31) >> 5);
    for (int i = threadIdx.x; i < r.dim; i += blockDim.x) x[tq_at(i)] = tq_flip(x[tq_at(i)], signs[i >> 5] >> (i & 31) & 1);
}

// sqrt(dim) P x of the row in x; returns where the result is, x or `spare` (as long as x; unused without permutations).
// All threads of the block call it. The result may be read by any thread; so may x be written before the call.
TQ_DEVICE float* tq_forward(const TqRotation& r, float* x, float* spare) {
    __syncthreads();
    if (tq_turn_in_warp<false>(r, x)) return x;
    for (int round = 0; round < r.rounds; round++) {
        tq_flip_signs(r, x, round);
        tq_transform<false>(r, x);
        if (r.permutations && round < r.rounds - 1) {
            const i32* from = r.permutations + (i64)round * r.dim;
            for (int i = threadIdx.x; i < r.dim; i += blockDim.x) spare[tq_at(i)] = x[tq_at(from[i])];
            __syncthreads();
            float* swap = x;
            x = spare;
            spare = swap;
        }
    }
    for (int i = threadIdx.x; i < r.dim; i += blockDim.x) x[tq_at(i)] *= r.factor;
    __syncthreads();
    return x;
}

// P^T x / sqrt(dim), r.factor being the inverse one; otherwise as tq_forward.
TQ_DEVICE float* tq_inverse(const TqRotation& r, float* x, float* spare) {
    __syncthreads();
    if (tq_turn_in_warp<true>(r, x)) return x;
    for (int round = r.rounds - 1; round >= 0; round--) {
        if (r.permutations && round < r.rounds - 1) {
            const i32* to = r.permutations + (i64)round * r.dim;
            for (int i = threadIdx.x; i < r.dim; i += blockDim.x) spare[tq_at(to[i])] = x[tq_at(i)];
            float* swap = x;
            x = spare;
            spare = swap;
        }
        tq_transform<true>(r, x);
        tq_flip_signs(r, x, round);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < r.dim; i += blockDim.x) x[tq_at(i)] *= r.factor;
    __syncthreads();
    return x;
}
