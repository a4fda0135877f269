/* The small Hadamard matrices of orders 12 and 20 over the groups of a row, four columns of every group at once.
 *
 * `in` and `out` are two rows of order * width floats with room up to TQ_PADDED of that. Widths 1 and 2 need no path of
 * their own: four lanes are read and written all the same, the extra ones belong to the next group, and since groups are
 * written in ascending order the next one overwrites them. */
#ifndef TQ_HADAMARD_NEON_ORDERS_H
#define TQ_HADAMARD_NEON_ORDERS_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

/* docs/format.md, section 2: the three groups that row r of order 12 adds in w, and the bits of those it subtracts. */
static const unsigned char neon_others12[4][3] = {{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}};
static const unsigned char neon_minus12[2][4] = {{0, 3, 5, 3}, {7, 4, 2, 4}};

static inline float32x4_t neon_added(float32x4_t sum, float32x4_t value, unsigned minus) {
    return minus & 1 ? vsubq_f32(sum, value) : vaddq_f32(sum, value);
}

static inline float32x4_t neon_signed(float32x4_t value, unsigned minus) { return minus & 1 ? vnegq_f32(value) : value; }

static void order12(const float *in, float *out, size_t width, int transpose) {
    for (size_t i = 0; i < width; i += 4) {
        float32x4_t x[12], s[4];
        for (int g = 0; g < 12; g++) x[g] = vld1q_f32(in + (size_t)g * width + i);
        for (int g = 0; g < 4; g++) s[g] = vaddq_f32(vaddq_f32(x[3 * g], x[3 * g + 1]), x[3 * g + 2]);
        for (int r = 0; r < 4; r++) {
            const unsigned char *others = neon_others12[r];
            unsigned minus = neon_minus12[transpose][r], t_minus = 0; /* bit g: group g is subtracted in t */
            for (int k = 0; k < 3; k++) t_minus |= (~minus >> k & 1u) << others[k];
            float32x4_t t = neon_signed(s[0], t_minus);
            for (int g = 1; g < 4; g++) t = neon_added(t, s[g], t_minus >> g);
            for (int j = 0; j < 3; j++) {
                float32x4_t w = neon_signed(x[3 * others[0] + j], minus);
                w = neon_added(w, x[3 * others[1] + j], minus >> 1);
                w = neon_added(w, x[3 * others[2] + j], minus >> 2);
                vst1q_f32(out + (size_t)(3 * r + j) * width + i, vaddq_f32(t, vaddq_f32(w, w)));
            }
        }
    }
}

/* Row by row, the columns that the order-20 Paley matrix subtracts; its transpose has all other signs flipped but those
 * of the diagonal, because the matrix is the identity plus a skew part. */
static const uint32_t neon_minus20[20] = {
    0x00000, 0x9EA19, 0x3D433, 0x7A865, 0xF50C9, 0xEA193, 0xD4327, 0xA864F, 0x50C9F, 0xA193D,
    0x4327B, 0x864F5, 0x0C9EB, 0x193D5, 0x327A9, 0x64F51, 0xC9EA1, 0x93D43, 0x27A87, 0x4F50D,
};

static void order20(const float *in, float *out, size_t width, int transpose) {
    for (int row = 0; row < 20; row++) {
        uint32_t minus = transpose ? ~neon_minus20[row] & ~(1u << row) : neon_minus20[row];
        for (size_t i = 0; i < width; i += 4) {
            float32x4_t total = neon_signed(vld1q_f32(in + i), minus);
            for (int column = 1; column < 20; column++)
                total = neon_added(total, vld1q_f32(in + (size_t)column * width + i), minus >> column);
            vst1q_f32(out + (size_t)row * width + i, total);
        }
    }
}

#endif
