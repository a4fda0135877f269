#include "decode/decode.h"

#include <immintrin.h>
#include <string.h>

#include "encode/avx2_bytes.h"
#include "levels.h"

/* The planes of a row, highest width first. */
typedef struct planes {
    const uint8_t *at[3];
    int width[3], count;
} planes;

static planes planes_of(const uint8_t *packed, size_t dim, size_t bits) {
    planes of = {.count = 0};
    for (int width = 8; width; width /= 2) {
        if (!(bits & (size_t)width)) continue;
        of.at[of.count] = packed;
        of.width[of.count++] = width;
        packed += (dim * (size_t)width + 7) / 8;
    }
    return of;
}

/* The planes of the last, incomplete group of 32 coordinates as copies that may be read in full. */
static planes last_planes(const planes *of, size_t dim, size_t j, uint8_t local[3][32]) {
    planes copies = *of;
    for (int p = 0; p < of->count; p++) {
        size_t width = (size_t)of->width[p], start = j * width / 8;
        memcpy(local[p], of->at[p] + start, (dim * width + 7) / 8 - start);
        copies.at[p] = local[p];
    }
    return copies;
}

static uint32_t word(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

/* 32 parts of `width` bits at `at`, one a byte. */
INLINE __m256i parts32(const uint8_t *at, int width) {
    if (width == 8) return _mm256_loadu_si256((const __m256i *)at);
    if (width == 4) {
        __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)at));
        return _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15));
    }
    if (width == 2) {
        __m256i fours = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)at));
        __m256i low = _mm256_or_si256(fours, _mm256_slli_epi32(fours, 6));
        return _mm256_and_si256(_mm256_or_si256(low, _mm256_slli_epi32(low, 12)), _mm256_set1_epi8(3));
    }
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3,
                                            3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ULL);
    __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32((int)word(at)), spread);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(1));
}

/* Codes j..j+31 of the planes. */
INLINE __m256i codes32(const planes *of, size_t j) {
    __m256i codes = _mm256_setzero_si256();
    int shift = 0;
    for (int p = 0; p < of->count; p++) {
        int width = of->width[p];
        const uint8_t *at = of->at[p] + j * (size_t)width / 8;
        __m256i part = width == 8 ? parts32(at, 8) : width == 4 ? parts32(at, 4) : width == 2 ? parts32(at, 2) : parts32(at, 1);
        codes = _mm256_or_si256(codes, _mm256_sll_epi16(part, _mm_cvtsi32_si128(shift))); /* no part leaves its byte */
        shift += width;
    }
    return codes;
}

static void unpack(const uint8_t *packed, size_t dim, size_t bits, uint8_t *codes) {
    planes of = planes_of(packed, dim, bits);
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) _mm256_storeu_si256((__m256i *)(codes + j), codes32(&of, j));
    if (j == dim) return;
    uint8_t local[3][32] = {{0}};
    planes last = last_planes(&of, dim, j, local);
    _mm256_storeu_si256((__m256i *)(codes + j), codes32(&last, 0));
}

/* The centroids of at most 4 bits, in tables of 8 (4 bits) or, twice the same, of 4 entries. */
typedef struct small_table {
    __m256 low, high;
} small_table;

INLINE small_table small_table_of(const tq_codebook *book, int bits) {
    const float *c = book->centroids;
    if (bits == 4) return (small_table){_mm256_loadu_ps(c), _mm256_loadu_ps(c + 8)};
    if (bits == 3) return (small_table){_mm256_broadcast_ps((const __m128 *)c), _mm256_broadcast_ps((const __m128 *)(c + 4))};
    if (bits == 2) return (small_table){_mm256_broadcast_ps((const __m128 *)c), _mm256_setzero_ps()};
    return (small_table){_mm256_set1_ps(c[0]), _mm256_set1_ps(c[1])};
}

/* 32 centroids; the look-ups read the low index bits alone, the blends the highest bit of a lane. */
INLINE void centroids32(const small_table *table, const uint8_t *low, const uint8_t *high, int bits, float *out) {
    const __m256i twos = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    const __m256i up = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
    for (int k = 0; k < 4; k++) {
        __m256 value;
        if (bits == 4) {
            __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32((int)word(low + 4 * k)),
                                              _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
            value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(table->low, index), _mm256_permutevar8x32_ps(table->high, index),
                                     _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
        } else if (bits == 1) {
            __m256i upper = _mm256_sllv_epi32(_mm256_set1_epi32(low[k]), up);
            value = _mm256_blendv_ps(table->low, table->high, _mm256_castsi256_ps(upper));
        } else {
            __m256i sixteen = _mm256_set1_epi32((int)word(low + 4 * (k / 2)));
            __m256i index = _mm256_srlv_epi32(k % 2 ? _mm256_srli_epi32(sixteen, 16) : sixteen, twos);
            value = _mm256_permutevar_ps(table->low, index);
            if (bits == 3) {
                __m256i upper = _mm256_sllv_epi32(_mm256_set1_epi32(high[k]), up);
                value = _mm256_blendv_ps(value, _mm256_permutevar_ps(table->high, index), _mm256_castsi256_ps(upper));
            }
        }
        _mm256_storeu_ps(out + 8 * k, value);
    }
}

INLINE void small_centroids(const tq_codebook *book, const uint8_t *packed, float *out, int bits) {
    const small_table table = small_table_of(book, bits);
    const planes of = planes_of(packed, book->dim, (size_t)bits);
    const size_t width = (size_t)of.width[0];
    size_t j = 0;
    for (; j + 32 <= book->dim; j += 32)
        centroids32(&table, of.at[0] + j * width / 8, bits == 3 ? of.at[1] + j / 8 : NULL, bits, out + j);
    if (j == book->dim) return;
    uint8_t local[3][32] = {{0}};
    planes last = last_planes(&of, book->dim, j, local);
    centroids32(&table, last.at[0], last.at[1], bits, out + j);
}

/* Five and six bits: the four bytes of a float are looked up apart, a quarter of the look-ups that whole floats take. */
INLINE void wide_centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out, int bits) {
    unpack(packed, book->dim, book->bits, codes);
    const tq_tables *tables = book->tables;
    size_t j = 0;
    for (; j + 32 <= book->dim; j += 32) {
        /* groups of four in the order in which the last interleaving leaves a register's lanes */
        __m256i c = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)(codes + j)),
                                                _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
        __m256i byte0 = found(tables->centroid_bytes[0], c, 1 << bits);
        __m256i byte1 = found(tables->centroid_bytes[1], c, 1 << bits);
        __m256i byte2 = found(tables->centroid_bytes[2], c, 1 << bits);
        __m256i byte3 = found(tables->centroid_bytes[3], c, 1 << bits);
        words32 low = joined(byte0, byte1), high = joined(byte2, byte3);
        __m256i *to = (__m256i *)(out + j);
        _mm256_storeu_si256(to, _mm256_unpacklo_epi16(low.first, high.first));
        _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi16(low.first, high.first));
        _mm256_storeu_si256(to + 2, _mm256_unpacklo_epi16(low.second, high.second));
        _mm256_storeu_si256(to + 3, _mm256_unpackhi_epi16(low.second, high.second));
    }
    for (; j < book->dim; j++) out[j] = book->centroids[codes[j]];
}

/* Seven and eight bits: look-ups of bytes and gathers were measured, and are slower than loads one by one. */
static void loaded_centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    unpack(packed, book->dim, book->bits, codes);
    for (size_t j = 0; j < book->dim; j++) out[j] = book->centroids[codes[j]];
}

static void centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    if (book->bits == 1) small_centroids(book, packed, out, 1);
    else if (book->bits == 2) small_centroids(book, packed, out, 2);
    else if (book->bits == 3) small_centroids(book, packed, out, 3);
    else if (book->bits == 4) small_centroids(book, packed, out, 4);
    else if (book->bits == 5) wide_centroids(book, packed, codes, out, 5);
    else if (book->bits == 6) wide_centroids(book, packed, codes, out, 6);
    else loaded_centroids(book, packed, codes, out);
}

void tq_decode_avx2(tq_decode_slots *slots) {
    slots->unpack = unpack;
    slots->centroids = centroids;
}
