/* Rotation of rows by rounds of signs, Hadamard transform and permutation (docs/format.md, section 2).
 *
 * Every addition is a single float32 addition of the format's order of stages (h = 1, 2, 4, ...), so that all levels give the
 * same bits, as long as none of them leaves float32's range. Forward ends with the multiplication by `factor`, inverse by
 * `inverse_factor`.
 *
 * `x` and `scratch` are aligned to 64 bytes, do not overlap, and have room up to TQ_PADDED(dim) in each row; what lies between
 * dim and there is neither read for results nor kept. `in` and `out` are rows of dim floats at any address: nothing else of
 * them is touched. */
#ifndef TQ_HADAMARD_H
#define TQ_HADAMARD_H

#include "plan.h"

#define TQ_PADDED(dim) (((dim) + 63) / 64 * 64)
/* Rows that encode and decode take at once: enough that one row's waiting is filled by the others, few enough for L1;
 * at most 8. */
#define TQ_BATCH(padded) ((padded) >= 1024 ? 1 : (padded) >= 512 ? 2 : (padded) >= 256 ? 4 : 8)

/* Asks for `bytes` of memory ahead of their use, which may lie beyond every array: nothing is read. */
static inline void tq_ahead(const void *start, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)start + i, 0, 2);
}

typedef struct tq_hadamard_slots {
    /* x in place; scratch for one row. */
    void (*forward)(const tq_rotation *rotation, float *x, float *scratch);
    /* The same for rows of x that follow each other after TQ_PADDED(dim) floats. */
    void (*forward_rows)(const tq_rotation *rotation, float *x, size_t rows, float *scratch);
    /* From in to out, either of which may be x or the other; x and scratch are scratch. */
    void (*forward_into)(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out);
    void (*inverse)(const tq_rotation *rotation, float *x, float *scratch);
    /* The rows of x as for forward_rows, then times their scale, to rows of `out` that follow each other after dim floats;
     * x is scratch after it. */
    void (*inverse_rows)(const tq_rotation *rotation, float *x, size_t rows, float *scratch, const float *scales, float *out);
    void (*inverse_into)(const tq_rotation *rotation, const float *in, float *x, float *scratch, float *out);
    /* A copy for results that are larger than the cache: it need not hold them. After the last one, `settle` makes them seen
     * by other threads. */
    void (*copy_past_cache)(const float *x, float *out, size_t count);
    void (*settle)(void);
} tq_hadamard_slots;

#endif
