#include <immintrin.h>
#include <string.h>

#include "levels.h"
#include "specialize.h"
#include "trellis/trellis.h"

/* Thirty-two windows at once, as avx2.c has sixteen: their metrics come from 32 >> bits nodes that follow each other. */
static inline __m512i entered(const uint16_t *metrics, size_t window, int bits, __m512i pattern) {
    const uint16_t *at = metrics + (window >> bits);
    if (bits == 1) {
        __m256i few = _mm256_loadu_si256((const __m256i *)(const void *)at);
        return _mm512_permutexvar_epi16(pattern, _mm512_castsi256_si512(few));
    }
    __m512i few;
    if (bits == 2) {
        few = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)at));
    } else if (bits == 3) {
        long long four;
        memcpy(&four, at, sizeof four);
        few = _mm512_set1_epi64(four);
    } else {
        int two;
        memcpy(&two, at, sizeof two);
        few = _mm512_set1_epi32(two);
    }
    return _mm512_shuffle_epi8(few, pattern);
}

/* Repeats each of 32 >> bits metrics 2^bits times: word indices for one bit, byte shuffles otherwise. */
static inline __m512i pattern_of(int bits) {
    uint8_t bytes[64];
    for (int lane = 0; lane < 32; lane++) {
        bytes[2 * lane] = (uint8_t)(bits == 1 ? lane >> 1 : 2 * (lane >> bits));
        bytes[2 * lane + 1] = (uint8_t)(bits == 1 ? 0 : 2 * (lane >> bits) + 1);
    }
    return _mm512_loadu_si512(bytes);
}

static inline unsigned least_lane(__m512i v) {
    __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i quarter = _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return (unsigned)_mm_extract_epi16(_mm_minpos_epu16(quarter), 0);
}

static inline __m512i cost_of(const tq_codebook *book, const uint16_t *before, __m512i x, size_t window, int bits, __m512i pattern) {
    __m512i e = _mm512_subs_epi16(x, _mm512_loadu_si512(book->levels + window));
    return _mm512_adds_epu16(_mm512_mulhrs_epi16(e, e), entered(before, window, bits, pattern)); /* 32768 is e = -32768 */
}

static inline void forward_bits(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history, int bits) {
    size_t nodes = book->nodes, size = nodes << bits;
    __m512i pattern = pattern_of(bits), lowest = _mm512_set1_epi16(-1);
    for (size_t n = 0; n < nodes; n += 32) lowest = _mm512_min_epu16(lowest, _mm512_loadu_si512(history + n));
    for (size_t step = 0; step < steps; step++) {
        const uint16_t *before = history + step * nodes;
        uint16_t *after = history + (step + 1) * nodes;
        __m512i least = _mm512_set1_epi16((short)least_lane(lowest)), value = _mm512_set1_epi16(x[step]);
        lowest = _mm512_set1_epi16(-1);
        for (size_t n = 0; n < nodes; n += 32) {
            __m512i even = _mm512_set1_epi16(-1), odd = even;
            for (size_t window = n; window < size; window += 2 * nodes) {
                even = _mm512_min_epu16(even, cost_of(book, before, value, window, bits, pattern));
                odd = _mm512_min_epu16(odd, cost_of(book, before, value, window + nodes, bits, pattern));
            }
            __m512i best = _mm512_sub_epi16(_mm512_min_epu16(even, odd), least);
            _mm512_storeu_si512(after + n, best);
            lowest = _mm512_min_epu16(lowest, best);
        }
    }
}

static void forward_wide(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history) {
#define FORWARD(bits) forward_bits(book, x, steps, history, bits)
    TQ_FOR_WIDTH_TO_4(book->bits, FORWARD)
}

void tq_trellis_avx512(tq_trellis_slots *slots) { slots->forward_wide = forward_wide; }
