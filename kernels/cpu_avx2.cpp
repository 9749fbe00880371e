// The native code for x86-64 processors with AVX2 and FMA.
#ifdef __x86_64__
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define WIDTH avx2
#define BYTES 32
#define REGISTERS 12

namespace avx2 {
#include "cpu.h"
#include "elementary.h"
__forceinline__ __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
__forceinline__ __m256d multiply_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
__forceinline__ float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__forceinline__ double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#include "squeeze.h"
#include "width.h"
}  // namespace avx2

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
