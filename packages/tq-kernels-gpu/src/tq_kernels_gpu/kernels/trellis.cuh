// Trellis codes read from packed rows (docs/format.md, section 10). A row is a circle of dim * BITS bits, and the window
// of a coordinate the 2^window bits from its own first bit on: one look-up in a table of 2^window centroids.
//
// The table belongs in shared memory (4 KiB for 1024 states, 16 KiB for 4096): look-ups of a warp go to 32 places at
// random, which shared memory serves in three to four turns and a cache line by line.

#include "types.cuh"

// Little-endian integer of WIDTH bytes (1, 2 or 4), those behind `available` 0; one load where it is aligned.
template <int WIDTH>
TQ_DEVICE u32 tq_trellis_bytes(const u8* from, int available) {
    if (available >= WIDTH && ((u64)from & (WIDTH - 1)) == 0) {
        if (WIDTH == 4) return *(const u32*)from;
        if (WIDTH == 2) return *(const u16*)from;
        return *from;
    }
    u32 value = 0;
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (i < available) value |= (u32)from[i] << (8 * i);
    return value;
}

// The bits from the first bit of coordinate 8 * group on, in which the windows of eight coordinates lie: that of
// coordinate 8 * group + i from bit i * BITS on. `group` is within the row; what is behind its end continues at its
// beginning. Reads (dim * BITS + 7) / 8 bytes at most, at any alignment.
template <int BITS>
TQ_DEVICE u64 tq_trellis_run(const u8* row, int dim, int group) {
    constexpr int LONGEST = 7 * BITS + 12;                          // bits that eight windows of 12 bits reach over
    constexpr int WIDTH = BITS == 4 ? 4 : BITS == 2 ? 2 : 1;        // what rows of whole words are aligned to here
    const int total = dim * BITS, at = group * BITS, left = total - 8 * at, bytes = (total + 7) >> 3;
    u64 run = 0;
#pragma unroll
    for (int i = 0; 8 * i < LONGEST; i += WIDTH) run |= (u64)tq_trellis_bytes<WIDTH>(row + at + i, bytes - at - i) << (8 * i);
    // a row has 16 bits at least, and a window of its last coordinate reaches 11 bits beyond its end at most
    if (left < LONGEST) run = (run & ((1ull << left) - 1)) | (u64)(row[0] | row[1] << 8) << left;
    return run;
}

// The centroids of the eight coordinates from 8 * group on; those behind the row are some centroids. `mask`: 2^window - 1.
template <int BITS>
TQ_DEVICE void tq_trellis_centroids(const u8* row, int dim, int group, const float* table, u32 mask, float (&values)[8]) {
    const u64 run = tq_trellis_run<BITS>(row, dim, group);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = table[(u32)(run >> (i * BITS)) & mask];
}

// The centroid of one coordinate.
TQ_DEVICE float tq_trellis_centroid(const u8* row, int dim, int bits, int coordinate, const float* table, u32 mask) {
    const int total = dim * bits, bit = coordinate * bits, byte = bit >> 3, bytes = (total + 7) >> 3;
    u32 run = tq_trellis_bytes<1>(row + byte, bytes - byte) | tq_trellis_bytes<1>(row + byte + 1, bytes - byte - 1) << 8 |
              tq_trellis_bytes<1>(row + byte + 2, bytes - byte - 2) << 16;
    run >>= bit & 7;
    const int left = total - bit;
    if (left < 12) run = (run & ((1u << left) - 1)) | (u32)(row[0] | row[1] << 8) << left;
    return table[run & mask];
}
