// Thresholding with support selection, and its backward pass, row by row. See ReferenceOps.shrink_select.
#pragma once
#include "select.cuh"

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

// Thresholds a row in place, from z to x_next, and calls keep(j, code) for each entry.
template <class Real, class Keep>
__forceinline__ void shrink_row(Thresholds<Real> thresholds, unsigned k, Real window, Real* row, long N, Keep keep)
{
    typedef typename KeyOf<Real>::type Key;
    const Real theta = *thresholds.theta;
    Alone team;
    const Key low = thresholds.per_coordinate ? Key(0) : lowest_cutoff(theta, window);
    const Key cut = cutoff(team, Row<Real>{row, N}, k, low);
    if (thresholds.per_coordinate)
        for (long j = 0; j < N; ++j) {
            int code;
            row[j] = shrink(row[j], thresholds.theta[j], cut, window, code);
            keep(j, code);
        }
    else
        for (long j = 0; j < N; ++j) {
            int code;
            row[j] = shrink(row[j], theta, cut, window, code);
            keep(j, code);
        }
}

// Rows of x and u (rows, N). The threshold of entry j in row i is threshold[i · per_sample + j · per_coordinate], and
// support[i · support_per_sample] entries may pass.
template <class Real>
__forceinline__ void shrink_rows(
    const Real* __restrict__ x, const Real* __restrict__ u, Real alpha, const Real* threshold, long per_sample,
    long per_coordinate, const long long* support, long support_per_sample, Real window, int one_sided, long rows,
    long N, Real* __restrict__ x_next, signed char* __restrict__ code)
{
    for (long i = 0; i < rows; ++i, x += N, u += N, x_next += N, code += N) {
        for (long j = 0; j < N; ++j) x_next[j] = sided(x[j] + alpha * u[j], one_sided);
        auto keep = [=](long j, int what) { code[j] = what; };
        const unsigned k = limited(support[i * support_per_sample], N);
        shrink_row({threshold + i * per_sample, per_coordinate != 0}, k, window, x_next, N, keep);
    }
}

// The backward pass. d_threshold is laid out like the threshold, and is added to, as is d_step_size. Sums over a row have
// SUMS partial sums, which are added in a fixed order.
template <class Real>
__forceinline__ void shrink_rows_backward(
    const Real* delta, const signed char* code, const Real* x, const Real* u, Real alpha, const Real* threshold,
    long per_sample, long per_coordinate, Real window, long rows, long N, Real* d_z, double* d_step_size,
    double* d_threshold)
{
    const long SUMS = 16;
    for (long i = 0; i < rows; ++i, delta += N, code += N, x += N, u += N, d_z += N) {
        const Real* const theta = threshold + i * per_sample;
        double* const d_theta = d_threshold + i * per_sample;
        double alpha_sums[SUMS] = {}, theta_sums[SUMS] = {};
        for (long first = 0; first < N; first += SUMS) {
            auto entry = [&](long c) {
                const long j = first + c;
                const Real z = window > 0 ? x[j] + alpha * u[j] : Real(0);  // only NEAR entries need it
                double d = 0;
                d_z[j] = shrink_backward(delta[j], code[j], z, theta[j * per_coordinate], window, d);
                alpha_sums[c] += double(d_z[j]) * double(u[j]);
                if (per_coordinate)
                    d_theta[j] += d;
                else
                    theta_sums[c] += d;
            };
            if (first + SUMS <= N)
                for (long c = 0; c < SUMS; ++c) entry(c);
            else
                for (long c = 0; c < N - first; ++c) entry(c);
        }
        for (long c = 0; c < SUMS; ++c) {
            *d_step_size += alpha_sums[c];
            if (!per_coordinate) *d_theta += theta_sums[c];
        }
    }
}
