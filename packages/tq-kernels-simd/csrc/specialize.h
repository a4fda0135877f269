/* One copy of a function for each constant it is called with: what depends on a width of codes is settled when compiling. */
#ifndef TQ_SPECIALIZE_H
#define TQ_SPECIALIZE_H

/* For functions whose arguments include such constants. */
#define INLINE static inline __attribute__((always_inline))

/* `DO(bits)` with a constant in place of `bits`, which is 1..4 here and 1..8 below. */
#define TQ_FOR_WIDTH_TO_4(bits, DO) \
    switch (bits) {                 \
    case 1: DO(1); break;           \
    case 2: DO(2); break;           \
    case 3: DO(3); break;           \
    default: DO(4);                 \
    }
#define TQ_FOR_WIDTH_TO_8(bits, DO) \
    switch (bits) {                 \
    case 1: DO(1); break;           \
    case 2: DO(2); break;           \
    case 3: DO(3); break;           \
    case 4: DO(4); break;           \
    case 5: DO(5); break;           \
    case 6: DO(6); break;           \
    case 7: DO(7); break;           \
    default: DO(8);                 \
    }

#endif
