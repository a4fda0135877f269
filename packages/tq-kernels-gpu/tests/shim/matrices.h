// Halves, and the products and transposes of small matrices that a warp holds in fragments.

#pragma once

#include "barriers.h"
#include "intrinsics.h"

static inline float tq_shim_from_half(unsigned short bits) {
    const unsigned sign = (unsigned)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
}
static inline unsigned short tq_shim_to_half(float value) {
    const unsigned bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    const unsigned short sign = (unsigned short)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000u) return sign | 0x7fff;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // rounds to 65536 or more
    if (magnitude >= 0x38800000u) {
        const unsigned rounded = magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1);
        return sign | (unsigned short)(rounded >> 13);
    }
    return sign | (unsigned short)(int)rintf(__uint_as_float(magnitude) * 0x1p24f);  // exact product, one rounding
}

// d += a b in the fragments of mma.m16n8k16, sums in float32 in ascending order.
static inline void tq_shim_mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    uint64_t given[3][32];
    const uint64_t own[3] = {(uint64_t)a[1] << 32 | a[0], (uint64_t)a[3] << 32 | a[2], (uint64_t)b1 << 32 | b0};
    for (int part = 0; part < 3; part++) memcpy(given[part], shim_exchange(0xffffffffu, own[part]), sizeof given[part]);
    const int group = shim_current->lane >> 2, quad = shim_current->lane & 3;
    float left[2][16], right[2][16];
    for (int k = 0; k < 16; k++) {
        const int place = k >> 1 & 3, shift = 16 * (k & 1), second = k >> 3;
        for (int half = 0; half < 2; half++) {
            left[half][k] = tq_shim_from_half(given[second][4 * group + place] >> (32 * half + shift));
            right[half][k] = tq_shim_from_half(given[2][4 * (2 * quad + half) + place] >> (32 * second + shift));
        }
    }
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 2; column++)
            for (int k = 0; k < 16; k++) d[2 * row + column] += left[row][k] * right[column][k];
}

// The transpose of an (8, 8) matrix of halves, two columns of a row in each lane.
static inline unsigned tq_shim_transpose(unsigned pair) {
    const uint64_t* slots = shim_exchange(0xffffffffu, pair);
    const int row = shim_current->lane >> 2, column = 2 * (shim_current->lane & 3);
    const unsigned low = slots[4 * column + row / 2] >> (16 * (row & 1)) & 0xffff;
    return low | (slots[4 * (column + 1) + row / 2] >> (16 * (row & 1)) & 0xffff) << 16;
}
