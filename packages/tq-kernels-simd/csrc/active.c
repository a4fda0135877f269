#include "active.h"

#include <stdlib.h>

tq_table tq_active;

void *tq_aligned(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes ? bytes : 64) ? NULL : memory;
}

void tq_aligned_free(void *memory) { free(memory); }
