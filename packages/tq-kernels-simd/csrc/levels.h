/* What each level above the baseline adds: `tq_<operation>_<isa>` replaces the slots that it does better than the level
 * below; `tq_fill_<isa>` calls them all. A function lives in csrc/<operation>/<isa>.c. */
#ifndef TQ_LEVELS_H
#define TQ_LEVELS_H

#include "table.h"

#define TQ_DECLARE_LEVEL(isa)                            \
    void tq_fill_##isa(tq_table *table);                 \
    void tq_hadamard_##isa(tq_hadamard_slots *slots);    \
    void tq_encode_##isa(tq_encode_slots *slots);        \
    void tq_decode_##isa(tq_decode_slots *slots);        \
    void tq_mixed_##isa(tq_mixed_slots *slots);          \
    void tq_score_##isa(tq_score_slots *slots);          \
    void tq_sketch_##isa(tq_sketch_slots *slots);        \
    void tq_attend_##isa(tq_attend_slots *slots);        \
    void tq_probe_##isa(tq_probe_slots *slots);          \
    void tq_trellis_##isa(tq_trellis_slots *slots);

TQ_DECLARE_LEVEL(avx2)
TQ_DECLARE_LEVEL(avx512)
TQ_DECLARE_LEVEL(avx512vbmi)
TQ_DECLARE_LEVEL(neon)
TQ_DECLARE_LEVEL(dotprod)

#endif
