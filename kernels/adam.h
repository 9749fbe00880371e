// Adam, and Adam from gradients that are sums of outer products. See ReferenceOps.adam and ReferenceOps.adam_outer.
#pragma once
#include "descent.cuh"
#include "sparse.h"

// Updates `count` entries of a layer in place. The gradient is still to be multiplied by `scale`.
template <class Real>
__forceinline__ void descend(
    const Real* __restrict__ gradient, Real scale, Real rate, int logarithmic, long count, Real* __restrict__ parameter,
    Real* __restrict__ mean, Real* __restrict__ square)
{
    auto change = [=](long j, Real g) { return adam_change(g, rate, mean[j], square[j]); };
    if (logarithmic) {
        for (long j = 0; j < count; ++j) parameter[j] *= Real(exp(-change(j, gradient[j] * scale * parameter[j])));
    } else {
        INDEPENDENT
        for (long j = 0; j < count; ++j) parameter[j] -= change(j, gradient[j] * scale);
    }
}

// Updates `count` entries from entry `first` on. Each layer has `size` entries and a scale of its own.
template <class Real>
__forceinline__ void adam(
    const Real* gradient, const Real* scales, Real rate, int logarithmic, long size, long first, long count,
    Real* parameter, Real* mean, Real* square)
{
    const long end = first + count;
    for (long next; first < end; first = next) {
        const long layer = first / size;
        next = (layer + 1) * size < end ? (layer + 1) * size : end;
        descend(
            gradient + first, scales[layer], rate, logarithmic, next - first, parameter + first, mean + first,
            square + first);
    }
}

// The sum of outer products aᵀ b of a (batch, P) and b (batch, Q), real or complex; b is given as real numbers.
template <class Number> struct OuterSum {
    const Number* a;
    const RealOf<Number>* b;
    __UINTPTR_TYPE__ batch;

    // Appends to lists of up to SHARD columns of a, from column `p` on, the entries that are not zero.
    __forceinline__ void list_columns(long P, long p, long count, List<Number>* lists) const
    {
        unsigned index[SHARD];
        Number value[SHARD];
        List<Number> row = {index, value, 0};
        for (long sample = 0; sample < long(batch); ++sample) {
            const Number* const from = a + sample * P + p;
            for (long j = 0; j < SHARD; j += 64 / long(sizeof(Number))) __builtin_prefetch(from + SHARD + j);  // for the next call
            row.gather_from(from, count);
            for (long i = 0; i < row.length; ++i) {
                List<Number>& list = lists[index[i]];
                list.index[list.length] = sample;
                list.value[list.length++] = value[i];
            }
        }
    }
};

// Updates `count` rows of Q entries from row `first` on. Each layer has P rows, and its gradient is the sum of
// terms[starts[layer]] … terms[starts[layer + 1] − 1]. It is formed for a few rows at a time, which stay in the cache.
// There are SHARD rows of room: for `batch` entries in `index` and `value`, and for Q in `gradient`. The real and the
// imaginary parts of complex entries are updated on their own: gradient, parameter and moments are given as real numbers.
template <class Number, class Real = RealOf<Number>>
__forceinline__ void adam_outer(
    const OuterSum<Number>* terms, const long long* starts, const Real* scales, Real rate, int logarithmic, long P,
    long Q, long first, long count, long batch, unsigned* index, Number* value, Real* gradient, Real* parameter,
    Real* mean, Real* square)
{
    const long columns = PARTS<Number> * Q;
    List<Number> lists[SHARD];
    for (const long end = first + count; first < end;) {
        const long layer = first / P, p = first % P, left = end - first < P - p ? end - first : P - p;
        const long rows = left < SHARD ? left : SHARD;
        if (starts[layer] == starts[layer + 1])
            for (long j = 0; j < rows * columns; ++j) gradient[j] = 0;
        for (long long i = starts[layer]; i < starts[layer + 1]; ++i) {
            for (long row = 0; row < rows; ++row) lists[row] = {index + row * batch, value + row * batch, 0};
            terms[i].list_columns(P, p, rows, lists);
            multiply(lists, rows, terms[i].b, columns, gradient, i > starts[layer]);
        }
        descend(
            gradient, scales[layer], rate, logarithmic, rows * columns, parameter + first * columns,
            mean + first * columns, square + first * columns);
        first += rows;
    }
}
