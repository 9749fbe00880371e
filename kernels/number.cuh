// Kinds of numbers: real ones, and complex ones, which are pairs of real ones in memory, as in NumPy. The CUDA kernels and
// the native code for the CPU share this file.
#pragma once

template <class R> struct Complex { R re, im; };

template <class Number> struct KindOf {
    typedef Number Real;
    static const int PARTS = 1;
};
template <class R> struct KindOf<Complex<R>> {
    typedef R Real;
    static const int PARTS = 2;
};
template <class Number> using RealOf = typename KindOf<Number>::Real;
// How many real numbers a number consists of.
template <class Number> constexpr int PARTS = KindOf<Number>::PARTS;

template <class R> __device__ __forceinline__ Complex<R> operator*(R factor, Complex<R> z)
{
    return {factor * z.re, factor * z.im};
}
template <class R> __device__ __forceinline__ Complex<R> operator+(Complex<R> a, Complex<R> b)
{
    return {a.re + b.re, a.im + b.im};
}
template <class R> __device__ __forceinline__ Complex<R> operator-(Complex<R> a, Complex<R> b)
{
    return {a.re - b.re, a.im - b.im};
}
