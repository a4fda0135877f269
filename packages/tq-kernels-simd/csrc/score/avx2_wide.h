/* AVX2: the int16 and float32 arithmetics. Private to csrc/score/avx2*.c. */
#ifndef TQ_SCORE_AVX2_WIDE_H
#define TQ_SCORE_AVX2_WIDE_H

#include "score/avx2_planes.h"

/* `width` bits of each of 32 coordinates from j on, one a byte, in the natural order. */
INLINE __m256i plane_codes(const uint8_t *plane, size_t width, size_t j) {
    const uint8_t *at = plane + j * width / 8;
    if (width == 8) return _mm256_loadu_si256((const __m256i *)at);
    if (width == 4) {
        __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
        return _mm256_and_si256(_mm256_or_si256(x, _mm256_slli_epi16(x, 4)), _mm256_set1_epi8(15));
    }
    if (width == 2) {
        __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
        x = _mm256_or_si256(_mm256_or_si256(x, _mm256_slli_epi32(x, 6)),
                            _mm256_or_si256(_mm256_slli_epi32(x, 12), _mm256_slli_epi32(x, 18)));
        return _mm256_and_si256(x, _mm256_set1_epi8(3));
    }
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3,
                                            3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    int32_t word = (int32_t)((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
    __m256i x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(1));
}

/* Tables of 16 entries for one byte of the levels; table k holds the xor of entries 16k + i and 16(k-1) + i, so that the xor over
 * all k up to code / 16 is the entry of the code. Codes below 16k shuffle to 0 because 16k was subtracted with a borrow. */
INLINE void lookup_tables(const int16_t *level16, size_t bits, int shift, uint8_t (*out)[16]) {
    size_t codes = (size_t)1 << bits;
    for (size_t k = 0; 16 * k < codes || k == 0; k++)
        for (size_t i = 0; i < 16; i++) {
            unsigned now = (uint16_t)level16[16 * k + i], before = k ? (uint16_t)level16[16 * (k - 1) + i] : 0;
            out[k][i] = (uint8_t)((now ^ before) >> shift);
        }
}

INLINE void expand16_bits(size_t bits, const int16_t *level16, const tq_packed_rows *from, size_t length, int16_t *tile) {
    uint8_t low[16][16], high[16][16];
    int count = bits > 4 ? 1 << (bits - 4) : 1;
    /* 8 bits: a code of 128 or more would shuffle to 0 at once, so the upper half has tables of its own */
    lookup_tables(level16, bits, 0, low);
    lookup_tables(level16, bits, 8, high);
    if (bits == 8)
        for (int i = 0; i < 16; i++) {
            low[8][i] = (uint8_t)level16[128 + i];
            high[8][i] = (uint8_t)((uint16_t)level16[128 + i] >> 8);
        }
    for (size_t r = 0; r < from->rows; r++)
        for (size_t j = 0; j < length; j += 32, tile += 32) {
            __m256i code = _mm256_setzero_si256();
            int plane = 0, shift = 0;
            for (size_t width = 8; width; width /= 2) {
                if (!(bits & width)) continue;
                __m256i part = plane_codes(from->plane[plane++] + r * from->stride, width, j);
                code = _mm256_or_si256(code, _mm256_slli_epi16(part, shift)); /* parts stay within their bytes */
                shift += (int)width;
            }
            /* 64-bit quarters 0 2 1 3, so that the interleaving below yields the natural order */
            code = _mm256_permute4x64_epi64(code, 0xD8);
            __m256i least = _mm256_setzero_si256(), most = least, upper = _mm256_setzero_si256();
            if (bits == 8) {
                upper = _mm256_cmpgt_epi8(_mm256_setzero_si256(), code);
                code = _mm256_and_si256(code, _mm256_set1_epi8(127));
            }
            int halves = bits == 8 ? 2 : 1, per_half = count / halves;
            for (int half = 0; half < halves; half++) {
                __m256i a = _mm256_setzero_si256(), b = a, x = code;
                for (int k = 0; k < per_half; k++) {
                    a = _mm256_xor_si256(a, _mm256_shuffle_epi8(both(low[half * 8 + k]), x));
                    b = _mm256_xor_si256(b, _mm256_shuffle_epi8(both(high[half * 8 + k]), x));
                    x = _mm256_sub_epi8(x, _mm256_set1_epi8(16));
                }
                least = half ? _mm256_blendv_epi8(least, a, upper) : a;
                most = half ? _mm256_blendv_epi8(most, b, upper) : b;
            }
            _mm256_store_si256((__m256i *)tile, _mm256_unpacklo_epi8(least, most));
            _mm256_store_si256((__m256i *)(tile + 16), _mm256_unpackhi_epi8(least, most));
        }
}

static void expand16(const int16_t *level16, size_t bits, const tq_packed_rows *from, size_t length, int16_t *tile) {
#define EXPAND16(width) expand16_bits(width, level16, from, length, tile)
    TQ_FOR_WIDTH_TO_8(bits, EXPAND16)
}

INLINE int64_t sum_of_32(__m256i x) {
    __m256i wide = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(x)),
                                    _mm256_cvtepi32_epi64(_mm256_extracti128_si256(x, 1)));
    __m128i half = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}

static void dots16(const int16_t *tile, size_t rows, const int16_t *queries, size_t query_stride, size_t count, size_t length,
                   int64_t *out, size_t stride) {
    for (size_t r = 0; r < rows; r++)
        for (size_t q = 0; q < count; q++) {
            const int16_t *row = tile + r * length, *query = queries + q * query_stride;
            int64_t total = 0;
            for (size_t start = 0; start < length; start += TQ_SEGMENT16) {
                size_t end = length - start < TQ_SEGMENT16 ? length : start + TQ_SEGMENT16;
                __m256i a = _mm256_setzero_si256(), b = a;
                for (size_t j = start; j < end; j += 32) {
                    __m256i x = _mm256_loadu_si256((const __m256i *)(query + j)),
                            y = _mm256_loadu_si256((const __m256i *)(query + j + 16));
                    a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_load_si256((const __m256i *)(row + j)), x));
                    b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_load_si256((const __m256i *)(row + j + 16)), y));
                }
                total += sum_of_32(_mm256_add_epi32(a, b)); /* together at most TQ_SEGMENT16 / 16 products of two */
            }
            out[q * stride + r] += total;
        }
}

INLINE double sum_of_floats(__m256 x) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return (double)_mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void finish(const int32_t *sums, uint32_t minus, float factor, const float *weight, size_t rows, int add, float *out) {
    const __m256i less = _mm256_set1_epi32((int32_t)minus);
    const __m256 by = _mm256_set1_ps(factor);
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        __m256i whole = _mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)(sums + r)), 1);
        __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(whole, less)), by);
        value = _mm256_mul_ps(value, _mm256_loadu_ps(weight + r));
        _mm256_storeu_ps(out + r, add ? _mm256_add_ps(_mm256_loadu_ps(out + r), value) : value);
    }
    for (; r < rows; r++) {
        float value = ((float)(int32_t)(2u * (uint32_t)sums[r] - minus) * factor) * weight[r];
        out[r] = add ? out[r] + value : value;
    }
}

static void dots32(const float *row, const float *queries, size_t query_stride, size_t count, size_t length, double *out) {
    for (size_t q = 0; q < count; q++) {
        const float *query = queries + q * query_stride;
        __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t j = 0; j < length; j += 32)
            for (int k = 0; k < 4; k++)
                sum[k] = _mm256_fmadd_ps(_mm256_loadu_ps(query + j + 8 * k), _mm256_load_ps(row + j + 8 * k), sum[k]);
        out[q] += sum_of_floats(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
    }
}

#endif
