// Readers: what every packed format has to say of itself, for kernels that take any. Coordinates are read in units of
// eight; a reader gives the index of each in the table of its centroids, which is a code, or the window of a trellis.

#include "trellis.cuh"

// How rows of one side are packed. `bytes`: of a row; `bits`, `window`: of a trellis alone. Formats 1..8 are bits, stored
// in planes (docs/format.md, section 5); that of a trellis is TQ_TRELLIS, whatever its bits.
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
    if (!code.window) return tq_codes(code, row, unit, index);
    if (8 * unit >= code.dim) unit = 0;
    switch (code.bits) {
        case 1: tq_windows<1>(row, code.bytes, code.dim, unit, index); break;
        case 2: tq_windows<2>(row, code.bytes, code.dim, unit, index); break;
        case 3: tq_windows<3>(row, code.bytes, code.dim, unit, index); break;
        default: tq_windows<4>(row, code.bytes, code.dim, unit, index);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) index[i] &= (1u << code.window) - 1;
}
