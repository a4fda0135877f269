// Runs CUDA kernels on the CPU: one block after the other, each thread of a block a fiber. A fiber runs until it ends
// or meets a barrier; shuffles and votes are an exchange array around a barrier of the warp. What it shows is the logic
// of a kernel: indices, barriers, arithmetic. It shows neither races within a barrier's interval nor speed.

#pragma once
#define TQ_SHIM 1

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <tuple>
#include <type_traits>
#include <utility>
#include <algorithm>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define TQ_SHIM_UCONTEXT 1
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __restrict__

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- fibers ----------------------------------------------------------------------------------------------------------

enum tq_state { TQ_READY, TQ_AT_BLOCK, TQ_AT_WARP, TQ_DONE };

struct tq_fiber {
    void* stack_pointer;
    unsigned char* stack;
    tq_state state;
    unsigned mask;   // of the warp barrier it waits at
    unsigned turn;   // exchanges it took part in
    unsigned block_turn;
    uint3 index;
    unsigned lane, warp;
#ifdef TQ_SHIM_UCONTEXT
    ucontext_t context;
#endif
};

static const unsigned TQ_MOST_THREADS = 1024, TQ_STACK = 128 * 1024, TQ_SHARED_BYTES = 256 * 1024, TQ_GUARD = 256;

static tq_fiber tq_fibers[TQ_MOST_THREADS];
static tq_fiber tq_scheduler;
static tq_fiber* tq_current;
static unsigned tq_threads;
static uint64_t tq_slots[TQ_MOST_THREADS / 32][2][32];  // what lanes give to an exchange, by its parity
static int tq_votes[2][TQ_MOST_THREADS];
alignas(128) static unsigned char tq_shared_bytes[TQ_SHARED_BYTES + TQ_GUARD];
static uint3 tq_block_index;
static dim3 tq_block_size, tq_grid_size;
static void (*tq_body)(void**);
static void** tq_arguments;

#define threadIdx (tq_current->index)
#define blockIdx tq_block_index
#define blockDim tq_block_size
#define gridDim tq_grid_size
#define warpSize 32

static inline unsigned char* tq_shim_shared() { return tq_shared_bytes; }

static void tq_fiber_main() {
    tq_body(tq_arguments);
    tq_current->state = TQ_DONE;
}

#if defined(__x86_64__)
extern "C" void tq_switch(void** from, void* to);
asm(R"(
.text
.hidden tq_switch
.globl tq_switch
.type tq_switch, @function
tq_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size tq_switch, .-tq_switch
)");
enum { TQ_SAVED = 6 };
#elif defined(__aarch64__)
extern "C" void tq_switch(void** from, void* to);
asm(R"(
.text
.hidden tq_switch
.globl tq_switch
.type tq_switch, %function
tq_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size tq_switch, .-tq_switch
)");
#endif

static void tq_to_scheduler() {
#ifdef TQ_SHIM_UCONTEXT
    swapcontext(&tq_current->context, &tq_scheduler.context);
#else
    tq_switch(&tq_current->stack_pointer, tq_scheduler.stack_pointer);
#endif
}

static void tq_enter() {
    tq_fiber_main();
    tq_to_scheduler();
    abort();  // a finished fiber is never resumed
}

static void tq_prepare(tq_fiber* fiber) {
#ifdef TQ_SHIM_UCONTEXT
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = TQ_STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, tq_enter, 0);
#elif defined(__x86_64__)
    void** top = (void**)(fiber->stack + TQ_STACK);
    *--top = nullptr;           // the ABI wants rsp + 8 to be a multiple of 16 at entry
    *--top = (void*)tq_enter;   // where `ret` goes
    for (int i = 0; i < TQ_SAVED; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    void** top = (void**)(fiber->stack + TQ_STACK - 160);
    memset(top, 0, 160);
    top[11] = (void*)tq_enter;  // x30
    fiber->stack_pointer = top;
#endif
}

static void tq_resume(tq_fiber* fiber) {
    tq_current = fiber;
#ifdef TQ_SHIM_UCONTEXT
    swapcontext(&tq_scheduler.context, &fiber->context);
#else
    tq_switch(&tq_scheduler.stack_pointer, fiber->stack_pointer);
#endif
}

// ---- barriers --------------------------------------------------------------------------------------------------------

static inline __attribute__((noinline)) void __syncthreads() {
    tq_current->state = TQ_AT_BLOCK;
    tq_to_scheduler();
}

static inline __attribute__((noinline)) void __syncwarp(unsigned mask = 0xffffffffu) {
    tq_current->mask = mask;
    tq_current->state = TQ_AT_WARP;
    tq_to_scheduler();
}

static inline int __syncthreads_count(int predicate) {
    int* votes = tq_votes[tq_current->block_turn++ & 1];
    votes[tq_current - tq_fibers] = predicate != 0;
    __syncthreads();
    int count = 0;
    for (unsigned i = 0; i < tq_threads; i++) count += votes[i];
    return count;
}
static inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
static inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }

// Gives a value to the lanes of `mask` and takes what all gave; two arrays in turn, so that one barrier is enough.
static inline uint64_t* tq_exchange(unsigned mask, uint64_t value) {
    uint64_t* slots = tq_slots[tq_current->warp][tq_current->turn++ & 1];
    slots[tq_current->lane] = value;
    __syncwarp(mask);
    return slots;
}

template <class T>
static inline T tq_shuffle(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) <= 8, "a lane gives eight bytes at most");
    uint64_t raw = 0;
    memcpy(&raw, &value, sizeof value);
    const uint64_t* slots = tq_exchange(mask, raw);
    if (!(mask >> from & 1)) from = tq_current->lane;  // undefined on a device; here at least the same every time
    T result;
    memcpy(&result, &slots[from], sizeof result);
    return result;
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const int base = tq_current->lane & ~(width - 1);
    return tq_shuffle(mask, value, base + (from & (width - 1)));
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned from = tq_current->lane ^ bits;
    return tq_shuffle(mask, value, (from & ~(width - 1)) > (tq_current->lane & ~(width - 1)) ? tq_current->lane : from);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = tq_current->lane, inside = lane & (width - 1);
    return tq_shuffle(mask, value, inside + by < (unsigned)width ? lane + by : lane);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = tq_current->lane, inside = lane & (width - 1);
    return tq_shuffle(mask, value, inside >= by ? lane - by : lane);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const uint64_t* slots = tq_exchange(mask, predicate != 0);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if ((mask >> lane & 1) && slots[lane]) result |= 1u << lane;
    return result;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// ---- intrinsics ------------------------------------------------------------------------------------------------------

template <class To, class From>
static inline To tq_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline float __uint_as_float(unsigned bits) { return tq_bits<float>(bits); }
static inline unsigned __float_as_uint(float value) { return tq_bits<unsigned>(value); }
static inline float __int_as_float(int bits) { return tq_bits<float>(bits); }
static inline int __float_as_int(float value) { return tq_bits<int>(value); }
static inline double __longlong_as_double(long long bits) { return tq_bits<double>(bits); }
static inline long long __double_as_longlong(double value) { return tq_bits<long long>(value); }
static inline int __clz(int value) { return value ? __builtin_clz(value) : 32; }
static inline int __clzll(long long value) { return value ? __builtin_clzll(value) : 64; }
static inline int __ffs(int value) { return __builtin_ffs(value); }
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const uint64_t both = (uint64_t)high << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
static inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += (int)(signed char)(a >> 8 * i) * (int)(signed char)(b >> 8 * i);
    return sum;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int i = 0; i < 4; i++) sum += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return sum;
}
template <class T>
static inline T __ldg(const T* from) { return *from; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
#define __expf(x) expf(x)  // macros: the C library declares functions of these names
#define __logf(x) logf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) {}
using std::max;
using std::min;

// Blocks and threads run one at a time, so plain reads and writes are atomic.
template <class T, class U>
static inline T atomicAdd(T* at, U value) { T old = *at; *at = old + (T)value; return old; }
template <class T, class U>
static inline T atomicMax(T* at, U value) { T old = *at; *at = old < (T)value ? (T)value : old; return old; }
template <class T, class U>
static inline T atomicMin(T* at, U value) { T old = *at; *at = (T)value < old ? (T)value : old; return old; }
template <class T, class U>
static inline T atomicOr(T* at, U value) { T old = *at; *at = old | (T)value; return old; }
template <class T, class U>
static inline T atomicExch(T* at, U value) { T old = *at; *at = (T)value; return old; }
template <class T, class U, class V>
static inline T atomicCAS(T* at, U expected, V value) { T old = *at; if (old == (T)expected) *at = (T)value; return old; }

static inline float tq_shim_from_half(unsigned short bits) {
    const unsigned sign = (unsigned)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
}
static inline unsigned short tq_shim_to_half(float value) {
    const unsigned bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    const unsigned short sign = (unsigned short)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000u) return sign | 0x7fff;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // rounds to 65536 or more
    if (magnitude >= 0x38800000u) {
        const unsigned rounded = magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1);
        return sign | (unsigned short)(rounded >> 13);
    }
    return sign | (unsigned short)(int)rintf(__uint_as_float(magnitude) * 0x1p24f);  // exact product, one rounding
}

// ---- launching -------------------------------------------------------------------------------------------------------

template <class... Types, size_t... Places>
static inline void tq_call(void (*kernel)(Types...), void** arguments, std::index_sequence<Places...>) {
    kernel(*(typename std::remove_const<Types>::type*)arguments[Places]...);
}
#define TQ_EXPORT(kernel)                                                                                              \
    template <class... Types>                                                                                          \
    static int tq_count_##kernel(void (*)(Types...)) { return sizeof...(Types); }                                      \
    template <class... Types>                                                                                          \
    static void tq_sizes_##kernel(void (*)(Types...), int* sizes) { int at = 0; ((sizes[at++] = sizeof(Types)), ...); } \
    template <class... Types>                                                                                          \
    static void tq_spread_##kernel(void (*f)(Types...), void** a) {                                                    \
        tq_call(f, a, std::index_sequence_for<Types...>());                                                            \
    }                                                                                                                  \
    extern "C" int tq_parameters_##kernel(int* sizes) {                                                                \
        if (sizes) tq_sizes_##kernel(kernel, sizes);                                                                   \
        return tq_count_##kernel(kernel);                                                                              \
    }                                                                                                                  \
    extern "C" void tq_thunk_##kernel(void** a) { tq_spread_##kernel(kernel, a); }

static bool tq_all_done_or(tq_state state) {
    for (unsigned i = 0; i < tq_threads; i++)
        if (tq_fibers[i].state != TQ_DONE && tq_fibers[i].state != state) return false;
    return true;
}

// Lets lanes go on whose whole mask waits at the same warp barrier; returns whether any could.
static bool tq_release_warp(unsigned warp) {
    bool released = false;
    tq_fiber* lanes = tq_fibers + 32 * warp;
    const unsigned count = std::min(32u, tq_threads - 32 * warp);
    for (unsigned lane = 0; lane < count; lane++) {
        if (lanes[lane].state != TQ_AT_WARP) continue;
        const unsigned mask = lanes[lane].mask & (count == 32 ? 0xffffffffu : (1u << count) - 1);
        bool all = true;
        for (unsigned other = 0; other < count && all; other++)
            if (mask >> other & 1) all = lanes[other].state == TQ_AT_WARP && lanes[other].mask == lanes[lane].mask;
        if (!all) continue;
        for (unsigned other = 0; other < count; other++)
            if (mask >> other & 1) lanes[other].state = TQ_READY;
        released = true;
    }
    return released;
}

// 0, or 1 where threads wait for each other at different barriers: a kernel that would hang or be undefined.
static int tq_run_block() {
    for (unsigned i = 0; i < tq_threads; i++) {
        tq_fiber* fiber = &tq_fibers[i];
        fiber->state = TQ_READY;
        fiber->turn = fiber->block_turn = 0;
        fiber->lane = i & 31;
        fiber->warp = i >> 5;
        fiber->index = {i % tq_block_size.x, i / tq_block_size.x % tq_block_size.y, i / (tq_block_size.x * tq_block_size.y)};
        tq_prepare(fiber);
    }
    for (;;) {
        bool progress = false;
        for (unsigned warp = 0; warp * 32 < tq_threads; warp++) {
            do {
                for (unsigned i = warp * 32; i < std::min(tq_threads, warp * 32 + 32); i++)
                    if (tq_fibers[i].state == TQ_READY) {
                        tq_resume(&tq_fibers[i]);
                        progress = true;
                    }
            } while (tq_release_warp(warp));
        }
        if (tq_all_done_or(TQ_DONE)) return 0;
        if (tq_all_done_or(TQ_AT_BLOCK)) {
            for (unsigned i = 0; i < tq_threads; i++)
                if (tq_fibers[i].state == TQ_AT_BLOCK) tq_fibers[i].state = TQ_READY;
        } else if (!progress) {
            return 1;
        }
    }
}

extern "C" int tq_launch(void (*thunk)(void**), const unsigned* grid, const unsigned* block, void** arguments, unsigned shared) {
    tq_grid_size = {grid[0], grid[1], grid[2]};
    tq_block_size = {block[0], block[1], block[2]};
    tq_threads = block[0] * block[1] * block[2];
    tq_body = thunk;
    tq_arguments = arguments;
    if (tq_threads == 0 || tq_threads > TQ_MOST_THREADS || shared > TQ_SHARED_BYTES) return 2;
    for (unsigned i = 0; i < tq_threads; i++)
        if (!tq_fibers[i].stack) {
            void* stack = mmap(nullptr, TQ_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (stack == MAP_FAILED) return 3;
            tq_fibers[i].stack = (unsigned char*)stack;
        }
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                tq_block_index = {x, y, z};
                memset(tq_shared_bytes, 0xff, shared + TQ_GUARD);  // NaN: what is read before it is written shows
                if (int failed = tq_run_block()) return failed;
                for (unsigned i = shared; i < shared + TQ_GUARD; i++)
                    if (tq_shared_bytes[i] != 0xff) return 4;
            }
    return 0;
}
