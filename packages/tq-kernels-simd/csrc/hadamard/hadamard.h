/* Rotation of one row by rounds of signs, Hadamard transform and permutation (docs/format.md, section 2).
 *
 * Contract of the slots: `x` holds dim floats and is changed in place; `scratch` has room for as many; both are aligned
 * to 64 bytes and do not overlap, and have room up to TQ_PADDED(dim), whose content is neither read for results nor
 * kept. Every addition is a single float32 addition of the format's order of stages (h = 1, 2, 4, ...), so that all levels
 * give the same bits. `forward` ends with the multiplication by `factor`, `inverse` by `inverse_factor`; `inverse_to` then
 * multiplies by `scale` and writes the dim numbers to `out`, which lies anywhere and may be x; x is scratch after it. */
#ifndef TQ_HADAMARD_H
#define TQ_HADAMARD_H

#include "plan.h"

#define TQ_PADDED(dim) (((dim) + 63) / 64 * 64)

typedef struct tq_hadamard_slots {
    void (*forward)(const tq_rotation *rotation, float *x, float *scratch);
    void (*inverse)(const tq_rotation *rotation, float *x, float *scratch);
    void (*inverse_to)(const tq_rotation *rotation, float *x, float *scratch, float scale, float *out);
} tq_hadamard_slots;

#endif
