#include "levels.h"

void tq_fill_neon(tq_table *table) {
    tq_hadamard_neon(&table->hadamard);
    tq_encode_neon(&table->encode);
    tq_decode_neon(&table->decode);
    tq_mixed_neon(&table->mixed);
    tq_score_neon(&table->score);
    tq_sketch_neon(&table->sketch);
    tq_attend_neon(&table->attend);
    tq_probe_neon(&table->probe);
    tq_trellis_neon(&table->trellis);
}
