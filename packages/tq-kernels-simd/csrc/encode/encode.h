/* One row to codes (docs/format.md, sections 3 to 5). Buffers are aligned to 64 bytes and have room up to
 * TQ_PADDED(dim); what lies between dim and there may be written and is never read for results. */
#ifndef TQ_ENCODE_H
#define TQ_ENCODE_H

#include "plan.h"

typedef struct tq_encode_slots {
    /* dim IEEE half-precision numbers (any alignment) to float32, exactly. */
    void (*widen)(const uint16_t *x, size_t dim, float *out);
    /* The float64 norm: squares added by the halving tree. `x` of any alignment; `scratch` has room for dim doubles. */
    double (*norm_f32)(const float *x, size_t dim, double *scratch);
    double (*norm_f64)(const double *x, size_t dim, double *scratch);
    /* float32(float64(x_j) * inverse); `out` may be x. */
    void (*unit_f32)(const float *x, double inverse, size_t dim, float *out);
    void (*unit_f64)(const double *x, double inverse, size_t dim, float *out);
    /* v_j = clamp(round_half_even(4096 * z_j), -32767, 32767); z is multiplied by 4096 in place. */
    void (*coordinates)(float *z, size_t dim, int16_t *v);
    /* Codes, one a byte, of candidate t (0.5 <= t <= 2; t = 1: those of v itself), and the exact sums A = <v, Q>,
     * B = <Q, Q>. */
    void (*quantize)(const tq_codebook *book, const float *scaled, const int16_t *v, float t, uint8_t *codes,
                     int64_t *dot, int64_t *square);
    /* The packed row of dim codes: exactly tq_row_bytes(dim, bits) bytes are written, at any alignment. */
    void (*pack)(const uint8_t *codes, size_t dim, size_t bits, uint8_t *out);
    /* coordinates, quantize with t = 1 and pack in one: the packed row and its sums, `square` NULL where B is not wanted. z, v
     * and codes are scratch after it. */
    void (*finish)(const tq_codebook *book, float *z, int16_t *v, uint8_t *codes, uint8_t *out, int64_t *dot,
                   int64_t *square);
} tq_encode_slots;

#endif
