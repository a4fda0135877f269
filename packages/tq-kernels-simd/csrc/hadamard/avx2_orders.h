/* The matrices of orders.h over four and over eight floats, with FMA. Private to csrc/hadamard/avx*.c. */
#ifndef TQ_HADAMARD_AVX2_ORDERS_H
#define TQ_HADAMARD_AVX2_ORDERS_H

#include <immintrin.h>

#include "hadamard/paley.h"

typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float f32x8 __attribute__((vector_size(32), aligned(4), may_alias));

#define VECTOR f32x4
#define ORDER(name) name##_f32x4
#define PLUS(a, b) (VECTOR)_mm_fmadd_ps(b, _mm_set1_ps(1.0f), a)
#define MINUS(a, b) (VECTOR)_mm_fnmadd_ps(b, _mm_set1_ps(1.0f), a)
#define PLUS_TWICE(a, b) (VECTOR)_mm_fmadd_ps(b, _mm_set1_ps(2.0f), a)
#define NEITHER(a, b) (VECTOR)_mm_fnmsub_ps(a, _mm_set1_ps(1.0f), b)
#include "hadamard/orders.h"

#define VECTOR f32x8
#define ORDER(name) name##_f32x8
#define PLUS(a, b) (VECTOR)_mm256_fmadd_ps(b, _mm256_set1_ps(1.0f), a)
#define MINUS(a, b) (VECTOR)_mm256_fnmadd_ps(b, _mm256_set1_ps(1.0f), a)
#define PLUS_TWICE(a, b) (VECTOR)_mm256_fmadd_ps(b, _mm256_set1_ps(2.0f), a)
#define NEITHER(a, b) (VECTOR)_mm256_fnmsub_ps(a, _mm256_set1_ps(1.0f), b)
#include "hadamard/orders.h"

#endif
