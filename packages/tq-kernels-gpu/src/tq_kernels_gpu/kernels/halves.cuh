// Centroids as halves, two coordinates or two tokens at a time, for products on tensor cores.
//
// Codes of 2, 3 and 4 bits are looked up in pairs: the table has a pair of centroids for every pair of codes, of two
// coordinates as of two tokens. An entry takes 256 bytes of shared memory: a word for each lane of a warp, so that no
// look-up meets another lane's bank, of keys and then of values. So a pair of 4-bit codes, a byte, and the lane's place
// make an address in one instruction. All other formats are first written out as halves. half_words of readers.py makes
// the tables.

#include "reader.cuh"

// Rows written out: coordinates at once, and bytes of a row of them, padded against conflicts.
enum { TQ_HALVES = 16, TQ_SLAB = 128, TQ_SLAB_BYTES = 2 * TQ_SLAB + 16 };

// Eight coordinates in registers: words of planes, or pairs of halves. Dims of planes are multiples of 32, so that
// words are aligned.
template <int FORMAT>
struct TqUnit {
    u32 low, high;
};
template <>
struct TqUnit<TQ_HALVES> {
    u32 pairs[4];
};

// Units that are read together where a lane has as many, in one load.
TQ_DEVICE constexpr int tq_units_together(int format, int most) { return format == 2 || format == 4 ? most : 1; }

// COUNT units from `unit` on, of which `available` exist; `whole`: all of them, aligned to their common size. `dim`: of
// the row, for planes.
template <int FORMAT, int COUNT>
TQ_DEVICE void tq_load_units(const u8* row, int dim, int unit, int available, bool whole, TqUnit<FORMAT> (&to)[COUNT]) {
    if constexpr (FORMAT == TQ_HALVES) {
        to[0] = {};
        if (available < 1) return;
        const uint4 words = *(const uint4*)(row + 16 * unit);
        to[0].pairs[0] = words.x, to[0].pairs[1] = words.y, to[0].pairs[2] = words.z, to[0].pairs[3] = words.w;
    } else if constexpr (FORMAT == 3) {
        to[0] = {};
        if (available < 1) return;
        to[0].low = *(const u16*)(row + 2 * unit);
        to[0].high = row[(dim >> 2) + unit];
    } else if (whole) {
        if constexpr (FORMAT == 4 && COUNT == 4) {
            const uint4 words = *(const uint4*)(row + 4 * unit);
            to[0].low = words.x, to[1].low = words.y, to[2].low = words.z, to[3].low = words.w;
        } else if constexpr (FORMAT * COUNT == 8) {
            const uint2 words = *(const uint2*)(row + FORMAT * unit);
            to[0].low = words.x, to[COUNT - 1].low = words.y;
            if (FORMAT == 2) to[1].low = words.x >> 16, to[2 % COUNT].low = words.y, to[COUNT - 1].low = words.y >> 16;
        } else {
            const u32 word = *(const u32*)(row + 2 * unit);
            to[0].low = word, to[1].low = word >> 16;
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            to[i] = {};
            if (i < available)
                to[i].low = FORMAT == 4 ? *(const u32*)(row + 4 * (unit + i)) : *(const u16*)(row + 2 * (unit + i));
        }
    }
}

// `bits` bits of the word from bit `from` on, moved to bit `to`.
TQ_DEVICE u32 tq_field(u32 word, int from, int bits, int to) {
    const u32 mask = ((1u << bits) - 1) << to;
    return (from >= to ? word >> (from - to) : word << (to - from)) & mask;
}

enum { TQ_ENTRY = 8 };  // log2 of the bytes of an entry

// A table in shared memory; `offset`: of this lane's word in an entry, below 256. A trellis has halves one behind the
// other, and no offset.
struct TqHalfTable {
    const u8* start;
    u32 offset;
};

// Centroids of coordinates 2 i and 2 i + 1 of a unit.
template <int FORMAT>
TQ_DEVICE u32 tq_adjacent(const TqHalfTable& table, const TqUnit<FORMAT>& unit, int i) {
    if constexpr (FORMAT == TQ_HALVES) {
        return unit.pairs[i];
    } else {
        u32 at;
        if constexpr (FORMAT == 4)
            at = __byte_perm(unit.low, table.offset, 0x6504 | i << 4);
        else
            at = tq_field(unit.low, 4 * i, 4, TQ_ENTRY) | table.offset;
        if constexpr (FORMAT == 3) at |= tq_field(unit.high, 2 * i, 2, TQ_ENTRY + 4);
        return *(const u32*)(table.start + at);
    }
}

// Fields of two words, WIDTH bits each, in turn: those at even places to `even`, the others to `odd`, a's below b's.
template <int WIDTH>
TQ_DEVICE void tq_interleave(u32 a, u32 b, u32& even, u32& odd) {
    constexpr u32 MASK = WIDTH == 4 ? 0x0f0f0f0fu : WIDTH == 2 ? 0x33333333u : 0x55555555u;
    even = (a & MASK) | ((b & MASK) << WIDTH);
    odd = ((a >> WIDTH) & MASK) | (b & (MASK << WIDTH));
}

// Centroids of one coordinate of two tokens: even[i] of coordinate 2 i, odd[i] of 2 i + 1.
template <int FORMAT>
TQ_DEVICE void tq_across(const TqHalfTable& table, const TqUnit<FORMAT>& a, const TqUnit<FORMAT>& b, u32 (&even)[4],
                         u32 (&odd)[4]) {
    if constexpr (FORMAT == TQ_HALVES) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even[i] = __byte_perm(a.pairs[i], b.pairs[i], 0x5410);
            odd[i] = __byte_perm(a.pairs[i], b.pairs[i], 0x7632);
        }
    } else {
        TqUnit<FORMAT> evens, odds;
        tq_interleave<(FORMAT == 3 ? 2 : FORMAT)>(a.low, b.low, evens.low, odds.low);
        if constexpr (FORMAT == 3) tq_interleave<1>(a.high, b.high, evens.high, odds.high);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even[i] = tq_adjacent<FORMAT>(table, evens, i);
            odd[i] = tq_adjacent<FORMAT>(table, odds, i);
        }
    }
}

// A warp writes `units` units of ROWS packed rows out as halves, from `first_unit` on; coordinates behind the row
// become 0. The table has a half in each word of codes; for a trellis halves one behind the other.
template <int ROWS>
TQ_DEVICE void tq_write_halves(const TqCode& code, const u8* codes, const TqHalfTable& table, int first_unit, int units,
                               u8* to, int lane) {
#pragma unroll 1
    for (int at = lane; at < ROWS * units; at += 32) {
        const int row = at / units, unit = at % units;
        u32 index[8], halves[8];
        tq_indices(code, codes + row * code.bytes, first_unit + unit, index);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const bool exists = 8 * (first_unit + unit) + i < code.dim;
            if (code.format == TQ_TRELLIS)
                halves[i] = exists ? ((const u16*)table.start)[index[i]] : 0;
            else
                halves[i] = exists ? *(const u32*)(table.start + (index[i] << TQ_ENTRY | table.offset)) : 0;
        }
        *(uint4*)(to + row * TQ_SLAB_BYTES + 16 * unit) =
            make_uint4(halves[0] | halves[1] << 16, halves[2] | halves[3] << 16, halves[4] | halves[5] << 16,
                       halves[6] | halves[7] << 16);
    }
}
