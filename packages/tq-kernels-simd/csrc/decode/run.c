#include "decode/run.h"

#include "args.h"

int tq_decode_rows(void *context, size_t first, size_t last) {
    const tq_decode_job *job = context;
    const tq_plan *plan = job->plan;
    size_t dim = plan->book.dim, padded = TQ_PADDED(dim);
    float *row = tq_aligned(padded * (2 * sizeof *row + 1));
    if (!row) return -1;
    uint8_t *codes = (uint8_t *)(row + 2 * padded);
    for (size_t r = first; r < last; r++) {
        tq_active.decode.centroids(&plan->book, job->packed + r * job->stride, codes, row);
        tq_active.hadamard.inverse_to(&plan->rotation, row, row + padded, job->scales[r], job->out + r * dim);
    }
    tq_aligned_free(row);
    return 0;
}
