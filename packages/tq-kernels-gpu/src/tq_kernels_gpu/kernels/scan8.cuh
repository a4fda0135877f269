// Inner products in 8 bits: four coordinates take one permutation of a codebook held in registers, and one __dp4a with as
// many coordinates of a query in int8. For widths of 1 to 4 bits in rows whose dimension is a multiple of 32.

#include "scan.cuh"

enum { TQ_QUERY_WORDS = TQ_SPAN / 4, TQ_QUERY_PITCH = TQ_QUERY_WORDS + 4 };  // of a span; in shared memory: no conflicts

// PTX's prmt: byte i of the result is the byte that the low three bits of nibble i of `selector` name among the eight of
// `low` and `high`, or where the nibble's fourth bit is set, eight times that byte's sign.
TQ_DEVICE u32 tq_permute(u32 low, u32 high, u32 selector) {
#ifdef TQ_SHIM
    const u64 both = (u64)high << 32 | low;
    u32 result = 0;
    for (int i = 0; i < 4; i++) {
        u32 byte = (u32)(both >> 8 * (selector >> 4 * i & 7)) & 255;
        if (selector >> 4 * i & 8) byte = byte >> 7 ? 255 : 0;
        result |= byte << 8 * i;
    }
    return result;
#else
    u32 result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
#endif
}

TQ_DEVICE u32 tq_reversed(u32 bytes) { return tq_permute(bytes, 0, 0x0123); }

// Coordinate of byte b of word w of a span of a query: the order in which codes leave their words below.
TQ_DEVICE int tq_query_place(int format, int w, int b) {
    if (format == 1) return w + 8 * b;
    if (format == 3) return w / 2 + w % 2 * 8 + b / 2 * 4 + b % 2 * 16;
    if (format == 2) return w / 4 * 16 + w % 2 * 8 + 2 * b + w % 4 / 2;
    return 4 * w + b;
}

// A codebook in bytes. Four bits: the magnitudes, ascending, none beyond 127. Two and three: the levels, by code. One: none.
struct TqBook8 {
    u32 low, high;
};

// Sums of a span: what to add and what to subtract. One bit: half of (sum + that of the whole query).
template <int FORMAT>
TQ_DEVICE void tq_add_span8(
    const TqBook8& book, const u32 (&words)[FORMAT], const u32 (&query)[TQ_QUERY_WORDS], int& plus, int& minus) {
    if constexpr (FORMAT == 3) {
        // nibble 2 k of a selector is code 4 k + i, nibble 2 k + 1 code 16 + 4 k + i: two bits from either word of the wide
        // plane, and one from the other plane, whose nibbles are interleaved in the same way first
        const u32 low = tq_permute(words[2], words[2] >> 4, 0x5140), high = tq_permute(words[2], words[2] << 4, 0x3726);
        const u32 tops = (low & 0x0f0f0f0fu) | (high & 0xf0f0f0f0u);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 second = i < 2 ? words[1] << (4 - 2 * i) : words[1] >> (2 * i - 4);
            const u32 top = i < 2 ? tops << (2 - i) : tops >> (i - 2);
            const u32 codes = (words[0] >> (2 * i) & 0x03030303u) | (second & 0x30303030u) | (top & 0x44444444u);
            plus = __dp4a((int)tq_permute(book.low, book.high, codes), (int)query[2 * i], plus);
            plus = __dp4a((int)tq_permute(book.low, book.high, codes >> 16), (int)query[2 * i + 1], plus);
        }
        return;
    }
#pragma unroll
    for (int w = 0; w < FORMAT; w++) {
        const u32 word = words[w];
        if constexpr (FORMAT == 4) {
            // code 8 + m is magnitude m, 7 - m its opposite: a nibble picks either from a table of its own, 0 from the other
            const u32 flipped = word ^ 0x88888888u, low = tq_reversed(book.high), high = tq_reversed(book.low);
            plus = __dp4a((int)tq_permute(book.low, book.high, flipped), (int)query[2 * w], plus);
            minus = __dp4a((int)tq_permute(low, high, word), (int)query[2 * w], minus);
            plus = __dp4a((int)tq_permute(book.low, book.high, flipped >> 16), (int)query[2 * w + 1], plus);
            minus = __dp4a((int)tq_permute(low, high, word >> 16), (int)query[2 * w + 1], minus);
        } else if constexpr (FORMAT == 2) {
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
                const u32 codes = word >> (2 * odd) & 0x33333333u;
                plus = __dp4a((int)tq_permute(book.low, 0, codes), (int)query[4 * w + 2 * odd], plus);
                plus = __dp4a((int)tq_permute(book.low, 0, codes >> 16), (int)query[4 * w + 2 * odd + 1], plus);
            }
        } else {
#pragma unroll
            for (int i = 0; i < TQ_QUERY_WORDS; i++) plus = __dp4a((int)(word >> i & 0x01010101u), (int)query[i], plus);
        }
    }
}

// One part of packed rows and a query in int8 for it.
struct TqPart8 {
    const u8* packed;  // of the part in the first row
    int row_bytes, dim;
    TqBook8 book;
    const u32* query;  // in shared memory, TQ_QUERY_PITCH words a span
    int sum;           // of the whole query
};

// Products of a block's next rows, as tq_dots, in units of the query's and the codebook's steps.
template <int FORMAT, int ROWS>
TQ_DEVICE void tq_dots8(const TqPart8& part, i64 first, i64 rows, int lanes, float* dots) {
    const int groups = blockDim.x / lanes, group = threadIdx.x / lanes;
    const bool aligned = tq_aligned<FORMAT>({part.packed, part.row_bytes, 0, part.dim});
    int plus[ROWS] = {}, minus[ROWS] = {};
#pragma unroll 1
    for (int span = threadIdx.x & (lanes - 1); span < tq_spans(part.dim); span += lanes) {
        u32 words[ROWS][FORMAT], query[TQ_QUERY_WORDS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            i64 at = first + r * groups + group;
            if (at >= rows) at = rows - 1;  // read again, and dropped
            tq_load_span<FORMAT>(part.packed + at * part.row_bytes, part.dim, span, aligned, words[r]);
        }
#pragma unroll
        for (int w = 0; w < TQ_QUERY_WORDS; w += 4) {
            const uint4 four = *(const uint4*)(part.query + span * TQ_QUERY_PITCH + w);
            query[w] = four.x, query[w + 1] = four.y, query[w + 2] = four.z, query[w + 3] = four.w;
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) tq_add_span8<FORMAT>(part.book, words[r], query, plus[r], minus[r]);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const int sum = tq_sum_lanes(plus[r] - minus[r], lanes);
        if ((threadIdx.x & (lanes - 1)) == 0)
            dots[r * groups + group] = (float)(FORMAT == 1 ? 2 * sum - part.sum : sum);
    }
}
