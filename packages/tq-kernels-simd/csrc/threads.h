/* Rows split among threads. */
#ifndef TQ_THREADS_H
#define TQ_THREADS_H

#include <stddef.h>

#define TQ_MAX_THREADS 256

/* Calls work(context, first, last) for row ranges that cover 0..rows-1, on `threads` threads at most and with at least
 * `grain` rows each; returns 0, or -1 when a call returned nonzero. The calling thread works too, and does the
 * rows of any thread that could not be made. */
int tq_parallel(int threads, size_t rows, size_t grain, int (*work)(void *context, size_t first, size_t last),
                void *context);

#endif
