// The layers of ALISTA, x ← η(x + α_t (Wᵀy − WᵀA x); θ_t, k_t). See ReferenceOps.analytic_layers.
#pragma once
#include "rows.h"
#include "sparse.h"

// Thresholds a row in place, from z to x_next, and lists the entries that are not zero.
template <class Real>
__forceinline__ void shrink_and_list(Thresholds<Real> thresholds, unsigned k, Real* row, long N, List<Real>& list)
{
    const Real theta = *thresholds.theta, window = 0;
    if (thresholds.per_coordinate || !(theta > 0)) {
        shrink_row(thresholds, k, window, row, N, list, [](long, int) {});
        return list.gather_from(row, N);
    }
    // With one positive threshold, no other entries than those above it matter.
    Alone team;
    const typename KeyOf<Real>::type low = lowest_cutoff(theta, window);
    list.gather_from(row, N, low);
    const auto cut = cutoff(team, Row<Real>{list.value, list.length}, k, low);
    for (long i = 0; i < list.length; ++i) {
        int code;
        list.value[i] = shrink(list.value[i], theta, cut, window, code);
    }
    for (long j = 0; j < N; ++j) row[j] = 0;
    for (long i = 0; i < list.length; ++i) row[list.index[i]] = list.value[i];
}

// Computes x (rows, N) in place from Wᵀy (rows, N) and −AᵀW, packed. The thresholds of layers are `per_layer` apart: N
// if each coordinate has its own, else 1. SHARD samples at a time go through all layers, and each has `room` entries in
// the arrays index, value and products: N, rounded up to whole vectors.
template <class Real>
__forceinline__ void analytic_layers(
    const Real* Wy, const Real* packed, const Real* step_size, const Real* threshold, long per_layer,
    const long long* support, int one_sided, long depth, long rows, long N, long room, unsigned* index, Real* value,
    Real* products, Real* x)
{
    List<Real> lists[SHARD];
    for (; rows > 0; rows -= SHARD, Wy += SHARD * N, x += SHARD * N) {
        const long shard = rows < SHARD ? rows : SHARD;
        for (long i = 0; i < shard; ++i) {
            lists[i] = {index + i * room, value + i * room, 0};
            lists[i].gather_from(x + i * N, N);
        }
        for (long t = 0; t < depth; ++t) {
            const Real alpha = step_size[t];
            multiply_packed(lists, shard, packed, N, N, products, room);
            for (long i = 0; i < shard; ++i) {
                Real* __restrict__ const row = x + i * N;
                const Real *__restrict__ const product = products + i * room, *__restrict__ const seen = Wy + i * N;
                for (long j = 0; j < N; ++j) row[j] = sided(row[j] + alpha * (product[j] + seen[j]), one_sided);
                const Thresholds<Real> thresholds = {threshold + t * per_layer, per_layer > 1};
                shrink_and_list(thresholds, limited(support[t], N), row, N, lists[i]);
            }
        }
    }
}
