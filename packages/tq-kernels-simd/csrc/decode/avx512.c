#include "decode/decode.h"

#include <immintrin.h>
#include <string.h>

#include "levels.h"
#include "specialize.h"

/* The part of a plane that holds the fields of 16 coordinates, of which `count` exist. A variable for each size: what is stored
 * in pieces and read whole would have to wait. */
INLINE uint64_t part16(const uint8_t *plane, size_t j, size_t count, int width) {
    const uint8_t *at = plane + j * (size_t)width / 8;
    uint64_t eight = 0;
    uint32_t four;
    uint16_t two;
    if (count < 16) return memcpy(&eight, at, (count * (size_t)width + 7) / 8), eight;
    if (width == 4) return memcpy(&eight, at, 8), eight;
    if (width == 2) return memcpy(&four, at, 4), four;
    return memcpy(&two, at, 2), two;
}

/* Sixteen fields of 4 or 2 bits, in the low bits of their lanes; above them lie those of other lanes. */
INLINE __m512i fields16(uint64_t bits, int width) {
    __m512i words = _mm512_set1_epi32((int)bits);
    if (width == 4) words = _mm512_mask_set1_epi32(words, 0xFF00, (int)(bits >> 32));
    const __m512i fours = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const __m512i twos = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_srlv_epi32(words, width == 4 ? fours : twos);
}

/* The codes of 16 coordinates; but for 1 and 3 bits, what is above the code in its lane is not cleared, as look-ups in tables
 * of 2^bits ignore it. */
INLINE __m512i codes16(const uint8_t *packed, size_t dim, size_t j, size_t count, int bits) {
    __m512i codes = _mm512_setzero_si512();
    int shift = 0;
    for (int width = 4; width; width /= 2) {
        if (!(bits & width)) continue;
        uint64_t part = part16(packed, j, count, width);
        if (width == 1) {
            codes = _mm512_mask_or_epi32(codes, (__mmask16)part, codes, _mm512_set1_epi32(1 << shift));
        } else {
            __m512i fields = fields16(part, width);
            if (width != bits) fields = _mm512_and_si512(fields, _mm512_set1_epi32((1 << width) - 1));
            codes = shift ? _mm512_or_si512(codes, _mm512_slli_epi32(fields, shift)) : fields;
        }
        packed += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
    return codes;
}

/* The centroids in registers of 16, as many as the width has; a shorter table is repeated. */
typedef struct table {
    __m512 part[8];
} table;

INLINE table table_of(const tq_codebook *book, int bits) {
    table of;
    const int entries = 1 << bits;
    for (int k = 0; k < 8; k++) {
        if (bits == 1) of.part[k] = _mm512_set1_ps(book->centroids[k & 1]);
        else if (bits == 2) of.part[k] = _mm512_broadcast_f32x4(_mm_loadu_ps(book->centroids));
        else if (bits == 3) of.part[k] = _mm512_broadcast_f32x8(_mm256_loadu_ps(book->centroids));
        else of.part[k] = _mm512_loadu_ps(book->centroids + (16 * k < entries ? 16 * k : 0));
    }
    return of;
}

/* Tables of 32 and more are looked up 32 at a time; the bits above choose among the results. */
INLINE __m512 found16(const table *of, __m512i codes, int bits) {
    if (bits <= 4) return _mm512_permutexvar_ps(codes, of->part[0]);
    __m512 low = _mm512_permutex2var_ps(of->part[0], codes, of->part[1]);
    if (bits == 5) return low;
    const __mmask16 bit5 = _mm512_test_epi32_mask(codes, _mm512_set1_epi32(32));
    low = _mm512_mask_blend_ps(bit5, low, _mm512_permutex2var_ps(of->part[2], codes, of->part[3]));
    if (bits == 6) return low;
    __m512 high = _mm512_permutex2var_ps(of->part[4], codes, of->part[5]);
    high = _mm512_mask_blend_ps(bit5, high, _mm512_permutex2var_ps(of->part[6], codes, of->part[7]));
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(codes, _mm512_set1_epi32(64)), low, high);
}

INLINE __m512 centroids16(const table *of, const uint8_t *packed, size_t dim, size_t j, size_t count, int bits) {
    if (bits == 1) return _mm512_mask_blend_ps((__mmask16)part16(packed, j, count, 1), of->part[0], of->part[1]);
    return found16(of, codes16(packed, dim, j, count, bits), bits);
}

INLINE void row(const tq_codebook *book, const uint8_t *packed, float *out, int bits) {
    const table of = table_of(book, bits);
    const size_t dim = book->dim;
    size_t j = 0;
    for (; j + 16 <= dim; j += 16) _mm512_storeu_ps(out + j, centroids16(&of, packed, dim, j, 16, bits));
    if (j < dim)
        _mm512_mask_storeu_ps(out + j, (__mmask16)((1u << (dim - j)) - 1), centroids16(&of, packed, dim, j, dim - j, bits));
}

/* Eight bits: more centroids than registers hold. */
static void gathered(const tq_codebook *book, const uint8_t *packed, float *out) {
    size_t j = 0;
    for (; j + 16 <= book->dim; j += 16) {
        __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(packed + j)));
        _mm512_storeu_ps(out + j, _mm512_i32gather_ps(index, book->centroids, 4));
    }
    for (; j < book->dim; j++) out[j] = book->centroids[packed[j]];
}

static void centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    (void)codes;
    switch (book->bits) {
    case 1: row(book, packed, out, 1); break;
    case 2: row(book, packed, out, 2); break;
    case 3: row(book, packed, out, 3); break;
    case 4: row(book, packed, out, 4); break;
    case 5: row(book, packed, out, 5); break;
    case 6: row(book, packed, out, 6); break;
    case 7: row(book, packed, out, 7); break;
    default: gathered(book, packed, out);
    }
}

void tq_decode_avx512(tq_decode_slots *slots) { slots->centroids = centroids; }
