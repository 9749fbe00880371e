// Iterations of ISTA and FISTA by the Gram matrix, x ← η(a + α (Aᵀy − AᵀA a); θ) and a ← x + β (x − x₋). See
// ReferenceOps.proximal_iterations.
#pragma once
#include "rows.h"
#include "sparse.h"

// The parameters of iterations. The threshold of entry j of sample i is threshold[i · per_sample + j · per_coordinate].
template <class Real> struct Iterations {
    const Real* packed;  // −AᵀA, packed
    Real step_size;
    const Real* threshold;
    long per_sample, per_coordinate;
    int momentum, restart, one_sided;
    double dense;  // see multiply_packed
    long count, N;
};

// An iteration of a row, given −AᵀA a, from x and a to the next ones. With momentum, `t` is FISTA's t.
template <class Real, class Threshold>
__forceinline__ void iterate_row(
    const Iterations<Real>& how, const Real* __restrict__ Ay, const Real* __restrict__ products, Threshold threshold,
    Real* __restrict__ x, Real* __restrict__ ahead, Real* __restrict__ change, double& t)
{
    const long N = how.N;
    double against = 0;
    INDEPENDENT
    for (long j = 0; j < N; ++j) {
        const Real z = ahead[j] + how.step_size * (products[j] + Ay[j]), theta = threshold(j);
        const Real least = how.one_sided ? z : -theta;  // max(z − θ, 0) is z − θ, or z − z; a NaN stays one
        const Real next = z - (z > theta ? theta : z < least ? least : z);
        change[j] = next - x[j];
        ahead[j] -= next;
        x[j] = next;
    }
    if (how.restart) against = total(N, [=](long j) { return double(ahead[j]) * double(change[j]); });
    if (against > 0) t = 1;
    const double t_next = (1 + sqrt(1 + 4 * t * t)) / 2;
    const Real beta = how.momentum ? Real((t - 1) / t_next) : Real(0);
    t = t_next;
    for (long j = 0; j < N; ++j) ahead[j] = x[j] + beta * change[j];
}

// Iterates x and `ahead` (rows, N) and t (rows) in place, given Aᵀy (rows, N). LARGE_SHARD samples at a time go through all
// iterations, and each has `room` entries in the arrays index, value and products: N, rounded up to whole vectors.
template <class Real>
__forceinline__ void proximal_iterations(
    const Iterations<Real>& how, const Real* Ay, long rows, long room, unsigned* index, Real* value, Real* products,
    Real* change, Real* x, Real* ahead, double* t)
{
    const long N = how.N;
    List<Real> lists[LARGE_SHARD];
    const Real* threshold = how.threshold;
    for (long shard; rows > 0; rows -= shard, Ay += shard * N, x += shard * N, ahead += shard * N, t += shard,
                               threshold += shard * how.per_sample) {
        shard = rows < LARGE_SHARD ? rows : LARGE_SHARD;
        for (long iteration = 0; iteration < how.count; ++iteration) {
            for (long i = 0; i < shard; ++i) {
                lists[i] = {index + i * room, value + i * room, 0};
                lists[i].gather_from(ahead + i * N, N);
            }
            multiply_packed(lists, ahead, N, shard, how.dense, how.packed, N, N, products, room);
            for (long i = 0; i < shard; ++i) {
                const Real* const theta = threshold + i * how.per_sample;
                auto iterate = [&](auto threshold_of) {
                    iterate_row(
                        how, Ay + i * N, products + i * room, threshold_of, x + i * N, ahead + i * N, change, t[i]);
                };
                if (how.per_coordinate)
                    iterate([=](long j) { return theta[j]; });
                else
                    iterate([value = *theta](long) { return value; });
            }
        }
    }
}
