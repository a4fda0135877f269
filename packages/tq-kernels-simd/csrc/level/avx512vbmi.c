#include "levels.h"

void tq_fill_avx512vbmi(tq_table *table) {
    tq_attend_avx512vbmi(&table->attend);
    tq_score_avx512vbmi(&table->score);
    tq_trellis_avx512vbmi(&table->trellis);
}
