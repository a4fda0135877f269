/* The order-12 and order-20 matrices over columns of vectors (docs/format.md, section 2). Included once for each
 * vector type, whose macros it takes away again: `VECTOR` is a gcc vector of floats that may lie at any address, `ORDER(name)` gives the names, PLUS(a, b) and
 * MINUS(a, b) are a + b and a - b as a multiply-add by 1, which rounds once, too, and runs on units of its own: half of
 * the sums are written so. PLUS_TWICE(a, b) is a + (b + b): doubling is exact, unless it leaves
 * float32's range. NEITHER(a, b) is -a - b.
 *
 * Row j of a matrix of order m is the vectors at x + j * width. When width is smaller than the vector, a store overruns into
 * the next rows, which are written later, and in the end past the last: then `out` has room for m * width + lanes numbers,
 * as `x` has. `out` is not x: nothing of a column then need be kept but in x itself. */

/* `join` tells what the column still lacks of the plain stages: nothing (0), or the last one, of which it is the upper (1) or
 * the lower half (-1): the sum or the difference of columns half a width apart. */
INLINE VECTOR ORDER(order12_row)(const float *restrict row, size_t width, int join) {
    VECTOR here = *(const VECTOR *)row;
    if (join == 0) return here;
    VECTOR other = *(const VECTOR *)(row + width / 2);
    return join > 0 ? here + other : here - other;
}

INLINE void ORDER(order12_column)(const float *restrict x, float *restrict out, size_t width, int join, int transpose,
                                  int scaled, float scale) {
#define AT(j) ORDER(order12_row)(x + (size_t)(j) * width, width, join)
    VECTOR a0 = AT(0), a1 = AT(1), a2 = AT(2), b0 = AT(3), b1 = AT(4), b2 = AT(5);
    VECTOR c0 = AT(6), c1 = AT(7), c2 = AT(8), d0 = AT(9), d1 = AT(10), d2 = AT(11);
    VECTOR a = (a0 + a1) + a2, b = (b0 + b1) + b2, c = (c0 + c1) + c2, d = (d0 + d1) + d2;
#define PUT(j, t, w)                               \
    do {                                              \
        VECTOR sum = PLUS_TWICE(t, w);                \
        if (scaled) sum *= scale;                     \
        *(VECTOR *)(out + (size_t)(j) * width) = sum; \
    } while (0)
    if (transpose) {
        VECTOR t0 = ((a + b) + c) + d, t1 = ((b - a) - c) + d, t2 = ((b - a) + c) - d, t3 = (NEITHER(a, b) + c) + d;
        PUT(0, t0, MINUS(NEITHER(b0, c0), d0));
        PUT(1, t0, MINUS(NEITHER(b1, c1), d1));
        PUT(2, t0, MINUS(NEITHER(b2, c2), d2));
        PUT(3, t1, MINUS(a0 + c0, d0));
        PUT(4, t1, MINUS(a1 + c1, d1));
        PUT(5, t1, MINUS(a2 + c2, d2));
        PUT(6, t2, PLUS(a0 - b0, d0));
        PUT(7, t2, PLUS(a1 - b1, d1));
        PUT(8, t2, PLUS(a2 - b2, d2));
        PUT(9, t3, MINUS(a0 + b0, c0));
        PUT(10, t3, MINUS(a1 + b1, c1));
        PUT(11, t3, MINUS(a2 + b2, c2));
    } else {
        VECTOR t0 = ((a - b) - c) - d, t1 = ((a + b) + c) - d, t2 = ((a - b) + c) + d, t3 = ((a + b) - c) + d;
        PUT(0, t0, PLUS(b0 + c0, d0));
        PUT(1, t0, PLUS(b1 + c1, d1));
        PUT(2, t0, PLUS(b2 + c2, d2));
        PUT(3, t1, PLUS(NEITHER(a0, c0), d0));
        PUT(4, t1, PLUS(NEITHER(a1, c1), d1));
        PUT(5, t1, PLUS(NEITHER(a2, c2), d2));
        PUT(6, t2, MINUS(b0 - a0, d0));
        PUT(7, t2, MINUS(b1 - a1, d1));
        PUT(8, t2, MINUS(b2 - a2, d2));
        PUT(9, t3, PLUS(NEITHER(a0, b0), c0));
        PUT(10, t3, PLUS(NEITHER(a1, b1), c1));
        PUT(11, t3, PLUS(NEITHER(a2, b2), c2));
    }
#undef PUT
#undef AT
}

INLINE void ORDER(order12_columns)(const float *restrict x, float *restrict out, size_t width, int join, int transpose,
                                   int scaled, float scale) {
    const size_t lane_count = sizeof(VECTOR) / sizeof *x, half = width / 2;
    for (size_t i = 0; i < (join ? half : width); i += lane_count) {
        ORDER(order12_column)(x + i, out + i, width, join, transpose, scaled, scale);
        if (join) ORDER(order12_column)(x + i, out + half + i, width, -join, transpose, scaled, scale);
    }
}

/* `join`: the last plain stage, h = width / 2, in the same pass. The compiler gets each case by itself: with the branches
 * inside it moves loads about until the registers do not suffice. */
INLINE void ORDER(order12)(const float *restrict x, float *restrict out, size_t width, int join, int transpose,
                           const float *scale) {
    if (transpose && scale) ORDER(order12_columns)(x, out, width, join, 1, 1, *scale);
    else if (transpose) ORDER(order12_columns)(x, out, width, join, 1, 0, 1.0f);
    else if (scale) ORDER(order12_columns)(x, out, width, join, 0, 1, *scale);
    else ORDER(order12_columns)(x, out, width, join, 0, 0, 1.0f);
}

/* Rows first..first+4 of the product: every sign is a constant when inlined. */
INLINE void ORDER(order20_rows)(const float *restrict x, float *restrict out, size_t width, int first, int transpose, const float *scale) {
#define SIGN(r, c) (transpose ? paley(c, first + r) : paley(first + r, c))
#define AT(c) (*(const VECTOR *)(x + (size_t)(c) * width))
#define START(r) VECTOR sum##r = SIGN(r, 0) > 0 ? AT(0) : -AT(0);
#define TERM(r, c) sum##r = SIGN(r, c) > 0 ? sum##r + AT(c) : sum##r - AT(c);
#define FUSED(r, c) sum##r = SIGN(r, c) > 0 ? PLUS(sum##r, AT(c)) : MINUS(sum##r, AT(c));
#define COLUMN(c) TERM(0, c) FUSED(1, c) TERM(2, c) FUSED(3, c) TERM(4, c)
#define PUT(r)                       \
    if (scale) sum##r *= *scale;     \
    *(VECTOR *)(out + (size_t)(first + r) * width) = sum##r;
    START(0) START(1) START(2) START(3) START(4)
    COLUMN(1) COLUMN(2) COLUMN(3) COLUMN(4) COLUMN(5) COLUMN(6) COLUMN(7) COLUMN(8) COLUMN(9) COLUMN(10)
    COLUMN(11) COLUMN(12) COLUMN(13) COLUMN(14) COLUMN(15) COLUMN(16) COLUMN(17) COLUMN(18) COLUMN(19)
    PUT(0) PUT(1) PUT(2) PUT(3) PUT(4)
#undef PUT
#undef COLUMN
#undef FUSED
#undef TERM
#undef START
#undef AT
#undef SIGN
}

static void ORDER(order20)(const float *restrict x, float *restrict out, size_t width, int transpose, const float *scale) {
    const size_t lane_count = sizeof(VECTOR) / sizeof *x;
    for (size_t i = 0; i < width; i += lane_count) {
#define FIVE(first)                                                          \
    if (transpose) ORDER(order20_rows)(x + i, out + i, width, first, 1, scale);   \
    else ORDER(order20_rows)(x + i, out + i, width, first, 0, scale);
        FIVE(0)
        FIVE(5)
        FIVE(10)
        FIVE(15)
#undef FIVE
    }
}

#undef VECTOR
#undef ORDER
#undef PLUS
#undef MINUS
#undef PLUS_TWICE
#undef NEITHER
