// The best rows of a query, kept by one block: keys that are better than the worst kept are gathered, and sorted when
// there is no room for more. A key is a score and a row in one number; greater is better, and equal scores go to the lower row.

#include "types.cuh"

// 0 is no key of any row. Rows are below 2**32; -0 is 0.
TQ_DEVICE u64 tq_key(float score, i64 row) {
    const u32 bits = __float_as_uint(score + 0.0f);
    const u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | (u32)~(u32)row;
}

TQ_DEVICE float tq_key_score(u64 key) {
    const u32 ordered = (u32)(key >> 32);
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

TQ_DEVICE i64 tq_key_row(u64 key) { return (i64)(u32)~(u32)key; }

// Keys in shared memory, of which the best `keep` count. `capacity` is a power of two, no less than keep + blockDim.x.
struct TqList {
    u64* keys;
    u64* least;  // a key must be greater to be offered: the worst of `keep`, or 0
    int* count;
    int keep, capacity;

    TQ_DEVICE void start() {
        if (threadIdx.x == 0) *least = 0, *count = 0;
    }

    // Every thread of the block may offer one key between two calls of `settle`; 0 is none.
    TQ_DEVICE void offer(u64 key) {
        if (key > *least) keys[atomicAdd(count, 1)] = key;
    }

    // Makes room for the next offers if there is none, or with `finish` leaves the best `keep` keys in descending
    // order, followed by zeros. All threads of the block call it, and it has barriers before and after.
    TQ_DEVICE void settle(bool finish) {
        __syncthreads();
        const int held = *count;
        __syncthreads();  // nobody offers before all have read the same number
        if (!finish && held + (int)blockDim.x <= capacity) return;
        for (int i = held + threadIdx.x; i < capacity; i += blockDim.x) keys[i] = 0;
        for (int size = 2; size <= capacity; size *= 2)
            for (int reach = size / 2; reach; reach /= 2) {
                __syncthreads();
                for (int pair = threadIdx.x; pair < capacity / 2; pair += blockDim.x) {
                    const int low = 2 * pair - (pair & (reach - 1)), high = low + reach;
                    const u64 a = keys[low], b = keys[high];
                    if ((a < b) == ((low & size) == 0)) keys[low] = b, keys[high] = a;
                }
            }
        __syncthreads();
        if (threadIdx.x == 0) {
            *count = held < keep ? held : keep;
            *least = held < keep ? 0 : keys[keep - 1];
        }
        __syncthreads();
    }
};
