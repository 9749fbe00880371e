// The native code for x86-64 processors with AVX-512.
#ifdef __x86_64__
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define WIDTH avx512
#define BYTES 64
#define REGISTERS 16

namespace avx512 {
#include "cpu.h"
#include "elementary.h"
__forceinline__ __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
__forceinline__ __m512d multiply_add(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
__forceinline__ float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__forceinline__ double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#include "squeeze.h"
#include "width.h"
}  // namespace avx512

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
