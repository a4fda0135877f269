// Functions that a device has as single instructions: bits, integers, float32, and atomics.

#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>

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
