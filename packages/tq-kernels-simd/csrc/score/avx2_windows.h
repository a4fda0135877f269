/* Trellis codes of windows of at most 7 bits with AVX2: 32 of them are put into bytes and looked up by byte shuffles, one for
 * every 16 levels. Private to csrc/score/avx2.c. */
#ifndef TQ_SCORE_AVX2_WINDOWS_H
#define TQ_SCORE_AVX2_WINDOWS_H

#include "score/avx2_planes.h"
#include "trellis/circle.h"

/* How windows come out of the bytes of a row, 16 coordinates in a half of a vector. */
typedef struct window_scan {
    __m256i pick[2], times[2]; /* of coordinates 8h..8h+7 of a half: their two bytes, and what moves a window to the top of a word */
    __m256i table[8];
    __m256i keep, turned; /* of the row's last bytes, those in it; where behind them its first ones go */
    size_t groups, bytes;
    int32_t bias; /* what tables were lessened by, of 4 bits: levels up to 254 have to be signed for products in words */
} window_scan;

#define TQ_WINDOW(bits) ((bits) + 3)
#define TQ_BIAS(bits) ((bits) == 4 ? 127 : 0)

static window_scan window_scan_of(const tq_levels8 *levels, int bits) {
    window_scan made = {.groups = (levels->trellis->dim + 31) / 32, .bytes = levels->trellis->dim * (size_t)bits / 8};
    uint8_t bytes[32], turned[32];
    for (int h = 0; h < 2; h++) {
        uint16_t times[16];
        for (int i = 0; i < 16; i++) {
            int start = (8 * h + i % 8) * bits;
            bytes[2 * i] = (uint8_t)(start / 8);
            bytes[2 * i + 1] = (uint8_t)(start / 8 + 1);
            times[i] = (uint16_t)(1u << (16 - TQ_WINDOW(bits) - start % 8));
        }
        made.pick[h] = _mm256_loadu_si256((const __m256i *)bytes);
        made.times[h] = _mm256_loadu_si256((const __m256i *)times);
    }
    for (int k = 0; k < 8; k++) {
        uint8_t table[16];
        for (int i = 0; i < 16; i++) table[i] = (uint8_t)(levels->trellis->planes->scan_high[16 * k + i] - TQ_BIAS(bits));
        made.table[k] = both(table);
    }
    const size_t last = (made.groups - 1) * 4 * (size_t)bits; /* the byte where the last group begins */
    for (size_t i = 0; i < 32; i++) {
        size_t byte = last + i / 16 * 2 * (size_t)bits + i % 16;
        bytes[i] = byte < made.bytes ? 0xFF : 0;
        turned[i] = (uint8_t)(byte < made.bytes || byte >= made.bytes + 16 ? 0x80 : byte - made.bytes);
    }
    made.keep = _mm256_loadu_si256((const __m256i *)bytes);
    made.turned = _mm256_loadu_si256((const __m256i *)turned);
    return made;
}

/* The levels of 32 coordinates, lessened by the bias. */
INLINE __m256i window_levels(const window_scan *scan, const uint8_t *row, size_t group, int bits) {
    const __m128i *at = (const __m128i *)(row + group * 4 * (size_t)bits), *second = (const __m128i *)((const uint8_t *)at + 2 * bits);
    __m256i x = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at)), _mm_loadu_si128(second), 1);
    if (group + 1 == scan->groups)
        x = _mm256_or_si256(_mm256_and_si256(x, scan->keep), _mm256_shuffle_epi8(both(row), scan->turned));
    __m256i words[2];
    for (int h = 0; h < 2; h++)
        words[h] = _mm256_srli_epi16(_mm256_mullo_epi16(_mm256_shuffle_epi8(x, scan->pick[h]), scan->times[h]), 16 - TQ_WINDOW(bits));
    const __m256i window = _mm256_packus_epi16(words[0], words[1]);
    __m256i found[8];
    for (int k = 0; k < 1 << (bits - 1); k++) found[k] = _mm256_shuffle_epi8(scan->table[k], window);
    for (int bit = 0; bit < bits - 1; bit++) { /* bits 4.. of the windows choose, as the top bits of bytes */
        const __m256i top = _mm256_slli_epi16(window, 3 - bit);
        for (int k = 0; k < 1 << (bits - 2 - bit); k++) found[k] = _mm256_blendv_epi8(found[2 * k], found[2 * k + 1], top);
    }
    return found[0];
}

/* acc + the products of 32 levels, lessened by the bias, with a query. */
INLINE __m256i add_window_products(__m256i acc, __m256i level, __m256i query, int bits) {
    __m256i narrow = TQ_BIAS(bits) ? _mm256_maddubs_epi16(_mm256_abs_epi8(level), _mm256_sign_epi8(query, level))
                                   : _mm256_maddubs_epi16(level, query);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
}

INLINE int32_t sum_of_query(const int8_t *query, size_t length) {
    int32_t sum = 0;
    for (size_t j = 0; j < length; j++) sum += query[j];
    return sum;
}

INLINE void scan_windows_bits(int bits, const tq_levels8 *levels, const int8_t *query, const uint8_t *packed, size_t stride, size_t rows,
                              int32_t *out) {
    const window_scan scan = window_scan_of(levels, bits);
    const int32_t more = TQ_BIAS(bits) ? TQ_BIAS(bits) * sum_of_query(query, levels->trellis->dim) : 0;
    for (size_t r = 0; r < rows; r += 4) {
        __m256i sums[4];
        for (size_t k = 0; k < 4; k++) {
            const uint8_t *row = packed + (r + k < rows ? r + k : rows - 1) * stride;
            sums[k] = _mm256_setzero_si256();
            for (size_t g = 0; g < scan.groups; g++) {
                const __m256i asked = _mm256_loadu_si256((const __m256i *)(query + 32 * g));
                sums[k] = add_window_products(sums[k], window_levels(&scan, row, g, bits), asked, bits);
            }
        }
        int32_t four[4];
        _mm_storeu_si128((__m128i *)four, _mm_add_epi32(sums_of(sums[0], sums[1], sums[2], sums[3]), _mm_set1_epi32(more)));
        for (size_t k = 0; k < 4 && r + k < rows; k++) out[r + k] = four[k];
    }
}

static void scan_windows(const tq_levels8 *levels, const int8_t *query, const uint8_t *packed, size_t stride, size_t rows, int32_t *out) {
#define SCAN_WINDOWS(bits) scan_windows_bits(bits, levels, query, packed, stride, rows, out)
    TQ_FOR_WIDTH_TO_4(levels->bits, SCAN_WINDOWS)
}

INLINE void expand_windows_bits(int bits, const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length,
                                uint8_t *tile) {
    const window_scan scan = window_scan_of(levels, bits);
    for (size_t r = 0; r < rows; r++)
        for (size_t g = 0; g < scan.groups; g++) {
            const __m256i level = window_levels(&scan, packed + r * stride, g, bits);
            _mm256_store_si256((__m256i *)(tile + r * length + 32 * g), _mm256_add_epi8(level, _mm256_set1_epi8(TQ_BIAS(bits))));
        }
}

static void expand_windows(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *tile) {
#define EXPAND_WINDOWS(bits) expand_windows_bits(bits, levels, packed, stride, rows, length, tile)
    TQ_FOR_WIDTH_TO_4(levels->bits, EXPAND_WINDOWS)
}

/* Levels of eight coordinates of a long window, one load each, into the eight words of a vector. */
INLINE __m128i eight_levels(const uint16_t *scan, size_t mask, uint64_t run, int bits) {
    size_t at[8];
    for (int i = 0; i < 8; i++) at[i] = (i ? run >> i * bits | run << (64 - i * bits) : run) & mask; /* rotations keep the run */
    __m128i x = _mm_cvtsi32_si128(scan[at[0]]);
    x = _mm_insert_epi16(x, scan[at[1]], 1);
    x = _mm_insert_epi16(x, scan[at[2]], 2);
    x = _mm_insert_epi16(x, scan[at[3]], 3);
    x = _mm_insert_epi16(x, scan[at[4]], 4);
    x = _mm_insert_epi16(x, scan[at[5]], 5);
    x = _mm_insert_epi16(x, scan[at[6]], 6);
    return _mm_insert_epi16(x, scan[at[7]], 7);
}

INLINE void store_levels(__m128i x, uint8_t *high, uint8_t *low) {
    _mm_storel_epi64((__m128i *)high, _mm_packus_epi16(_mm_srli_epi16(x, 8), x));
    _mm_storel_epi64((__m128i *)low, _mm_packus_epi16(_mm_and_si128(x, _mm_set1_epi16(255)), x));
}

INLINE void expand_long_row(int bits, const tq_codebook *book, const uint8_t *packed, uint8_t *high, uint8_t *low) {
    const uint16_t *scan = book->planes->scan;
    const size_t mask = ((size_t)1 << book->window) - 1, dim = book->dim, seam = 8 * tq_circle_runs(book, (size_t)bits);
    size_t j = 0, at = 0;
    for (; j < seam; j += 8, at += (size_t)bits)
        store_levels(eight_levels(scan, mask, tq_circle_bits(packed + at), bits), high + j, low + j);
    if (j == dim) return;
    tq_circle_end end = tq_circle_seam(packed, dim * (size_t)bits, at);
    for (; j < dim; j += 8, end >>= 8 * bits) store_levels(eight_levels(scan, mask, (uint64_t)end, bits), high + j, low + j);
}

static void expand_long(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *high,
                        uint8_t *low) {
#define EXPAND_LONG(bits) expand_long_row(bits, levels->trellis, packed + r * stride, high + r * length, low + r * length)
    for (size_t r = 0; r < rows; r++) TQ_FOR_WIDTH_TO_4(levels->bits, EXPAND_LONG)
}

static void dots_bytes(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                       int32_t *out, size_t stride) {
    const __m256i bias = _mm256_set1_epi8((char)128); /* 2 * 128 * 127 fits 16 bits, as the magnitude of -128 does 8 */
    for (size_t q = 0; q < count; q++) {
        const int8_t *query = queries + q * query_stride;
        const __m128i more = _mm_set1_epi32(128 * sum_of_query(query, length));
        for (size_t r = 0; r < rows; r += 4) {
            __m256i sums[4];
            for (size_t k = 0; k < 4; k++) sums[k] = _mm256_setzero_si256();
            for (size_t j = 0; j < length; j += 32) {
                const __m256i asked = _mm256_loadu_si256((const __m256i *)(query + j));
                for (size_t k = 0; k < 4; k++) {
                    const __m256i level = _mm256_loadu_si256((const __m256i *)(tile + (r + k) * length + j));
                    sums[k] = add_window_products(sums[k], _mm256_sub_epi8(level, bias), asked, 4);
                }
            }
            _mm_storeu_si128((__m128i *)(out + q * stride + r), _mm_add_epi32(sums_of(sums[0], sums[1], sums[2], sums[3]), more));
        }
    }
}

#endif
