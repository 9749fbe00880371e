// The layers of ALISTA, x ← η(x + α_t (Wᵀy − WᵀA x); θ_t, k_t). See ReferenceOps.analytic_layers.
#pragma once
#include "rows.h"
#include "sparse.h"

// The parameters of layers. Thresholds of layers are `per_layer` apart: N if each coordinate has its own, else 1.
template <class Real> struct Layers {
    const Real *packed, *step_size, *threshold;  // −AᵀW, packed
    long per_layer;
    const long long* support;
    Real window;
    int one_sided;
    double dense;  // see multiply_packed
    long depth, N;
};

// Thresholds a row in place, from z to x_next, and lists the entries that are not zero. With one threshold for all
// coordinates, no others than those in the list may matter, and keep(i, z, code) is called for entry i of the list.
template <class Real, class Keep>
__forceinline__ void shrink_and_list(
    Thresholds<Real> thresholds, unsigned k, Real window, Real* row, long N, List<Real>& list, Keep keep)
{
    if (thresholds.per_coordinate) {
        shrink_row(thresholds, k, window, row, N, list, [](long, int) {});
        return list.gather_from(row, N);
    }
    Alone team;
    const Real theta = *thresholds.theta;
    const typename KeyOf<Real>::type low = lowest_cutoff(theta, window);
    list.gather_from(row, N, low);
    const auto cut = cutoff(team, Row<Real>{list.value, list.length}, k, low);
    INDEPENDENT
    for (long i = 0; i < list.length; ++i) {
        int code;
        const Real z = list.value[i];
        list.value[i] = shrink(z, theta, cut, window, code);
        keep(i, z, code);
    }
    list.spread_to(row, N, theta == theta ? Real(0) : theta);  // passes on a NaN of θ
}

// Takes the samples of a shard through the layers. `seen` is Wᵀy, and the lists are of the entries of x that are not
// zero. Rows of `seen`, `products` and x are `stride` apart. `kept` learns what each layer did to each sample.
template <class Real, class Kept>
__forceinline__ void through_layers(
    const Layers<Real>& layers, const Real* seen, long stride, long shard, List<Real>* lists, Real* products,
    long room, Real* x, Kept& kept)
{
    const long N = layers.N;
    for (long t = 0; t < layers.depth; ++t) {
        const Real alpha = layers.step_size[t];
        const Thresholds<Real> thresholds = {layers.threshold + t * layers.per_layer, layers.per_layer > 1};
        multiply_packed(lists, x, stride, shard, layers.dense, layers.packed, N, N, products, room);
        for (long i = 0; i < shard; ++i) {
            Real *__restrict__ const row = x + i * stride, *__restrict__ const u = products + i * room;
            const Real* __restrict__ const Wy = seen + i * stride;
            for (long j = 0; j < N; ++j) {
                u[j] += Wy[j];
                row[j] = sided(row[j] + alpha * u[j], layers.one_sided);
            }
            const unsigned k = limited(layers.support[t], N);
            shrink_and_list(thresholds, k, layers.window, row, N, lists[i], kept.entries(i));
            kept.layer(i, t, lists[i], u);
        }
    }
}

// Nothing is kept if there is no backward pass.
struct Forgotten {
    __forceinline__ auto entries(long)
    {
        return [](long, auto, int) {};
    }
    template <class Real> __forceinline__ void layer(long, long, List<Real>&, const Real*) {}
};

// Computes x (rows, N) in place from Wᵀy (rows, N). SHARD samples at a time go through all layers, and each has `room`
// entries in the arrays index, value and products: N, rounded up to whole vectors.
template <class Real>
__forceinline__ void analytic_layers(
    const Layers<Real>& layers, const Real* Wy, long rows, long room, unsigned* index, Real* value, Real* products,
    Real* x)
{
    const long N = layers.N;
    List<Real> lists[SHARD];
    Forgotten forgotten;
    for (; rows > 0; rows -= SHARD, Wy += SHARD * N, x += SHARD * N) {
        const long shard = rows < SHARD ? rows : SHARD;
        for (long i = 0; i < shard; ++i) {
            lists[i] = {index + i * room, value + i * room, 0};
            lists[i].gather_from(x + i * N, N);
        }
        through_layers(layers, Wy, N, shard, lists, products, room, x, forgotten);
    }
}
