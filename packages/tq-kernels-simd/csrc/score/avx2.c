/* u8 levels times i8 queries: vpmaddubsw adds neighbours in 16 bits (levels are small enough, TQ_FOLD8), vpmaddwd with ones
 * widens. On Zen both run on two ports and the shuffles on two others, so a chunk of 4 bits costs about 3 cycles. */
#include "levels.h"
#include "score/avx2_planes.h"
#include "score/avx2_wide.h"
#include "score/avx2_windows.h"

#define AHEAD 4096 /* bytes: without this prefetch gcc's code waits for memory at large dims */

INLINE __m256i load(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* acc + the products of a chunk's phases with the query, as 32-bit lanes. */
INLINE __m256i chunk_dot(int bits, const uint8_t *low, const uint8_t *high, const int8_t *query, const tables *t, __m256i acc) {
    __m256i level[8], ones = _mm256_set1_epi16(1);
    levels_of(bits, low, high, t, level);
    int phases = (int)TQ_PHASES(bits), fold = (int)TQ_FOLD8(bits);
    for (int p = 0; p < phases; p += fold) {
        __m256i narrow = _mm256_maddubs_epi16(level[p], load(query + 32 * p));
        for (int f = 1; f < fold; f++)
            narrow = _mm256_add_epi16(narrow, _mm256_maddubs_epi16(level[p + f], load(query + 32 * (p + f))));
        acc = _mm256_add_epi32(acc, _mm256_madd_epi16(narrow, ones));
    }
    return acc;
}

INLINE void scan_bits(int bits, const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks,
                      int32_t *out) {
    const tables t = tables_of(levels, bits);
    const size_t stride = from->stride, step = 32 * TQ_PHASES(bits);
    size_t r = 0;
    for (; r + 4 <= from->rows; r += 4) {
        const uint8_t *low = from->plane[0] + r * stride, *high = bits == 3 ? from->plane[1] + r * stride : NULL;
        const char *ahead = (const char *)low + AHEAD, *end = ahead + 4 * stride;
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        for (size_t i = 0; i < chunks; i++) {
            const int8_t *q = query + i * step;
            const uint8_t *x = low + 32 * i, *y = high + 16 * i;
            _mm_prefetch(ahead, _MM_HINT_T0);
            _mm_prefetch(ahead + 64, _MM_HINT_T0);
            ahead += 128;
            a = chunk_dot(bits, x, y, q, &t, a);
            b = chunk_dot(bits, x + stride, y + stride, q, &t, b);
            c = chunk_dot(bits, x + 2 * stride, y + 2 * stride, q, &t, c);
            d = chunk_dot(bits, x + 3 * stride, y + 3 * stride, q, &t, d);
        }
        for (; bits == 3 && ahead < end; ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0); /* the second planes */
        _mm_storeu_si128((__m128i *)(out + r), sums_of(a, b, c, d));
    }
    for (; r < from->rows; r++) {
        const uint8_t *low = from->plane[0] + r * stride, *high = bits == 3 ? from->plane[1] + r * stride : NULL;
        __m256i a = _mm256_setzero_si256();
        for (size_t i = 0; i < chunks; i++) a = chunk_dot(bits, low + 32 * i, high + 16 * i, query + i * step, &t, a);
        out[r] = _mm_cvtsi128_si32(sums_of(a, _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()));
    }
}

static void scan8(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
#define SCAN(bits) scan_bits(bits, levels, query, from, chunks, out)
    TQ_FOR_WIDTH_TO_4(levels->bits, SCAN)
}

INLINE void expand_bits(int bits, const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
    const tables t = tables_of(levels, bits);
    for (size_t r = 0; r < from->rows; r++) {
        const uint8_t *low = from->plane[0] + r * from->stride, *high = bits == 3 ? from->plane[1] + r * from->stride : NULL;
        for (size_t i = 0; i < chunks; i++) {
            __m256i level[8];
            _mm_prefetch((const char *)low + 32 * i + AHEAD, _MM_HINT_T0);
            levels_of(bits, low + 32 * i, high + 16 * i, &t, level);
            for (size_t p = 0; p < TQ_PHASES(bits); p++, tile += 32) _mm256_store_si256((__m256i *)tile, level[p]);
        }
    }
}

static void expand8(const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
#define EXPAND(bits) expand_bits(bits, levels, from, chunks, tile)
    TQ_FOR_WIDTH_TO_4(levels->bits, EXPAND)
}

/* Four tile rows times two queries: eight sums in registers. */
INLINE void dots_fold(size_t fold, const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count,
                      size_t length, int32_t *out, size_t stride) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t r = 0; r < rows; r += 4)
        for (size_t q = 0; q < count; q += 2) {
            const uint8_t *row = tile + r * length;
            const int8_t *query = queries + q * query_stride;
            __m256i sum[2][4];
            for (int k = 0; k < 4; k++) sum[0][k] = sum[1][k] = _mm256_setzero_si256();
            for (size_t j = 0; j < length; j += 32 * fold)
                for (int k = 0; k < 4; k++) {
                    const uint8_t *level = row + (size_t)k * length + j;
                    __m256i x = load(level), first = _mm256_maddubs_epi16(x, load(query + j)),
                            second = _mm256_maddubs_epi16(x, load(query + query_stride + j));
                    for (size_t f = 32; f < 32 * fold; f += 32) {
                        x = load(level + f);
                        first = _mm256_add_epi16(first, _mm256_maddubs_epi16(x, load(query + j + f)));
                        second = _mm256_add_epi16(second, _mm256_maddubs_epi16(x, load(query + query_stride + j + f)));
                    }
                    sum[0][k] = _mm256_add_epi32(sum[0][k], _mm256_madd_epi16(first, ones));
                    sum[1][k] = _mm256_add_epi32(sum[1][k], _mm256_madd_epi16(second, ones));
                }
            for (int i = 0; i < 2; i++)
                _mm_storeu_si128((__m128i *)(out + (q + (size_t)i) * stride + r), sums_of(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
        }
}

static void dots8(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride) {
    if (fold == 1) dots_fold(1, tile, rows, queries, query_stride, count, length, out, stride);
    else if (fold == 2) dots_fold(2, tile, rows, queries, query_stride, count, length, out, stride);
    else dots_fold(4, tile, rows, queries, query_stride, count, length, out, stride); /* 8 is a multiple of 4 */
}

void tq_score_avx2(tq_score_slots *slots) {
    slots->scan8 = scan8;
    slots->expand8 = expand8;
    slots->dots8 = dots8;
    slots->scan_windows = scan_windows;
    slots->expand_windows = expand_windows;
    slots->expand_long = expand_long;
    slots->dots_bytes = dots_bytes;
    slots->finish = finish;
    slots->expand16 = expand16;
    slots->dots16 = dots16;
    slots->dots32 = dots32;
}
