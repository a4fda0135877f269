#include "decode/run.h"

#include "active.h"

void tq_row_centroids(const tq_codebook *book, const uint8_t *packed, uint8_t *codes, float *out) {
    if (book->window) tq_active.trellis.centroids(book, packed, out);
    else if (book->bits == TQ_MIXED) tq_active.mixed.centroids(book, packed, codes, out);
    else tq_active.decode.centroids(book, packed, codes, out);
}

int tq_decode_rows(void *context, size_t first, size_t last) {
    const tq_decode_job *job = context;
    const tq_plan *plan = job->plan;
    size_t dim = plan->book.dim, padded = TQ_PADDED(dim), batch = TQ_BATCH(padded);
    float *x = tq_aligned(padded * ((batch + 1) * sizeof *x + 1));
    if (!x) return -1;
    float *scratch = x + batch * padded;
    uint8_t *codes = (uint8_t *)(scratch + padded);
    for (size_t start = first; start < last; start += batch) {
        size_t rows = last - start < batch ? last - start : batch;
        if (batch <= 2) tq_ahead(job->out + start * dim, rows * dim * sizeof *x); /* long rows, written a while from now */
        for (size_t r = 0; r < rows; r++)
            tq_row_centroids(&plan->book, job->packed + (start + r) * job->stride, codes, x + r * padded);
        tq_active.hadamard.inverse_rows(&plan->rotation, x, rows, scratch, job->scales + start, job->out + start * dim);
    }
    tq_aligned_free(x);
    return 0;
}
