/* A plan: everything that decides codes, in one buffer made by Python (plan.py) and checked here once, when its capsule is made.
 * All pointers lie inside that buffer; sizes are those of the header, verified against its length. A plan that passes
 * has values in the ranges that the kernels rely on (finite factors, ascending tables, true permutations), whoever made it. */
#ifndef TQ_PLAN_H
#define TQ_PLAN_H

#include <stddef.h>
#include <stdint.h>

typedef struct tq_rotation {
    size_t dim, rounds, order; /* order: 1, 12 or 20 for dim = order * 2^k, 0 for blocks with permutations */
    const uint32_t *signs;     /* rounds * dim: 0x80000000 where a coordinate is negated, else 0 */
    const int32_t *permutations; /* (rounds - 1) * dim indices, each checked to lie in 0..dim-1; NULL unless order is 0 */
    float factor, inverse_factor;
} tq_rotation;

enum { TQ_PLAIN, TQ_MSE, TQ_NORM, TQ_UNBIASED };
enum { TQ_NO_SKETCH, TQ_GAUSSIAN, TQ_HADAMARD };

/* Thresholds, levels and centroids in the forms that registers search and look up; what is beyond a codebook's size is 0.
 *
 * `tree` holds the thresholds as a binary search meets them: node 1 is the middle one, the children of node i are 2i and
 * 2i + 1, so that the nodes of step k, by the bits found so far, begin at 2^k. `_bytes` are the low and the high bytes.
 * Buckets are the values of |v| >> bucket_shift, 15 also what is above: `bucket_below` counts the thresholds below a bucket,
 * `bucket_tops` is the only one inside it, or 32767. bucket_shift is 0 where no shift leaves one threshold to a bucket. */
typedef struct tq_tables {
    int16_t tree[128], levels[128], bucket_tops[16];
    uint8_t tree_bytes[2][128], level_bytes[2][128], centroid_bytes[4][256];
    uint8_t bucket_top_bytes[2][16], bucket_below[16];
    int bucket_shift;
} tq_tables;

#define TQ_PLANE_BITS 10      /* of windows whose bytes have tables of their own */
#define TQ_WINDOW_BITS 12     /* of a trellis, at most */

/* The levels of a trellis in the forms that registers look up. Tables of bytes repeat where windows have fewer bits, so that
 * whatever stands above a window does not count; of longer windows they hold nothing.
 *
 * `low` and `high` are the bytes of the doubled levels, counted from the lowest number of 16 bits. `scan` are levels for integer
 * scans: centroid ~ step * (level - limit), in 7 or 8 bits and of 4-bit codes of long windows, to whose error 8 bits would add
 * too much, in 12. Then a level is 16 * scan_high + scan_low, else scan_high; `scan` has both, scan_high in its high byte. */
typedef struct tq_planes {
    uint8_t low[1 << TQ_PLANE_BITS], high[1 << TQ_PLANE_BITS], scan_high[1 << TQ_PLANE_BITS], scan_low[1 << TQ_PLANE_BITS];
    uint16_t scan[1 << TQ_WINDOW_BITS];
    int limit;
    float step;
} tq_planes;

#define TQ_PAIR_BITS 11       /* of windows of two neighbours that have a table: 16 KiB of the first-level cache */
#define TQ_MIXED 9            /* `bits` of a fractional width, which is none of 1..8 */
#define TQ_MIXED_LANES 16     /* a multiple of the places of a word: coordinate j has lane j % 16 */
#define TQ_MIXED_THRESHOLDS 5 /* 11 levels at most */

/* Mixed-radix words and the codebooks of their places, lane by lane. */
typedef struct tq_mixed {
    size_t places, word_bits;  /* 2 or 4 coordinates, in 13 bits at most */
    uint32_t radix[4];         /* 2..11 levels of each place */
    uint32_t low, inverse;     /* 4 places: radix 0 times radix 1, and 2^20 / low rounded up; 2 places: the words, 2^word_bits */
    const int16_t *thresholds; /* (5, 16): ascending, 32767 where a lane has no more */
    const int16_t *levels;     /* (6, 16): of each magnitude, ascending from at least 0 */
    const float *pairs;        /* the centroids of two digits: of `low` low halves of words, then of all high halves */
    int16_t above[16], even[16]; /* by lane: the code of magnitude 0; a negative coordinate has one less where even is 1 */
} tq_mixed;

/* Of a coordinate on its own or, where window > 0, of a trellis (docs/format.md, section 10): then `levels` and `centroids`
 * have 2^window entries, indexed by window, and there is nothing else. */
typedef struct tq_codebook {
    size_t dim, bits;
    size_t window, nodes;      /* trellis: nodes = 2^(window - bits), a multiple of 8 */
    const float *pairs;        /* trellis: the centroids of two neighbours by the window + bits bits of both, or NULL */
    const tq_planes *planes;   /* trellis; else NULL */
    tq_mixed mixed; /* where bits is TQ_MIXED, and then nothing below */
    const int16_t *thresholds; /* 2^(bits-1) - 1, ascending */
    const int16_t *levels;     /* the 2^(bits-1) positive levels, ascending, units of 1/4096; trellis: doubled, none 0 */
    const float *centroids;    /* 2^bits, ascending, indexed by code */
    const uint8_t *magnitudes; /* 32768: the number of thresholds below each |v| */
    const tq_tables *tables;   /* NULL in a codebook that has centroids alone */
} tq_codebook;

typedef struct tq_sketch {
    int kind;
    size_t dim, projections;
    const int16_t *matrix; /* gaussian: projections * dim, row-major, units of 1/2048 */
    int greatest;          /* of its magnitudes */
    tq_rotation rotation;  /* hadamard: projections = dim */
    double constant;
} tq_sketch;

typedef struct tq_plan {
    tq_rotation rotation;
    tq_codebook book; /* bits 0 in the plan of a bare rotation or sketch */
    tq_sketch sketch;
    int rule, strict;
    size_t candidates;
    const float *candidate; /* in the order of trial, the first 1, all within 0.5..2 */
    size_t stage_bytes, row_bytes;
} tq_plan;

/* Bytes of one packed row of codes: byte-aligned planes of 1, 2, 4 and 8 bits, low bits first. */
size_t tq_row_bytes(size_t dim, size_t bits);

/* The same of a row of mixed-radix words: a stream of bits. */
size_t tq_mixed_bytes(const tq_codebook *book);

/* The same for a codebook of any kind; rows of a trellis are one stream of dim * bits bits. */
size_t tq_book_bytes(const tq_codebook *book);

/* Fill `plan` from the buffer; NULL, or what is wrong with it. Reads nothing outside `bytes`; behind them there is room for
 * TQ_PLAN_ROOM more, which take the tables or the planes of the codebook. */
#define TQ_PLAN_ROOM ((sizeof(tq_tables) > sizeof(tq_planes) ? sizeof(tq_tables) : sizeof(tq_planes)) + 64)
const char *tq_plan_read(tq_plan *plan, void *buffer, size_t bytes);

/* The tables of a codebook whose arrays have been checked. */
void tq_tables_fill(tq_tables *tables, const tq_codebook *book);
void tq_planes_fill(tq_planes *planes, const tq_codebook *book);

#endif
