// CUDA's functions of numbers for the CPU. Compilers vectorise loops over those that random numbers need.
#pragma once

__forceinline__ float sqrt(float x) { return __builtin_sqrtf(x); }
__forceinline__ double sqrt(double x) { return __builtin_sqrt(x); }
__forceinline__ double exp(double x) { return __builtin_exp(x); }
__forceinline__ double pow(double x, double power) { return __builtin_pow(x, power); }

// The upper half of a product.
__forceinline__ unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}

// What the format of a number says: its integer, how many bits the mantissa has, the integer of √½, how many terms of the
// series below add less than rounding, the distance from 1 to the next number, and the ends of the range.
template <class Real> struct Format;
template <> struct Format<float> {
    typedef int Integer;
    static const int MANTISSA = 23, TERMS = 5;
    static const Integer ROOT_OF_HALF = 0x3f3504f3;
    static constexpr float ROUNDING = __FLT_EPSILON__, SMALLEST = __FLT_MIN__, LARGEST = __FLT_MAX__;
};
template <> struct Format<double> {
    typedef long long Integer;
    static const int MANTISSA = 52, TERMS = 11;
    static const Integer ROOT_OF_HALF = 0x3fe6a09e667f3bcdll;
    static constexpr double ROUNDING = __DBL_EPSILON__, SMALLEST = __DBL_MIN__, LARGEST = __DBL_MAX__;
};

// The logarithm of a positive number, not a denormal one: of x = 2ᵏm with m in [√½, √2), it is k log 2 + 2 artanh s, with
// s = (m − 1) / (m + 1) and artanh s = s + s³/3 + s⁵/5 + …
template <class Real> __forceinline__ Real log(Real x)
{
    typedef Format<Real> F;
    typename F::Integer bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    const typename F::Integer k = (bits - F::ROOT_OF_HALF) >> F::MANTISSA;
    bits -= k * (typename F::Integer(1) << F::MANTISSA);
    Real m;
    __builtin_memcpy(&m, &bits, sizeof m);
    const Real s = (m - 1) / (m + 1), square = s * s;
    Real beyond = 0;
    for (int i = F::TERMS; i > 0; --i) beyond = (beyond + Real(1) / (2 * i + 1)) * square;
    return k * Real(0.693147180559945309417) + (2 * s + 2 * s * beyond);
}

// cos πx for x in [0, 2]. The nearest multiple of ½ is taken off exactly, and what is left has a short series.
template <class Real> __forceinline__ Real cospi(Real x)
{
    const int quarter = int(2 * x + Real(0.5));
    const Real angle = Real(3.14159265358979323846) * (x - quarter * Real(0.5)), square = angle * angle;
    Real sine = 1, cosine = 1;
    for (int i = Format<Real>::TERMS; i > 0; --i) {
        sine = 1 - square * (Real(1) / (2 * i * (2 * i + 1))) * sine;
        cosine = 1 - square * (Real(1) / (2 * i * (2 * i - 1))) * cosine;
    }
    const Real size = quarter % 2 ? angle * sine : cosine;
    return (quarter + 1) & 2 ? -size : size;
}

// sin πx for x in [0, 2].
template <class Real> __forceinline__ Real sinpi(Real x) { return cospi(fabs(x - Real(0.5))); }
