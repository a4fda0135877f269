// What becomes of the dots of a block's rows: scores, or the best of them.

#include "topk.cuh"

// What a row's dots become a score with: its scale, and the norm of its residual.
struct TqFactors {
    float factor, sketch_factor;
    const void *scales, *gammas;
    int scale_dtype, gamma_dtype;

    TQ_DEVICE float score(i64 row, float dot, float sketch_dot) const {
        float score = dot * ((scales ? tq_load(scales, scale_dtype, row) : 1.0f) * factor);
        if (gammas) score += sketch_dot * (tq_load(gammas, gamma_dtype, row) * sketch_factor);
        return score;
    }
};

// Scores to `out` (queries, rows), or without it keys of rows of `mask` (or all) to the lists, of the block's chunk of
// `count` rows from its dots in shared memory (2 parts, QUERIES, count). All threads call it, behind a barrier.
template <int QUERIES>
TQ_DEVICE void tq_finish_rows(
    const TqFactors& factors, i64 first, i64 rows, int count, int queries, const float* dots, const u8* mask, float* out,
    TqList (&lists)[QUERIES]) {
    for (int start = 0; start < count; start += blockDim.x) {
        const int i = start + threadIdx.x;
        const i64 row = first + i;
        const bool there = i < count && row < rows;
        const bool eligible = there && (!mask || mask[row]);
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            if (q >= queries) continue;
            const float score = there ? factors.score(row, dots[q * count + i], dots[(QUERIES + q) * count + i]) : 0.0f;
            if (out) {
                if (there) out[q * rows + row] = score;
            } else {
                lists[q].offer(eligible ? tq_key(score, row) : 0);
                lists[q].settle(false);
            }
        }
    }
}

// The lists' keys to keys (queries, blocks, keep), descending and ended by zeros.
template <int QUERIES>
TQ_DEVICE void tq_deliver(TqList (&lists)[QUERIES], int queries, u64* keys) {
#pragma unroll
    for (int q = 0; q < QUERIES; q++) {
        if (q >= queries) continue;
        lists[q].settle(true);
        u64* to = keys + ((i64)q * gridDim.x + blockIdx.x) * lists[q].keep;
        for (int i = threadIdx.x; i < lists[q].keep; i += blockDim.x) to[i] = lists[q].keys[i];
    }
}
