/* The order-20 Paley matrix (docs/format.md, section 2), portable. */
#ifndef TQ_HADAMARD_PALEY_H
#define TQ_HADAMARD_PALEY_H

#include "specialize.h"

/* Bit k set where k is a square modulo 19. */
#define TQ_SQUARES (1u << 1 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7 | 1u << 9 | 1u << 11 | 1u << 16 | 1u << 17)

/* The entry, +1 or -1. */
INLINE int paley(int row, int column) {
    if (row == 0) return 1;
    if (column == 0) return -1;
    return row == column || (TQ_SQUARES >> ((column - row + 19) % 19) & 1) ? 1 : -1;
}

#endif
