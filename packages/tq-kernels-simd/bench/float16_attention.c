/* Attention over a float16 cache with AVX2, for the comparison in attention.py only: the tiles, the online softmax and the order of
 * the stages are those of csrc/attend, F16C loads and FMA take the place of packed codes. Four heads of a group share every load
 * and conversion; a remainder of heads goes one by one. dim is a multiple of 64. */
#include <stddef.h>
#include <stdlib.h>

#include "attend/avx2.c"

static inline __m256 half_at(const uint16_t *from) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from)); }

/* Keys two tiles ahead, values one, into L2, a little with each token: the best of the distances, levels and bursts tried. */
static inline void fetch_at(const uint16_t *key, const uint16_t *value, size_t dim) {
    _mm_prefetch((const char *)(key + 2 * TQ_TILE * dim), _MM_HINT_T1);
    _mm_prefetch((const char *)(value + TQ_TILE * dim), _MM_HINT_T1);
}

static inline void fetch(const uint16_t *key, const uint16_t *value, size_t dim) {
    for (size_t i = 0; i < dim; i += 32) fetch_at(key + i, value + i, dim);
}

/* Two tokens, four heads. */
static void dot_four(const uint16_t *keys, const uint16_t *values, size_t dim, const float *query, float *logits) {
    for (size_t t = 0; t < TQ_TILE; t += 2, keys += 2 * dim, values += 2 * dim) {
        fetch(keys, values, dim);
        fetch(keys + dim, values + dim, dim);
        __m256 z = _mm256_setzero_ps(), a0 = z, a1 = z, a2 = z, a3 = z, b0 = z, b1 = z, b2 = z, b3 = z;
        for (size_t j = 0; j < dim; j += 8) {
            __m256 a = half_at(keys + j), b = half_at(keys + dim + j), q = _mm256_load_ps(query + j);
            a0 = _mm256_fmadd_ps(a, q, a0), b0 = _mm256_fmadd_ps(b, q, b0);
            q = _mm256_load_ps(query + dim + j);
            a1 = _mm256_fmadd_ps(a, q, a1), b1 = _mm256_fmadd_ps(b, q, b1);
            q = _mm256_load_ps(query + 2 * dim + j);
            a2 = _mm256_fmadd_ps(a, q, a2), b2 = _mm256_fmadd_ps(b, q, b2);
            q = _mm256_load_ps(query + 3 * dim + j);
            a3 = _mm256_fmadd_ps(a, q, a3), b3 = _mm256_fmadd_ps(b, q, b3);
        }
        __m256 all[8] = {a0, b0, a1, b1, a2, b2, a3, b3};
        _Alignas(32) float sums[8];
        _mm256_store_ps(sums, sum_each(all));
        for (size_t h = 0; h < 4; h++) logits[h * TQ_TILE + t] = sums[2 * h], logits[h * TQ_TILE + t + 1] = sums[2 * h + 1];
    }
}

static void dot_one(const uint16_t *keys, const uint16_t *values, size_t dim, const float *query, float *logits) {
    for (size_t t = 0; t < TQ_TILE; t += 8, keys += 8 * dim, values += 8 * dim) {
        __m256 z = _mm256_setzero_ps(), s[8] = {z, z, z, z, z, z, z, z};
        for (size_t j = 0; j < dim; j += 8) {
            __m256 q = _mm256_load_ps(query + j);
            fetch_at(keys + 8 * j, values + 8 * j, dim), fetch_at(keys + 8 * j + 32, values + 8 * j + 32, dim);
            for (size_t i = 0; i < 8; i++) s[i] = _mm256_fmadd_ps(half_at(keys + i * dim + j), q, s[i]);
        }
        _mm256_store_ps(logits + t, sum_each(s));
    }
}

/* Two vectors of 8 coordinates, four heads. */
static void weigh_four(const uint16_t *values, size_t dim, const float *weights, const float *decay, float *sums) {
    for (size_t j = 0; j < dim; j += 16) {
        float *at = sums + j;
#define OLD(head, half) _mm256_mul_ps(_mm256_load_ps(at + (head) * dim + 8 * (half)), _mm256_set1_ps(decay[head]))
        __m256 a0 = OLD(0, 0), b0 = OLD(0, 1), a1 = OLD(1, 0), b1 = OLD(1, 1), a2 = OLD(2, 0), b2 = OLD(2, 1), a3 = OLD(3, 0),
               b3 = OLD(3, 1);
        for (size_t t = 0; t < TQ_TILE; t++) {
            __m256 a = half_at(values + t * dim + j), b = half_at(values + t * dim + j + 8), w = _mm256_broadcast_ss(weights + t);
            a0 = _mm256_fmadd_ps(a, w, a0), b0 = _mm256_fmadd_ps(b, w, b0);
            w = _mm256_broadcast_ss(weights + TQ_TILE + t);
            a1 = _mm256_fmadd_ps(a, w, a1), b1 = _mm256_fmadd_ps(b, w, b1);
            w = _mm256_broadcast_ss(weights + 2 * TQ_TILE + t);
            a2 = _mm256_fmadd_ps(a, w, a2), b2 = _mm256_fmadd_ps(b, w, b2);
            w = _mm256_broadcast_ss(weights + 3 * TQ_TILE + t);
            a3 = _mm256_fmadd_ps(a, w, a3), b3 = _mm256_fmadd_ps(b, w, b3);
        }
        _mm256_store_ps(at, a0), _mm256_store_ps(at + 8, b0), _mm256_store_ps(at + dim, a1), _mm256_store_ps(at + dim + 8, b1);
        _mm256_store_ps(at + 2 * dim, a2), _mm256_store_ps(at + 2 * dim + 8, b2);
        _mm256_store_ps(at + 3 * dim, a3), _mm256_store_ps(at + 3 * dim + 8, b3);
    }
}

static void weigh_one(const uint16_t *values, size_t dim, const float *weights, float decay, float *sums) {
    for (size_t j = 0; j < dim; j += 64) {
        const __m256 keep = _mm256_set1_ps(decay);
        float *at = sums + j;
        __m256 s[8] = {_mm256_load_ps(at), _mm256_load_ps(at + 8), _mm256_load_ps(at + 16), _mm256_load_ps(at + 24),
                       _mm256_load_ps(at + 32), _mm256_load_ps(at + 40), _mm256_load_ps(at + 48), _mm256_load_ps(at + 56)};
        for (int v = 0; v < 8; v++) s[v] = _mm256_mul_ps(s[v], keep);
        for (size_t t = 0; t < TQ_TILE; t++) {
            __m256 w = _mm256_broadcast_ss(weights + t);
            for (size_t v = 0; v < 8; v++) s[v] = _mm256_fmadd_ps(half_at(values + t * dim + j + 8 * v), w, s[v]);
        }
        for (size_t v = 0; v < 8; v++) _mm256_store_ps(at + 8 * v, s[v]);
    }
}

/* out = softmax(scale * queries keys^T) values of one lane; `tokens` a multiple of 64; queries and out (heads, dim), heads <= 64.
 * Returns nonzero without memory. */
int float16_attention(const uint16_t *keys, const uint16_t *values, const float *queries, size_t tokens, size_t heads, size_t dim,
                      float scale, float *out) {
    float maxima[64], totals[64], decay[64], *memory = aligned_alloc(64, heads * (2 * dim + TQ_TILE) * sizeof *memory);
    if (!memory) return -1;
    float *scaled = memory, *sums = scaled + heads * dim, *logits = sums + heads * dim;
    for (size_t i = 0; i < heads * dim; i++) scaled[i] = queries[i] * scale, sums[i] = 0;
    for (size_t h = 0; h < heads; h++) maxima[h] = -INFINITY, totals[h] = 0;
    for (size_t t = 0; t < tokens; t += TQ_TILE) {
        const uint16_t *key = keys + t * dim, *value = values + t * dim;
        size_t h = 0;
        for (; h + 4 <= heads; h += 4) dot_four(key, value, dim, scaled + h * dim, logits + h * TQ_TILE);
        for (; h < heads; h++) dot_one(key, value, dim, scaled + h * dim, logits + h * TQ_TILE);
        for (h = 0; h < heads; h++) {
            float before = maxima[h], sum = soften(logits + h * TQ_TILE, &maxima[h]);
            decay[h] = before == maxima[h] ? 1 : expf(before - maxima[h]);
            totals[h] = totals[h] * decay[h] + sum;
        }
        for (h = 0; h + 4 <= heads; h += 4) weigh_four(value, dim, logits + h * TQ_TILE, decay + h, sums + h * dim);
        for (; h < heads; h++) weigh_one(value, dim, logits + h * TQ_TILE, decay[h], sums + h * dim);
    }
    for (size_t h = 0; h < heads; h++)
        for (size_t j = 0; j < dim; j++) out[h * dim + j] = sums[h * dim + j] / totals[h];
    free(memory);
    return 0;
}

/* A sum over bytes / 64 * 64 bytes: what reading them costs. */
unsigned read_bytes(const uint8_t *from, size_t bytes) {
    __m256i z = _mm256_setzero_si256(), a = z, b = z;
    for (size_t i = 0; i + 64 <= bytes; i += 64) {
        _mm_prefetch((const char *)(from + i + 4096), _MM_HINT_T0);
        a = _mm256_add_epi32(a, _mm256_loadu_si256((const __m256i *)(const void *)(from + i)));
        b = _mm256_add_epi32(b, _mm256_loadu_si256((const __m256i *)(const void *)(from + i + 32)));
    }
    return (unsigned)_mm256_extract_epi32(_mm256_add_epi32(a, b), 0);
}

/* `rounds` times 96 float32 multiply-adds in 12 independent chains. */
float multiply_adds(size_t rounds) {
    const __m256 x = _mm256_set1_ps(0.5f);
    __m256 a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x, k = x, l = x;
    while (rounds--) {
        a = _mm256_fmadd_ps(a, x, x), b = _mm256_fmadd_ps(b, x, x), c = _mm256_fmadd_ps(c, x, x), d = _mm256_fmadd_ps(d, x, x);
        e = _mm256_fmadd_ps(e, x, x), f = _mm256_fmadd_ps(f, x, x), g = _mm256_fmadd_ps(g, x, x), h = _mm256_fmadd_ps(h, x, x);
        i = _mm256_fmadd_ps(i, x, x), j = _mm256_fmadd_ps(j, x, x), k = _mm256_fmadd_ps(k, x, x), l = _mm256_fmadd_ps(l, x, x);
        __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f)); /* keep the loop a loop */
    }
    a = _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)), _mm256_add_ps(_mm256_add_ps(e, f), _mm256_add_ps(g, h)));
    return _mm256_cvtss_f32(_mm256_add_ps(a, _mm256_add_ps(_mm256_add_ps(i, j), _mm256_add_ps(k, l))));
}
