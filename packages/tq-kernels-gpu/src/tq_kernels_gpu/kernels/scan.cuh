// Inner products of a few rotated queries with the centroids of packed rows. `lanes` lanes of a warp (a power of two) share
// a row, each taking every lanes-th span of 32 coordinates, so that a warp reads 16 bytes a lane of neighbouring rows.

#include "codes.cuh"

// Coordinates of a span, and the floats that a span of a query takes in shared memory: with four of padding, lanes that
// read different spans meet different banks. SPAN and QUERY_SPAN of ops/scan.py.
enum { TQ_SPAN = 32, TQ_QUERY_SPAN = TQ_SPAN + 4 };

TQ_DEVICE constexpr int tq_spans(int dim) { return (dim + TQ_SPAN - 1) / TQ_SPAN; }

// Packed rows of one part, a first stage or a sketch.
struct TqCodes {
    const u8* packed;  // of the part in the first row
    int row_bytes, bytes, dim;
};

// Widths of whole bits, in which a span is as many words as a code has bits: those of the widest plane first.
TQ_DEVICE constexpr bool tq_planes(int format) { return format <= 8; }

// Whether every plane of every span can be loaded by whole vectors; those behind the widest plane then can, too.
template <int FORMAT>
TQ_DEVICE bool tq_aligned(const TqCodes& codes) {
    constexpr int UNIT = FORMAT >= 4 ? 16 : FORMAT >= 2 ? 8 : 4;
    return codes.dim % TQ_SPAN == 0 && codes.row_bytes % UNIT == 0 && ((u64)codes.packed & (UNIT - 1)) == 0;
}

// The words of a span of one plane of WIDTH bits; by bytes unless `aligned`.
template <int WIDTH>
TQ_DEVICE void tq_load_plane(const u8* plane, int span, bool aligned, u32* words) {
    const u8* from = plane + span * 4 * WIDTH;
    if (!aligned) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) words[i] = (u32)tq_load_bytes<4>(from + 4 * i, 4);
    } else if constexpr (WIDTH == 1) {
        words[0] = *(const u32*)from;
    } else if constexpr (WIDTH == 2) {
        const uint2 two = *(const uint2*)from;
        words[0] = two.x, words[1] = two.y;
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 4) {
            const uint4 four = *(const uint4*)(from + 4 * i);
            words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
        }
    }
}

// The words of a span, `dim` being a multiple of TQ_SPAN.
template <int FORMAT>
TQ_DEVICE void tq_load_span(const u8* row, int dim, int span, bool aligned, u32 (&words)[FORMAT]) {
    const int bytes = dim / 8;  // of a plane of one bit
    if constexpr (FORMAT == 8) {
        tq_load_plane<8>(row, span, aligned, words);
    } else {
        if constexpr (FORMAT & 4) tq_load_plane<4>(row, span, aligned, words);
        if constexpr (FORMAT & 2) tq_load_plane<2>(row + (FORMAT & 4) * bytes, span, aligned, words + (FORMAT & 4));
        if constexpr (FORMAT & 1) tq_load_plane<1>(row + (FORMAT & 6) * bytes, span, aligned, words + (FORMAT & 6));
    }
}

// The queries of a part in shared memory, padded with zeros; `stride` floats a query.
struct TqQueries {
    const float* values;
    int stride;

    TQ_DEVICE float4 four(int query, int span, int i) const {
        return *(const float4*)(values + query * stride + span * TQ_QUERY_SPAN + i);
    }
};

// Copies `count` of QUERIES queries (count, dim); the others are zeros. No barrier.
template <int QUERIES>
TQ_DEVICE TqQueries tq_load_queries(const float* queries, int count, int dim, float* to) {
    const int stride = tq_spans(dim) * TQ_QUERY_SPAN;
    for (int i = threadIdx.x; i < QUERIES * stride; i += blockDim.x) {
        const int query = i / stride, inside = i % stride % TQ_QUERY_SPAN;
        const int j = i % stride / TQ_QUERY_SPAN * TQ_SPAN + inside;
        to[i] = query < count && inside < TQ_SPAN && j < dim ? queries[(i64)query * dim + j] : 0.0f;
    }
    const TqQueries loaded = {to, stride};
    return loaded;
}

// Centroids in shared memory, the copies of one beside each other. With one copy a lane, lanes that look up different codes
// meet different banks. There is no room for that from 1024 windows of a trellis on: a copy then serves several lanes, which
// meet in as many banks at random. Scalar codes always have 32.
struct TqTable {
    const unsigned char* bytes;
    u32 mask;  // of the windows of a trellis
    int bit;   // log2 of the bytes of all copies of one centroid
    u32 lane;  // byte of the lane's own copy in them
};

// No barrier.
TQ_DEVICE TqTable tq_load_table(const float* centroids, int size, int copies, unsigned char* to) {
    const int log = 31 - __clz(copies);
    for (int i = threadIdx.x; i < size << log; i += blockDim.x) ((float*)to)[i] = centroids[i >> log];
    return {to, (u32)size - 1, log + 2, (threadIdx.x & (copies - 1)) * 4};
}

// Where a lane finds the centroid of a scalar code in the table: 128 bytes a code, four a lane. As a word is shifted once
// for its code to lie seven bits up, a plane costs a shift and one logical instruction before the look-up.
enum { TQ_CODE_BIT = 7 };
TQ_DEVICE u32 tq_lane_offset() { return (threadIdx.x & 31) * 4; }

// The place of coordinate i of a span; i is a constant once loops are unrolled, and so are all shifts.
template <int FORMAT>
TQ_DEVICE u32 tq_place_of(const u32 (&words)[FORMAT], int i, u32 lane) {
    u32 place = lane;
    int first = 0, target = TQ_CODE_BIT;
#pragma unroll
    for (int width = 8; width; width >>= 1)
        if (FORMAT & width) {
            const u32 word = words[first + i * width / 32];
            const int bit = i * width % 32;
            const u32 moved = bit < target ? word << (target - bit) : word >> (bit - target);
            place |= moved & ((1u << width) - 1) << target;
            first += width;
            target += width;
        }
    return place;
}

// Adds four coordinates of one row to the sums of QUERIES queries. `places` are those of the codes in the table; one bit is
// -1 or 1 and needs no table, its places are the bit itself. Coordinates are added one by one, ascending, so that sums do
// not depend on how rows are loaded.
template <int FORMAT, int QUERIES>
TQ_DEVICE void tq_add_four(
    const u32 (&places)[4], int first, const float4 (&queries)[QUERIES], const TqTable& table,
    float (&sums)[QUERIES]) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float centroid = 0;
        if constexpr (FORMAT != 1) {
            const int book = ((first + j) & (tq_places(FORMAT) - 1)) * tq_centroid_slots(FORMAT);
            centroid = *(const float*)(table.bytes + places[j] + (book << TQ_CODE_BIT));
        }
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            const float4& four = queries[q];
            const float value = j == 0 ? four.x : j == 1 ? four.y : j == 2 ? four.z : four.w;
            if constexpr (FORMAT == 1)
                sums[q] += tq_flip(value, places[j] ^ 1);
            else
                sums[q] = fmaf(centroid, value, sums[q]);
        }
    }
}

// The products of one lane's spans of ROWS rows at once, aligned ones: enough loads in flight to fill the bandwidth.
template <int FORMAT, int QUERIES, int ROWS>
TQ_DEVICE void tq_add_spans(
    const TqCodes& codes, const i64 (&at)[ROWS], int lanes, const TqQueries& queries, const TqTable& table,
    float (&sums)[ROWS][QUERIES]) {
    const u32 lane = tq_lane_offset();
#pragma unroll 1
    for (int span = threadIdx.x & (lanes - 1); span < tq_spans(codes.dim); span += lanes) {
        u32 words[ROWS][FORMAT];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            tq_load_span<FORMAT>(codes.packed + at[r] * codes.row_bytes, codes.dim, span, true, words[r]);
#pragma unroll
        for (int i = 0; i < TQ_SPAN; i += 4) {
            float4 four[QUERIES];
#pragma unroll
            for (int q = 0; q < QUERIES; q++) four[q] = queries.four(q, span, i);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                u32 own[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    own[j] = FORMAT == 1 ? words[r][0] >> (i + j) & 1 : tq_place_of<FORMAT>(words[r], i + j, lane);
                tq_add_four<FORMAT, QUERIES>(own, 0, four, table, sums[r]);
            }
        }
    }
}

// The same of one row, of any width and alignment, by groups of coordinates.
template <int FORMAT, int QUERIES>
TQ_DEVICE void tq_add_groups(
    const TqCodes& codes, i64 at, int lanes, const TqQueries& queries, const TqTable& table, float (&sums)[QUERIES]) {
    constexpr int COUNT = tq_group(FORMAT), STEP = COUNT < 4 ? 4 : COUNT;
    const u32 lane = tq_lane_offset();
#pragma unroll 1
    for (int span = threadIdx.x & (lanes - 1); span < tq_spans(codes.dim); span += lanes)
#pragma unroll 1
        for (int i = 0; i < TQ_SPAN; i += STEP) {
            u32 own[STEP / COUNT][COUNT];
#pragma unroll
            for (int g = 0; g < STEP / COUNT; g++)
                tq_unpack<FORMAT>(
                    codes.packed + at * codes.row_bytes, codes.bytes, codes.dim, (span * TQ_SPAN + i) / COUNT + g, own[g]);
#pragma unroll
            for (int part = 0; part < STEP; part += 4) {
                u32 some[4];
                float4 four[QUERIES];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const u32 code = own[(part + j) / COUNT][(part + j) % COUNT];
                    if constexpr (tq_trellis(FORMAT))
                        some[j] = (code & table.mask) << table.bit | table.lane;
                    else
                        some[j] = FORMAT == 1 ? code : code << TQ_CODE_BIT | lane;
                }
#pragma unroll
                for (int q = 0; q < QUERIES; q++) four[q] = queries.four(q, span, i + part);
                tq_add_four<FORMAT, QUERIES>(some, part, four, table, sums);
            }
        }
}

// The sum over the lanes that share a row, to all of them.
template <class Number>
TQ_DEVICE Number tq_sum_lanes(Number sum, int lanes) {
    for (int reach = lanes >> 1; reach; reach >>= 1) sum += __shfl_xor_sync(TQ_ALL_LANES, sum, reach);
    return sum;
}

// Products of a block's next rows, from `first` on: ROWS for each group of lanes. dots[query * count + row - first], count
// being blockDim.x / lanes * ROWS, for rows before `rows`. No barrier.
template <int FORMAT, int QUERIES, int ROWS>
TQ_DEVICE void tq_dots(
    const TqCodes& codes, i64 first, i64 rows, int lanes, const TqQueries& queries, const TqTable& table, float* dots) {
    const int groups = blockDim.x / lanes, group = threadIdx.x / lanes;
    const bool writes = (threadIdx.x & (lanes - 1)) == 0;
    if constexpr (tq_planes(FORMAT)) {
        if (tq_aligned<FORMAT>(codes)) {
            float sums[ROWS][QUERIES] = {};
            i64 at[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                at[r] = first + r * groups + group;
                if (at[r] >= rows) at[r] = rows - 1;  // read again, and dropped
            }
            tq_add_spans<FORMAT, QUERIES, ROWS>(codes, at, lanes, queries, table, sums);
#pragma unroll
            for (int r = 0; r < ROWS; r++)
#pragma unroll
                for (int q = 0; q < QUERIES; q++) {
                    const float sum = tq_sum_lanes(sums[r][q], lanes);
                    if (writes) dots[(q * ROWS + r) * groups + group] = sum;
                }
            return;
        }
    }
#pragma unroll 1
    for (int r = 0; r < ROWS; r++) {
        const i64 at = first + r * groups + group;
        float sums[QUERIES] = {};
        tq_add_groups<FORMAT, QUERIES>(codes, at < rows ? at : rows - 1, lanes, queries, table, sums);
#pragma unroll
        for (int q = 0; q < QUERIES; q++) {
            const float sum = tq_sum_lanes(sums[q], lanes);
            if (writes) dots[(q * ROWS + r) * groups + group] = sum;
        }
    }
}

// As tq_dots, of a format that is known at run time.
template <int QUERIES, int ROWS>
TQ_DEVICE void tq_dots_of(
    int format, const TqCodes& codes, i64 first, i64 rows, int lanes, const TqQueries& queries, const TqTable& table,
    float* dots) {
    switch (format) {
        case 1: tq_dots<1, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 2: tq_dots<2, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 3: tq_dots<3, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 4: tq_dots<4, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 5: tq_dots<5, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 6: tq_dots<6, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 7: tq_dots<7, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 8: tq_dots<8, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 9: tq_dots<9, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 10: tq_dots<10, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 11: tq_dots<11, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 12: tq_dots<12, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 13: tq_dots<13, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 14: tq_dots<14, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 15: tq_dots<15, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
        case 16: tq_dots<16, QUERIES, ROWS>(codes, first, rows, lanes, queries, table, dots); break;
    }
}
