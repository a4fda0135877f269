// The two products of attention over a warp's tile of 32 tokens: keys with queries, and values with weights.
//
// Tokens are the rows of the first, queries its columns, so that the weights of 8 tokens and 8 queries, transposed, are
// the columns of the second, whose rows are value coordinates.

#include "halves.cuh"
#include "tensor.cuh"

enum { TQ_TILE = 32, TQ_UNITS = TQ_SLAB / 64 };  // tokens of a warp's tile; units of values of a lane

// The token of a tile's eight that is row (or column) `place` of the products: tokens that one lane joins lie so that
// no two lanes that read together read one bank, at the common row lengths.
TQ_DEVICE int tq_token(int place) { return place & 1 ? 4 + (((place >> 1) + 1) & 3) : place >> 1; }

// Products of a tile's keys, slab by slab of 128 coordinates, with the queries: scores[m][n] is the fragment of tokens
// 16 m .. and queries 8 n ... `dim`: of planes; `units`: of the slab, of which a lane has a quarter; `rows`: at the
// slab.
template <int FORMAT, int COLUMNS>
TQ_DEVICE void tq_half_scores(const u8* rows, int row_bytes, int dim, int first_unit, int units,
                              const TqHalfTable& table, const u32* queries, int lane, float (&scores)[2][COLUMNS][4]) {
    constexpr int TOGETHER = tq_units_together(FORMAT, 4);
    const int share = units / 4, first = first_unit + (lane & 3) * share;
    const bool whole = share % TOGETHER == 0;
    rows += tq_token(lane >> 2) * row_bytes;
    for (int unit = 0; unit < share; unit += TOGETHER) {
        TqUnit<FORMAT> held[4][TOGETHER];
#pragma unroll
        for (int part = 0; part < 4; part++)
            tq_load_units<FORMAT, TOGETHER>(rows + part * 8 * row_bytes, dim, first + unit, share - unit, whole,
                                            held[part]);
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            if (unit + i >= share) break;
#pragma unroll
            for (int step = 0; step < 2; step++) {
                const u32* asked = queries + ((2 * (unit + i) + step) * 32 + lane) * 2 * COLUMNS;
                u32 columns[COLUMNS][2];
#pragma unroll
                for (int n = 0; n < COLUMNS; n++) {
                    const uint2 pair = *(const uint2*)(asked + 2 * n);
                    columns[n][0] = pair.x, columns[n][1] = pair.y;
                }
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    u32 matrix[4];
#pragma unroll
                    for (int part = 0; part < 4; part++)
                        matrix[part] = tq_adjacent<FORMAT>(table, held[2 * m + (part & 1)][i], 2 * step + (part >> 1));
#pragma unroll
                    for (int n = 0; n < COLUMNS; n++) tq_mma(scores[m][n], matrix, columns[n][0], columns[n][1]);
                }
            }
        }
    }
}

// Adds the tile's values by weight: sums[u][i][n] is the fragment of coordinates 8 (first + u) + 2 i (and + 1, in its
// lower half) and queries 8 n ... `first`: of this lane's `units` units; `available`: how many of them exist; `whole`:
// all of every lane's.
template <int FORMAT, int COLUMNS>
TQ_DEVICE void tq_half_sums(const u8* rows, int row_bytes, int dim, int first, int units, int available, bool whole,
                            const TqHalfTable& table, int lane, const u32 (&weights)[2][COLUMNS][2],
                            float (&sums)[TQ_UNITS][4][COLUMNS][4]) {
    constexpr int TOGETHER = tq_units_together(FORMAT, TQ_UNITS);
    const int low = tq_token(2 * (lane & 3)) * row_bytes, high = tq_token(2 * (lane & 3) + 1) * row_bytes;
#pragma unroll 1
    for (int m = 0; m < 2; m++) {
        u32 own[COLUMNS][2];  // weights of these 16 tokens
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) own[n][h] = m ? weights[1][n][h] : weights[0][n][h];
#pragma unroll
        for (int u = 0; u < TQ_UNITS; u += TOGETHER) {
            if (u >= units) break;
            TqUnit<FORMAT> held[4][TOGETHER];
#pragma unroll
            for (int part = 0; part < 4; part++)
                tq_load_units<FORMAT, TOGETHER>(rows + (16 * m + 8 * (part >> 1)) * row_bytes + (part & 1 ? high : low),
                                                dim, first + u, available - u, whole, held[part]);
#pragma unroll
            for (int v = 0; v < TOGETHER; v++) {
                if (u + v >= units) break;
                u32 even[2][4], odd[2][4];
                tq_across<FORMAT>(table, held[0][v], held[1][v], even[0], odd[0]);
                tq_across<FORMAT>(table, held[2][v], held[3][v], even[1], odd[1]);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const u32 matrix[4] = {even[0][i], odd[0][i], even[1][i], odd[1][i]};
#pragma unroll
                    for (int n = 0; n < COLUMNS; n++) tq_mma(sums[u + v][i][n], matrix, own[n][0], own[n][1]);
                }
            }
        }
    }
}
