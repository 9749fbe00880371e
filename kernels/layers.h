// The layers of ALISTA, x ← η(x + α_t (Wᴴy − WᴴA x); θ_t, k_t). See ReferenceOps.analytic_layers.
#pragma once
#include "joint.h"

// The parameters of layers, for numbers that are real or complex. Thresholds of layers are `per_layer` apart: one for each
// entry, or 1. Where entries are joint, they are of `group` numbers in each of `snapshots` rows.
template <class Number> struct Layers {
    typedef RealOf<Number> Real;
    const Real *packed, *step_size, *threshold;  // −AᵀW̄, packed
    long per_layer;
    const long long* support;
    Real window;
    int one_sided;
    double dense;  // see multiply_packed
    long depth, N, snapshots, group;

    long entries() const { return N / group; }
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

// Multiplies the numbers of the chosen entries of a row, lists them, and sets the other numbers to what they become.
template <class Number, class Real>
__forceinline__ void shrink_chosen(
    const Choice<Real>& choice, Thresholds<Real> thresholds, long group, Number* row, long N, List<Number>& list)
{
    list.length = 0;
    for (long i = 0; i < choice.length; ++i)
        for (long c = 0; c < group; ++c) {
            const long j = choice.index[i] * group + c;
            list.index[list.length] = j;
            list.value[list.length++] = choice.factor[i] * row[j];
        }
    if (thresholds.per_coordinate)
        for (long j = 0; j < N; ++j) row[j] = otherwise(thresholds, j / group) * Number{};
    else
        for (long j = 0; j < N; ++j) row[j] = otherwise(thresholds, 0) * Number{};
    for (long i = 0; i < list.length; ++i) row[list.index[i]] = list.value[i];
}

// u = Wᴴy + the product, in place.
template <class Real> __forceinline__ void add_product(const Real* __restrict__ Wy, Real* __restrict__ u, long, long N)
{
    for (long j = 0; j < N; ++j) u[j] += Wy[j];
}
template <class Real>
__forceinline__ void add_product(const Complex<Real>* __restrict__ Wy, Real* __restrict__ u, long apart, long N)
{
    const Real* const y = &Wy->re;
    turn(u, u + apart, 2 * N, [=](long j, Real re, Real im) {
        u[j] = re + y[j];
        u[j + 1] = im + y[j + 1];
    });
}

// Takes the rows of a shard, those of whole samples, through the layers. `seen` is Wᴴy, and the lists are of the numbers
// of x that are not zero. Rows of `seen` and x are `stride` numbers apart, and those of `products` have `room` for real
// numbers. `kept` learns what each layer did to each sample. Entries are single real numbers if they are ALONE, and joint
// ones need a choice.
template <bool ALONE, class Number, class Kept, class Real = RealOf<Number>>
__forceinline__ void through_layers(
    const Layers<Number>& layers, const Number* seen, long stride, long shard, List<Number>* lists, Real* products,
    long room, Number* x, Choice<Real>& choice, Kept& kept)
{
    const long N = layers.N, numbers = PARTS<Number> * N;
    const Entries entries = {layers.snapshots, PARTS<Number> * layers.group, layers.entries()};
    for (long t = 0; t < layers.depth; ++t) {
        const Real alpha = layers.step_size[t];
        const Thresholds<Real> thresholds = {layers.threshold + t * layers.per_layer, layers.per_layer > 1};
        const unsigned k = limited(layers.support[t], layers.entries());
        multiply_packed(lists, x, stride, shard, layers.dense, layers.packed, N, numbers, products, room);
        for (long i = 0; i < shard; ++i) {
            Number *__restrict__ const row = x + i * stride;
            Real* __restrict__ const u = products + i * room;
            if constexpr (ALONE) {
                const Real* __restrict__ const Wy = seen + i * stride;
                for (long j = 0; j < N; ++j) {
                    u[j] += Wy[j];
                    row[j] = sided(row[j] + alpha * u[j], layers.one_sided);
                }
                shrink_and_list(thresholds, k, layers.window, row, N, lists[i], kept.entries(i));
                kept.layer(i, t, lists[i], u);
            } else {
                Real* __restrict__ const z = (Real*)row;
                add_product(seen + i * stride, u, room / PARTS<Number>, N);
                for (long j = 0; j < numbers; ++j) z[j] += alpha * u[j];
                if ((i + 1) % layers.snapshots) continue;  // the sample has more rows
                const long first = i + 1 - layers.snapshots;
                const Sample<const Real> sample = {(const Real*)(x + first * stride), PARTS<Number> * stride};
                with_shape(entries, [&](const auto& shape) {
                    choice.choose(shape, sample, thresholds, k, layers.window);
                });
                choice.drop_zeros();
                for (long own = first; own <= i; ++own) {
                    kept.layer(own, t, choice, layers.group, x + own * stride, (Number*)(products + own * room));
                    shrink_chosen(choice, thresholds, layers.group, x + own * stride, N, lists[own]);
                }
            }
        }
    }
}

// Nothing is kept if there is no backward pass.
struct Forgotten {
    __forceinline__ auto entries(long)
    {
        return [](long, auto, int) {};
    }
    template <class... All> __forceinline__ void layer(const All&...) {}
};

// So many rows are about `shard`, but whole samples.
__forceinline__ long rows_at_a_time(long snapshots, long shard)
{
    return snapshots < shard ? shard / snapshots * snapshots : snapshots;
}

// Computes x (rows, N) in place from Wᴴy (rows, N). Some rows at a time go through all layers. Each has `stride` places in the arrays index and
// value, N rounded up to whole lines, and `room` in `products`.
template <bool ALONE, class Number, class Real = RealOf<Number>>
__forceinline__ void analytic_layers(
    const Layers<Number>& layers, const Number* Wy, long rows, long stride, long room, unsigned* index, Number* value,
    Real* products, Choice<Real> choice, Number* x)
{
    const long N = layers.N, most = rows_at_a_time(layers.snapshots, LARGE_SHARD);
    List<Number>* const lists = (List<Number>*)__builtin_alloca(most * sizeof *lists);
    Forgotten forgotten;
    for (; rows > 0; rows -= most, Wy += most * N, x += most * N) {
        const long shard = rows < most ? rows : most;
        for (long i = 0; i < shard; ++i) {
            lists[i] = {index + i * stride, value + i * stride, 0};
            lists[i].gather_from(x + i * N, N);
        }
        through_layers<ALONE>(layers, Wy, N, shard, lists, products, room, x, choice, forgotten);
    }
}
