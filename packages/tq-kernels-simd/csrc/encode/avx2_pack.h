/* Thirty-two codes, one a byte, to bit planes. */
#ifndef TQ_ENCODE_AVX2_PACK_H
#define TQ_ENCODE_AVX2_PACK_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* `width` bits of each of 32 codes, already shifted and, but for a width of 1, masked: 4 * width bytes are stored. */
static inline __attribute__((always_inline)) void store_plane32(uint8_t *out, __m256i part, int width) {
    if (width == 8) _mm256_storeu_si256((__m256i *)out, part);
    if (width == 4) {
        __m256i pairs = _mm256_maddubs_epi16(part, _mm256_set1_epi16(0x1001));
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
        _mm_storeu_si128((__m128i *)out, bytes);
    }
    if (width == 2) {
        __m256i pairs = _mm256_maddubs_epi16(part, _mm256_set1_epi16(0x0401));
        __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00100001));
        __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
        _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
    }
    if (width == 1) {
        uint32_t bits = (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(part, 7));
        memcpy(out, &bits, 4);
    }
}

/* Where the planes of a row of `bits` wide codes begin, highest width first. */
typedef struct planes {
    uint8_t *at[3];
    int width[3], shift[3], count;
} planes;

static inline planes planes_of(uint8_t *out, size_t dim, size_t bits) {
    planes of = {.count = 0};
    int shift = 0;
    for (int width = 8; width; width /= 2) {
        if (!(bits & (size_t)width)) continue;
        of.at[of.count] = out;
        of.width[of.count] = width;
        of.shift[of.count++] = shift;
        out += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
    return of;
}

/* Codes j..j+31 of a row of dim codes whose width the compiler knows. */
static inline __attribute__((always_inline)) void store_row32(uint8_t *out, size_t dim, size_t j, __m256i codes, int bits) {
    int shift = 0;
    for (int width = 8; width; width /= 2) {
        if (!(bits & width)) continue;
        __m256i part = shift ? _mm256_srli_epi16(codes, shift) : codes;
        if (width != 1 && width != bits) part = _mm256_and_si256(part, _mm256_set1_epi8((char)((1u << width) - 1)));
        store_plane32(out + j * (size_t)width / 8, part, width);
        out += (dim * (size_t)width + 7) / 8;
        shift += width;
    }
}

static inline __m256i plane_part(__m256i codes, int shift, int width) {
    __m256i moved = shift ? _mm256_srl_epi16(codes, _mm_cvtsi32_si128(shift)) : codes;
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)((1u << width) - 1)));
}

/* Codes j..j+31 into every plane; `count` of them exist, the others must be 0. */
static inline void store_codes32(const planes *of, __m256i codes, size_t j, size_t count) {
    for (int p = 0; p < of->count; p++) {
        int width = of->width[p];
        __m256i part = plane_part(codes, of->shift[p], width);
        uint8_t *to = of->at[p] + j * (size_t)width / 8, local[32];
        uint8_t *at = count < 32 ? local : to;
        if (width == 8) store_plane32(at, part, 8);
        else if (width == 4) store_plane32(at, part, 4);
        else if (width == 2) store_plane32(at, part, 2);
        else store_plane32(at, part, 1);
        if (count < 32) memcpy(to, local, (count * (size_t)width + 7) / 8);
    }
}

/* 0xFF in the first `count` of 32 bytes. */
static inline __m256i first_bytes(size_t count) {
    static const int8_t edge[64] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(edge + 32 - count));
}

static void pack(const uint8_t *codes, size_t dim, size_t bits, uint8_t *out) {
    planes of = planes_of(out, dim, bits);
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) store_codes32(&of, _mm256_loadu_si256((const __m256i *)(codes + j)), j, 32);
    if (j == dim) return;
    __m256i rest = _mm256_loadu_si256((const __m256i *)(codes + j));
    store_codes32(&of, _mm256_and_si256(rest, first_bytes(dim - j)), j, dim - j);
}

#endif
