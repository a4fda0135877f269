/* The constants of exp, shared by all levels: exp(x) = 2^n * (1 + r + r*r*P(r)) with n = round(x / ln 2), r = x - n ln 2 in
 * two parts, and P fitted for this project to a relative error of 3e-9 on |r| <= ln(2)/2, so that float32 rounding is what is left. */
#ifndef TQ_ATTEND_EXPONENTIAL_H
#define TQ_ATTEND_EXPONENTIAL_H

#define EXP_LOW (-87.3365f) /* 2^-126 = exp(-87.33654...): below, results would be subnormal and are 0 */
#define EXP_HIGH 88.0f
#define LOG2_E 1.44269504f
#define LN2_HIGH 0.693359375f /* 9 significant bits: n times it is exact */
#define LN2_LOW (-2.12194440e-4f)
#define P0 0x1.fffffcp-2f
#define P1 0x1.555492p-3f
#define P2 0x1.5558f2p-5f
#define P3 0x1.1239e4p-7f
#define P4 0x1.6a2430p-10f

#endif
