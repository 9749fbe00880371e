// What makes the headers that are shared with CUDA (entry.cuh, select.cuh, philox.cuh) C++ for the CPU, and vectors of numbers.
//
// Each file cpu_WIDTH.cpp includes the native code once, in a namespace of its own and for one vector width, so that one
// library serves all processors. Loops over entries are vectorised by the compiler; products use `Vector`. As in CUDA,
// a·b + c is not contracted. Nothing from the standard library is used here: a function that several files compile for
// different widths would be linked once, perhaps for a width that the processor does not have.
#pragma once

#define __device__
#define __forceinline__ inline __attribute__((always_inline))

// Before a loop whose iterations do not depend on each other, whatever arrays the compiler thinks may overlap.
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

// Otherwise GCC turns selections into branches, which it does not vectorise. Clang does not, and has no such option.
#ifndef __clang__
#pragma GCC optimize("no-thread-jumps")
#endif

// -- CUDA's functions ------------------------------------------------------------------------------------------------

__forceinline__ float fabs(float x) { return __builtin_fabsf(x); }
__forceinline__ double fabs(double x) { return __builtin_fabs(x); }
__forceinline__ float copysign(float x, float sign) { return __builtin_copysignf(x, sign); }
__forceinline__ double copysign(double x, double sign) { return __builtin_copysign(x, sign); }

__forceinline__ unsigned __float_as_uint(float x)
{
    unsigned bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}
__forceinline__ long long __double_as_longlong(double x)
{
    long long bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
}

// -- vectors ---------------------------------------------------------------------------------------------------------

// The processor's vector of BYTES / sizeof(Real) numbers.
template <class Real> struct VectorOf;
template <> struct VectorOf<float> { typedef float type __attribute__((vector_size(BYTES))); };
template <> struct VectorOf<double> { typedef double type __attribute__((vector_size(BYTES))); };
template <class Real> using Vector = typename VectorOf<Real>::type;
template <class Real> constexpr long LANES = BYTES / sizeof(Real);

template <class Real> __forceinline__ Vector<Real> read(const Real* numbers)
{
    Vector<Real> vector;
    __builtin_memcpy(&vector, numbers, sizeof vector);
    return vector;
}
template <class Real> __forceinline__ void write(Real* numbers, Vector<Real> vector)
{
    __builtin_memcpy(numbers, &vector, sizeof vector);
}
