/* Integer tiles with AVX2, for avx2.c alone. Packed bytes are transposed first, whole planes at a time, so that four bytes of
 * a token (keys) or one byte of four tokens (values) fill a dword; then each phase of the bytes is looked up. */
#ifndef TQ_ATTEND_AVX2_TILES_H
#define TQ_ATTEND_AVX2_TILES_H

#include <immintrin.h>
#include <string.h>

#include "attend/codes.h"

static const int32_t tail_lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

/* Up to 32 bytes of a row; zeros behind them, nothing read there. */
static inline __m256i load_dwords(const uint8_t *from, size_t bytes) {
    if (bytes >= 32) return _mm256_loadu_si256((const __m256i *)from);
    if (bytes % 4) {
        uint8_t copy[32] = {0};
        memcpy(copy, from, bytes);
        return _mm256_loadu_si256((const __m256i *)copy);
    }
    __m256i mask = _mm256_loadu_si256((const __m256i *)(tail_lanes + 8 - bytes / 4));
    return _mm256_maskload_epi32((const int *)from, mask);
}

static inline void store(uint8_t *to, __m256i x) { _mm256_store_si256((__m256i *)to, x); }
static inline __m256i load(const uint8_t *from) { return _mm256_load_si256((const __m256i *)from); }

/* A plane of 8 rows to `out`: dword k of the 8 tokens at 32 * k. */
static inline void transpose_dwords(const uint8_t *const rows[8], size_t at, size_t bytes, uint8_t *out) {
    for (size_t b = 0; b < bytes; b += 32, out += 256) {
        __m256i r[8], s[8];
        for (int i = 0; i < 8; i++) r[i] = load_dwords(rows[i] + at + b, bytes - b);
        for (int i = 0; i < 8; i += 2) {
            s[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
            s[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
        }
        for (int i = 0; i < 8; i += 4) {
            r[i] = _mm256_unpacklo_epi64(s[i], s[i + 2]);
            r[i + 1] = _mm256_unpackhi_epi64(s[i], s[i + 2]);
            r[i + 2] = _mm256_unpacklo_epi64(s[i + 1], s[i + 3]);
            r[i + 3] = _mm256_unpackhi_epi64(s[i + 1], s[i + 3]);
        }
        for (int i = 0; i < 4; i++) {
            store(out + 32 * i, _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
            store(out + 128 + 32 * i, _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
        }
    }
}

/* A plane of 4 rows to `out`: byte j of the 4 tokens at 4 * j. */
static inline void interleave_bytes(const uint8_t *const rows[4], size_t at, size_t bytes, uint8_t *out) {
    for (size_t b = 0; b < bytes; b += 32, out += 128) {
        __m256i r[4];
        for (int i = 0; i < 4; i++) r[i] = load_dwords(rows[i] + at + b, bytes - b);
        __m256i low[2] = {_mm256_unpacklo_epi8(r[0], r[1]), _mm256_unpacklo_epi8(r[2], r[3])};
        __m256i high[2] = {_mm256_unpackhi_epi8(r[0], r[1]), _mm256_unpackhi_epi8(r[2], r[3])};
        __m256i x[4] = {_mm256_unpacklo_epi16(low[0], low[1]), _mm256_unpackhi_epi16(low[0], low[1]),
                        _mm256_unpacklo_epi16(high[0], high[1]), _mm256_unpackhi_epi16(high[0], high[1])};
        for (int i = 0; i < 2; i++) {
            store(out + 32 * i, _mm256_permute2x128_si256(x[2 * i], x[2 * i + 1], 0x20));
            store(out + 64 + 32 * i, _mm256_permute2x128_si256(x[2 * i], x[2 * i + 1], 0x31));
        }
    }
}

static inline __m256i phase(__m256i x, int shift, uint8_t mask) {
    return _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8((char)mask));
}

/* 4 where the bits of `x` under `mask` are set. */
static inline __m256i third_bit(__m256i x, __m256i mask) {
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(x, mask), mask);
    return _mm256_and_si256(set, _mm256_set1_epi8(4));
}

/* One transposed group of 8 tokens to the tile, from its first token on. `width` is the lowest plane's. */
static inline void expand_keys(const uint8_t *in, const uint8_t *high, size_t dwords, const int width, __m256i table, uint8_t *tile) {
    for (size_t k = 0; k < dwords; k++) {
        __m256i x = load(in + 32 * k), y = _mm256_setzero_si256();
        if (high) { /* bytes 2k, 2k, 2k + 1, 2k + 1 of the plane of single bits go with bytes 4k.. of this one */
            __m256i pick = _mm256_set_epi8(13, 13, 12, 12, 9, 9, 8, 8, 5, 5, 4, 4, 1, 1, 0, 0, 13, 13, 12, 12, 9, 9, 8, 8, 5, 5, 4,
                                           4, 1, 1, 0, 0);
            pick = _mm256_add_epi8(pick, _mm256_set1_epi8((char)(k % 2 * 2)));
            y = _mm256_shuffle_epi8(load(high + 32 * (k / 2)), pick);
        }
        for (int p = 0; p < 8 / width; p++, tile += 4 * TQ_TILE) {
            __m256i code = phase(x, p * width, (uint8_t)((1 << width) - 1));
            if (high) code = _mm256_or_si256(code, third_bit(y, _mm256_set1_epi16((short)(0x1001 << p))));
            store(tile, _mm256_shuffle_epi8(table, code));
        }
    }
}

/* One interleaved group of 4 tokens to the tile, two dwords of bytes at a time. */
static inline void expand_values(const uint8_t *in, const uint8_t *high, size_t dwords, const int width, __m256i table, int8_t *tile) {
    const __m256i twice = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    const size_t phases = 8 / (size_t)width;
    for (size_t k = 0; k < dwords; k += 2, tile += 32 * phases) {
        __m256i x = load(in + 16 * k), y = _mm256_setzero_si256();
        if (high) y = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(_mm_load_si128((const __m128i *)(high + 8 * k))), twice);
        for (size_t p = 0; p < phases; p++) {
            __m256i code = phase(x, (int)p * width, (uint8_t)((1 << width) - 1));
            if (high) { /* even bytes of the plane below take bits p, odd ones bits 4 + p */
                __m256i mask = _mm256_set1_epi64x((long long)(0x1010101001010101ull << p));
                code = _mm256_or_si256(code, third_bit(y, mask));
            }
            __m256i found = _mm256_shuffle_epi8(table, code);
            _mm_store_si128((__m128i *)(tile + 16 * p), _mm256_castsi256_si128(found));
            _mm_store_si128((__m128i *)(tile + 16 * (phases + p)), _mm256_extracti128_si256(found, 1));
        }
    }
}

static inline __m256i byte_table(const tq_attend_side *side) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)side->bytes));
}

static void keys(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, uint8_t *tile) {
    const size_t bits = side->book->bits, dim = side->dim;
    const __m256i table = byte_table(side);
    for (size_t t = 0; t < tokens; t += 8) {
        const uint8_t *rows[8];
        tq_attend_rows(side, packed, t, tokens, 8, rows);
        uint8_t *to = tile + 4 * t, *high = scratch + (dim / 4 + 31) / 32 * 256;
        transpose_dwords(rows, 0, bits == 4 ? dim / 2 : bits == 1 ? dim / 8 : dim / 4, scratch);
        if (bits == 4) expand_keys(scratch, NULL, dim / 8, 4, table, to);
        if (bits == 2) expand_keys(scratch, NULL, dim / 16, 2, table, to);
        if (bits == 1) expand_keys(scratch, NULL, dim / 32, 1, table, to);
        if (bits == 3) {
            transpose_dwords(rows, dim / 4, dim / 8, high);
            expand_keys(scratch, high, dim / 16, 2, table, to);
        }
    }
}

static void values(const tq_attend_side *side, const uint8_t *packed, size_t tokens, uint8_t *scratch, int8_t *tile) {
    const size_t bits = side->book->bits, dim = side->dim;
    const __m256i table = byte_table(side);
    for (size_t t = 0; t < tokens; t += 4, tile += 4 * side->padded) {
        const uint8_t *rows[4];
        tq_attend_rows(side, packed, t, tokens, 4, rows);
        uint8_t *high = scratch + (dim / 4 + 31) / 32 * 128;
        interleave_bytes(rows, 0, bits == 4 ? dim / 2 : bits == 1 ? dim / 8 : dim / 4, scratch);
        if (bits == 4) expand_values(scratch, NULL, dim / 8, 4, table, tile);
        if (bits == 2) expand_values(scratch, NULL, dim / 16, 2, table, tile);
        if (bits == 1) expand_values(scratch, NULL, dim / 32, 1, table, tile);
        if (bits == 3) {
            interleave_bytes(rows, dim / 4, dim / 8, high);
            expand_values(scratch, high, dim / 16, 2, table, tile);
        }
    }
}

#endif
