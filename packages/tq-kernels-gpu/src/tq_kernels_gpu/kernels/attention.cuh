// What the attention kernels share: their parameters, which tokens a block takes, what a query sees, and partial
// results.
//
// Blocks are (block of query rows and chunk of value dims, split of the tokens, lane). A block finds, for its rows, the
// sums over its split; tq_merge_splits joins them. Values are in the rotated domain throughout.

#include "reader.cuh"

#define TQ_NOTHING (-__int_as_float(0x7f800000))  // the maximum of no logits

// Packed tokens of one side: rows of a lane one behind the other, lanes `stride` bytes apart.
struct TqSide {
    const u8* packed;
    i64 stride;
    const void* scales;  // of `scale_dtype`, lanes `scale_stride` numbers apart
    i64 scale_stride;
    int scale_dtype;
    const void* table;
    TqCode code;
};

struct TqAttention {
    TqSide keys, values;
    const float* queries;  // (lanes, rows, key dim), rotated
    const i64* limits;     // (count, 2), or null; row r of a lane is query r % count
    const u8* mask;        // (count, tokens), or null
    i64 mask_stride;
    float* part_values;  // (lanes, rows, splits, value dim)
    float* part_maxima;  // (lanes, rows, splits)
    float* part_sums;
    int rows, count, row_blocks, tokens;
    float scale, softcap;
};

// clang-format off
#define TQ_SIDE_PARAMETERS(side)                                                                                       \
    const u8* side##_packed, i64 side##_stride, const void* side##_scales, i64 side##_scale_stride,                    \
    int side##_scale_dtype, const void* side##_table, int side##_format, int side##_dim, int side##_bytes,             \
    int side##_bits, int side##_window
#define TQ_SIDE(side)                                                                                                  \
    {side##_packed, side##_stride, side##_scales, side##_scale_stride, side##_scale_dtype, side##_table,               \
     {side##_format, side##_dim, side##_bytes, side##_bits, side##_window}}
// `length`: tokens in use, at most `tokens`, in device memory; null for all.
#define TQ_ATTENTION_PARAMETERS                                                                                        \
    TQ_SIDE_PARAMETERS(key), TQ_SIDE_PARAMETERS(value), const float* queries, const i64* limits, const u8* mask,       \
    i64 mask_stride, float* part_values, float* part_maxima, float* part_sums, int rows, int count, int row_blocks,    \
    int tokens, const i64* length, float scale, float softcap
#define TQ_ATTENTION                                                                                                   \
    {TQ_SIDE(key), TQ_SIDE(value), queries, limits, mask, mask_stride, part_values, part_maxima, part_sums, rows,      \
     count, row_blocks, length ? (int)min(*length, (i64)tokens) : tokens, scale, softcap}
// clang-format on

// Tokens [first, last) that a row may see.
struct TqSight {
    int first, last;
};

TQ_DEVICE TqSight tq_sight(const TqAttention& a, int row) {
    if (!a.limits) return {0, a.tokens};
    const i64* limit = a.limits + 2 * (row % a.count);
    return {(int)min(max(limit[0], 0LL), (i64)a.tokens), (int)min(max(limit[1], 0LL), (i64)a.tokens)};
}

TQ_DEVICE bool tq_masked(const TqAttention& a, int row, int token) {
    return a.mask && !a.mask[(row % a.count) * a.mask_stride + token];
}

// What a block has to look at: tokens that some of its rows may see, and those that all see where no mask hides them.
// Splits are whole tiles of TILE tokens, counted from token 0: tiles of every lane begin at addresses as aligned as it.
struct TqSpan {
    int begin, end;  // of this split; end may lie within a tile
    int all_begin, all_end;
};

template <int TILE>
TQ_DEVICE TqSpan tq_span(const TqAttention& a, int first_row, int rows) {
    TqSpan span = {a.tokens, 0, 0, a.tokens};
#pragma unroll 1
    for (int row = first_row; row < first_row + rows; row++) {
        const TqSight sight = tq_sight(a, row);
        span.begin = min(span.begin, sight.first);
        span.end = max(span.end, sight.last);
        span.all_begin = max(span.all_begin, sight.first);
        span.all_end = min(span.all_end, sight.last);
    }
    const int first_tile = span.begin / TILE, tiles = max(0, (span.end + TILE - 1) / TILE - first_tile);
    const int share = (tiles + (int)gridDim.y - 1) / (int)gridDim.y;
    span.begin = (first_tile + (int)blockIdx.y * share) * TILE;
    span.end = min(span.end, span.begin + share * TILE);
    if (a.mask) span.all_end = 0;
    return span;
}

// A number of float16 or float32 scales.
TQ_DEVICE float tq_scale(const void* scales, int dtype, i64 index) {
    return dtype == TQ_F16 ? tq_from_half(((const u16*)scales)[index]) : ((const float*)scales)[index];
}

TQ_DEVICE float tq_capped(float logit, float cap) { return cap > 0 ? cap * tanhf(logit / cap) : logit; }

// exp(logit - maximum) where the maximum may be that of nothing.
TQ_DEVICE float tq_faded(float logit, float maximum) { return expf(logit - (maximum == TQ_NOTHING ? 0.0f : maximum)); }

// Where a row's part of this split lies.
TQ_DEVICE i64 tq_part(const TqAttention& a, int row) {
    return ((i64)blockIdx.z * a.rows + row) * gridDim.y + blockIdx.y;
}
