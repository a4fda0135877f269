#include "levels.h"

void tq_fill_avx2(tq_table *table) {
    tq_hadamard_avx2(&table->hadamard);
    tq_encode_avx2(&table->encode);
    tq_decode_avx2(&table->decode);
    tq_mixed_avx2(&table->mixed);
    tq_score_avx2(&table->score);
    tq_sketch_avx2(&table->sketch);
    tq_attend_avx2(&table->attend);
    tq_probe_avx2(&table->probe);
    tq_trellis_avx2(&table->trellis);
}
