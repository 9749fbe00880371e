// Thresholding with support selection, and its backward pass, row by row. See ReferenceOps.shrink_select.
#pragma once
#include "select.cuh"
#include "sparse.h"

// The caller is the only member of the team that selects …
struct Alone {
    template <class Operation, class T> __forceinline__ T over(T value) { return value; }
};

// … from a row in memory.
template <class Real> struct Row {
    const Real* z;
    long size;

    template <class Visit> __forceinline__ void each(Visit visit) const
    {
        for (long j = 0; j < size; ++j) visit(key_of(z[j]));
    }
};

// A row's thresholds: one for each coordinate, or the same for all.
template <class Real> struct Thresholds {
    const Real* theta;
    bool per_coordinate;
};

// The least of the thresholds of N entries. One that is NaN does not count: its entry is neither alive nor NEAR.
template <class Real> __forceinline__ Real least_of(Thresholds<Real> thresholds, long N)
{
    if (!thresholds.per_coordinate) return *thresholds.theta;
    const long PARTS = 16;
    Real least[PARTS];
    for (long c = 0; c < PARTS; ++c) least[c] = Format<Real>::LARGEST;
    long j = 0;
    for (; j + PARTS <= N; j += PARTS)
        for (long c = 0; c < PARTS; ++c) {
            const Real theta = thresholds.theta[j + c];
            least[c] = theta < least[c] ? theta : least[c];
        }
    for (; j < N; ++j) least[0] = thresholds.theta[j] < least[0] ? thresholds.theta[j] : least[0];
    Real found = least[0];
    for (long c = 1; c < PARTS; ++c) found = least[c] < found ? least[c] : found;
    return found;
}

// How many entries may pass: at most all but the smallest.
__forceinline__ unsigned limited(long long k, long N) { return k < N ? k : N - 1; }

// Thresholds a row in place, from z to x_next, and calls keep(j, code) for each entry. `list` is room for a list.
template <class Real, class Keep>
__forceinline__ void shrink_row(
    Thresholds<Real> thresholds, unsigned k, Real window, Real* row, long N, List<Real> list, Keep keep)
{
    typedef typename KeyOf<Real>::type Key;
    const Real theta = *thresholds.theta;
    Alone team;
    const Key low = lowest_cutoff(least_of(thresholds, N), window);
    list.gather_from(row, N, low);  // no others matter to the selection
    const Key cut = cutoff(team, Row<Real>{list.value, list.length}, k, low);
    if (thresholds.per_coordinate) {
        INDEPENDENT
        for (long j = 0; j < N; ++j) {
            int code;
            row[j] = shrink(row[j], thresholds.theta[j], cut, window, code);
            keep(j, code);
        }
    } else {
        INDEPENDENT
        for (long j = 0; j < N; ++j) {
            int code;
            row[j] = shrink(row[j], theta, cut, window, code);
            keep(j, code);
        }
    }
}

// Rows of x and u (rows, N). The threshold of entry j in row i is threshold[i · per_sample + j · per_coordinate], and
// support[i · support_per_sample] entries may pass. `index` and `value` are room for a list of N entries.
template <class Real>
__forceinline__ void shrink_rows(
    const Real* __restrict__ x, const Real* __restrict__ u, Real alpha, const Real* threshold, long per_sample,
    long per_coordinate, const long long* support, long support_per_sample, Real window, int one_sided, long rows,
    long N, unsigned* index, Real* value, Real* __restrict__ x_next, signed char* __restrict__ code)
{
    for (long i = 0; i < rows; ++i, x += N, u += N, x_next += N, code += N) {
        for (long j = 0; j < N; ++j) x_next[j] = sided(x[j] + alpha * u[j], one_sided);
        auto keep = [=](long j, int what) { code[j] = what; };
        const unsigned k = limited(support[i * support_per_sample], N);
        shrink_row({threshold + i * per_sample, per_coordinate != 0}, k, window, x_next, N, {index, value, 0}, keep);
    }
}

// The sum of term(0) … term(count − 1) in float64, in the same order for all vector widths.
template <class Term> __forceinline__ double total(long count, Term term)
{
    const long SUMS = 16;
    double sums[SUMS] = {}, sum = 0;
    long first = 0;
    for (; first + SUMS <= count; first += SUMS)
        for (long c = 0; c < SUMS; ++c) sums[c] += term(first + c);
    for (long j = first; j < count; ++j) sums[j - first] += term(j);
    for (long c = 0; c < SUMS; ++c) sum += sums[c];
    return sum;
}

// The sum of numbers a(j), or of products a(j) b(j), as SUMS partial sums: entry j adds to number j mod SUMS. Their bits do
// not depend on the width of vectors.
template <class Real> struct PartialSums {
    static const long SUMS = 16;
    Real sums[SUMS] = {};

    // Adds `count` terms, given as arrays; earlier calls have added a multiple of SUMS.
    template <class Term> __forceinline__ void add(long count, Term term)
    {
        const long VECTORS = SUMS / LANES<Real>;
        Vector<Real> sum[VECTORS];
        for (long c = 0; c < VECTORS; ++c) sum[c] = read(sums + c * LANES<Real>);
        long j = 0;
        for (; j + SUMS <= count; j += SUMS)
            for (long c = 0; c < VECTORS; ++c) sum[c] += term([=](const Real* from) { return read(from + j + c * LANES<Real>); });
        for (long c = 0; c < VECTORS; ++c) write(sums + c * LANES<Real>, sum[c]);
        for (long c = 0; j < count; ++c, ++j) sums[c] += term([=](const Real* from) { return from[j]; });
    }

    __forceinline__ void add_to(double& total) const
    {
        for (long c = 0; c < SUMS; ++c) total += sums[c];
    }
};

// The backward pass of a row. Without a window, no entry is NEAR, and z(j) is not needed; with EACH, each coordinate has
// a threshold. It goes from block to block, so that each loop works on numbers of one size, which compilers vectorise.
template <bool WINDOW, bool EACH, class Real, class Z>
__forceinline__ void shrink_row_backward(
    const Real* __restrict__ delta, const signed char* __restrict__ code, Z z, const Real* __restrict__ u,
    const Real* __restrict__ threshold, Real window, long N, Real* __restrict__ d_z, double* __restrict__ d_step_size,
    double* __restrict__ d_threshold)
{
    const long BLOCK = 256;
    typename Format<Real>::Integer what[BLOCK];
    Real d_theta[BLOCK];
    PartialSums<Real> alpha_sums, theta_sums;
    for (long first = 0; first < N; first += BLOCK) {
        const long count = N - first < BLOCK ? N - first : BLOCK;
        for (long j = 0; j < count; ++j) what[j] = code[first + j];
        INDEPENDENT
        for (long j = 0; j < count; ++j) {
            const long at = first + j;
            const int kind = WINDOW ? what[j] : what[j] & KIND;
            Real more = 0;
            d_z[at] = shrink_backward(
                delta[at], kind, WINDOW ? z(at) : Real(0), threshold[EACH ? at : 0], window, more);
            d_theta[j] = more;
        }
        alpha_sums.add(count, [=](auto at) { return at(d_z + first) * at(u + first); });
        if (EACH)
            for (long j = 0; j < count; ++j) d_threshold[first + j] += d_theta[j];
        else
            theta_sums.add(count, [&](auto at) { return at(d_theta); });
    }
    alpha_sums.add_to(*d_step_size);
    if (!EACH) theta_sums.add_to(*d_threshold);
}

// The backward pass of rows. d_threshold is laid out like the threshold, and is added to, as is d_step_size.
template <class Real>
__forceinline__ void shrink_rows_backward(
    const Real* delta, const signed char* code, const Real* x, const Real* u, Real alpha, const Real* threshold,
    long per_sample, long per_coordinate, Real window, long rows, long N, Real* d_z, double* d_step_size,
    double* d_threshold)
{
    for (long i = 0; i < rows; ++i) {
        const Real *const start = x + i * N, *const step = u + i * N;
        auto go_back = [&](auto run) {
            run(delta + i * N, code + i * N, [=](long j) { return start[j] + alpha * step[j]; }, step,
                threshold + i * per_sample, window, N, d_z + i * N, d_step_size, d_threshold + i * per_sample);
        };
        if (window > 0)
            per_coordinate ? go_back([](auto... all) { shrink_row_backward<true, true>(all...); })
                           : go_back([](auto... all) { shrink_row_backward<true, false>(all...); });
        else
            per_coordinate ? go_back([](auto... all) { shrink_row_backward<false, true>(all...); })
                           : go_back([](auto... all) { shrink_row_backward<false, false>(all...); });
    }
}
