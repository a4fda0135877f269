// Runs CUDA kernels on the CPU: one block after the other, each thread of a block a fiber. A fiber runs until it ends
// or meets a barrier; shuffles and votes are an exchange array around a barrier of the warp. What it shows is the logic
// of a kernel: indices, barriers, arithmetic. A race shows only where running threads from the last to the first gives
// another result; speed does not show at all.

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
#define SHIM_UCONTEXT 1
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

enum shim_state { SHIM_READY, SHIM_AT_BLOCK, SHIM_AT_WARP, SHIM_DONE };

struct shim_fiber {
    void* stack_pointer;
    unsigned char* stack;
    shim_state state;
    unsigned mask;   // of the warp barrier it waits at
    unsigned turn;   // exchanges it took part in
    unsigned block_turn;
    uint3 index;
    unsigned lane, warp;
#ifdef SHIM_UCONTEXT
    ucontext_t context;
#endif
};

static const unsigned SHIM_MOST_THREADS = 1024, SHIM_STACK = 128 * 1024, SHIM_SHARED_BYTES = 256 * 1024, SHIM_GUARD = 256;

static shim_fiber shim_fibers[SHIM_MOST_THREADS];
static shim_fiber shim_scheduler;
static shim_fiber* shim_current;
static unsigned shim_threads;
static uint64_t shim_slots[SHIM_MOST_THREADS / 32][2][32];  // what lanes give to an exchange, by its parity
static int shim_votes[2][SHIM_MOST_THREADS];
alignas(128) static unsigned char shim_shared_bytes[SHIM_SHARED_BYTES + SHIM_GUARD];
static uint3 shim_block_index;
static dim3 shim_block_size, shim_grid_size;
static bool shim_reversed;  // threads run from the last to the first between barriers: shows what a barrier is missing for
static void (*shim_body)(void**);
static void** shim_arguments;

#define threadIdx (shim_current->index)
#define blockIdx shim_block_index
#define blockDim shim_block_size
#define gridDim shim_grid_size
#define warpSize 32

static inline unsigned char* tq_shim_shared() { return shim_shared_bytes; }

static void shim_fiber_main() {
    shim_body(shim_arguments);
    shim_current->state = SHIM_DONE;
}

#if defined(__x86_64__)
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.hidden shim_switch
.globl shim_switch
.type shim_switch, @function
shim_switch:
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
.size shim_switch, .-shim_switch
)");
enum { SHIM_SAVED = 6 };
#elif defined(__aarch64__)
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.text
.hidden shim_switch
.globl shim_switch
.type shim_switch, %function
shim_switch:
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
.size shim_switch, .-shim_switch
)");
#endif

static void shim_to_scheduler() {
#ifdef SHIM_UCONTEXT
    swapcontext(&shim_current->context, &shim_scheduler.context);
#else
    shim_switch(&shim_current->stack_pointer, shim_scheduler.stack_pointer);
#endif
}

static void shim_enter() {
    shim_fiber_main();
    shim_to_scheduler();
    abort();  // a finished fiber is never resumed
}

static void shim_prepare(shim_fiber* fiber) {
#ifdef SHIM_UCONTEXT
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = SHIM_STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, shim_enter, 0);
#elif defined(__x86_64__)
    void** top = (void**)(fiber->stack + SHIM_STACK);
    *--top = nullptr;           // the ABI wants rsp + 8 to be a multiple of 16 at entry
    *--top = (void*)shim_enter;   // where `ret` goes
    for (int i = 0; i < SHIM_SAVED; i++) *--top = nullptr;
    fiber->stack_pointer = top;
#else
    void** top = (void**)(fiber->stack + SHIM_STACK - 160);
    memset(top, 0, 160);
    top[11] = (void*)shim_enter;  // x30
    fiber->stack_pointer = top;
#endif
}

static void shim_resume(shim_fiber* fiber) {
    shim_current = fiber;
#ifdef SHIM_UCONTEXT
    swapcontext(&shim_scheduler.context, &fiber->context);
#else
    shim_switch(&shim_scheduler.stack_pointer, fiber->stack_pointer);
#endif
}

// ---- barriers --------------------------------------------------------------------------------------------------------

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

// ---- intrinsics ------------------------------------------------------------------------------------------------------

template <class To, class From>
static inline To shim_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline float __uint_as_float(unsigned bits) { return shim_bits<float>(bits); }
static inline unsigned __float_as_uint(float value) { return shim_bits<unsigned>(value); }
static inline float __int_as_float(int bits) { return shim_bits<float>(bits); }
static inline int __float_as_int(float value) { return shim_bits<int>(value); }
static inline double __longlong_as_double(long long bits) { return shim_bits<double>(bits); }
static inline long long __double_as_longlong(double value) { return shim_bits<long long>(value); }
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

// ---- matrices of a warp ----------------------------------------------------------------------------------------------

// d += a b in the fragments of mma.m16n8k16, sums in float32 in ascending order.
static inline void tq_shim_mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    uint64_t given[3][32];
    const uint64_t own[3] = {(uint64_t)a[1] << 32 | a[0], (uint64_t)a[3] << 32 | a[2], (uint64_t)b1 << 32 | b0};
    for (int part = 0; part < 3; part++) memcpy(given[part], shim_exchange(0xffffffffu, own[part]), sizeof given[part]);
    const int group = shim_current->lane >> 2, quad = shim_current->lane & 3;
    float left[2][16], right[2][16];
    for (int k = 0; k < 16; k++) {
        const int place = k >> 1 & 3, shift = 16 * (k & 1), second = k >> 3;
        for (int half = 0; half < 2; half++) {
            left[half][k] = tq_shim_from_half(given[second][4 * group + place] >> (32 * half + shift));
            right[half][k] = tq_shim_from_half(given[2][4 * (2 * quad + half) + place] >> (32 * second + shift));
        }
    }
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 2; column++)
            for (int k = 0; k < 16; k++) d[2 * row + column] += left[row][k] * right[column][k];
}

// The transpose of an (8, 8) matrix of halves, two columns of a row in each lane.
static inline unsigned tq_shim_transpose(unsigned pair) {
    const uint64_t* slots = shim_exchange(0xffffffffu, pair);
    const int row = shim_current->lane >> 2, column = 2 * (shim_current->lane & 3);
    const unsigned low = slots[4 * column + row / 2] >> (16 * (row & 1)) & 0xffff;
    return low | (slots[4 * (column + 1) + row / 2] >> (16 * (row & 1)) & 0xffff) << 16;
}

// ---- launching -------------------------------------------------------------------------------------------------------

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
