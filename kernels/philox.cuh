// Counter-based random numbers: Philox4x64-10 (Salmon, Moraes, Dror, Shaw, SC 2011), numbered as in
// ReferenceOps.random_words. The integers, and therefore the supports, equal those of the definition; the normal
// numbers agree with it up to the rounding of log and cos. The CUDA kernels and the native code for the CPU share this
// file.
#pragma once
#include "number.cuh"

typedef unsigned long long Word;

struct Words { Word words[4]; };

// Which random numbers to draw: (seed, stream) is the key, and (block, 0, step, purpose) is the counter.
struct Source {
    Word seed, stream, step, purpose;
};

// Words 4·i … 4·i + 3.
__device__ __forceinline__ Words philox(const Source& source, Word i)
{
    Word key0 = source.seed, key1 = source.stream;
    Words counter = {{i + 1, 0, source.step, source.purpose}};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const Word high0 = __umul64hi(counter.words[0], 0xD2E7470EE14C6C93ull), low0 = counter.words[0] * 0xD2E7470EE14C6C93ull;
        const Word high1 = __umul64hi(counter.words[2], 0xCA5A826395121157ull), low1 = counter.words[2] * 0xCA5A826395121157ull;
        counter = {{high1 ^ counter.words[1] ^ key0, low1, high0 ^ counter.words[3] ^ key1, low0}};
        key0 += 0x9E3779B97F4A7C15ull;
        key1 += 0xBB67AE8584CAA73Bull;
    }
    return counter;
}

// r e^{2πiv} for v in [0, 1).
template <class Real> __device__ __forceinline__ Complex<Real> times_phase(Real r, Real v)
{
    return {r * cospi(2 * v), r * sinpi(2 * v)};
}

// A standard normal number (Box and Muller 1958): √(−2 ln u)·cos 2πv, with the word's halves u in (0, 1] and v in
// [0, 1). A complex one is √(−ln u)·e^{2πiv}.
template <class Number> __device__ __forceinline__ Number normal_of(Word word)
{
    typedef RealOf<Number> Real;
    const Real scale = Real(1) / Real(4294967296.0);
    const Real u = (Real(unsigned(word >> 32)) + 1) * scale;
    const Real v = Real(unsigned(word)) * scale;
    if constexpr (PARTS<Number> == 1)
        return sqrt(-2 * log(u)) * cospi(2 * v);
    else
        return times_phase(sqrt(-log(u)), v);
}

// The law of magnitudes: N(a, b²) if `bernoulli` is 0; otherwise a with probability q_limit·2⁻⁵³, and else b. Complex
// numbers are circular about a, or have random phases and a probability of q_limit·2⁻³².
template <class Real> struct Law {
    int bernoulli;
    Real a, b;
    Word q_limit;

    __device__ __forceinline__ Real magnitude(Word word) const
    {
        if (bernoulli) return (word >> 11) < q_limit ? a : b;
        return a + b * normal_of<Real>(word);
    }

    template <class Number> __device__ __forceinline__ Number number(Word word) const
    {
        if constexpr (PARTS<Number> == 1)
            return magnitude(word);
        else
            return complex(word);
    }

    __device__ __forceinline__ Complex<Real> complex(Word word) const
    {
        if (bernoulli)
            return times_phase((word >> 32) < q_limit ? a : b, Real(unsigned(word)) / Real(4294967296.0));
        const Complex<Real> normal = normal_of<Complex<Real>>(word);
        return {a + b * normal.re, b * normal.im};
    }
};

// Whether an entry of sparse codes is non-zero. Word 2e decides the support of entry e, and word 2e + 1 its magnitude.
__device__ __forceinline__ bool is_present(Word support, Word limit) { return (support >> 11) < limit; }

// Entry e of sparse codes. `words` are those of block e / 2.
template <class Real>
__device__ __forceinline__ Real sparse_entry(const Words& words, Word e, Word limit, const Law<Real>& law)
{
    const bool odd = e % 2;  // selected, not indexed: an array with a variable index leaves the registers
    const Word support = odd ? words.words[2] : words.words[0], size = odd ? words.words[3] : words.words[1];
    return is_present(support, limit) ? law.magnitude(size) : Real(0);
}

// Entry e of normal numbers, from word e. `words` are those of block e / 4.
template <class Number> __device__ __forceinline__ Number normal_entry(const Words& words, Word e)
{
    return normal_of<Number>(e % 4 < 2 ? (e % 2 ? words.words[1] : words.words[0]) : (e % 2 ? words.words[3] : words.words[2]));
}

// Which signal a row of a batch is: hard or not, and its number among the signals of its stream. See Signals.
struct Place {
    bool is_hard;
    Word number;
};
__device__ __forceinline__ Place place_of(long long row, double share)
{
    const long long hard_before = (long long)(share * row);
    const bool is_hard = (long long)(share * (row + 1)) > hard_before;
    return {is_hard, Word(is_hard ? hard_before : row - hard_before)};
}
