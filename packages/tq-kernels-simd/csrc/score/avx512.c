/* As avx2.c in chunks of 64 bytes: vpdpbusd multiplies u8 by i8 and adds four neighbours to a 32-bit lane, so nothing has to be
 * kept small or widened. int16 and float32 stay with AVX2. */
#include "levels.h"
#include "score/avx512_sums.h"
#include "score/nibbles.h"

static tq_score_slots below; /* for rows too short for chunks of 64 bytes */

#define AHEAD 4096 /* bytes, as in avx2.c */
#define SHORT 8 /* chunks: rows of 768 bytes were read faster four in step (by a tenth), those of 384 one by one (by a quarter) */

typedef struct tables {
    __m512i level[4], spread[2];
} tables;

INLINE __m512i four(const uint8_t *sixteen) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)sixteen)); }

INLINE __m512i load(const void *at) { return _mm512_loadu_si512(at); }

INLINE tables tables_of(const tq_levels8 *levels, int bits) {
    tables made;
    uint8_t bytes[16];
    for (int k = 0; k < TQ_IN_NIBBLE(bits); k++) {
        tq_nibble_levels(levels, bits, k, bytes);
        made.level[k] = four(bytes);
    }
    for (int k = 0; k < 2; k++) {
        tq_nibble_spread(k, bytes);
        made.spread[k] = four(bytes);
    }
    return made;
}

/* The levels of a chunk, phase by phase; the steps are those of avx2_planes.h. */
INLINE void levels_of(int bits, const uint8_t *low, const uint8_t *high, const tables *t, __m512i *out) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i x = load(low);
    if (bits == 3) {
        __m512i y = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)high));
        y = _mm512_and_si512(_mm512_or_si512(y, _mm512_slli_epi16(y, 4)), nibble);
        const __m512i pairs = _mm512_set1_epi8(0x33);
        __m512i even = _mm512_or_si512(_mm512_and_si512(x, pairs), _mm512_shuffle_epi8(t->spread[0], y));
        __m512i odd = _mm512_and_si512(_mm512_srli_epi16(x, 2), pairs);
        odd = _mm512_or_si512(odd, _mm512_shuffle_epi8(t->spread[1], y));
        out[0] = _mm512_shuffle_epi8(t->level[0], even);
        out[1] = _mm512_shuffle_epi8(t->level[0], odd);
        out[2] = _mm512_shuffle_epi8(t->level[0], _mm512_srli_epi16(even, 4));
        out[3] = _mm512_shuffle_epi8(t->level[0], _mm512_srli_epi16(odd, 4));
        return;
    }
    const int codes = TQ_IN_NIBBLE(bits);
    __m512i first = _mm512_and_si512(x, nibble), second = _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble);
    for (int k = 0; k < codes; k++) {
        out[k] = _mm512_shuffle_epi8(t->level[k], first);
        out[codes + k] = _mm512_shuffle_epi8(t->level[k], second);
    }
}

INLINE __m512i chunk_dot(int bits, const uint8_t *low, const uint8_t *high, const int8_t *query, const tables *t, __m512i acc) {
    __m512i level[8];
    levels_of(bits, low, high, t, level);
    for (int p = 0; p < (int)TQ_PHASES(bits); p++) acc = _mm512_dpbusd_epi32(acc, level[p], load(query + 64 * p));
    return acc;
}

INLINE void scan_bits(int bits, const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks,
                      int32_t *out) {
    const tables t = tables_of(levels, bits);
    const size_t stride = from->stride, step = 64 * TQ_PHASES(bits);
    size_t r = 0;
    for (; r + 4 <= from->rows; r += 4) {
        const uint8_t *low = from->plane[0] + r * stride, *high = bits == 3 ? from->plane[1] + r * stride : NULL;
        const char *ahead = (const char *)low + AHEAD, *end = ahead + 4 * stride;
        __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
        for (size_t i = 0; i < chunks; i++) {
            const int8_t *q = query + i * step;
            const uint8_t *x = low + 64 * i, *y = high + 32 * i;
            for (int line = 0; line < 4; line++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
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
        __m512i a = _mm512_setzero_si512();
        for (size_t i = 0; i < chunks; i++) a = chunk_dot(bits, low + 64 * i, high + 32 * i, query + i * step, &t, a);
        out[r] = _mm512_reduce_add_epi32(a);
    }
}

/* Two sums, or a row waits for its last product. */
INLINE __m512i row_dot(int bits, const uint8_t *row, const int8_t *query, const tables *t, size_t chunks) {
    const size_t step = 64 * TQ_PHASES(bits);
    __m512i even = _mm512_setzero_si512(), odd = even;
    size_t i = 0;
    for (; i + 2 <= chunks; i += 2) {
        even = chunk_dot(bits, row + 64 * i, NULL, query + i * step, t, even);
        odd = chunk_dot(bits, row + 64 * i + 64, NULL, query + (i + 1) * step, t, odd);
    }
    if (i < chunks) even = chunk_dot(bits, row + 64 * i, NULL, query + i * step, t, even);
    return _mm512_add_epi32(even, odd);
}

/* One plane, row by row from start to end: the processor then reads ahead by itself nearly as fast as it reads at all, which rows
 * in step and prefetches of ours hinder. */
INLINE void scan_short(int bits, const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks,
                       int32_t *out) {
    const tables t = tables_of(levels, bits);
    const size_t stride = from->stride;
    const uint8_t *row = from->plane[0];
    size_t r = 0;
    for (; r + 4 <= from->rows; r += 4, row += 4 * stride) {
        __m512i a = row_dot(bits, row, query, &t, chunks), b = row_dot(bits, row + stride, query, &t, chunks);
        __m512i c = row_dot(bits, row + 2 * stride, query, &t, chunks), d = row_dot(bits, row + 3 * stride, query, &t, chunks);
        _mm_storeu_si128((__m128i *)(out + r), sums_of(a, b, c, d));
    }
    for (; r < from->rows; r++, row += stride) out[r] = _mm512_reduce_add_epi32(row_dot(bits, row, query, &t, chunks));
}

INLINE __m256i half_dot(const uint8_t *low, const int8_t *query, __m256i table, __m256i acc) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i x = _mm256_loadu_si256((const __m256i *)low);
    __m256i even = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
    __m256i odd = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble));
    acc = _mm256_dpbusd_epi32(acc, even, _mm256_loadu_si256((const __m256i *)query));
    return _mm256_dpbusd_epi32(acc, odd, _mm256_loadu_si256((const __m256i *)(query + 64)));
}

/* 4 bits by halves of a chunk: one query waits for memory, and 32-byte loads wait less than 64-byte ones. */
static void scan4(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)levels->level));
    const size_t stride = from->stride;
    size_t r = 0;
    for (; r + 4 <= from->rows; r += 4) {
        const uint8_t *low = from->plane[0] + r * stride;
        const char *ahead = (const char *)low + AHEAD;
        __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
        for (size_t i = 0; i < 2 * chunks; i++) {
            const int8_t *q = query + i / 2 * 128 + i % 2 * 32;
            const uint8_t *x = low + 32 * i;
            _mm_prefetch(ahead, _MM_HINT_T0);
            _mm_prefetch(ahead + 64, _MM_HINT_T0);
            ahead += 128;
            a = half_dot(x, q, table, a);
            b = half_dot(x + stride, q, table, b);
            c = half_dot(x + 2 * stride, q, table, c);
            d = half_dot(x + 3 * stride, q, table, d);
        }
        _mm_storeu_si128((__m128i *)(out + r), sums_of_256(a, b, c, d));
    }
    tq_packed_rows rest = {{from->plane[0] + r * stride, NULL, NULL}, stride, from->rows - r};
    scan_bits(4, levels, query, &rest, chunks, out + r);
}

static void scan8(const tq_levels8 *levels, const int8_t *query, const tq_packed_rows *from, size_t chunks, int32_t *out) {
    const int is_short = chunks <= SHORT;
    if (levels->lanes == 32) below.scan8(levels, query, from, chunks, out);
    else if (levels->bits == 3) scan_bits(3, levels, query, from, chunks, out);
    else if (levels->bits == 4 && is_short) scan_short(4, levels, query, from, chunks, out);
    else if (levels->bits == 4) scan4(levels, query, from, chunks, out);
    else if (levels->bits == 2 && is_short) scan_short(2, levels, query, from, chunks, out);
    else if (is_short) scan_short(1, levels, query, from, chunks, out);
    else if (levels->bits == 2) scan_bits(2, levels, query, from, chunks, out);
    else scan_bits(1, levels, query, from, chunks, out);
}

INLINE void expand_bits(int bits, const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
    const tables t = tables_of(levels, bits);
    for (size_t r = 0; r < from->rows; r++) {
        const uint8_t *low = from->plane[0] + r * from->stride, *high = bits == 3 ? from->plane[1] + r * from->stride : NULL;
        for (size_t i = 0; i < chunks; i++) {
            __m512i level[8];
            _mm_prefetch((const char *)low + 64 * i + AHEAD, _MM_HINT_T0);
            levels_of(bits, low + 64 * i, high + 32 * i, &t, level);
            for (size_t p = 0; p < TQ_PHASES(bits); p++, tile += 64) _mm512_store_si512(tile, level[p]);
        }
    }
}

static void expand8(const tq_levels8 *levels, const tq_packed_rows *from, size_t chunks, uint8_t *tile) {
    if (levels->lanes == 32) {
        below.expand8(levels, from, chunks, tile);
        return;
    }
#define EXPAND(bits) expand_bits(bits, levels, from, chunks, tile)
    TQ_FOR_WIDTH_TO_4(levels->bits, EXPAND)
}

/* Four tile rows times `queries` (2 or 4). */
INLINE void block(const uint8_t *row, const int8_t *query, size_t query_stride, int queries, size_t length, int32_t *out,
                  size_t stride) {
    __m512i sum[4][4];
    for (int i = 0; i < queries; i++)
        for (int k = 0; k < 4; k++) sum[i][k] = _mm512_setzero_si512();
    for (size_t j = 0; j < length; j += 64) {
        __m512i asked[4];
        for (int i = 0; i < queries; i++) asked[i] = load(query + (size_t)i * query_stride + j);
        for (int k = 0; k < 4; k++) {
            __m512i x = load(row + (size_t)k * length + j);
            for (int i = 0; i < queries; i++) sum[i][k] = _mm512_dpbusd_epi32(sum[i][k], x, asked[i]);
        }
    }
    for (int i = 0; i < queries; i++)
        _mm_storeu_si128((__m128i *)(out + (size_t)i * stride), sums_of(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
}

static void dots8(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                  size_t fold, int32_t *out, size_t stride) {
    (void)fold;
    for (size_t r = 0; r < rows; r += 4) {
        size_t q = 0;
        for (; q + 4 <= count; q += 4)
            block(tile + r * length, queries + q * query_stride, query_stride, 4, length, out + q * stride + r, stride);
        if (q < count) block(tile + r * length, queries + q * query_stride, query_stride, 2, length, out + q * stride + r, stride);
    }
}

static void dots_bytes(const uint8_t *tile, size_t rows, const int8_t *queries, size_t query_stride, size_t count, size_t length,
                       int32_t *out, size_t stride) {
    dots8(tile, rows, queries, query_stride, count, length, 1, out, stride);
}

void tq_score_avx512(tq_score_slots *slots) {
    below = *slots;
    slots->lanes = 64;
    slots->scan8 = scan8;
    slots->expand8 = expand8;
    slots->dots8 = dots8;
    slots->dots_bytes = dots_bytes;
}
