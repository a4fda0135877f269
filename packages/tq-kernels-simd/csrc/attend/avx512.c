#include "attend/attend.h"

#include <immintrin.h>
#include <string.h>

#include "attend/avx512_codes.h"
#include "attend/avx512_floats.h"
#include "attend/float_rows.h"
#include "levels.h"

/* VNNI: four products of bytes and their sum in one operation, exact in int32, so that the results equal AVX2's. The other
 * slots are bound by shuffles, loads or memory, and stay as they are. */

static inline __m512i broadcast4(const void *from) {
    int32_t four;
    memcpy(&four, from, 4);
    return _mm512_set1_epi32(four);
}

static void dot_bytes(const uint8_t *tile, size_t quads, const int8_t *query, float slope, float offset, const float *scales,
                        float *logits) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t q = 0; q < quads; q++, tile += 4 * TQ_TILE) {
        __m512i four = broadcast4(query + 4 * q);
        a = _mm512_dpbusd_epi32(a, _mm512_load_si512(tile), four);
        b = _mm512_dpbusd_epi32(b, _mm512_load_si512(tile + 64), four);
        c = _mm512_dpbusd_epi32(c, _mm512_load_si512(tile + 128), four);
        d = _mm512_dpbusd_epi32(d, _mm512_load_si512(tile + 192), four);
    }
    const __m512i sums[4] = {a, b, c, d};
    const __m512 slope_f32x16 = _mm512_set1_ps(slope), offset_f32x16 = _mm512_set1_ps(offset);
    for (int v = 0; v < 4; v++) {
        __m512 dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[v]), slope_f32x16, offset_f32x16);
        _mm512_store_ps(logits + 16 * v, _mm512_mul_ps(dot, _mm512_load_ps(scales + 16 * v)));
    }
}

static void dot_words(const int16_t *tile, size_t pairs, const int16_t *query, float slope, const float *scales, float *logits) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t p = 0; p < pairs; p++, tile += 2 * TQ_TILE) {
        __m512i two = broadcast4(query + 2 * p);
        a = _mm512_dpwssd_epi32(a, _mm512_load_si512(tile), two);
        b = _mm512_dpwssd_epi32(b, _mm512_load_si512(tile + 32), two);
        c = _mm512_dpwssd_epi32(c, _mm512_load_si512(tile + 64), two);
        d = _mm512_dpwssd_epi32(d, _mm512_load_si512(tile + 96), two);
    }
    const __m512i sums[4] = {a, b, c, d};
    const __m512 slope_f32x16 = _mm512_set1_ps(slope);
    for (int v = 0; v < 4; v++) {
        __m512 dot = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[v]), slope_f32x16);
        _mm512_store_ps(logits + 16 * v, _mm512_mul_ps(dot, _mm512_load_ps(scales + 16 * v)));
    }
}

static void weigh_bytes(const int8_t *tile, size_t padded, const uint8_t *bytes, float step, float decay, float *sums) {
    const __m512 step_f32x16 = _mm512_set1_ps(step), keep = _mm512_set1_ps(decay);
    for (size_t j = 0; j < padded; j += 64) {
        __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
        const int8_t *from = tile + 4 * j;
        for (int t = 0; t < TQ_TILE; t += 4, from += 4 * padded) {
            __m512i four = broadcast4(bytes + t);
            a = _mm512_dpbusd_epi32(a, four, _mm512_load_si512(from));
            b = _mm512_dpbusd_epi32(b, four, _mm512_load_si512(from + 64));
            c = _mm512_dpbusd_epi32(c, four, _mm512_load_si512(from + 128));
            d = _mm512_dpbusd_epi32(d, four, _mm512_load_si512(from + 192));
        }
        const __m512i totals[4] = {a, b, c, d};
        for (size_t v = 0; v < 4; v++) {
            __m512 old = _mm512_mul_ps(_mm512_load_ps(sums + j + 16 * v), keep);
            _mm512_store_ps(sums + j + 16 * v, _mm512_fmadd_ps(_mm512_cvtepi32_ps(totals[v]), step_f32x16, old));
        }
    }
}

void tq_attend_avx512(tq_attend_slots *slots) {
    slots->dot_bytes = dot_bytes;
    slots->dot_words = dot_words;
    slots->dot_floats = dot_floats;
    slots->dot_codes = dot_codes;
    slots->weigh_codes = weigh_codes;
    slots->weigh_bytes = weigh_bytes;
    slots->weigh_floats = weigh_floats;
}
