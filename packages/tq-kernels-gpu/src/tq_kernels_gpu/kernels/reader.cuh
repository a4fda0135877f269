// Readers: what every packed format has to say of itself, for kernels that take any. Coordinates are read in units of
// eight; a reader gives the index of each in the table of its centroids, which is a code, or the window of a trellis.

#include "types.cuh"

// Formats 1..8 are bits, stored in planes (docs/format.md, section 5); TRELLIS of readers.py.
enum { TQ_TRELLIS = 13 };

// How rows of one side are packed. `bytes`: of a row; `bits`, `window`: of a trellis alone.
struct TqCode {
    int format, dim, bytes, bits, window;
};

// The little-endian integer of `count` bytes, 8 at most.
TQ_DEVICE u64 tq_some_bytes(const u8* from, int count) {
    if (((u64)from & 3) == 0 && (count & 3) == 0) {
        const u32* words = (const u32*)from;
        return count == 8 ? words[0] | (u64)words[1] << 32 : count == 4 ? words[0] : 0;
    }
    u64 value = 0;
    for (int i = 0; i < count; i++) value |= (u64)from[i] << (8 * i);
    return value;
}

// The windows of coordinates 8 unit and following: WINDOW bits from the coordinate's own symbol on, around the end of a
// row to its start. Those behind the row are some window.
TQ_DEVICE void tq_windows(const TqCode& code, const u8* row, int unit, u32 (&index)[8]) {
    const int length = code.dim * code.bits;  // at least as long as a window
    const u32 mask = (1u << code.window) - 1;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int coordinate = unit * 8 + i < code.dim ? unit * 8 + i : 0;
        const int bit = coordinate * code.bits, here = length - bit;
        u32 found = 0;
#pragma unroll
        for (int byte = 0; byte < 3; byte++)
            if ((bit >> 3) + byte < code.bytes) found |= (u32)row[(bit >> 3) + byte] << (8 * byte);
        found >>= bit & 7;
        if (here < code.window) {
            const u32 wrapped = row[0] | (code.bytes > 1 ? (u32)row[1] << 8 : 0);
            found = (found & ((1u << here) - 1)) | wrapped << here;
        }
        index[i] = found & mask;
    }
}

// The codes of coordinates 8 unit and following; those behind the row are 0.
TQ_DEVICE void tq_codes(const TqCode& code, const u8* row, int unit, u32 (&index)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) index[i] = 0;
    int shift = 0;
#pragma unroll 1
    for (int width = 8; width; width >>= 1) {
        if (!(code.format & width)) continue;
        const int size = (code.dim * width + 7) >> 3;
        const u64 bits = tq_some_bytes(row + unit * width, min(width, size - unit * width));
        const u32 mask = (1u << width) - 1;
#pragma unroll
        for (int i = 0; i < 8; i++) index[i] |= ((u32)(bits >> (i * width)) & mask) << shift;
        row += size;
        shift += width;
    }
}

// The indices of coordinates 8 unit and following in the table of centroids; those behind the row are any valid ones.
TQ_DEVICE void tq_indices(const TqCode& code, const u8* row, int unit, u32 (&index)[8]) {
    if (code.format == TQ_TRELLIS)
        tq_windows(code, row, unit, index);
    else
        tq_codes(code, row, unit, index);
}
