/* Plain Hadamard stages as passes over memory, each of which does as many stages as its registers hold. Included once by a
 * level, after its lanes header. Every butterfly is one addition and one subtraction of the format's order, so that the way
 * the stages are grouped into passes changes no bit.
 *
 * `sign` (NULL: none) is xored into what the first pass reads; `scale` (NULL: none) multiplies what the last one writes. */
#ifndef TQ_HADAMARD_PASSES_H
#define TQ_HADAMARD_PASSES_H

#include <stddef.h>
#include <string.h>

#include "specialize.h"

#define NOINLINE __attribute__((noinline)) /* where gcc 12, given more to look at, spills what fits in registers */

/* The fused a - b * 1 rounds once, as the subtraction does, and runs on the units that additions leave free. */
#define BUTTERFLY(a, b)                        \
    do {                                       \
        lanes difference = minus(a, b);        \
        a = a + b;                             \
        b = difference;                        \
    } while (0)
#define EACH_OF_8(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define NETWORK_8            \
    BUTTERFLY(x0, x1);       \
    BUTTERFLY(x2, x3);       \
    BUTTERFLY(x4, x5);       \
    BUTTERFLY(x6, x7);       \
    BUTTERFLY(x0, x2);       \
    BUTTERFLY(x1, x3);       \
    BUTTERFLY(x4, x6);       \
    BUTTERFLY(x5, x7);       \
    BUTTERFLY(x0, x4);       \
    BUTTERFLY(x1, x5);       \
    BUTTERFLY(x2, x6);       \
    BUTTERFLY(x3, x7)

#define LOAD_8(k) lanes x##k = load(in + k * step);
#define FLIP_8(k) x##k = flip(x##k, sign + k * step);
#define LANE_8(k) x##k = lane_stages(x##k);
#define SCALE_8(k) x##k *= by;
#define STORE_8(k) store(out + k * step, x##k);

/* All stages of 8 * LANES neighbouring numbers. */
INLINE void block8(const float *in, const uint32_t *sign, float *out, const float *scale) {
    const size_t step = LANES;
    EACH_OF_8(LOAD_8)
    if (sign) {
        EACH_OF_8(FLIP_8)
    }
    EACH_OF_8(LANE_8)
    NETWORK_8;
    if (scale) {
        lanes by = broadcast(*scale);
        EACH_OF_8(SCALE_8)
    }
    EACH_OF_8(STORE_8)
}

#define JOIN_8(k)                            \
    {                                        \
        lanes lower = load(low + k * step);  \
        BUTTERFLY(lower, x##k);              \
        store(low + k * step, lower);        \
        store(out + k * step, x##k);         \
    }
#define JOIN_SCALED_8(k)                      \
    {                                         \
        lanes lower = load(low + k * step);   \
        BUTTERFLY(lower, x##k);               \
        store(low + k * step, lower * by);    \
        store(out + k * step, x##k * by);     \
    }

/* All stages of 16 * LANES neighbouring numbers: the second half stays in registers for the last one. */
static NOINLINE void block16(const float *in, const uint32_t *sign, float *low, const float *scale) {
    block8(in, sign, low, NULL);
    __asm__ volatile("" ::: "memory"); /* or gcc keeps what it stored in registers that it has not */
    const size_t step = LANES;
    float *out = low + 8 * LANES;
    in += 8 * LANES;
    EACH_OF_8(LOAD_8)
    if (sign) {
        sign += 8 * LANES;
        EACH_OF_8(FLIP_8)
    }
    EACH_OF_8(LANE_8)
    NETWORK_8;
    if (scale) { /* two copies, for a branch in each of the eight would spill them all */
        lanes by = broadcast(*scale);
        EACH_OF_8(JOIN_SCALED_8)
    } else {
        EACH_OF_8(JOIN_8)
    }
}

/* All stages of `registers` * LANES neighbouring numbers, registers = 1, 2 or 4. */
INLINE void block4(const float *in, const uint32_t *sign, float *out, const float *scale, size_t registers) {
    lanes x[4];
    for (size_t k = 0; k < registers; k++) {
        x[k] = load(in + k * LANES);
        if (sign) x[k] = flip(x[k], sign + k * LANES);
        x[k] = lane_stages(x[k]);
    }
    if (registers > 1) BUTTERFLY(x[0], x[1]);
    if (registers > 2) {
        BUTTERFLY(x[2], x[3]);
        BUTTERFLY(x[0], x[2]);
        BUTTERFLY(x[1], x[3]);
    }
    for (size_t k = 0; k < registers; k++) {
        if (scale) x[k] *= broadcast(*scale);
        store(out + k * LANES, x[k]);
    }
}

/* Stages h, 2h, 4h of `count` numbers. */
static void radix8(const float *x, float *to, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 8 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            const float *in = x + i;
            float *out = to + i;
            const size_t step = h;
            EACH_OF_8(LOAD_8)
            NETWORK_8;
            if (scale) {
                lanes by = broadcast(*scale);
                EACH_OF_8(SCALE_8)
            }
            EACH_OF_8(STORE_8)
        }
}

/* Stages h and 2h. */
static void radix4(const float *x, float *to, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 4 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            const float *at = x + i;
            float *out = to + i;
            lanes x0 = load(at), x1 = load(at + h), x2 = load(at + 2 * h), x3 = load(at + 3 * h);
            BUTTERFLY(x0, x1);
            BUTTERFLY(x2, x3);
            BUTTERFLY(x0, x2);
            BUTTERFLY(x1, x3);
            if (scale) {
                lanes by = broadcast(*scale);
                x0 *= by, x1 *= by, x2 *= by, x3 *= by;
            }
            store(out, x0);
            store(out + h, x1);
            store(out + 2 * h, x2);
            store(out + 3 * h, x3);
        }
}

/* Stage h. */
static void radix2(const float *x, float *to, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 2 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            lanes x0 = load(x + i), x1 = load(x + i + h);
            BUTTERFLY(x0, x1);
            if (scale) {
                lanes by = broadcast(*scale);
                x0 *= by, x1 *= by;
            }
            store(to + i, x0);
            store(to + i + h, x1);
        }
}

/* Stages below `width` < LANES; count need not be a multiple of LANES, and `sign` is not read beyond it. */
static void narrow(const float *in, const uint32_t *sign, float *out, size_t width, size_t count, const float *scale) {
    for (size_t i = 0; i < count; i += LANES) {
        lanes x = load(in + i);
        uint32_t tail[LANES] = {0};
        const uint32_t *flips = sign ? sign + i : tail;
        if (sign && count - i < LANES) flips = memcpy(tail, flips, (count - i) * sizeof *tail);
        x = lane_stages_below(flip(x, flips), width);
        if (scale) x *= broadcast(*scale);
        store(out + i, x);
    }
}

/* Whether the stages above the first block are best done by blocks of 8 or 16 registers: those of 16 save a pass where
 * the others leave one or four stages, which no radix-8 pass ends. */
static size_t first_block(size_t width) {
    size_t rest = width / (8 * LANES);
    return rest == 2 || rest == 16 || rest == 128 ? 16 * LANES : 8 * LANES;
}

/* Every stage below `width`, a power of two, for each group of `width` among `count` numbers, from `in` to `out` by way of `x`;
 * any of them may be the same. When width < LANES, `in` and `out` have room up to the next multiple of LANES. */
static void stages(const float *in, const uint32_t *sign, float *x, float *out, size_t width, size_t count,
                   const float *scale) {
    if (width < LANES) {
        narrow(in, sign, out, width, count, scale);
        return;
    }
    size_t h = width < 8 * LANES ? width : first_block(width);
    float *to = h == width ? out : x;
    const float *first_scale = h == width ? scale : NULL;
#define EACH_BLOCK(block) \
    for (size_t i = 0; i < count; i += h) block
#define FLIPS (sign ? sign + i : NULL)
    if (h == 16 * LANES) EACH_BLOCK(block16(in + i, FLIPS, to + i, first_scale));
    else if (h == 8 * LANES) EACH_BLOCK(block8(in + i, FLIPS, to + i, first_scale));
    else if (h == 4 * LANES) EACH_BLOCK(block4(in + i, FLIPS, to + i, first_scale, 4));
    else if (h == 2 * LANES) EACH_BLOCK(block4(in + i, FLIPS, to + i, first_scale, 2));
    else EACH_BLOCK(block4(in + i, FLIPS, to + i, first_scale, 1));
#undef FLIPS
#undef EACH_BLOCK
    while (h < width) {
        size_t rest = width / h, radix = rest == 2 ? 2 : rest == 4 || rest == 16 ? 4 : 8;
        const float *last_scale = rest == radix ? scale : NULL;
        to = rest == radix ? out : x;
        if (radix == 8) radix8(x, to, h, count, last_scale);
        else if (radix == 4) radix4(x, to, h, count, last_scale);
        else radix2(x, to, h, count, last_scale);
        h *= radix;
    }
}

#endif
