// Barriers of a block and of a warp; shuffles and votes are an exchange array around a barrier of the warp.

#pragma once

#include <algorithm>

#include "fibers.h"

static inline __attribute__((noinline)) void __syncthreads() {
    shim_current->state = SHIM_AT_BLOCK;
    shim_to_scheduler();
}

static inline __attribute__((noinline)) void __syncwarp(unsigned mask = 0xffffffffu) {
    shim_current->mask = mask;
    shim_current->state = SHIM_AT_WARP;
    shim_to_scheduler();
}

static inline int __syncthreads_count(int predicate) {
    int* votes = shim_votes[shim_current->block_turn++ & 1];
    votes[shim_current - shim_fibers] = predicate != 0;
    __syncthreads();
    int count = 0;
    for (unsigned i = 0; i < shim_threads; i++) count += votes[i];
    return count;
}
static inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
static inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }

// Gives a value to the lanes of `mask` and takes what all gave; two arrays in turn, so that one barrier is enough.
static inline uint64_t* shim_exchange(unsigned mask, uint64_t value) {
    uint64_t* slots = shim_slots[shim_current->warp][shim_current->turn++ & 1];
    slots[shim_current->lane] = value;
    __syncwarp(mask);
    return slots;
}

template <class T>
static inline T shim_shuffle(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 8, "a lane gives eight bytes at most");
    uint64_t raw = 0;
    memcpy(&raw, &value, sizeof value);
    const uint64_t* slots = shim_exchange(mask, raw);
    if (!(mask >> from & 1)) from = shim_current->lane;  // undefined on a device; here at least the same every time
    T result;
    memcpy(&result, &slots[from], sizeof result);
    return result;
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const int base = shim_current->lane & ~(width - 1);
    return shim_shuffle(mask, value, base + (from & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned from = shim_current->lane ^ bits;
    return shim_shuffle(mask, value, (from & ~(width - 1)) > (shim_current->lane & ~(width - 1)) ? shim_current->lane : from);
}
static inline unsigned __reduce_min_sync(unsigned mask, unsigned value) {
    const uint64_t* slots = shim_exchange(mask, value);
    unsigned least = value;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) least = std::min(least, (unsigned)slots[lane]);
    return least;
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = shim_current->lane, inside = lane & (width - 1);
    return shim_shuffle(mask, value, inside + by < (unsigned)width ? lane + by : lane);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = shim_current->lane, inside = lane & (width - 1);
    return shim_shuffle(mask, value, inside >= by ? lane - by : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const uint64_t* slots = shim_exchange(mask, predicate != 0);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((mask >> lane & 1) && slots[lane]) result |= 1u << lane;
    return result;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
