// Decode attention on tensor cores: queries, centroids and weights as halves, sums in float32.
//
// What a token costs. Its packed bytes are read from memory once, for 8 or 16 query rows, into a ring in shared memory
// that each warp has for itself; two codes of 2 to 4 bits cost one look-up and about three instructions. The count is
// in docs/decisions/0019-gpu-attention.md.

#include "half_softmax.cuh"

// Coordinates with those that only fill the last products.
TQ_DEVICE int tq_padded(int dim) { return (dim + 31) & ~31; }

// Where a warp's tile lies in shared memory: codes of keys, codes of values, scales of keys, scales of values.
struct TqStage {
    int values, key_scales, value_scales, bytes;
};
TQ_DEVICE TqStage tq_stage(int key_bytes, int value_bytes) {
    TqStage stage;
    stage.values = TQ_TILE * key_bytes;  // a multiple of 32
    stage.key_scales = stage.values + TQ_TILE * value_bytes;
    stage.value_scales = stage.key_scales + 4 * TQ_TILE;
    stage.bytes = stage.value_scales + 4 * TQ_TILE;
    return stage;
}

TQ_DEVICE const u8* tq_scales_at(const TqSide& side, int token) {
    return (const u8*)side.scales + (blockIdx.z * side.scale_stride + token) * (side.scale_dtype == TQ_F16 ? 2 : 4);
}

TQ_DEVICE void tq_fetch_codes(const TqSide& side, int token, int count, TqAddress to, int lane) {
    const u8* from = side.packed + blockIdx.z * side.stride + (i64)token * side.code.bytes;
    tq_copy_warp(to, from, count * side.code.bytes, lane);
}

// Starts the copies of `count` tokens to a tile's place. Scales of whole tiles go together, a side half a warp.
TQ_DEVICE void tq_fetch(const TqAttention& a, const TqStage& stage, int token, int count, TqAddress to, int lane) {
    tq_fetch_codes(a.keys, token, count, to, lane);
    tq_fetch_codes(a.values, token, count, to + stage.values, lane);
    const u8* key_scales = tq_scales_at(a.keys, token);
    const u8* value_scales = tq_scales_at(a.values, token);
    const int key_bytes = a.keys.scale_dtype == TQ_F16 ? 2 : 4, value_bytes = a.values.scale_dtype == TQ_F16 ? 2 : 4;
    if (count == TQ_TILE && (((u64)key_scales | (u64)value_scales) & 15) == 0) {
        const bool of_keys = lane < 16;
        const int at = 16 * (lane & 15);
        if (at < TQ_TILE * (of_keys ? key_bytes : value_bytes))
            tq_copy<16>(to + (of_keys ? stage.key_scales : stage.value_scales) + at,
                        (of_keys ? key_scales : value_scales) + at, 16);
    } else {
        tq_copy_warp(to + stage.key_scales, key_scales, count * key_bytes, lane);
        tq_copy_warp(to + stage.value_scales, value_scales, count * value_bytes, lane);
    }
}

// Rotated queries as halves over their greatest coordinate, in the order of the fragments, and facts of rows.
template <int COLUMNS>
TQ_DEVICE void tq_half_queries(const TqAttention& a, int first_row, int rows, u32* queries, TqRow* facts) {
    const int dim = a.keys.code.dim, padded = tq_padded(dim), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const float* from = a.queries + ((i64)blockIdx.z * a.rows + first_row) * dim;
    for (int row = warp; row < 8 * COLUMNS; row += (int)blockDim.x >> 5) {
        float greatest = 0;
        if (row < rows)
            for (int i = lane; i < dim; i += 32) greatest = fmaxf(greatest, fabsf(from[(i64)row * dim + i]));
#pragma unroll
        for (int reach = 1; reach < 32; reach *= 2)
            greatest = fmaxf(greatest, __shfl_xor_sync(TQ_ALL_LANES, greatest, reach));
        if (lane == 0) {
            facts[row].factor = greatest * (a.scale / (float)dim) * (a.softcap > 0 ? 1.0f : TQ_LOG2_E);
            facts[row].inverse = 1.0f / fmaxf(greatest, TQ_LEAST);
            facts[row].mask = a.mask ? a.mask + (first_row + row) % a.count * a.mask_stride : nullptr;
            facts[row].sight = row < rows ? tq_sight(a, first_row + row) : TqSight{0, 0};
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < 4 * padded * COLUMNS; at += blockDim.x) {
        const int half = at & 1, n = at / 2 % COLUMNS, place = at / (2 * COLUMNS) & 31, step = at / (64 * COLUMNS);
        const int slab = step / (TQ_SLAB / 16), quarter = min((int)TQ_SLAB, padded - slab * TQ_SLAB) / 4;
        const int row = 8 * n + (place >> 2);
        const int i = slab * TQ_SLAB + (place & 3) * quarter + 4 * (step % (TQ_SLAB / 16)) + 2 * half;
        const float* z = from + (i64)row * dim + i;
        const float low = row < rows && i < dim ? z[0] * facts[row].inverse : 0.0f;
        const float high = row < rows && i + 1 < dim ? z[1] * facts[row].inverse : 0.0f;
        queries[at] = tq_half_pair(low, high);
    }
    __syncthreads();
}

// A half table to shared memory: of codes each word once for each lane, 256 bytes apart.
TQ_DEVICE void tq_spread_table(const TqSide& side, int words, u8* to) {
    const u32* from = (const u32*)side.table;
    if (side.code.format == TQ_TRELLIS)
        for (int i = threadIdx.x; i < words; i += blockDim.x) ((u32*)to)[i] = from[i];
    else
        for (int i = threadIdx.x; i < 32 * words; i += blockDim.x) ((u32*)to)[(i >> 5) * 64 + (i & 31)] = from[i >> 5];
}

// Sums of the block's warps, joined in ascending order.
template <int COLUMNS>
TQ_DEVICE void tq_join_warps(const TqAttention& a, int first_row, int rows, int chunk, int first, int units,
                             int available, TqSoftmax<COLUMNS>& softmax, const float (&sums)[TQ_UNITS][4][COLUMNS][4],
                             float* shared) {
    constexpr int ROWS = 8 * COLUMNS;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const int held = min((int)TQ_SLAB, tq_padded(a.values.code.dim) - chunk * TQ_SLAB);
    const int dim = min(held, a.values.code.dim - chunk * TQ_SLAB);
    float* maxima = shared;
    float* totals = maxima + warps * ROWS;
    float* factors = totals + warps * ROWS;
    float* values = factors + warps * ROWS;  // (warps, ROWS, held)
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float total = softmax.sums[n][c];
#pragma unroll
            for (int reach = 4; reach < 32; reach *= 2) total += __shfl_xor_sync(TQ_ALL_LANES, total, reach);
            const int row = 8 * n + 2 * (lane & 3) + c;
            if (lane < 4) {
                maxima[warp * ROWS + row] = TQ_LN_2 * softmax.maxima[n][c];
                totals[warp * ROWS + row] = total;
                factors[warp * ROWS + row] = softmax.units[n][c];
            }
#pragma unroll
            for (int u = 0; u < TQ_UNITS; u++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (u < units && u < available) {
                        float* to = values + (warp * ROWS + row) * held + 8 * (first + u) + 2 * i;
                        to[0] = sums[u][i][n][c];
                        to[1] = sums[u][i][n][2 + c];
                    }
        }
    __syncthreads();
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        float maximum = TQ_NOTHING, total = 0;
        for (int w = 0; w < warps; w++) maximum = fmaxf(maximum, maxima[w * ROWS + row]);
        for (int w = 0; w < warps; w++) {
            const float faded = tq_faded(maxima[w * ROWS + row], maximum);
            total += totals[w * ROWS + row] * faded;
            factors[w * ROWS + row] *= faded;
        }
        if (chunk == 0) {
            a.part_maxima[tq_part(a, first_row + row)] = maximum;
            a.part_sums[tq_part(a, first_row + row)] = total;
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < rows * dim; at += blockDim.x) {
        const int row = at / dim, i = at % dim;
        float total = 0;
        for (int w = 0; w < warps; w++) total += values[(w * ROWS + row) * held + i] * factors[w * ROWS + row];
        a.part_values[tq_part(a, first_row + row) * a.values.code.dim + chunk * TQ_SLAB + i] = total;
    }
}

// What a block has besides, and where it lies in dynamic shared memory: the tables of codes, those of trellises,
// queries, facts of rows, and for each warp two tiles and, if anything is written out, room for a slab; afterwards the
// sums of warps take the place of tiles. halves_launch of ops/attend.py adds it up.
struct TqTables {
    int key_words, value_words;
    int pair_keys, pair_values;  // formats whose table is of pairs, or 0
};

template <int COLUMNS>
TQ_DEVICE void tq_attend_halves(const TqAttention& a, const TqTables& tables) {
    TQ_DYNAMIC_SHARED(shared);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    const TqCode& key_code = a.keys.code;
    const TqCode& value_code = a.values.code;
    const int key_dim = tq_padded(key_code.dim);
    const bool key_trellis = key_code.format == TQ_TRELLIS, value_trellis = value_code.format == TQ_TRELLIS;
    const int code_bytes = max(key_trellis ? 0 : tables.key_words, value_trellis ? 0 : tables.value_words) << TQ_ENTRY;
    const int key_bytes = key_trellis ? 4 * tables.key_words : 0,
              value_bytes = value_trellis ? 4 * tables.value_words : 0;
    u32* queries = (u32*)(shared + code_bytes + key_bytes + value_bytes);
    TqRow* facts = (TqRow*)(queries + key_dim * 4 * COLUMNS);
    u8* stages = (u8*)(facts + 8 * COLUMNS);
    const int first_row = blockIdx.x % a.row_blocks * 8 * COLUMNS, rows = min(8 * COLUMNS, a.rows - first_row);
    const int chunk = blockIdx.x / a.row_blocks;

    u8* trellis = shared + code_bytes;
    tq_spread_table(a.keys, tables.key_words, key_trellis ? trellis : shared);
    tq_spread_table(a.values, tables.value_words, value_trellis ? trellis + key_bytes : shared + 128);
    tq_half_queries<COLUMNS>(a, first_row, rows, queries, facts);
    const TqHalfTable key_table = {key_trellis ? trellis : shared, 4u * lane};
    const TqHalfTable value_table = {value_trellis ? trellis + key_bytes : shared, 128u + 4u * lane};

    const TqSpan span = tq_span<TQ_TILE>(a, first_row, rows);
    const TqStage stage = tq_stage(key_code.bytes, value_code.bytes);
    const bool writes = !tables.pair_keys || !tables.pair_values;
    u8* own = stages + warp * (2 * stage.bytes + (writes ? TQ_TILE * TQ_SLAB_BYTES : 0));
    const TqAddress own_address = tq_address(own);
    u8* written = own + 2 * stage.bytes;
    // units of this chunk of values, and of this lane: one or two
    const int chunk_units = min((int)TQ_SLAB, tq_padded(value_code.dim) - chunk * TQ_SLAB) / 8;
    const int units = chunk_units > 8 ? 2 : 1;
    const int first = (lane >> 2) * units, available = min(units, chunk_units - first),
              chunk_first = chunk * TQ_SLAB / 8;

    const bool whole = chunk_units == 8 * TQ_UNITS;

    TqSoftmax<COLUMNS> softmax;
    float sums[TQ_UNITS][4][COLUMNS][4];
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            softmax.maxima[n][c] = TQ_NOTHING;
            softmax.sums[n][c] = 0;
            softmax.units[n][c] = TQ_LEAST;
#pragma unroll
            for (int u = 0; u < TQ_UNITS; u++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[u][i][n][c] = sums[u][i][n][2 + c] = 0;
        }

    float factors[COLUMNS][2];
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) factors[n][c] = facts[8 * n + 2 * (lane & 3) + c].factor;

    const int first_tile = span.begin + warp * TQ_TILE, step = warps * TQ_TILE;
    int turn = 1;
    for (int tile = first_tile - step; tile < span.end; tile += step, turn ^= 1) {
        const u8* keys = own + turn * stage.bytes;
        const u8* values = keys + stage.values;
        if (tile + step < span.end) {
            const int count = min((int)TQ_TILE, a.tokens - tile - step);
            tq_fetch(a, stage, tile + step, count, own_address + (turn ^ 1) * stage.bytes, lane);
        }
        tq_copies_end();
        if (tile < first_tile) continue;  // the first tile is on its way
        tq_copies_done<1>();
        __syncwarp();
        float scores[2][COLUMNS][4] = {};
#pragma unroll 1
        for (int slab = 0; slab * TQ_SLAB < key_dim; slab++) {
            const int slab_units = min((int)TQ_SLAB, key_dim - slab * TQ_SLAB) / 8, slab_first = slab * TQ_SLAB / 8;
            const u32* asked = queries + slab * TQ_SLAB * 4 * COLUMNS;
            switch (tables.pair_keys) {
                case 2:
                    tq_half_scores<2, COLUMNS>(keys, key_code.bytes, key_code.dim, slab_first, slab_units, key_table,
                                               asked, lane, scores);
                    break;
                case 3:
                    tq_half_scores<3, COLUMNS>(keys, key_code.bytes, key_code.dim, slab_first, slab_units, key_table,
                                               asked, lane, scores);
                    break;
                case 4:
                    tq_half_scores<4, COLUMNS>(keys, key_code.bytes, key_code.dim, slab_first, slab_units, key_table,
                                               asked, lane, scores);
                    break;
                default:
                    tq_write_halves<TQ_TILE>(key_code, keys, key_table, slab_first, slab_units, written, lane);
                    __syncwarp();
                    tq_half_scores<TQ_HALVES, COLUMNS>(written, TQ_SLAB_BYTES, 0, 0, slab_units, key_table, asked, lane,
                                                       scores);
                    __syncwarp();
            }
        }
        const bool inside = tile >= span.all_begin && tile + TQ_TILE <= span.all_end;
        u32 weights[2][COLUMNS][2];
        float fade[COLUMNS][2];
        if (tq_weigh<COLUMNS>(a, keys + stage.key_scales, keys + stage.value_scales, tile, span.end, inside, facts,
                              factors, lane, scores, softmax, weights, fade))
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
#pragma unroll
                for (int u = 0; u < TQ_UNITS; u++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int c = 0; c < 4; c++) sums[u][i][n][c] *= fade[n][c & 1];
        const int unit = chunk_first + first;
        switch (tables.pair_values) {
            case 2:
                tq_half_sums<2, COLUMNS>(values, value_code.bytes, value_code.dim, unit, units, available, whole,
                                         value_table, lane, weights, sums);
                break;
            case 3:
                tq_half_sums<3, COLUMNS>(values, value_code.bytes, value_code.dim, unit, units, available, whole,
                                         value_table, lane, weights, sums);
                break;
            case 4:
                tq_half_sums<4, COLUMNS>(values, value_code.bytes, value_code.dim, unit, units, available, whole,
                                         value_table, lane, weights, sums);
                break;
            default:
                tq_write_halves<TQ_TILE>(value_code, values, value_table, chunk_first, chunk_units, written, lane);
                __syncwarp();
                tq_half_sums<TQ_HALVES, COLUMNS>(written, TQ_SLAB_BYTES, 0, first, units, available, whole, value_table,
                                                 lane, weights, sums);
        }
        __syncwarp();
    }
    tq_copies_done<0>();
    __syncthreads();
    tq_join_warps<COLUMNS>(a, first_row, rows, chunk, first, units, available, softmax, sums, (float*)stages);
}

// Eight query rows a block.
extern "C" __global__ void __launch_bounds__(512) tq_attend_halves_8(
    TQ_ATTENTION_PARAMETERS, int key_words, int value_words, int pair_keys, int pair_values) {
    const TqAttention attention = TQ_ATTENTION;
    tq_attend_halves<1>(attention, {key_words, value_words, pair_keys, pair_values});
}

// Sixteen query rows a block.
extern "C" __global__ void __launch_bounds__(256) tq_attend_halves_16(
    TQ_ATTENTION_PARAMETERS, int key_words, int value_words, int pair_keys, int pair_values) {
    const TqAttention attention = TQ_ATTENTION;
    tq_attend_halves<2>(attention, {key_words, value_words, pair_keys, pair_values});
}
