/* Windows of up to 10 bits looked up 64 at a time by permutations of bytes, each over 128 entries: eight of them for one byte of
 * 64 levels. Private to the sources of the level avx512vbmi.
 *
 * Byte i of 64 is the window of coordinate 16 v + 4 q + i % 4 with q = i / 16, v = i / 4 % 4: where unpacking bytes to words and
 * words to floats takes it, floats stand in the order of coordinates. FROM is the byte of the row's part where that window
 * begins or one of the three behind it, SHIFT the bit of the eight bytes put together that its first one is. */
#ifndef TQ_TRELLIS_AVX512VBMI_WINDOWS_H
#define TQ_TRELLIS_AVX512VBMI_WINDOWS_H

#include <immintrin.h>

#include "specialize.h"
#include "trellis/circle.h"

#define START(bits, i) ((16 * ((i) / 4 % 4) + 4 * ((i) / 16)) * (bits))
#define FROM(bits, i) (START(bits, i) / 8 + (i) % 4)
#define SHIFT(bits, i) ((i) / 4 % 2 * 32 + START(bits, i) % 8 + (i) % 4 * (bits))
#define EIGHT(OF, bits, i) \
    OF(bits, i), OF(bits, i + 1), OF(bits, i + 2), OF(bits, i + 3), OF(bits, i + 4), OF(bits, i + 5), OF(bits, i + 6), OF(bits, i + 7)
#define ALL(OF, bits)                                                                                          \
    {                                                                                                          \
        EIGHT(OF, bits, 0), EIGHT(OF, bits, 8), EIGHT(OF, bits, 16), EIGHT(OF, bits, 24), EIGHT(OF, bits, 32), \
            EIGHT(OF, bits, 40), EIGHT(OF, bits, 48), EIGHT(OF, bits, 56)                                      \
    }
static const uint8_t window_from[TQ_TRELLIS_BITS][64] = {ALL(FROM, 1), ALL(FROM, 2), ALL(FROM, 3), ALL(FROM, 4)};
static const uint8_t window_shift[TQ_TRELLIS_BITS][64] = {ALL(SHIFT, 1), ALL(SHIFT, 2), ALL(SHIFT, 3), ALL(SHIFT, 4)};

/* Codes of other shapes are left to AVX2. */
INLINE int permutes(const tq_codebook *book) { return book->window <= TQ_PLANE_BITS && book->dim * book->bits % 8 == 0; }

/* The blocks of 128 entries that windows of a code point into: `DO(blocks)` with a constant. */
#define FOR_BLOCKS(book, DO)             \
    do {                                 \
        if ((book)->window == 10) DO(8); \
        else if ((book)->window == 8) DO(2); \
        else DO(1);                      \
    } while (0)

/* How 64 windows come out of a row: the bytes under `mask` from `at` on, and where `wraps`, behind them the row's first ones. */
typedef struct window_place {
    __m512i index, by;
    __mmask64 mask;
    size_t at;
    int wraps;
} window_place;

/* Those of coordinates j.., j a multiple of 64. A row of up to 64 bytes is a circle of indices. */
INLINE window_place window_place_of(const tq_codebook *book, size_t j) {
    const size_t bytes = book->dim * book->bits / 8, at = j * book->bits / 8;
    __m512i from = _mm512_loadu_si512(window_from[book->bits - 1]), by = _mm512_loadu_si512(window_shift[book->bits - 1]);
    if (at + 64 <= bytes) return (window_place){from, by, ~(__mmask64)0, at, 0};
    if (bytes > 64) {
        from = _mm512_add_epi8(from, _mm512_set1_epi8((char)(64 - (bytes - at))));
        return (window_place){from, by, ~(__mmask64)0, bytes - 64, 1};
    }
    from = _mm512_add_epi8(from, _mm512_set1_epi8((char)at));
    from = _mm512_min_epu8(from, _mm512_sub_epi8(from, _mm512_set1_epi8((char)bytes)));
    return (window_place){from, by, ~(__mmask64)0 >> (64 - bytes), 0, 0};
}

/* Two times 64 bytes: two at a time share what is loaded of a plane. */
typedef struct twice {
    __m512i of[2];
} twice;

/* One byte of the levels that the block has for the windows' lowest seven bits. */
INLINE twice of_block(const uint8_t *plane, int block, twice low) {
    __m512i a = _mm512_load_si512(plane + 128 * block), b = _mm512_load_si512(plane + 128 * block + 64);
    __asm__("" : "+v"(a), "+v"(b)); /* gcc 12 would load them once for each permutation, and loads are what is scarce */
    for (int i = 0; i < 2; i++) low.of[i] = _mm512_permutex2var_epi8(a, low.of[i], b);
    return low;
}

INLINE twice chosen(twice clear, twice set, const __mmask64 above[2][3], int bit) {
    for (int i = 0; i < 2; i++) clear.of[i] = _mm512_mask_blend_epi8(above[i][bit], clear.of[i], set.of[i]);
    return clear;
}

INLINE twice of_two(const uint8_t *plane, int block, twice low, const __mmask64 above[2][3]) {
    return chosen(of_block(plane, block, low), of_block(plane, block + 1, low), above, 0);
}

INLINE twice of_four(const uint8_t *plane, int block, twice low, const __mmask64 above[2][3]) {
    return chosen(of_two(plane, block, low, above), of_two(plane, block + 2, low, above), above, 1);
}

/* The same of all blocks, among which the bits `above` choose. */
INLINE twice of_blocks(const uint8_t *plane, twice low, const __mmask64 above[2][3], const int blocks) {
    if (blocks == 1) return of_block(plane, 0, low);
    if (blocks == 2) return of_two(plane, 0, low, above);
    return chosen(of_four(plane, 0, low, above), of_four(plane, 4, low, above), above, 2);
}

/* Two times four vectors with the centroids of 64 coordinates each: words counted from the lowest number, below an exponent for
 * which the last bit of a float is a unit of doubled levels. */
INLINE void windows_of_64(const tq_planes *planes, const uint8_t *const packed[2], const window_place *const places[2],
                          const int blocks, __m512 out[2][4]) {
    const __m512i exponent = _mm512_set1_epi16(0x4480);
    const __m512 zero = _mm512_set1_ps(1028.0f);
    twice low;
    __mmask64 above[2][3];
    for (int i = 0; i < 2; i++) {
        const window_place *place = places[i];
        __m512i x = _mm512_maskz_loadu_epi8(place->mask, packed[i] + place->at);
        x = place->wraps ? _mm512_permutex2var_epi8(x, place->index, _mm512_loadu_si512(packed[i]))
                         : _mm512_permutexvar_epi8(place->index, x);
        low.of[i] = _mm512_multishift_epi64_epi8(place->by, x);
        if (blocks == 1) continue;
        const __m512i seven = _mm512_add_epi8(place->by, _mm512_set1_epi8(7));
        const __m512i high = _mm512_multishift_epi64_epi8(seven, x);
        for (int bit = 0; 1 << bit < blocks; bit++) above[i][bit] = _mm512_test_epi8_mask(high, _mm512_set1_epi8((char)(1 << bit)));
    }
    const twice lows = of_blocks(planes->low, low, above, blocks), highs = of_blocks(planes->high, low, above, blocks);
    for (int i = 0; i < 2; i++) {
        const __m512i words[2] = {_mm512_unpacklo_epi8(lows.of[i], highs.of[i]), _mm512_unpackhi_epi8(lows.of[i], highs.of[i])};
        for (int v = 0; v < 4; v += 2) {
            out[i][v] = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpacklo_epi16(words[v / 2], exponent)), zero);
            out[i][v + 1] = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_unpackhi_epi16(words[v / 2], exponent)), zero);
        }
    }
}

#endif
