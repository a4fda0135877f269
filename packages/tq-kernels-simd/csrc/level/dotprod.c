#include "levels.h"

void tq_fill_dotprod(tq_table *table) {
    tq_hadamard_dotprod(&table->hadamard);
    tq_encode_dotprod(&table->encode);
    tq_decode_dotprod(&table->decode);
    tq_mixed_dotprod(&table->mixed);
    tq_score_dotprod(&table->score);
    tq_sketch_dotprod(&table->sketch);
    tq_attend_dotprod(&table->attend);
    tq_probe_dotprod(&table->probe);
    tq_trellis_dotprod(&table->trellis);
}
