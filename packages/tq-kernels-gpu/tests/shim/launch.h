// Launching: a thunk for each kernel, the scheduler of a block, and the grid, one block after the other.

#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "fibers.h"

template <class... Types, size_t... Places>
static inline void shim_call(void (*kernel)(Types...), void** arguments, std::index_sequence<Places...>) {
    kernel(*(typename std::remove_const<Types>::type*)arguments[Places]...);
}
#define TQ_EXPORT(kernel)                                                                                              \
    template <class... Types>                                                                                          \
    static int shim_count_##kernel(void (*)(Types...)) { return sizeof...(Types); }                                      \
    template <class... Types>                                                                                          \
    static void shim_sizes_##kernel(void (*)(Types...), int* sizes) { int at = 0; ((sizes[at++] = sizeof(Types)), ...); } \
    template <class... Types>                                                                                          \
    static void shim_spread_##kernel(void (*f)(Types...), void** a) {                                                    \
        shim_call(f, a, std::index_sequence_for<Types...>());                                                            \
    }                                                                                                                  \
    extern "C" int tq_parameters_##kernel(int* sizes) {                                                                \
        if (sizes) shim_sizes_##kernel(kernel, sizes);                                                                   \
        return shim_count_##kernel(kernel);                                                                              \
    }                                                                                                                  \
    extern "C" void tq_thunk_##kernel(void** a) { shim_spread_##kernel(kernel, a); }

static bool shim_all_done_or(shim_state state) {
    for (unsigned i = 0; i < shim_threads; i++)
        if (shim_fibers[i].state != SHIM_DONE && shim_fibers[i].state != state) return false;
    return true;
}

// Lets lanes go on whose whole mask waits at the same warp barrier; returns whether any could.
static bool shim_release_warp(unsigned warp) {
    bool released = false;
    shim_fiber* lanes = shim_fibers + 32 * warp;
    const unsigned count = std::min(32u, shim_threads - 32 * warp);
    for (unsigned lane = 0; lane < count; lane++) {
        if (lanes[lane].state != SHIM_AT_WARP) continue;
        const unsigned mask = lanes[lane].mask & (count == 32 ? 0xffffffffu : (1u << count) - 1);
        bool all = true;
        for (unsigned other = 0; other < count && all; other++)
            if (mask >> other & 1) all = lanes[other].state == SHIM_AT_WARP && lanes[other].mask == lanes[lane].mask;
        if (!all) continue;
        for (unsigned other = 0; other < count; other++)
            if (mask >> other & 1) lanes[other].state = SHIM_READY;
        released = true;
    }
    return released;
}

// 0, or 1 where threads wait for each other at different barriers: a kernel that would hang or be undefined.
static int shim_run_block() {
    for (unsigned i = 0; i < shim_threads; i++) {
        shim_fiber* fiber = &shim_fibers[i];
        fiber->state = SHIM_READY;
        fiber->turn = fiber->block_turn = 0;
        fiber->lane = i & 31;
        fiber->warp = i >> 5;
        fiber->index = {i % shim_block_size.x, i / shim_block_size.x % shim_block_size.y, i / (shim_block_size.x * shim_block_size.y)};
        shim_prepare(fiber);
    }
    for (;;) {
        bool progress = false;
        const unsigned warps = (shim_threads + 31) / 32;
        for (unsigned at = 0; at < warps; at++) {
            const unsigned warp = shim_reversed ? warps - 1 - at : at;
            const unsigned count = std::min(32u, shim_threads - warp * 32);
            do {
                for (unsigned i = 0; i < count; i++) {
                    shim_fiber* fiber = &shim_fibers[warp * 32 + (shim_reversed ? count - 1 - i : i)];
                    if (fiber->state != SHIM_READY) continue;
                    shim_resume(fiber);
                    progress = true;
                }
            } while (shim_release_warp(warp));
        }
        if (shim_all_done_or(SHIM_DONE)) return 0;
        if (shim_all_done_or(SHIM_AT_BLOCK)) {
            for (unsigned i = 0; i < shim_threads; i++)
                if (shim_fibers[i].state == SHIM_AT_BLOCK) shim_fibers[i].state = SHIM_READY;
        } else if (!progress) {
            return 1;
        }
    }
}

extern "C" int tq_launch(void (*thunk)(void**), const unsigned* grid, const unsigned* block, void** arguments, unsigned shared,
                         int reversed) {
    shim_grid_size = {grid[0], grid[1], grid[2]};
    shim_block_size = {block[0], block[1], block[2]};
    shim_threads = block[0] * block[1] * block[2];
    shim_body = thunk;
    shim_arguments = arguments;
    shim_reversed = reversed != 0;
    if (shim_threads == 0 || shim_threads > SHIM_MOST_THREADS || shared > SHIM_SHARED_BYTES) return 2;
    for (unsigned i = 0; i < shim_threads; i++)
        if (!shim_fibers[i].stack) {
            void* stack = mmap(nullptr, SHIM_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (stack == MAP_FAILED) return 3;
            shim_fibers[i].stack = (unsigned char*)stack;
        }
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                shim_block_index = {x, y, z};
                memset(shim_shared_bytes, 0xff, shared + SHIM_GUARD);  // NaN: what is read before it is written shows
                if (int failed = shim_run_block()) return failed;
                for (unsigned i = shared; i < shared + SHIM_GUARD; i++)
                    if (shim_shared_bytes[i] != 0xff) return 4;
            }
    return 0;
}
