#include "select.h"

#include <string.h>

#include "baseline.h"
#include "cpu.h"
#include "levels.h"

static void fill_baseline(tq_table *table) {
    table->hadamard = tq_hadamard_baseline;
    table->encode = tq_encode_baseline;
    table->decode = tq_decode_baseline;
    table->mixed = tq_mixed_baseline;
    table->score = tq_score_baseline;
    table->sketch = tq_sketch_baseline;
    table->attend = tq_attend_baseline;
    table->probe = tq_probe_baseline;
    table->trellis = tq_trellis_baseline;
}

const tq_level tq_levels[] = {
    {"baseline", "nothing beyond the platform's own floor", tq_cpu_baseline, fill_baseline},
#ifdef TQ_HAVE_AVX2
    {"avx2", "AVX2, FMA, BMI2 and F16C", tq_cpu_avx2, tq_fill_avx2},
#endif
#ifdef TQ_HAVE_AVX512
    {"avx512", "AVX-512 F, BW, VL, DQ and VNNI", tq_cpu_avx512, tq_fill_avx512},
#endif
#ifdef TQ_HAVE_AVX512VBMI
    {"avx512vbmi", "AVX-512 F, BW, VL, DQ, VNNI and VBMI", tq_cpu_avx512vbmi, tq_fill_avx512vbmi},
#endif
#ifdef TQ_HAVE_NEON
    {"neon", "Advanced SIMD", tq_cpu_neon, tq_fill_neon},
#endif
#ifdef TQ_HAVE_DOTPROD
    {"dotprod", "Advanced SIMD with dot products", tq_cpu_dotprod, tq_fill_dotprod},
#endif
};
const size_t tq_level_count = sizeof tq_levels / sizeof *tq_levels;

int tq_select(const char *cap, tq_table *table) {
    int chosen = -1;
    for (size_t i = 0; i < tq_level_count; i++) {
        int is_cap = cap && !strcmp(cap, tq_levels[i].name);
        if (tq_levels[i].runs_here()) {
            tq_levels[i].fill(table);
            table->isa = tq_levels[i].name;
            chosen = (int)i;
        }
        if (is_cap) return chosen;
    }
    return cap ? -1 : chosen;
}
