// The parts of the transform T of docs/format.md, section 2, for a row held by one block. To the bit: the order of
// additions is the format's.

#include "types.cuh"

// What tq_core.rotation.Rotation holds. `signs`: bit j & 31 of word j >> 5 negates coordinate j, a row of words a
// round. `permutations`: a row a round but the last, or null, and then `dim = order * 2**k`.
struct TqRotation {
    const u32* signs;
    const i32* permutations;
    int dim, rounds, order;
    float factor;
};

// Where coordinate i of a row lies: one float of padding in 32 keeps strided passes off each other's banks.
TQ_DEVICE int tq_at(int i) { return i + (i >> 5); }

// Floats that one row takes in shared or scratch memory, even and room for (dim + 1) / 2 float64; row_floats of layout.py.
TQ_DEVICE int tq_row_floats(int dim) { return (dim + ((dim - 1) >> 5) + 2) & ~1; }

template <int COUNT>
TQ_DEVICE void tq_butterflies(float (&v)[COUNT]) {
#pragma unroll
    for (int h = 1; h < COUNT; h *= 2)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (!(i & h)) {
                float a = v[i], b = v[i + h];
                v[i] = a + b;
                v[i + h] = a - b;
            }
}

// Stages h = 2**log, ... of `size` coordinates from `start` on, STAGES of them; no barrier.
template <int STAGES>
TQ_DEVICE void tq_stages(float* x, int start, int size, int log) {
    constexpr int COUNT = 1 << STAGES;
    const int h = 1 << log;
    for (int group = threadIdx.x; group < size >> STAGES; group += blockDim.x) {
        const int base = start + ((group >> log) << (log + STAGES)) + (group & (h - 1));
        float v[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; i++) v[i] = x[tq_at(base + i * h)];
        tq_butterflies(v);
#pragma unroll
        for (int i = 0; i < COUNT; i++) x[tq_at(base + i * h)] = v[i];
    }
}

// The next stages of `size` coordinates, three at most, that `left` says are left; no barrier.
TQ_DEVICE void tq_some_stages(float* x, int start, int size, int log, int left) {
    if (left >= 3)
        tq_stages<3>(x, start, size, log);
    else if (left == 2)
        tq_stages<2>(x, start, size, log);
    else if (left == 1)
        tq_stages<1>(x, start, size, log);
}

// The order-12 matrix of the format over 12 parts of x. Bit 4 r + g of SIGNS: group g has a minus sign in `w` of row r.
template <bool INVERSE>
TQ_DEVICE void tq_order12(float* x, int part) {
    constexpr u32 SIGNS = INVERSE ? 0x428E : 0x3950;
    for (int i = threadIdx.x; i < part; i += blockDim.x) {
        float v[12], s[4];
#pragma unroll
        for (int g = 0; g < 12; g++) v[g] = x[tq_at(g * part + i)];
#pragma unroll
        for (int g = 0; g < 4; g++) s[g] = (v[3 * g] + v[3 * g + 1]) + v[3 * g + 2];
#pragma unroll
        for (int row = 0; row < 4; row++) {
            float t = tq_flip(s[0], row == 0 ? 0 : !(SIGNS >> (4 * row) & 1));
#pragma unroll
            for (int g = 1; g < 4; g++) t = t + tq_flip(s[g], g == row ? 0 : !(SIGNS >> (4 * row + g) & 1));
#pragma unroll
            for (int j = 0; j < 3; j++) {
                float w = 0;
                bool first = true;
#pragma unroll
                for (int g = 0; g < 4; g++) {
                    if (g == row) continue;
                    const float term = tq_flip(v[3 * g + j], SIGNS >> (4 * row + g) & 1);
                    w = first ? term : w + term;
                    first = false;
                }
                x[tq_at((3 * row + j) * part + i)] = t + (w + w);
            }
        }
    }
}

// The order-20 matrix of the format over 20 parts of x. Row by row, with the signs of a row in bits: unrolled, it would
// cost every kernel that rotates a hundred registers.
template <bool INVERSE>
TQ_DEVICE void tq_order20(float* x, int part) {
    // bit k of BAND: -1 stands k places (modulo 19) right of the diagonal; squares modulo 19 for the transpose, since
    // the negative of a square is none, else the numbers that are none
    constexpr u32 BAND = INVERSE ? 0x30AF2 : 0x4F50C;
    for (int i = threadIdx.x; i < part; i += blockDim.x) {
        float v[20];
#pragma unroll
        for (int g = 0; g < 20; g++) v[g] = x[tq_at(g * part + i)];
#pragma unroll 1
        for (int row = 0; row < 20; row++) {
            // bit g % 19: the sign of column g > 0
            const int turn = row % 19;
            u32 negative = (BAND << turn | BAND >> (19 - turn)) & 0x7ffff;
            if (row == 0) negative = INVERSE ? 0x7ffff : 0;
            float total = tq_flip(v[0], INVERSE ? 0 : row != 0);
#pragma unroll
            for (int g = 1; g < 20; g++) total = total + tq_flip(v[g], negative >> g % 19 & 1);
            x[tq_at(row * part + i)] = total;
        }
    }
}
