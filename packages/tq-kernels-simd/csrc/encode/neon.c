#include "encode/encode.h"

#include "encode/neon_quantize.h"
#include "encode/steps.h"
#include "levels.h"

static void widen(const uint16_t *x, size_t dim, float *out) {
    const uint8_t *bytes = (const uint8_t *)x; /* of any alignment */
    size_t j = 0;
    for (; j + 4 <= dim; j += 4)
        vst1q_f32(out + j, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(bytes + 2 * j))));
    if (j == dim) return;
    uint16_t last[4] = {0};
    float wide[4];
    memcpy(last, bytes + 2 * j, 2 * (dim - j));
    vst1q_f32(wide, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(last))));
    memcpy(out + j, wide, 4 * (dim - j));
}

/* Two floats or doubles of any alignment as doubles. */
static inline float64x2_t load_f32(const float *x) {
    return vcvt_f64_f32(vreinterpret_f32_u8(vld1_u8((const uint8_t *)x)));
}

static inline float64x2_t load_f64(const double *x) {
    return vreinterpretq_f64_u8(vld1q_u8((const uint8_t *)x));
}

static inline double one_f32(const float *x) {
    float value;
    memcpy(&value, x, sizeof value);
    return value;
}

static inline double one_f64(const double *x) {
    double value;
    memcpy(&value, x, sizeof value);
    return value;
}

static double tree(double *squares, size_t count) {
    while (count > 1) {
        size_t half = (count + 1) / 2, pairs = count - half, i = 0;
        for (; i + 2 <= pairs; i += 2)
            vst1q_f64(squares + i, vaddq_f64(vld1q_f64(squares + i), vld1q_f64(squares + i + half)));
        if (i < pairs) squares[i] += squares[i + half];
        count = half;
    }
    return sqrt(squares[0]);
}

/* The first level of the tree is formed while squaring. */
#define NORM(name, type, load, one)                                              \
    static double name(const type *x, size_t dim, double *scratch) {             \
        size_t half = (dim + 1) / 2, pairs = dim - half, i = 0;                  \
        for (; i + 2 <= pairs; i += 2) {                                         \
            float64x2_t a = load(x + i), b = load(x + i + half);                 \
            vst1q_f64(scratch + i, vaddq_f64(vmulq_f64(a, a), vmulq_f64(b, b))); \
        }                                                                        \
        for (; i < half; i++) {                                                  \
            double a = one(x + i), square = a * a;                               \
            if (i < pairs) {                                                     \
                double b = one(x + i + half);                                    \
                square += b * b;                                                 \
            }                                                                    \
            scratch[i] = square;                                                 \
        }                                                                        \
        return tree(scratch, half);                                              \
    }

#define UNIT(name, type, load, one)                                                                     \
    static void name(const type *x, double inverse, size_t dim, float *out) {                           \
        size_t j = 0;                                                                                   \
        for (; j + 2 <= dim; j += 2) vst1_f32(out + j, vcvt_f32_f64(vmulq_n_f64(load(x + j), inverse))); \
        if (j < dim) out[j] = (float)(one(x + j) * inverse);                                            \
    }

NORM(norm_f32, float, load_f32, one_f32)
NORM(norm_f64, double, load_f64, one_f64)
UNIT(unit_f32, float, load_f32, one_f32)
UNIT(unit_f64, double, load_f64, one_f64)

static void coordinates(float *z, size_t dim, int16_t *v) {
    size_t j = 0;
    for (; j + 8 <= dim; j += 8) {
        float32x4_t low = vmulq_n_f32(vld1q_f32(z + j), 4096.0f), high = vmulq_n_f32(vld1q_f32(z + j + 4), 4096.0f);
        vst1q_f32(z + j, low);
        vst1q_f32(z + j + 4, high);
        vst1q_s16(v + j, neon_clamped(low, high));
    }
    for (; j < dim; j++) {
        z[j] *= 4096.0f;
        v[j] = neon_clamped_one(z[j]);
    }
}

static void quantize(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                     int64_t *dot, int64_t *square) {
    *dot = *square = 0;
    if (book->bits <= 5) neon_quantize_compares(book, scaled, v, t, codes, dot, square);
    else neon_quantize_each(book, scaled, v, t, codes, 0, dot, square);
}

static inline uint8x16_t field(uint8x16_t codes, int shift, int mask) {
    return vandq_u8(vshlq_u8(codes, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8((uint8_t)mask));
}

static size_t pack_nibbles(const uint8_t *codes, size_t dim, int shift, uint8_t *out) {
    size_t j = 0;
    for (; j + 32 <= dim; j += 32) {
        uint8x16x2_t c = vld2q_u8(codes + j);
        vst1q_u8(out + j / 2, vsliq_n_u8(field(c.val[0], shift, 15), field(c.val[1], shift, 15), 4));
    }
    return j;
}

static size_t pack_crumbs(const uint8_t *codes, size_t dim, int shift, uint8_t *out) {
    size_t j = 0;
    for (; j + 64 <= dim; j += 64) {
        uint8x16x4_t c = vld4q_u8(codes + j);
        uint8x16_t low = vsliq_n_u8(field(c.val[0], shift, 3), field(c.val[1], shift, 3), 2);
        uint8x16_t high = vsliq_n_u8(field(c.val[2], shift, 3), field(c.val[3], shift, 3), 2);
        vst1q_u8(out + j / 4, vsliq_n_u8(low, high, 4));
    }
    return j;
}

/* Each code's bit at the place of its lane; three pairwise additions then make a byte of eight lanes. */
static size_t pack_bits(const uint8_t *codes, size_t dim, int shift, uint8_t *out) {
    const int8x16_t place = vreinterpretq_s8_u64(vdupq_n_u64(0x0706050403020100));
    size_t j = 0;
    for (; j + 64 <= dim; j += 64) {
        uint8x16_t b[4];
        for (int k = 0; k < 4; k++) b[k] = vshlq_u8(field(vld1q_u8(codes + j + 16 * k), shift, 1), place);
        uint8x16_t sum = vpaddq_u8(vpaddq_u8(b[0], b[1]), vpaddq_u8(b[2], b[3]));
        vst1_u8(out + j / 8, vget_low_u8(vpaddq_u8(sum, sum)));
    }
    return j;
}

static size_t pack_plane(const uint8_t *codes, size_t dim, int shift, int width, uint8_t *out) {
    if (width == 8) { /* the only plane of its width: nothing to shift */
        memcpy(out, codes, dim);
        return dim;
    }
    size_t j = (width == 4 ? pack_nibbles : width == 2 ? pack_crumbs : pack_bits)(codes, dim, shift, out);
    return pack_plane_from(j, codes, dim, shift, width, out);
}

void tq_encode_neon(tq_encode_slots *slots) {
    *slots = (tq_encode_slots){widen,    norm_f32, norm_f64, unit_f32, unit_f64, coordinates,
                               quantize, pack,     finish};
}
