// From products to weights: scales, cap, sight and the online softmax of a warp's tile, 8 queries a column.
//
// Logits are in units of log 2. Weights are halves in [0, 1]: exp(logit - maximum) times the token's scale, over the
// greatest such product so far, the row's unit.

#include "attention.cuh"
#include "half_products.cuh"

#define TQ_LEAST 1e-30f  // a unit: what weighs less counts as nothing
#define TQ_LOG2_E 1.44269504f
#define TQ_LN_2 0.693147181f

// What a block keeps of each of its query rows in shared memory.
struct TqRow {
    float factor;    // of the products with its halves
    float inverse;   // what made them halves
    TqSight sight;   // of no token for a row that only fills the products
    const u8* mask;  // its own row, or null
};

// What a warp knows of its columns' queries: the greatest logit, the sum of exp(logit - it), and the unit of weights.
template <int COLUMNS>
struct TqSoftmax {
    float maxima[COLUMNS][2], sums[COLUMNS][2], units[COLUMNS][2];
};

// The greatest value of a column, over the rows that eight lanes hold.
TQ_DEVICE float tq_column_max(float value) {
#pragma unroll
    for (int reach = 4; reach < 32; reach *= 2) value = fmaxf(value, __shfl_xor_sync(TQ_ALL_LANES, value, reach));
    return value;
}

// 2**x within what a weight's 11 bits notice; 0 below 2**-126.
TQ_DEVICE float tq_exp2(float x) {
#ifdef TQ_SHIM
    return exp2f(x);
#else
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
#endif
}

TQ_DEVICE float tq_reciprocal(float x) {
#ifdef TQ_SHIM
    return 1.0f / x;
#else
    float inverse;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
#endif
}

// As tq_capped, without the many instructions of an exact tanh.
TQ_DEVICE float tq_roughly_capped(float logit, float cap) {
    return cap - __fdividef(2 * cap, tq_exp2(__fdividef(2 * TQ_LOG2_E * logit, cap)) + 1);
}

// Scales of the lane's tokens of a tile: 16 m + 8 h + its own.
TQ_DEVICE void tq_tile_scales(const u8* scales, int dtype, int lane, float (&to)[2][2]) {
    const int own = tq_token(lane >> 2);
    if (dtype == TQ_F16) {
#pragma unroll
        for (int part = 0; part < 4; part++)
            to[part >> 1][part & 1] = tq_from_half(((const u16*)scales)[8 * part + own]);
    } else {
#pragma unroll
        for (int part = 0; part < 4; part++) to[part >> 1][part & 1] = ((const float*)scales)[8 * part + own];
    }
}

// Hides what a row may not see. What lies behind the tokens is no number.
template <int COLUMNS>
TQ_DEVICE void tq_hide(int tile, int end, const TqRow* rows, int lane, float (&logits)[2][COLUMNS][4],
                       float (&value_scales)[2][2]) {
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const int m = part >> 1, h = part & 1, token = tile + 8 * part + tq_token(lane >> 2);
        if (token >= end) value_scales[m][h] = 0;
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const TqRow& row = rows[8 * n + 2 * (lane & 3) + c];
                const bool seen = token >= row.sight.first && token < row.sight.last;
                if (!seen || (row.mask && !row.mask[token])) logits[m][n][2 * h + c] = TQ_NOTHING;
            }
    }
}

// Products to weights, as halves and transposed; `fade`: what the sums so far are to be multiplied by. Returns whether
// there is anything to multiply. `inside`: all rows see all of the tile.
template <int COLUMNS>
TQ_DEVICE bool tq_weigh(const TqAttention& a, const u8* key_scales, const u8* value_scales, int tile, int end,
                        bool inside, const TqRow* rows, const float (&factors)[COLUMNS][2], int lane,
                        float (&scores)[2][COLUMNS][4], TqSoftmax<COLUMNS>& softmax, u32 (&weights)[2][COLUMNS][2],
                        float (&fade)[COLUMNS][2]) {
    float scales[2][2], lengths[2][2];
    tq_tile_scales(key_scales, a.keys.scale_dtype, lane, scales);
    tq_tile_scales(value_scales, a.values.scale_dtype, lane, lengths);
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[m][n][i] *= scales[m][i >> 1] * factors[n][i & 1];
    if (a.softcap > 0)
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) scores[m][n][i] = TQ_LOG2_E * tq_roughly_capped(scores[m][n][i], a.softcap);
    if (!inside) tq_hide<COLUMNS>(tile, end, rows, lane, scores, lengths);
    bool any_fade = false;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        float heavy[2][2][2];
#pragma unroll
        for (int c = 0; c < 2; c++) {
            const float before = softmax.maxima[n][c];
            const float highest =
                fmaxf(fmaxf(scores[0][n][c], scores[0][n][2 + c]), fmaxf(scores[1][n][c], scores[1][n][2 + c]));
            const float maximum = fmaxf(before, tq_column_max(highest));
            const float base = maximum == TQ_NOTHING ? 0.0f : maximum;
            const float faded = tq_exp2(before - base);
            float sum = 0, heaviest = 0;
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float weight = tq_exp2(scores[m][n][2 * h + c] - base);
                    sum += weight;
                    heavy[m][h][c] = weight * lengths[m][h];
                    heaviest = fmaxf(heaviest, heavy[m][h][c]);
                }
            const float unit = softmax.units[n][c] * faded;
            softmax.maxima[n][c] = maximum;
            softmax.sums[n][c] = fmaf(softmax.sums[n][c], faded, sum);
            softmax.units[n][c] = fmaxf(fmaxf(unit, tq_column_max(heaviest)), TQ_LEAST);
            const float inverse = tq_reciprocal(softmax.units[n][c]);
            fade[n][c] = unit * inverse;
            any_fade |= unit != softmax.units[n][c];
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) heavy[m][h][c] *= inverse;
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) weights[m][n][h] = tq_transpose(tq_half_pair(heavy[m][h][0], heavy[m][h][1]));
    }
    return __any_sync(TQ_ALL_LANES, any_fade);
}
