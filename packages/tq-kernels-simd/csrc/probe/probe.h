/* What this machine can do at best, printed beside every benchmark. */
#ifndef TQ_PROBE_H
#define TQ_PROBE_H

#include <stddef.h>
#include <stdint.h>

typedef struct tq_probe_slots {
    /* 16 * steps chains' worth of multiply-adds on whole registers, independent of each other; returns how many float32
     * operations (a multiply-add counts two) were done and keeps their result alive in *sink. */
    double (*fma)(size_t steps, float *sink);
    /* The exclusive or of all 64-bit words of `bytes` bytes at `start`, aligned to 64, a multiple of 256. */
    uint64_t (*read)(const void *start, size_t bytes);
} tq_probe_slots;

#endif
