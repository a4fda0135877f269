// The best of scores that were computed before, and of what several blocks found.

#include "topk.cuh"

// Dynamic shared memory of both: `capacity` keys.
TQ_DEVICE TqList tq_shared_list(unsigned char* shared, u64* least, int* count, int keep, int capacity) {
    TqList list = {(u64*)shared, least, count, keep, capacity};
    list.start();
    __syncthreads();
    return list;
}

// The best `keep` keys that each block finds in scores (queries, count), those of rows `first` and following, among rows of
// `mask` (or all), to list `list_offset + blockIdx.x` of keys (queries, lists, keep). blockIdx.y is the query.
extern "C" __global__ void __launch_bounds__(256) tq_select(
    const float* scores, i64 count, i64 first, const u8* mask, u64* keys, int lists, int list_offset, int keep,
    int capacity) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ u64 least;
    __shared__ int held;
    TqList list = tq_shared_list(shared, &least, &held, keep, capacity);
    const float* own = scores + (i64)blockIdx.y * count;
    for (i64 start = (i64)blockIdx.x * blockDim.x; start < count; start += (i64)gridDim.x * blockDim.x) {
        const i64 i = start + threadIdx.x;
        const bool eligible = i < count && (!mask || mask[first + i]);
        list.offer(eligible ? tq_key(own[i], first + i) : 0);
        list.settle(false);
    }
    list.settle(true);
    u64* to = keys + ((i64)blockIdx.y * lists + list_offset + blockIdx.x) * keep;
    for (int i = threadIdx.x; i < keep; i += blockDim.x) to[i] = list.keys[i];
}

// The best `keep` of keys (queries, lists, each) as scores and rows, both (queries, k), descending; -inf and -1 where there
// are none. Lists descend. So the best of all are met first, then the second best ...; where no list's next key is good
// enough, none behind it is. blockIdx.x is the query.
extern "C" __global__ void __launch_bounds__(256) tq_merge(
    const u64* keys, int lists, int each, int keep, int capacity, float* scores, i64* rows, i64 k) {
    TQ_DYNAMIC_SHARED(shared);
    __shared__ u64 least;
    __shared__ int held;
    TqList list = tq_shared_list(shared, &least, &held, keep, capacity);
    const u64* own = keys + (i64)blockIdx.x * lists * each;
    for (int rank = 0; rank < each; rank++) {
        bool some = false;
        for (int start = 0; start < lists; start += blockDim.x) {
            const int from = start + threadIdx.x;
            const u64 key = from < lists ? own[(i64)from * each + rank] : 0;
            some = some || key > least;
            list.offer(key);
            list.settle(false);
        }
        if (!__syncthreads_or(some)) break;
    }
    list.settle(true);
    for (i64 i = threadIdx.x; i < k; i += blockDim.x) {
        const u64 key = i < keep ? list.keys[i] : 0;
        scores[blockIdx.x * k + i] = key ? tq_key_score(key) : __uint_as_float(0xff800000u);
        rows[blockIdx.x * k + i] = key ? tq_key_row(key) : -1;
    }
}

// Keys of `count` rows and their scores; 0 where a row is negative.
extern "C" __global__ void __launch_bounds__(256) tq_keys(const float* scores, const i64* rows, i64 count, u64* keys) {
    const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) keys[i] = rows[i] < 0 ? 0 : tq_key(scores[i], rows[i]);
}
