#include "levels.h"

void tq_fill_avx512(tq_table *table) {
    tq_hadamard_avx512(&table->hadamard);
    tq_encode_avx512(&table->encode);
    tq_decode_avx512(&table->decode);
    tq_mixed_avx512(&table->mixed);
    tq_score_avx512(&table->score);
    tq_sketch_avx512(&table->sketch);
    tq_attend_avx512(&table->attend);
    tq_probe_avx512(&table->probe);
    tq_trellis_avx512(&table->trellis);
}
