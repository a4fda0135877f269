// Codes: where they lie in a packed row (docs/format.md, section 5) and how coordinates become scalar ones (section 4).
// FORMAT is 1..8 for whole bits, stored in planes, 9..12 for the fractional widths, stored in mixed-radix words (FORMATS
// of codes.py), and 13..16 for trellises of 1..4 bits, whose codes are windows (trellis.cuh).

#include "trellis.cuh"

TQ_DEVICE constexpr bool tq_mixed(int format) { return format > 8 && format < TQ_TRELLIS; }
TQ_DEVICE constexpr bool tq_trellis(int format) { return format >= TQ_TRELLIS; }

// Coordinates that take different codebooks in turn: the digits of a word.
TQ_DEVICE constexpr int tq_places(int format) {
    return format == 9 || format == 11 ? 4 : format == 10 || format == 12 ? 2 : 1;
}

// Number of levels of the codebook of a place.
TQ_DEVICE constexpr int tq_radix(int format, int place) {
    return format == 9    ? (place == 3 ? 4 : 5)
           : format == 10 ? (place == 1 ? 6 : 5)
           : format == 11 ? (place < 2 ? 9 : 10)
           : format == 12 ? 11
                          : 1 << format;
}

TQ_DEVICE constexpr int tq_word_bits(int format) {
    return format == 9 ? 9 : format == 10 ? 5 : format == 11 ? 13 : 7;
}

// Magnitudes that a codebook has room for in the tables, a power of two; the tables of places follow each other.
TQ_DEVICE constexpr int tq_slots(int format) { return tq_mixed(format) ? 8 : 1 << (format - 1); }

// Centroids that a codebook has room for in its table.
TQ_DEVICE constexpr int tq_centroid_slots(int format) { return tq_mixed(format) ? 16 : 1 << format; }

// Where the centroid of a code of coordinate place is in the table, `size` numbers.
template <int FORMAT>
TQ_DEVICE u32 tq_entry(int place, u32 code, int size) {
    return tq_trellis(FORMAT) ? code & (size - 1) : place * tq_centroid_slots(FORMAT) + code;
}

enum { TQ_MOST_MAGNITUDES = 128, TQ_MOST_CENTROIDS = 256 };

// Coordinates that tq_unpack gives at once: those of as many bytes as a plane has bits, or of a word.
TQ_DEVICE constexpr int tq_group(int format) { return tq_mixed(format) ? tq_places(format) : 8; }

template <int WIDTH>
TQ_DEVICE void tq_unpack_plane(const u8* plane, int bytes, int group, int shift, u32 (&codes)[8]) {
    const u64 bits = tq_load_bytes<WIDTH>(plane + group * WIDTH, bytes - group * WIDTH);
#pragma unroll
    for (int i = 0; i < 8; i++) codes[i] |= (u32)(bits >> (i * WIDTH) & ((1u << WIDTH) - 1)) << shift;
}

// The codes of coordinates tq_group * group and following; those behind the row are 0. `bytes`: of the row's first stage.
// Of a trellis, the windows in the low bits: those above, and what is behind the row, are anything.
template <int FORMAT>
TQ_DEVICE void tq_unpack(const u8* row, int bytes, int dim, int group, u32 (&codes)[tq_group(FORMAT)]) {
    if constexpr (tq_trellis(FORMAT)) {
        tq_windows<tq_trellis_bits(FORMAT)>(row, bytes, dim, group, codes);
    } else if constexpr (tq_mixed(FORMAT)) {
        const int bit = group * tq_word_bits(FORMAT), byte = bit >> 3;
        u32 word = 0;
#pragma unroll
        for (int i = 0; i < 3; i++)
            if (byte + i < bytes) word |= (u32)row[byte + i] << (8 * i);
        word = word >> (bit & 7) & ((1u << tq_word_bits(FORMAT)) - 1);
#pragma unroll
        for (int place = 0; place < tq_places(FORMAT); place++) {
            const bool last = place == tq_places(FORMAT) - 1;
            codes[place] = last ? word : word % tq_radix(FORMAT, place);
            word /= tq_radix(FORMAT, place);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) codes[i] = 0;
        const u8* plane = row;
        int shift = 0;
#pragma unroll
        for (int width = 8; width; width >>= 1)
            if (FORMAT & width) {
                const int size = (dim * width + 7) >> 3;
                if (width == 8) tq_unpack_plane<8>(plane, size, group, shift, codes);
                if (width == 4) tq_unpack_plane<4>(plane, size, group, shift, codes);
                if (width == 2) tq_unpack_plane<2>(plane, size, group, shift, codes);
                if (width == 1) tq_unpack_plane<1>(plane, size, group, shift, codes);
                plane += size;
                shift += width;
            }
    }
}

// v of the format: 4096 z, rounded and clamped.
TQ_DEVICE int tq_round(float scaled) { return (int)fminf(fmaxf(rintf(scaled), -32767.0f), 32767.0f); }

// Thresholds and levels of the magnitudes of each place's codebook, in shared memory.
struct TqBook {
    const i16* thresholds;
    const i16* levels;
};

// The number of thresholds that |v| is beyond.
template <int FORMAT>
TQ_DEVICE int tq_magnitude(const TqBook& book, int v, int place) {
    const i16* thresholds = book.thresholds + place * tq_slots(FORMAT);
    const int size = v < 0 ? -v : v;
    int magnitude = 0;
#pragma unroll
    for (int step = tq_slots(FORMAT) / 2; step; step >>= 1)
        if (size > thresholds[magnitude + step - 1]) magnitude += step;
    return magnitude;
}

// The signed level that v is coded to.
template <int FORMAT>
TQ_DEVICE int tq_level(const TqBook& book, int v, int place) {
    const int level = book.levels[place * tq_slots(FORMAT) + tq_magnitude<FORMAT>(book, v, place)];
    return v < 0 ? -level : level;
}

template <int FORMAT>
TQ_DEVICE u32 tq_code(const TqBook& book, int v, int place) {
    const int magnitude = tq_magnitude<FORMAT>(book, v, place);
    const int radix = tq_radix(FORMAT, place);
    return v < 0 ? (radix - 1) / 2 - magnitude : radix / 2 + magnitude;
}
