// Real and complex numbers on the device.
#pragma once
#include "common.cuh"

// Re āb.
__device__ __forceinline__ real inner(real a, real b) { return a * b; }
__device__ __forceinline__ real inner(Complex<real> a, Complex<real> b) { return a.re * b.re + a.im * b.im; }

// Re āb, in double precision.
__device__ __forceinline__ double in_double(real a, real b) { return double(a) * double(b); }
__device__ __forceinline__ double in_double(Complex<real> a, Complex<real> b)
{
    return double(a.re) * double(b.re) + double(a.im) * double(b.im);
}

// A number is read and written at once.
template <class Number> __device__ __forceinline__ Number number_at(const Number* at)
{
    return reinterpret_cast<const Pack<Number, 1>*>(at)->lanes[0];
}
template <class Number> __device__ __forceinline__ void write(Number* at, Number value)
{
    *reinterpret_cast<Pack<Number, 1>*>(at) = {{value}};
}

__device__ __forceinline__ bool is_nonzero(real a) { return a != 0; }
__device__ __forceinline__ bool is_nonzero(Complex<real> a) { return a.re != 0 || a.im != 0; }

// One of the real numbers that a number consists of.
__device__ __forceinline__ real part_of(real a, int) { return a; }
__device__ __forceinline__ real part_of(Complex<real> a, int part) { return part ? a.im : a.re; }

__device__ __forceinline__ real quotient(real a, real b) { return a / b; }
__device__ __forceinline__ Complex<real> quotient(Complex<real> a, real b) { return {a.re / b, a.im / b}; }

// a b + c.
__device__ __forceinline__ real multiply_add(real a, real b, real c) { return fma(a, b, c); }
__device__ __forceinline__ Complex<real> multiply_add(Complex<real> a, Complex<real> b, Complex<real> c)
{
    return {fma(-a.im, b.im, fma(a.re, b.re, c.re)), fma(a.im, b.re, fma(a.re, b.im, c.im))};
}
