// Encoding of rotated rows to a trellis code: scale search, walk, codes, scale. To the bit as docs/format.md, section 10.

#include "block.cuh"
#include "codes.cuh"
#include "scale.cuh"
#include "walk.cuh"

// Rows and where their codes go.
struct TqTrellisRows {
    const float* z;  // rotated, of unit variance
    const double* norms;
    i64 rows;
    u8* packed;
    int row_bytes;
    float* scales;
    i16* x;      // room for dim coordinates in the order of the walk
    i64* slots;  // 32
    const i16* levels;
    const float* candidates;
    int candidate_count, rule;
};

TQ_DEVICE int tq_coordinate(float z, float scale) { return tq_round(z * 4096.0f * scale); }

// Level of the window of a coordinate, of the symbols from it on around the circle.
template <int BITS, int WINDOW>
TQ_DEVICE int tq_window_level(const u8* symbols, int dim, int coordinate, const i16* levels) {
    int window = 0, at = coordinate;
#pragma unroll
    for (int shift = 0; shift < WINDOW; shift += BITS) {
        window |= symbols[at] << shift;
        if (++at == dim) at = 0;
    }
    return levels[window & ((1 << WINDOW) - 1)];
}

// Symbols (dim,) to one stream of bits, each byte written once.
template <int BITS>
TQ_DEVICE void tq_pack_symbols(const u8* symbols, int dim, u8* packed) {
#pragma unroll 1
    for (int byte = threadIdx.x; byte * 8 < dim * BITS; byte += blockDim.x) {
        const int first = byte * 8 / BITS;
        u32 held = 0;
#pragma unroll
        for (int i = 0; i < 8 / BITS + 2; i++)
            if (first + i < dim) held |= (u32)symbols[first + i] << (BITS * i);
        packed[byte] = (u8)(held >> (byte * 8 - first * BITS));
    }
}

// Codes and scales of the winning candidates. One function for all rows of a block: a choice of code within the loop over
// rows would have the registers of all codes at once.
template <int BITS, int WINDOW, int THREADS>
TQ_DEVICE void tq_trellis_encode_rows(const TqTrellisRows& of, const TqWalk& walk) {
    for (i64 row = blockIdx.x; row < of.rows; row += gridDim.x) {
        const float* z = of.z + row * walk.dim;
        TqSums best = {0, 1};
        double merit = 0;
        for (int candidate = 0; candidate < of.candidate_count; candidate++) {
            const float scale = of.candidates[candidate];
#pragma unroll 1
            for (int i = threadIdx.x; i < walk.dim; i += blockDim.x)
                of.x[walk.dim - 1 - i] = (i16)tq_to_i16(2 * tq_coordinate(z[i], scale));
            __syncthreads();
            TqTrellisWalk<BITS, WINDOW, THREADS>::tail_biting(walk, of.levels);
            i64 dots = 0, squares = 0;
#pragma unroll 1
            for (int i = threadIdx.x; i < walk.dim; i += blockDim.x) {
                const int level = tq_window_level<BITS, WINDOW>(walk.symbols, walk.dim, i, of.levels);
                dots += tq_coordinate(z[i], 1.0f) * level;
                squares += level * level;
            }
            const TqSums sums = {tq_block_sum(dots, of.slots), tq_block_sum(squares, of.slots)};
            double tried = (double)sums.dots * (double)sums.dots / (double)sums.squares;
            if (sums.dots < 0) tried = -tried;
            if (candidate == 0 || tried > merit) {
                best = sums;
                merit = tried;
                tq_pack_symbols<BITS>(walk.symbols, walk.dim, of.packed + row * of.row_bytes);
            }
            __syncthreads();
        }
        best.dots = max(best.dots, best.squares >> 8);
        if (threadIdx.x == 0) of.scales[row] = (float)(of.norms[row] * tq_scale_factor(of.rule, best, walk.dim));
    }
}

// Rotated rows (rows, dim) float32 and their norms (rows,) float64 to packed rows of `row_bytes` and float32 scales.
// `levels`: those of all windows. `candidates`: scales to try, the first of which is 1. The block has 256 threads for
// 4096 states, 64 for 1024 and 32 for the others. Dynamic shared memory, in this order: 4 * nodes bytes of metrics,
// 2 * dim of coordinates, dim of symbols, dim * survivor_bytes of survivors unless they lie in `scratch` (blocks, that).
extern "C" __global__ void __launch_bounds__(256, 3) tq_trellis_encode(
    const float* z, const double* norms, i64 rows, int dim, u8* packed, int row_bytes, float* scales, const i16* levels,
    int bits, int states, int nodes, int survivor_bytes, const float* candidates, int candidate_count, int rule,
    u8* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ i64 slots[32];
    __shared__ u32 least[16];
    u16* metrics = (u16*)shared;
    i16* x = (i16*)(metrics + 2 * nodes);
    u8* symbols = (u8*)(x + dim);
    u8* survivors = scratch ? scratch + (i64)blockIdx.x * dim * survivor_bytes : symbols + dim;
    const TqWalk walk = {metrics, least, survivors, symbols, x, dim};
    const TqTrellisRows of = {z, norms,  rows,       packed,          row_bytes, scales,
                              x, slots, levels, candidates, candidate_count, rule};
    switch (states / 256 * 8 + bits) {
        case 1: tq_trellis_encode_rows<1, 4, 32>(of, walk); break;
        case 2: tq_trellis_encode_rows<2, 5, 32>(of, walk); break;
        case 3: tq_trellis_encode_rows<3, 6, 32>(of, walk); break;
        case 4: tq_trellis_encode_rows<4, 7, 32>(of, walk); break;
        case 8 + 1: tq_trellis_encode_rows<1, 8, 32>(of, walk); break;
        case 8 + 2: tq_trellis_encode_rows<2, 8, 32>(of, walk); break;
        case 8 + 3: tq_trellis_encode_rows<3, 8, 32>(of, walk); break;
        case 8 + 4: tq_trellis_encode_rows<4, 8, 32>(of, walk); break;
        case 32 + 1: tq_trellis_encode_rows<1, 10, 64>(of, walk); break;
        case 32 + 2: tq_trellis_encode_rows<2, 10, 64>(of, walk); break;
        case 32 + 3: tq_trellis_encode_rows<3, 10, 64>(of, walk); break;
        case 32 + 4: tq_trellis_encode_rows<4, 10, 64>(of, walk); break;
        case 128 + 1: tq_trellis_encode_rows<1, 12, 256>(of, walk); break;
        case 128 + 2: tq_trellis_encode_rows<2, 12, 256>(of, walk); break;
        case 128 + 3: tq_trellis_encode_rows<3, 12, 256>(of, walk); break;
        case 128 + 4: tq_trellis_encode_rows<4, 12, 256>(of, walk); break;
    }
}
