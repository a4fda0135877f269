#include <immintrin.h>
#include <string.h>

#include "levels.h"
#include "specialize.h"
#include "trellis/avx2_windows.h"

/* Sixteen windows at once: their metrics come from 16 >> bits nodes that follow each other, each of them for 2^bits windows. */
static inline __m256i entered(const uint16_t *metrics, size_t window, int bits, __m256i pattern) {
    const uint16_t *at = metrics + (window >> bits);
    if (bits == 4) return _mm256_set1_epi16((short)*at);
    __m256i few;
    if (bits == 1) {
        few = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)at));
    } else if (bits == 2) {
        long long four;
        memcpy(&four, at, sizeof four);
        few = _mm256_set1_epi64x(four);
    } else {
        int two;
        memcpy(&two, at, sizeof two);
        few = _mm256_set1_epi32(two);
    }
    return _mm256_shuffle_epi8(few, pattern);
}

/* Byte shuffles that repeat each of 16 >> bits metrics 2^bits times. */
static inline __m256i pattern_of(int bits) {
    uint8_t bytes[32];
    for (int lane = 0; lane < 16; lane++) {
        bytes[2 * lane] = (uint8_t)(2 * (lane >> bits));
        bytes[2 * lane + 1] = (uint8_t)(2 * (lane >> bits) + 1);
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)bytes);
}

static inline unsigned least_lane(__m256i v) {
    __m128i low = _mm_min_epu16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (unsigned)_mm_extract_epi16(_mm_minpos_epu16(low), 0);
}

static inline __m256i cost_of(const tq_codebook *book, const uint16_t *before, __m256i x, size_t window, int bits, __m256i pattern) {
    __m256i e = _mm256_subs_epi16(x, _mm256_loadu_si256((const __m256i *)(const void *)(book->levels + window)));
    return _mm256_adds_epu16(_mm256_mulhrs_epi16(e, e), entered(before, window, bits, pattern)); /* 32768 is e = -32768 */
}

static inline void forward_bits(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history, int bits) {
    size_t nodes = book->nodes, size = nodes << bits;
    __m256i pattern = pattern_of(bits), lowest = _mm256_set1_epi16(-1);
    for (size_t n = 0; n < nodes; n += 16)
        lowest = _mm256_min_epu16(lowest, _mm256_loadu_si256((const __m256i *)(const void *)(history + n)));
    for (size_t step = 0; step < steps; step++) {
        const uint16_t *before = history + step * nodes;
        uint16_t *after = history + (step + 1) * nodes;
        __m256i least = _mm256_set1_epi16((short)least_lane(lowest)), value = _mm256_set1_epi16(x[step]);
        lowest = _mm256_set1_epi16(-1);
        for (size_t n = 0; n < nodes; n += 16) {
            __m256i even = _mm256_set1_epi16(-1), odd = even;
            for (size_t window = n; window < size; window += 2 * nodes) {
                even = _mm256_min_epu16(even, cost_of(book, before, value, window, bits, pattern));
                odd = _mm256_min_epu16(odd, cost_of(book, before, value, window + nodes, bits, pattern));
            }
            __m256i best = _mm256_sub_epi16(_mm256_min_epu16(even, odd), least);
            _mm256_storeu_si256((__m256i *)(void *)(after + n), best);
            lowest = _mm256_min_epu16(lowest, best);
        }
    }
}

/* Eight nodes: a step is 2^bits times eight windows. */
static inline void forward_eight(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history, int bits) {
    __m128i best = _mm_loadu_si128((const __m128i *)(const void *)history), patterns[1 << TQ_TRELLIS_BITS];
    for (int i = 0; i < 1 << bits; i++) {
        uint8_t bytes[16];
        for (int lane = 0; lane < 8; lane++) {
            bytes[2 * lane] = (uint8_t)(2 * ((8 * i + lane) >> bits));
            bytes[2 * lane + 1] = (uint8_t)(bytes[2 * lane] + 1);
        }
        patterns[i] = _mm_loadu_si128((const __m128i *)(const void *)bytes);
    }
    for (size_t step = 0; step < steps; step++) {
        __m128i least = _mm_broadcastw_epi16(_mm_minpos_epu16(best)), value = _mm_set1_epi16(x[step]), found = _mm_set1_epi16(-1);
        for (int i = 0; i < 1 << bits; i++) {
            __m128i e = _mm_subs_epi16(value, _mm_loadu_si128((const __m128i *)(const void *)(book->levels + 8 * i)));
            found = _mm_min_epu16(found, _mm_adds_epu16(_mm_mulhrs_epi16(e, e), _mm_shuffle_epi8(best, patterns[i])));
        }
        best = _mm_sub_epi16(found, least);
        _mm_storeu_si128((__m128i *)(void *)(history + 8 * (step + 1)), best);
    }
}

static void forward(const tq_codebook *book, const int16_t *x, size_t steps, uint16_t *history) {
    const int is_small = book->nodes == 8;
#define FORWARD(bits) is_small ? forward_eight(book, x, steps, history, bits) : forward_bits(book, x, steps, history, bits)
    TQ_FOR_WIDTH_TO_4(book->bits, FORWARD)
}

/* Every `stride`-th of eight numbers. */
static inline __m128i eight(const uint16_t *at, size_t stride) {
    __m128i found = _mm_cvtsi32_si128(at[0]);
    found = _mm_insert_epi16(found, at[stride], 1);
    found = _mm_insert_epi16(found, at[2 * stride], 2);
    found = _mm_insert_epi16(found, at[3 * stride], 3);
    found = _mm_insert_epi16(found, at[4 * stride], 4);
    found = _mm_insert_epi16(found, at[5 * stride], 5);
    found = _mm_insert_epi16(found, at[6 * stride], 6);
    return _mm_insert_epi16(found, at[7 * stride], 7);
}

/* The least cost of eight windows, `nodes` apart, and in bits 16..18 which of them has it first. `from` are the metrics of the
 * nodes before them, which lie nodes >> bits apart. */
static inline unsigned least_of_eight(const int16_t *levels, size_t nodes, __m128i x, __m128i from) {
    __m128i e = _mm_subs_epi16(x, eight((const uint16_t *)levels, nodes));
    return (unsigned)_mm_cvtsi128_si32(_mm_minpos_epu16(_mm_adds_epu16(_mm_mulhrs_epi16(e, e), from)));
}

static unsigned backward_three(const tq_codebook *book, const int16_t *x, size_t steps, size_t stop, const uint16_t *history,
                               unsigned node, uint8_t *symbols) {
    size_t nodes = book->nodes;
    for (size_t step = steps; step-- > stop;) {
        const uint16_t *before = history + step * nodes + (node >> 3);
        unsigned best = least_of_eight(book->levels + node, nodes, _mm_set1_epi16(x[step]), eight(before, nodes >> 3));
        symbols[step] = (uint8_t)(node & 7);
        node = (unsigned)((node + (best >> 16) * nodes) >> 3);
    }
    return node;
}

static unsigned backward_four(const tq_codebook *book, const int16_t *x, size_t steps, size_t stop, const uint16_t *history,
                              unsigned node, uint8_t *symbols) {
    size_t nodes = book->nodes, stride = nodes >> 4;
    for (size_t step = steps; step-- > stop;) {
        const uint16_t *before = history + step * nodes + (node >> 4);
        const int16_t *levels = book->levels + node;
        __m128i value = _mm_set1_epi16(x[step]), low, high;
        if (stride == 0) { /* 8 nodes: a node is entered by two windows */
            __m128i all = _mm_loadu_si128((const __m128i *)(const void *)before);
            low = _mm_unpacklo_epi16(all, all);
            high = _mm_unpackhi_epi16(all, all);
        } else if (stride == 1) {
            low = _mm_loadu_si128((const __m128i *)(const void *)before);
            high = _mm_loadu_si128((const __m128i *)(const void *)(before + 8));
        } else {
            low = eight(before, stride);
            high = eight(before + 8 * stride, stride);
        }
        unsigned first = least_of_eight(levels, nodes, value, low), second = least_of_eight(levels + 8 * nodes, nodes, value, high);
        size_t branch = (second & 0xFFFF) < (first & 0xFFFF) ? 8 + (second >> 16) : first >> 16;
        size_t window = node + branch * nodes;
        symbols[step] = (uint8_t)(window & 15);
        node = (unsigned)(window >> 4);
    }
    return node;
}

INLINE void centroids_bits(const tq_codebook *book, const uint8_t *packed, float *out, const int bits, const int in_pairs) {
    const window_table table = window_table_of(book, bits, in_pairs);
    const size_t dim = book->dim, seam = 8 * tq_circle_runs(book, (size_t)bits);
    size_t j = 0;
    for (; j < seam; j += 8, packed += bits) _mm256_storeu_ps(out + j, eight_windows(table, tq_circle_bits(packed)));
    if (j == dim) return;
    tq_circle_end end = tq_circle_seam(packed - j / 8 * (size_t)bits, dim * (size_t)bits, j / 8 * (size_t)bits);
    for (; j + 8 <= dim; j += 8, end >>= 8 * bits) _mm256_storeu_ps(out + j, eight_windows(table, (uint64_t)end));
    if (j == dim) return;
    float rest[8];
    _mm256_storeu_ps(rest, eight_windows(table, (uint64_t)end));
    for (size_t i = 0; j + i < dim; i++) out[j + i] = rest[i];
}

void tq_trellis_centroids_avx2(const tq_codebook *book, const uint8_t *packed, float *out) {
#define CENTROIDS(bits) book->pairs ? centroids_bits(book, packed, out, bits, 1) : centroids_bits(book, packed, out, bits, 0)
    TQ_FOR_WIDTH_TO_4(book->bits, CENTROIDS)
}

void tq_trellis_avx2(tq_trellis_slots *slots) {
    slots->forward = slots->forward_wide = forward;
    slots->backward[3] = backward_three; /* with two or four branches, one look at each is as fast */
    slots->backward[4] = backward_four;
    slots->centroids = tq_trellis_centroids_avx2;
}
