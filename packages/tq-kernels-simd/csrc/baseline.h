/* The slots of the baseline level, from which every other level starts. */
#ifndef TQ_BASELINE_H
#define TQ_BASELINE_H

#include "table.h"

extern const tq_hadamard_slots tq_hadamard_baseline;
extern const tq_encode_slots tq_encode_baseline;
extern const tq_decode_slots tq_decode_baseline;
extern const tq_mixed_slots tq_mixed_baseline;
extern const tq_score_slots tq_score_baseline;
extern const tq_sketch_slots tq_sketch_baseline;
extern const tq_attend_slots tq_attend_baseline;
extern const tq_probe_slots tq_probe_baseline;
extern const tq_trellis_slots tq_trellis_baseline;

#endif
