/* Trellis codes of windows of at most 7 bits: 64 of them become bytes by a permutation and a shift, and one permutation over two
 * registers looks all of them up. */
#include "levels.h"
#include "score/avx512_sums.h"
#include "score/score.h"
#include "trellis/avx512vbmi_windows.h"

static tq_score_slots below; /* for windows of 12 bits */

typedef struct window_scan {
    __m512i from, by, low, high;
    size_t bits, bytes, blocks;
} window_scan;

static window_scan window_scan_of(const tq_levels8 *levels) {
    uint8_t from[64], by[64];
    for (size_t i = 0; i < 64; i++) {
        from[i] = (uint8_t)(i / 8 * levels->bits + i % 8);
        by[i] = (uint8_t)(i % 8 * levels->bits);
    }
    const uint8_t *high = levels->trellis->planes->scan_high;
    const size_t dim = levels->trellis->dim, bits = levels->bits;
    return (window_scan){_mm512_loadu_si512(from), _mm512_loadu_si512(by), _mm512_loadu_si512(high), _mm512_loadu_si512(high + 64),
                         bits, dim * bits / 8, (dim + 63) / 64};
}

/* The bits of 64 coordinates, eight bytes for eight of them. What is read of a row's last bytes is followed by its first ones: by the bytes of a second
 * register, whose indices begin at 64. */
INLINE __m512i window_bits(const window_scan *scan, const uint8_t *row, size_t block) {
    const size_t at = block * 8 * scan->bits, left = scan->bytes - at;
    const __m512i x = _mm512_loadu_si512(row + at);
    __m512i from = scan->from;
    if (left < 64) { /* of the last block, or of the one before it when that has less than a window */
        const __m512i behind = _mm512_set1_epi8((char)(left - 1)), turn = _mm512_set1_epi8((char)(64 - left));
        from = _mm512_mask_add_epi8(from, _mm512_cmpgt_epi8_mask(from, behind), from, turn);
        return _mm512_permutex2var_epi8(x, from, _mm512_loadu_si512(row));
    }
    return _mm512_permutexvar_epi8(from, x);
}

INLINE __m512i window_levels(const window_scan *scan, const uint8_t *row, size_t block) {
    const __m512i window = _mm512_multishift_epi64_epi8(scan->by, window_bits(scan, row, block));
    return _mm512_permutex2var_epi8(scan->low, window, scan->high);
}

static void scan_windows(const tq_levels8 *levels, const int8_t *query, const uint8_t *packed, size_t stride, size_t rows, int32_t *out) {
    const window_scan scan = window_scan_of(levels);
    for (size_t r = 0; r < rows; r += 4) {
        const uint8_t *row[4];
        __m512i sums[4];
        for (size_t k = 0; k < 4; k++) {
            row[k] = packed + (r + k < rows ? r + k : rows - 1) * stride;
            sums[k] = _mm512_setzero_si512();
        }
        for (size_t block = 0; block < scan.blocks; block++) {
            const __m512i asked = _mm512_loadu_si512(query + 64 * block);
            for (size_t k = 0; k < 4; k++) sums[k] = _mm512_dpbusd_epi32(sums[k], window_levels(&scan, row[k], block), asked);
        }
        int32_t four[4];
        _mm_storeu_si128((__m128i *)four, sums_of(sums[0], sums[1], sums[2], sums[3]));
        for (size_t k = 0; k < 4 && r + k < rows; k++) out[r + k] = four[k];
    }
}

static void expand_windows(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *tile) {
    const window_scan scan = window_scan_of(levels);
    for (size_t r = 0; r < rows; r++)
        for (size_t block = 0; block < scan.blocks; block++)
            _mm512_store_si512(tile + r * length + 64 * block, window_levels(&scan, packed + r * stride, block));
}

/* Windows of 8 and 10 bits, of two rows at a time. */
INLINE void expand_blocks(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *high,
                          uint8_t *low, const int blocks) {
    const window_scan scan = window_scan_of(levels);
    const tq_planes *planes = levels->trellis->planes;
    const __m512i seven = _mm512_add_epi8(scan.by, _mm512_set1_epi8(7));
    for (size_t r = 0; r < rows; r += 2) {
        const size_t row[2] = {r, r + 1 < rows ? r + 1 : r};
        for (size_t block = 0; block < scan.blocks; block++) {
            twice windows;
            __mmask64 above[2][3];
            for (int i = 0; i < 2; i++) {
                const __m512i x = window_bits(&scan, packed + row[i] * stride, block), top = _mm512_multishift_epi64_epi8(seven, x);
                windows.of[i] = _mm512_multishift_epi64_epi8(scan.by, x);
                for (int bit = 0; bit < 3; bit++) above[i][bit] = _mm512_test_epi8_mask(top, _mm512_set1_epi8((char)(1 << bit)));
            }
            const twice highs = of_blocks(planes->scan_high, windows, above, blocks);
            for (int i = 0; i < 2; i++) _mm512_store_si512(high + row[i] * length + 64 * block, highs.of[i]);
            if (levels->bits < 4) continue; /* all of their levels are in the one plane */
            const twice lows = of_blocks(planes->scan_low, windows, above, blocks);
            for (int i = 0; i < 2; i++) _mm512_store_si512(low + row[i] * length + 64 * block, lows.of[i]);
        }
    }
}

static void expand_long(const tq_levels8 *levels, const uint8_t *packed, size_t stride, size_t rows, size_t length, uint8_t *high,
                        uint8_t *low) {
    if (levels->trellis->window > TQ_PLANE_BITS) below.expand_long(levels, packed, stride, rows, length, high, low);
    else if (levels->trellis->window == 10) expand_blocks(levels, packed, stride, rows, length, high, low, 8);
    else expand_blocks(levels, packed, stride, rows, length, high, low, 2);
}

void tq_score_avx512vbmi(tq_score_slots *slots) {
    below = *slots;
    slots->scan_windows = scan_windows;
    slots->expand_windows = expand_windows;
    slots->expand_long = expand_long;
}
