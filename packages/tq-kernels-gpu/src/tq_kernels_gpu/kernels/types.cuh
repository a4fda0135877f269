// Types, memory and conversions shared by all kernels. No toolkit header is included: NVRTC then needs nothing but
// itself. TQ_SHIM is defined where the tests compile this for the CPU.

#ifdef TQ_SHIM
#define TQ_DYNAMIC_SHARED(name) unsigned char* name = tq_shim_shared()
#else
// one declaration for all kernels of a module: CUDA wants it to have one type
extern __shared__ __align__(16) unsigned char tq_dynamic_shared[];
#define TQ_DYNAMIC_SHARED(name) unsigned char* name = tq_dynamic_shared
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef short i16;
typedef int i32;
typedef long long i64;

#define TQ_ALL_LANES 0xffffffffu
#define TQ_DEVICE __device__ __forceinline__

// Numbers of the dtypes of inputs and outputs; DTYPES of layout.py.
enum { TQ_F32 = 0, TQ_F16 = 1, TQ_BF16 = 2, TQ_F64 = 3 };

TQ_DEVICE float tq_from_half(u16 bits) {
#ifdef TQ_SHIM
    return tq_shim_from_half(bits);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

TQ_DEVICE u16 tq_to_half(float value) {
#ifdef TQ_SHIM
    return tq_shim_to_half(value);
#else
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#endif
}

TQ_DEVICE float tq_from_bfloat(u16 bits) { return __uint_as_float((u32)bits << 16); }

// Round to nearest even; a NaN stays one.
TQ_DEVICE u16 tq_to_bfloat(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (u16)((bits >> 16) | 0x40);
    return (u16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

TQ_DEVICE float tq_load(const void* from, int dtype, i64 index) {
    if (dtype == TQ_F16) return tq_from_half(((const u16*)from)[index]);
    if (dtype == TQ_BF16) return tq_from_bfloat(((const u16*)from)[index]);
    if (dtype == TQ_F64) return (float)((const double*)from)[index];
    return ((const float*)from)[index];
}

TQ_DEVICE double tq_load_double(const void* from, int dtype, i64 index) {
    return dtype == TQ_F64 ? ((const double*)from)[index] : (double)tq_load(from, dtype, index);
}

TQ_DEVICE void tq_store(void* to, int dtype, i64 index, float value) {
    if (dtype == TQ_F16)
        ((u16*)to)[index] = tq_to_half(value);
    else if (dtype == TQ_BF16)
        ((u16*)to)[index] = tq_to_bfloat(value);
    else
        ((float*)to)[index] = value;
}

// Negates where `bit` is 1.
TQ_DEVICE float tq_flip(float value, u32 bit) { return __uint_as_float(__float_as_uint(value) ^ (bit << 31)); }
