// Encoding of rows in one pass: norm, rotation, scale search, codes, scale. To the bit as docs/format.md, sections 3 to 6.

#include "block.cuh"
#include "codes.cuh"
#include "scale.cuh"

// A and B of the codes at `scale`, to all threads; z4096 is the row times 4096.
template <int FORMAT>
TQ_DEVICE TqSums tq_sums(const TqBook& book, const float* z4096, int dim, float scale, i64* slots) {
    i64 dots = 0, squares = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        const float scaled = z4096[tq_at(i)];
        const int level = tq_level<FORMAT>(book, tq_round(scaled * scale), i & (tq_places(FORMAT) - 1));
        dots += tq_round(scaled) * level;
        squares += level * level;
    }
    TqSums sums = {tq_block_sum(dots, slots), tq_block_sum(squares, slots)};
    if (sums.squares < 1) sums.squares = 1;  // a zero row has no level but 0 where all numbers of levels are odd
    return sums;
}

// The code of coordinate i at `scale`; 0 behind the row.
template <int FORMAT>
TQ_DEVICE u32 tq_code_at(const TqBook& book, const float* z4096, int dim, float scale, int i) {
    return i < dim ? tq_code<FORMAT>(book, tq_round(z4096[tq_at(i)] * scale), i & (tq_places(FORMAT) - 1)) : 0;
}

// One plane of WIDTH bits, SHIFT bits up in the codes, of the coordinates 8 group and following, whose codes are the
// bytes of `codes`.
template <int WIDTH, int SHIFT>
TQ_DEVICE void tq_pack_plane(u64 codes, u8* plane, int bytes, int group) {
    u64 bits = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) bits |= (codes >> (8 * i + SHIFT) & ((1u << WIDTH) - 1)) << (i * WIDTH);
    u8* to = plane + group * WIDTH;
    const int room = bytes - group * WIDTH;
    if (room >= WIDTH && ((u64)to & (WIDTH - 1)) == 0) {
        if (WIDTH == 8) *(u64*)to = bits;
        if (WIDTH == 4) *(u32*)to = (u32)bits;
        if (WIDTH == 2) *(u16*)to = (u16)bits;
        if (WIDTH == 1) *to = (u8)bits;
        return;
    }
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < room) to[i] = (u8)(bits >> (8 * i));
}

// Eight coordinates a thread at a time: a plane has as many bytes of them as it has bits.
template <int FORMAT>
TQ_DEVICE void tq_pack_planes(const TqBook& book, const float* z4096, int dim, float scale, u8* row) {
    for (int group = threadIdx.x; group * 8 < dim; group += blockDim.x) {
        u64 codes = 0;
#pragma unroll 2
        for (int i = 0; i < 8; i++)
            codes |= (u64)tq_code_at<FORMAT>(book, z4096, dim, scale, group * 8 + i) << (8 * i);
        u8* plane = row;
        if constexpr (FORMAT & 8) {
            tq_pack_plane<8, 0>(codes, plane, dim, group);
        }
        if constexpr (FORMAT & 4) {
            const int bytes = (dim * 4 + 7) >> 3;
            tq_pack_plane<4, 0>(codes, plane, bytes, group);
            plane += bytes;
        }
        if constexpr (FORMAT & 2) {
            const int bytes = (dim * 2 + 7) >> 3;
            tq_pack_plane<2, (FORMAT & 4)>(codes, plane, bytes, group);
            plane += bytes;
        }
        if constexpr (FORMAT & 1) tq_pack_plane<1, (FORMAT & 6)>(codes, plane, (dim + 7) >> 3, group);
    }
}

// Eight words a thread at a time: of w bits each they are w whole bytes.
template <int FORMAT>
TQ_DEVICE void tq_pack_words(const TqBook& book, const float* z4096, int dim, float scale, u8* row, int bytes) {
    constexpr int PLACES = tq_places(FORMAT), BITS = tq_word_bits(FORMAT);
    for (int unit = threadIdx.x; unit * BITS < bytes; unit += blockDim.x) {
        u32 held = 0;
        int filled = 0, at = unit * BITS;
#pragma unroll 1
        for (int index = 0; index < 8; index++) {
            u32 word = 0;
#pragma unroll
            for (int place = PLACES - 1; place >= 0; place--) {
                const int i = (unit * 8 + index) * PLACES + place;
                word = word * tq_radix(FORMAT, place) + tq_code_at<FORMAT>(book, z4096, dim, scale, i);
            }
            held |= word << filled;
            for (filled += BITS; filled >= 8; filled -= 8) {
                if (at < bytes) row[at] = (u8)held;
                at++;
                held >>= 8;
            }
        }
    }
}

struct TqEncoding {
    u8* packed;  // of this row
    int bytes;
    float* scale;
    i32* residuals;  // of this row, or null
    float* gamma;
    const float* candidates;
    int candidate_count, rule;
};

// All of a row behind its rotation. z4096: the row times 4096, which all threads may read.
template <int FORMAT>
TQ_DEVICE void tq_finish(const TqBook& book, const float* z4096, int dim, double norm, const TqEncoding& to, i64* slots) {
    TqSums best = {0, 1};
    float winner = 1.0f;
    double merit = -1.0;
#pragma unroll 1
    for (int candidate = 0; candidate < to.candidate_count; candidate++) {
        const float scale = to.candidates[candidate];
        const TqSums sums = tq_sums<FORMAT>(book, z4096, dim, scale, slots);
        const double tried = (double)sums.dots * (double)sums.dots / (double)sums.squares;
        if (tried > merit) {
            best = sums;
            merit = tried;
            winner = scale;
        }
    }
    if constexpr (tq_mixed(FORMAT))
        tq_pack_words<FORMAT>(book, z4096, dim, winner, to.packed, to.bytes);
    else
        tq_pack_planes<FORMAT>(book, z4096, dim, winner, to.packed);
    const double factor = tq_scale_factor(to.rule, best, dim);
    if (threadIdx.x == 0) *to.scale = (float)(norm * factor);
    if (!to.residuals) return;
    i64 squares = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        const float scaled = z4096[tq_at(i)];
        const int level = tq_level<FORMAT>(book, tq_round(scaled * winner), i & (tq_places(FORMAT) - 1));
        const int residual = tq_round(scaled) - (int)rint(factor * level);
        to.residuals[i] = residual;
        squares += (i64)residual * residual;
    }
    squares = tq_block_sum(squares, slots);
    if (threadIdx.x == 0) *to.gamma = (float)(norm * sqrt((double)squares) / (4096.0 * sqrt((double)dim)));
}

// Rows (rows, dim) of `dtype` to packed rows of `row_bytes`, of which the first stage takes `stage_bytes`, and float32
// scales. With `norms` (rows,) float64, `in` is float32, rotated already. `thresholds`, `levels`: tables of magnitudes of
// each place, `table` numbers each (codes.cuh). `candidates`: scales to try, the first of which is 1. With `residuals`
// (rows, dim) the integer residuals and `gammas` (rows,) are written too. `scratch` as in tq_rotate.
extern "C" __global__ void __launch_bounds__(256, 3) tq_encode(
    const void* in, int dtype, i64 rows, const double* norms, int strict, u8* packed, int row_bytes, int stage_bytes,
    float* scales, i32* residuals, float* gammas, const i16* thresholds, const i16* levels, int table, int format,
    const float* candidates, int candidate_count, int rule, const u32* signs, const i32* permutations, int dim,
    int rounds, int order, float factor, float* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ i64 slots[32];
    __shared__ i16 tables[2][TQ_MOST_MAGNITUDES];
    for (int i = threadIdx.x; i < table; i += blockDim.x) {
        tables[0][i] = thresholds[i];
        tables[1][i] = levels[i];
    }
    const TqBook book = {tables[0], tables[1]};
    const TqRotation rotation = {signs, permutations, dim, rounds, order, factor};
    const int floats = tq_row_floats(dim);
    float* held = scratch ? scratch + (i64)blockIdx.x * floats * (permutations ? 2 : 1) : (float*)shared;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        float* x = held;
        double norm;
        if (norms) {
            norm = norms[row];
            for (int i = threadIdx.x; i < dim; i += blockDim.x) x[tq_at(i)] = ((const float*)in)[row * dim + i];
        } else {
            norm = tq_load_unit(in, dtype, row * dim, dim, strict, x);
            x = tq_forward(rotation, x, x + floats);
        }
        for (int i = threadIdx.x; i < dim; i += blockDim.x) x[tq_at(i)] *= 4096.0f;
        __syncthreads();
        const TqEncoding to = {packed + row * row_bytes, stage_bytes, scales + row,
                               residuals ? residuals + row * dim : nullptr, gammas ? gammas + row : nullptr,
                               candidates, candidate_count, rule};
        switch (format) {
            case 1: tq_finish<1>(book, x, dim, norm, to, slots); break;
            case 2: tq_finish<2>(book, x, dim, norm, to, slots); break;
            case 3: tq_finish<3>(book, x, dim, norm, to, slots); break;
            case 4: tq_finish<4>(book, x, dim, norm, to, slots); break;
            case 5: tq_finish<5>(book, x, dim, norm, to, slots); break;
            case 6: tq_finish<6>(book, x, dim, norm, to, slots); break;
            case 7: tq_finish<7>(book, x, dim, norm, to, slots); break;
            case 8: tq_finish<8>(book, x, dim, norm, to, slots); break;
            case 9: tq_finish<9>(book, x, dim, norm, to, slots); break;
            case 10: tq_finish<10>(book, x, dim, norm, to, slots); break;
            case 11: tq_finish<11>(book, x, dim, norm, to, slots); break;
            case 12: tq_finish<12>(book, x, dim, norm, to, slots); break;
        }
        __syncthreads();
    }
}

// Unit rows (rows, dim) float32 and norms (rows,) float64, for rotations that are applied elsewhere.
extern "C" __global__ void __launch_bounds__(256, 3) tq_normalize(
    const void* in, int dtype, i64 rows, int dim, int strict, float* units, double* norms, float* scratch) {
    TQ_DYNAMIC_SHARED(shared);
    float* x = scratch ? scratch + (i64)blockIdx.x * tq_row_floats(dim) : (float*)shared;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const double norm = tq_load_unit(in, dtype, row * dim, dim, strict, x);
        __syncthreads();
        for (int i = threadIdx.x; i < dim; i += blockDim.x) units[row * dim + i] = x[tq_at(i)];
        if (threadIdx.x == 0) norms[row] = norm;
        __syncthreads();
    }
}
