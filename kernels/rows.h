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
    const Key low = thresholds.per_coordinate ? Key(0) : lowest_cutoff(theta, window);
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

// The backward pass of a row. What it adds to ∂L/∂α and ∂L/∂θ has SUMS partial sums, which are added in a fixed order.
// Without a window, no entry is NEAR, and z(j) is not needed; with EACH, each coordinate has a threshold.
template <bool WINDOW, bool EACH, class Real, class Z>
__forceinline__ void shrink_row_backward(
    const Real* __restrict__ delta, const signed char* __restrict__ code, Z z, const Real* __restrict__ u,
    const Real* __restrict__ threshold, Real window, long N, Real* __restrict__ d_z, double* __restrict__ d_step_size,
    double* __restrict__ d_threshold)
{
    const long SUMS = 16;
    const Real theta = *threshold;
    Real alpha_sums[SUMS] = {}, theta_sums[SUMS] = {};
    auto entry = [&](long j, long c) {
        const int what = WINDOW ? code[j] : code[j] & KIND;
        Real d_theta = 0;
        const Real d = shrink_backward(delta[j], what, WINDOW ? z(j) : Real(0), EACH ? threshold[j] : theta, window, d_theta);
        d_z[j] = d;
        alpha_sums[c] += d * u[j];
        if (EACH)
            d_threshold[j] += d_theta;
        else
            theta_sums[c] += d_theta;
    };
    long first = 0;
    for (; first + SUMS <= N; first += SUMS) {
        INDEPENDENT
        for (long c = 0; c < SUMS; ++c) entry(first + c, c);
    }
    for (long j = first; j < N; ++j) entry(j, j - first);
    for (long c = 0; c < SUMS; ++c) {
        *d_step_size += alpha_sums[c];
        if (!EACH) *d_threshold += theta_sums[c];
    }
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
