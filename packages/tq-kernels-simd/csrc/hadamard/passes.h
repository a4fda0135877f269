/* Plain Hadamard stages as passes over memory, each of which does as many stages as its registers hold. Included once by a
 * level, after its lanes header. Every butterfly is one addition and one subtraction of the format's order, so that the way
 * the stages are grouped into passes changes no bit.
 *
 * `sign` (NULL: none) is xored into what the first pass reads; `scale` (NULL: none) multiplies what the last one writes. */
#ifndef TQ_HADAMARD_PASSES_H
#define TQ_HADAMARD_PASSES_H

#include <stddef.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define BUTTERFLY(a, b)          \
    do {                         \
        lanes difference = a - b; \
        a = a + b;               \
        b = difference;          \
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
static void radix8(float *x, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 8 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            const float *in = x + i;
            float *out = x + i;
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
static void radix4(float *x, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 4 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            float *at = x + i;
            lanes x0 = load(at), x1 = load(at + h), x2 = load(at + 2 * h), x3 = load(at + 3 * h);
            BUTTERFLY(x0, x1);
            BUTTERFLY(x2, x3);
            BUTTERFLY(x0, x2);
            BUTTERFLY(x1, x3);
            if (scale) {
                lanes by = broadcast(*scale);
                x0 *= by, x1 *= by, x2 *= by, x3 *= by;
            }
            store(at, x0);
            store(at + h, x1);
            store(at + 2 * h, x2);
            store(at + 3 * h, x3);
        }
}

/* Stage h. */
static void radix2(float *x, size_t h, size_t count, const float *scale) {
    for (size_t start = 0; start < count; start += 2 * h)
        for (size_t i = start; i < start + h; i += LANES) {
            lanes x0 = load(x + i), x1 = load(x + i + h);
            BUTTERFLY(x0, x1);
            if (scale) {
                lanes by = broadcast(*scale);
                x0 *= by, x1 *= by;
            }
            store(x + i, x0);
            store(x + i + h, x1);
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

/* Every stage below `width`, a power of two, for each group of `width` among `count` numbers. `in` may be `out`; both have
 * room up to the next multiple of LANES. */
static void stages(const float *in, const uint32_t *sign, float *out, size_t width, size_t count, const float *scale) {
    if (width < LANES) {
        narrow(in, sign, out, width, count, scale);
        return;
    }
    size_t h = width < 8 * LANES ? width : 8 * LANES;
    const float *first_scale = h == width ? scale : NULL;
    for (size_t i = 0; i < count; i += h) {
        const uint32_t *flips = sign ? sign + i : NULL;
        if (h == 8 * LANES) block8(in + i, flips, out + i, first_scale);
        else if (h == 4 * LANES) block4(in + i, flips, out + i, first_scale, 4);
        else if (h == 2 * LANES) block4(in + i, flips, out + i, first_scale, 2);
        else block4(in + i, flips, out + i, first_scale, 1);
    }
    while (h < width) {
        size_t rest = width / h, radix = rest == 2 ? 2 : rest == 4 || rest == 16 ? 4 : 8;
        const float *last_scale = rest == radix ? scale : NULL;
        if (radix == 8) radix8(out, h, count, last_scale);
        else if (radix == 4) radix4(out, h, count, last_scale);
        else radix2(out, h, count, last_scale);
        h *= radix;
    }
}

#endif
