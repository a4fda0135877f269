#include "threads.h"

#include <pthread.h>

typedef struct share {
    pthread_t thread;
    int (*work)(void *context, size_t first, size_t last);
    void *context;
    size_t first, last;
    int failed, started;
} share;

static void *run(void *argument) {
    share *mine = argument;
    mine->failed = mine->work(mine->context, mine->first, mine->last);
    return NULL;
}

int tq_parallel(int threads, size_t rows, size_t grain, int (*work)(void *context, size_t first, size_t last),
                void *context) {
    size_t parts = grain ? rows / grain : rows;
    if (parts > (size_t)threads) parts = (size_t)threads;
    if (parts > TQ_MAX_THREADS) parts = TQ_MAX_THREADS;
    if (parts <= 1) return work(context, 0, rows) ? -1 : 0;
    share shares[TQ_MAX_THREADS];
    int failed = 0;
    for (size_t i = 0; i < parts; i++)
        shares[i] = (share){.work = work, .context = context, .first = rows * i / parts, .last = rows * (i + 1) / parts};
    for (size_t i = 1; i < parts; i++) shares[i].started = !pthread_create(&shares[i].thread, NULL, run, &shares[i]);
    run(&shares[0]);
    for (size_t i = 1; i < parts; i++) {
        if (shares[i].started) pthread_join(shares[i].thread, NULL);
        else run(&shares[i]); /* no thread to be had: its rows are done here */
    }
    for (size_t i = 0; i < parts; i++) failed |= shares[i].failed;
    return failed ? -1 : 0;
}
