// Matrix products of a warp, and copies to shared memory that run beside it.

#include "types.cuh"

// d += a b for a (16, 16) and b (16, 8) of halves. Lane 4 g + t has, of a, rows g (a[0], a[2]) and g + 8 (a[1], a[3])
// at columns 2 t, 2 t + 1 (a[0], a[1]) and 2 t + 8, 2 t + 9; of b, column g at rows 2 t, 2 t + 1 (b0) and 2 t + 8, 2 t
// + 9 (b1); of d, columns 2 t, 2 t + 1 of row g and of row g + 8.
TQ_DEVICE void tq_mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef TQ_SHIM
    tq_shim_mma(d, a, b0, b1);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else  // sm_75 has half of it
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

// The transpose of an (8, 8) matrix of halves: lane 4 g + t has row g, columns 2 t and 2 t + 1, before and after.
TQ_DEVICE u32 tq_transpose(u32 pair) {
#ifdef TQ_SHIM
    return tq_shim_transpose(pair);
#else
    u32 turned;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
    return turned;
#endif
}

TQ_DEVICE u32 tq_half_pair(float low, float high) {
#if !defined(TQ_SHIM) && __CUDA_ARCH__ >= 800
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return tq_to_half(low) | (u32)tq_to_half(high) << 16;
#endif
}

// Where shared memory is written by copies: an address of its own space.
#ifdef TQ_SHIM
typedef u8* TqAddress;
TQ_DEVICE TqAddress tq_address(u8* shared) { return shared; }
#else
typedef u32 TqAddress;
TQ_DEVICE TqAddress tq_address(u8* shared) { return (u32)__cvta_generic_to_shared(shared); }
#endif

// Copies up to four bytes from any address, at once.
TQ_DEVICE void tq_copy_any(TqAddress to, const u8* from, int count) {
    u32 word = 0;
    for (int i = 0; i < count; i++) word |= (u32)from[i] << (8 * i);
#ifdef TQ_SHIM
    *(u32*)to = word;
#else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
#endif
}

// Copies BYTES (4 or 16), of which the first `valid` are read and the others become 0. Both ends are aligned to BYTES.
// What is copied may be read after tq_copies_done and a barrier.
template <int BYTES>
TQ_DEVICE void tq_copy(TqAddress to, const u8* from, int valid) {
#ifdef TQ_SHIM
    for (int i = 0; i < BYTES; i++) to[i] = i < valid ? from[i] : 0;
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid) : "memory");
#else  // sm_75 has no such copies
    for (int i = 0; i < BYTES; i += 4) tq_copy_any(to + i, from + i, max(0, min(4, valid - i)));
#endif
}

// Ends a group of copies.
TQ_DEVICE void tq_copies_end() {
#if !defined(TQ_SHIM) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for this thread's copies, but for those of the last LEFT groups.
template <int LEFT>
TQ_DEVICE void tq_copies_done() {
#if !defined(TQ_SHIM) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

// A warp copies `bytes` bytes that follow each other to shared memory, aligned to 16 there and any way here. The room
// there is `bytes` rounded up to 16.
TQ_DEVICE void tq_copy_warp(TqAddress to, const u8* from, int bytes, int lane) {
    if ((((u64)from | (u64)bytes) & 15) == 0) {
        to += 16 * lane;
        from += 16 * lane;
        for (int left = bytes - 16 * lane; left > 0; left -= 512, to += 512, from += 512) tq_copy<16>(to, from, 16);
    } else if (((u64)from & 3) == 0) {
#pragma unroll 1
        for (int at = 4 * lane; at < bytes; at += 4 * 32) tq_copy<4>(to + at, from + at, min(4, bytes - at));
    } else {
#pragma unroll 1
        for (int at = 4 * lane; at < bytes; at += 4 * 32) tq_copy_any(to + at, from + at, min(4, bytes - at));
    }
}
