/* One struct of function pointers: what an instruction set provides. Each slot names its contract in the header of
 * its operation. A level starts as a copy of the level below and replaces what it does better; nothing here is called
 * before select.c has checked that the processor and the system can run it. */
#ifndef TQ_TABLE_H
#define TQ_TABLE_H

#include "attend/attend.h"
#include "decode/decode.h"
#include "encode/encode.h"
#include "hadamard/hadamard.h"
#include "mixed/mixed.h"
#include "probe/probe.h"
#include "score/score.h"
#include "sketch/sketch.h"
#include "trellis/trellis.h"

typedef struct tq_table {
    const char *isa;
    tq_hadamard_slots hadamard;
    tq_encode_slots encode;
    tq_decode_slots decode;
    tq_mixed_slots mixed;
    tq_score_slots score;
    tq_sketch_slots sketch;
    tq_attend_slots attend;
    tq_probe_slots probe;
    tq_trellis_slots trellis;
} tq_table;

#endif
