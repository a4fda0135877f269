// Trellis codes read from packed rows (docs/format.md, section 10). A row is a circle of dim * BITS bits, and the window
// of a coordinate the `window` bits from its own first bit on: its index in a table of centroids.
//
// The table belongs in shared memory (4 KiB for 1024 states, 16 KiB for 4096): look-ups of a warp go to 32 places at
// random, which shared memory serves in three to four turns, and a cache line by line.

#include "types.cuh"

enum {
    TQ_TRELLIS = 13,  // the format of one bit; TRELLIS of trellis_tables.py
    TQ_MOST_WINDOW = 12,
    TQ_LONGEST = 40,  // bits that eight windows reach over: seven of four bits before the last window
};

TQ_DEVICE constexpr int tq_trellis_bits(int format) { return format - TQ_TRELLIS + 1; }

// Little-endian integer of up to WIDTH bytes (1, 2, 4 or 8), the missing ones 0; one load where it is aligned.
template <int WIDTH>
TQ_DEVICE u64 tq_load_bytes(const u8* from, int available) {
    if (available >= WIDTH && ((u64)from & (WIDTH - 1)) == 0) {
        if (WIDTH == 8) return *(const u64*)from;
        if (WIDTH == 4) return *(const u32*)from;
        if (WIDTH == 2) return *(const u16*)from;
        return *from;
    }
    u64 value = 0;
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < available) value |= (u64)from[i] << (8 * i);
    return value;
}

// The bits from bit `dim * BITS - left` of a row on, of which `run` has those within the row: behind its end it goes on at
// its beginning. A row has 16 bits at least, and the window of its last coordinate goes on for 11 at most. A negative
// `left`, of what begins behind the row, counts as a great one: shifting by it is undefined.
TQ_DEVICE u64 tq_around(u64 run, const u8* row, int left) {
    return (u32)left >= TQ_LONGEST ? run : (run & ((1ull << left) - 1)) | (u64)(row[0] | row[1] << 8) << left;
}

// The windows of coordinates 8 * group and following, in the low bits: TQ_MOST_WINDOW bits at least, from which a mask of
// the code's own takes as many as its windows have. Those of coordinates behind the row are anything. `bytes`: of the
// row, which may lie at any alignment.
template <int BITS>
TQ_DEVICE void tq_windows(const u8* row, int bytes, int dim, int group, u32 (&windows)[8]) {
    constexpr int WIDTH = BITS == 4 ? 4 : BITS == 2 ? 2 : 1;  // bytes of a load: those of a group, where that is one
    const int at = group * BITS;
    u64 run = 0;
#pragma unroll
    for (int i = 0; 8 * i < 7 * BITS + TQ_MOST_WINDOW; i += WIDTH)
        run |= tq_load_bytes<WIDTH>(row + at + i, bytes - at - i) << (8 * i);
    run = tq_around(run, row, dim * BITS - 8 * at);
#pragma unroll
    for (int i = 0; i < 8; i++) windows[i] = (u32)(run >> (i * BITS));
}
