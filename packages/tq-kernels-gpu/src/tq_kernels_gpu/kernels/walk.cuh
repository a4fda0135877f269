// The best path through a trellis by one block (docs/format.md, section 10), to the bit: integer metrics of 16 bits.
//
// Node n is entered by the windows n + i * NODES, i < BRANCHES, each from node window >> BITS. A thread owns OWN nodes:
// GROUPS groups of FAN neighbours that are entered from the same nodes, so that a metric is read once a group; where
// there are fewer nodes than lanes, SPLIT lanes share the branches of a node. Its levels stay in registers for the whole
// walk. A step reads one buffer of metrics, writes the other, and ends in a barrier; the minimum that the next step
// subtracts is found on the way. What survives of a step is one byte a thread: OWN * BITS bits are 8 at most.

#include "types.cuh"

enum { TQ_LARGEST = 65535 };  // a metric saturates here

// Buffers of one block, in shared memory; survivors may lie in global memory.
struct TqWalk {
    u16* metrics;   // (2, nodes)
    u32* least;     // (2, 8): the minimum of each warp's metrics
    u8* survivors;  // (dim, threads or, if fewer, nodes)
    u8* symbols;    // (dim,)
    const i16* x;   // (dim,): coordinates, the last one of the row first
    int dim;
};

// The least value of the lanes of a warp, to all of them.
TQ_DEVICE u32 tq_warp_min(u32 value) {
#if !defined(TQ_SHIM) && __CUDA_ARCH__ < 800
#pragma unroll
    for (int reach = 16; reach; reach >>= 1) value = min(value, __shfl_xor_sync(TQ_ALL_LANES, value, reach));
    return value;
#else
    return __reduce_min_sync(TQ_ALL_LANES, value);
#endif
}

TQ_DEVICE int tq_to_i16(int value) { return max(-32768, min(32767, value)); }

template <int BITS, int WINDOW, int THREADS>
struct TqTrellisWalk {
    static constexpr int NODES = 1 << (WINDOW - BITS), BRANCHES = 1 << BITS, WARPS = THREADS / 32;
    static constexpr int OWN = NODES > THREADS ? NODES / THREADS : 1;
    static constexpr int FAN = OWN < BRANCHES ? OWN : BRANCHES, GROUPS = OWN / FAN;
    static constexpr int LANES = NODES < THREADS ? NODES : THREADS;  // threads that own different nodes
    static constexpr int SPLIT = THREADS / LANES < BRANCHES ? THREADS / LANES : BRANCHES;
    static constexpr int MINE = BRANCHES / SPLIT;
    static_assert(LANES == THREADS || THREADS == 32, "only the lanes of one warp share nodes");
    static_assert(OWN * BITS <= 8 && BRANCHES % SPLIT == 0 && (FAN == 1 || FAN == 2 || FAN == 4), "");

    // The node of a thread's group and place in it, as the window of branch 0.
    static TQ_DEVICE int node_of(int thread, int group, int place) {
        return FAN * ((thread & (LANES - 1)) + LANES * group) + place;
    }

    // The metrics of a group, neighbours, at once.
    static TQ_DEVICE void store(u16* to, const u32 (&metrics)[FAN]) {
        if constexpr (FAN == 4)
            *(uint2*)to = make_uint2(metrics[0] | metrics[1] << 16, metrics[2] | metrics[3] << 16);
        else if constexpr (FAN == 2)
            *(u32*)to = metrics[0] | metrics[1] << 16;
        else
            *to = (u16)metrics[0];
    }

    static TQ_DEVICE void barrier() {
        if (WARPS == 1)
            __syncwarp();
        else
            __syncthreads();
    }

    // The least of the threads' values, to all of them; leaves `least` free.
    static TQ_DEVICE u32 block_min(u32 value, u32* least) {
        value = tq_warp_min(value);
        if (WARPS == 1) return value;
        if ((threadIdx.x & 31) == 0) least[threadIdx.x >> 5] = value;
        __syncthreads();
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) value = min(value, least[warp]);
        __syncthreads();
        return value;
    }

    // Walks all coordinates, from number `first` on around the circle. `start`: the only node to start from, -1 for any.
    // The metrics behind the last step are in buffer dim & 1; barriers before and after are its own.
    static TQ_DEVICE void forward(const TqWalk& walk, const i16* levels, int first, int start) {
        const int part = SPLIT == 1 ? 0 : (threadIdx.x / LANES & (SPLIT - 1)) * MINE;
        int doubled[GROUPS][MINE][FAN];
        u32 nearest = TQ_LARGEST;
#pragma unroll
        for (int group = 0; group < GROUPS; group++)
#pragma unroll
            for (int place = 0; place < FAN; place++) {
                const int node = node_of(threadIdx.x, group, place);
#pragma unroll
                for (int i = 0; i < MINE; i++) doubled[group][i][place] = 2 * levels[node + (part + i) * NODES];
                const u32 metric = start < 0 || node == start ? 0 : TQ_LARGEST;
                walk.metrics[node] = (u16)metric;
                nearest = min(nearest, metric);
            }
        nearest = tq_warp_min(nearest);
        if (WARPS > 1 && (threadIdx.x & 31) == 0) walk.least[threadIdx.x >> 5] = nearest;
        barrier();
        int at = first;
#pragma unroll 1
        for (int step = 0; step < walk.dim; step++) {
            const u16* from = walk.metrics + (step & 1) * NODES;
            u16* to = walk.metrics + (~step & 1) * NODES;
            const int x = walk.x[at];
            // A difference is clamped to 32767 or -32768, and its square is then 32766 or 32768 units. As levels are below
            // 16384, only a positive x leads beyond the one end, only a negative x beyond the other.
            const u32 most = x > 0 ? 32766 : 32768;
            if (++at == walk.dim) at = 0;
            u32 least = nearest;
#pragma unroll
            for (int warp = 0; WARPS > 1 && warp < WARPS; warp++) least = min(least, walk.least[(step & 1) * 8 + warp]);
            nearest = TQ_LARGEST;
            u32 survivor = 0;
#pragma unroll
            for (int group = 0; group < GROUPS; group++) {
                // cost << BITS | branch: the least of these is the first of the cheapest, saturated ones being equal
                u32 best[FAN];
#pragma unroll
                for (int place = 0; place < FAN; place++) best[place] = (u32)TQ_LARGEST << BITS;
#pragma unroll
                for (int i = 0; i < MINE; i++) {
                    const int branch = part + i;
                    const u32 before = from[(node_of(threadIdx.x, group, 0) + branch * NODES) >> BITS];
                    const u32 base = before << BITS | branch;
#pragma unroll
                    for (int place = 0; place < FAN; place++) {
                        const u32 difference = (u32)(x - doubled[group][i][place]);  // below 65536 in magnitude
                        const u32 metric = min((difference * difference + 16384) >> 15, most);
                        best[place] = min(best[place], base + (metric << BITS));
                    }
                }
#pragma unroll
                for (int place = 0; place < FAN; place++) {
#pragma unroll
                    for (int reach = LANES; reach < LANES * SPLIT; reach *= 2)
                        best[place] = min(best[place], __shfl_xor_sync(TQ_ALL_LANES, best[place], reach));
                    survivor |= (best[place] & (BRANCHES - 1)) << (BITS * (group * FAN + place));
                    best[place] = (best[place] >> BITS) - least;
                    nearest = min(nearest, best[place]);
                }
                store(to + node_of(threadIdx.x, group, 0), best);
            }
            walk.survivors[(i64)step * LANES + (threadIdx.x & (LANES - 1))] = (u8)survivor;
            nearest = tq_warp_min(nearest);
            if (WARPS > 1 && (threadIdx.x & 31) == 0) walk.least[(~step & 1) * 8 + (threadIdx.x >> 5)] = nearest;
            barrier();
        }
    }

    // The node of least metric behind the last step, the smallest among equals, to all threads.
    static TQ_DEVICE int best_end(const TqWalk& walk) {
        const u16* last = walk.metrics + (walk.dim & 1) * NODES;
        u32 best = ~0u;
#pragma unroll
        for (int own = 0; own < OWN; own++) {
            const int node = node_of(threadIdx.x, own / FAN, own % FAN);
            best = min(best, (u32)last[node] << 16 | node);
        }
        return block_min(best, walk.least) & 0xffff;
    }

    // By one thread: the node before step `stop` on the best path into `node`. With `symbols` those of the path are written,
    // step s to place dim - 1 - s, which is its coordinate if the walk began at number 0.
    static TQ_DEVICE int backward(const TqWalk& walk, int node, int stop, u8* symbols) {
#pragma unroll 1
        for (int step = walk.dim - 1; step >= stop; step--) {
            const int group = node / FAN;
            const u32 survivor = walk.survivors[(i64)step * LANES + (group & (LANES - 1))];
            const u32 branch = survivor >> (BITS * (group / LANES * FAN + node % FAN)) & (BRANCHES - 1);
            const int window = node + (int)branch * NODES;
            if (symbols) symbols[walk.dim - 1 - step] = (u8)(window & (BRANCHES - 1));
            node = window >> BITS;
        }
        return node;
    }

    // A value of thread 0 to all threads, with all that it wrote before; leaves `least` free.
    static TQ_DEVICE int from_first(int value, u32* least) {
        if (WARPS == 1) {
            __syncwarp();  // a shuffle alone orders no memory
            return __shfl_sync(TQ_ALL_LANES, value, 0);
        }
        if (threadIdx.x == 0) least[0] = value;
        __syncthreads();
        value = least[0];
        __syncthreads();
        return value;
    }

    // The circular path of two passes, as symbols; all threads may read them when it returns. The first pass, begun half
    // a turn away, finds the node in which the second one begins and ends.
    static TQ_DEVICE void tail_biting(const TqWalk& walk, const i16* levels) {
        const int half = walk.dim / 2;
        int seam = -1;
#pragma unroll 1
        for (int pass = 0; pass < 2; pass++) {
            forward(walk, levels, pass ? 0 : half, seam);
            const int end = pass ? seam : best_end(walk);
            if (threadIdx.x == 0) seam = backward(walk, end, pass ? 0 : walk.dim - half, pass ? walk.symbols : nullptr);
            seam = from_first(seam, walk.least);
        }
    }
};
