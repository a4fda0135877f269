// Tokens to the end of a store whose length is known on the device alone.

#include "types.cuh"

struct TqPlaced {
    const u8* fresh;  // (lanes, count, bytes)
    const float* fresh_scales;
    u8* packed;  // (lanes, capacity, bytes)
    void* scales;
    int bytes;
};

TQ_DEVICE void tq_place_row(const TqPlaced& side, int scale_dtype, i64 from, i64 to) {
    for (int i = threadIdx.x; i < side.bytes; i += blockDim.x)
        side.packed[to * side.bytes + i] = side.fresh[from * side.bytes + i];
    if (threadIdx.x == 0) tq_store(side.scales, scale_dtype, to, side.fresh_scales[from]);
}

// Encoded keys and values of `count` tokens a lane behind the `length` tokens held; what does not fit is left out.
// Blocks are (token, lane).
extern "C" __global__ void __launch_bounds__(128) tq_place(
    const u8* keys, const float* key_scales, u8* packed_keys, void* packed_key_scales, int key_bytes,
    const u8* values, const float* value_scales, u8* packed_values, void* packed_value_scales, int value_bytes,
    int scale_dtype, i64 capacity, const i64* length) {
    const i64 at = *length + blockIdx.x;
    if (at >= capacity) return;
    const i64 from = (i64)blockIdx.y * gridDim.x + blockIdx.x, to = blockIdx.y * capacity + at;
    const TqPlaced sides[2] = {{keys, key_scales, packed_keys, packed_key_scales, key_bytes},
                               {values, value_scales, packed_values, packed_value_scales, value_bytes}};
    tq_place_row(sides[0], scale_dtype, from, to);
    tq_place_row(sides[1], scale_dtype, from, to);
}

// Counts the tokens placed, once all blocks that read the length before are done.
extern "C" __global__ void __launch_bounds__(32) tq_advance(i64* length, i64 count, i64 capacity) {
    if (threadIdx.x == 0) *length = min(*length + count, capacity);
}
