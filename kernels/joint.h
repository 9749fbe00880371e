// Thresholding of joint entries, and its backward pass. See cuista.ops.joint.
//
// All numbers are real here: a complex number is two neighbours. An entry is `size` neighbours in each of the `snapshots`
// rows of a sample.
//
#pragma once
#include "rows.h"

// If at most this share of complex numbers is not OFF, the backward pass visits only those, one by one.
constexpr double FEW_PAIRS = 0.25;

// How the rows of a sample are divided into entries.
struct Entries {
    long snapshots, size, count;
};

// The same for single complex numbers, as the compiler knows.
struct Pairs {
    static const long snapshots = 1, size = 2;
    long count;
};

template <class Shape> constexpr bool ARE_PAIRS = false;
template <> constexpr bool ARE_PAIRS<const Pairs&> = true;

// Calls run(entries) with these entries in the form that is faster.
template <class Run> __forceinline__ void with_shape(Entries entries, Run run)
{
    entries.size == 2 && entries.snapshots == 1 ? run(Pairs{entries.count}) : run(entries);
}

// The rows of a sample, `stride` apart.
template <class Real> struct Sample {
    Real* rows;
    long stride;

    __forceinline__ Real& operator()(long row, long at) const { return rows[row * stride + at]; }
};

// Sets total[e] to the sum of term(row, place in the row) over the numbers of entry `first` + e, for `count` entries.
template <class Shape, class Real, class Term>
__forceinline__ void over_entries(const Shape& shape, long first, long count, Real* __restrict__ total, Term term)
{
    const long size = shape.size;
    if (size == 2 && shape.snapshots == 1) {
        INDEPENDENT
        for (long e = 0; e < count; ++e) total[e] = term(0, 2 * (first + e)) + term(0, 2 * (first + e) + 1);
        return;
    }
    for (long e = 0; e < count; ++e) {
        Real sum = 0;
        for (long row = 0; row < shape.snapshots; ++row)
            for (long c = 0; c < size; ++c) sum += term(row, (first + e) * size + c);
        total[e] = sum;
    }
}

// Calls use(e, row, place in the row) for each number of the entries `first` + e, for `count` entries.
template <class Shape, class Use>
__forceinline__ void each_number(const Shape& shape, long first, long count, Use use)
{
    for (long row = 0; row < shape.snapshots; ++row) {
        INDEPENDENT
        for (long e = 0; e < count; ++e)
            for (long c = 0; c < shape.size; ++c) use(e, row, (first + e) * shape.size + c);
    }
}

// The entries of a sample that may live: the index of each, by what its numbers are multiplied, and its code. In the room,
// each array has a place for all entries of a sample.
template <class Real> struct Choice {
    unsigned* index;
    Real *magnitude, *factor;
    signed char* code;
    long length;

    // Chooses from a sample z. Its other entries become 0; or NaN, where θ is.
    template <class Shape>
    __forceinline__ void choose(
        const Shape& shape, Sample<const Real> z, Thresholds<Real> thresholds, unsigned k, Real window)
    {
        const Real idle = idle_below(least_of(thresholds, shape.count), window);
        Real* const squares = factor;
        over_entries(shape, 0, shape.count, squares, [=](long row, long at) { return z(row, at) * z(row, at); });
        List<Real> list = {index, magnitude, 0};
        list.gather_from(squares, shape.count, key_of_square(idle));
        length = list.length;
        decide(thresholds, idle, k, window);
    }

    // A square whose root exceeds `idle` has a higher key than this, whatever was rounded.
    static __forceinline__ typename KeyOf<Real>::type key_of_square(Real idle)
    {
        const Real bound = idle * idle * (1 - 8 * Format<Real>::ROUNDING) - Format<Real>::SMALLEST;
        return bound > 0 ? key_of(bound) - (bound > Format<Real>::LARGEST) : 0;
    }

    // What becomes of the entries, of which the squares of the magnitudes are known.
    __forceinline__ void decide(Thresholds<Real> thresholds, Real idle, unsigned k, Real window)
    {
        INDEPENDENT
        for (long i = 0; i < length; ++i) magnitude[i] = sqrt(magnitude[i]);
        Alone team;
        const auto low = key_of(idle), cut = cutoff(team, Row<Real>{magnitude, length}, k, low);
        auto shrink_one = [=](long i, Real theta) {
            int what;
            factor[i] = shrink_joint(magnitude[i], theta, cut, window, what);
            code[i] = what;
        };
        const Real theta = *thresholds.theta;
        if (thresholds.per_coordinate) {
            for (long i = 0; i < length; ++i) shrink_one(i, thresholds.theta[index[i]]);
        } else {
            INDEPENDENT
            for (long i = 0; i < length; ++i) shrink_one(i, theta);
        }
    }

    // Drops entries that have become 0 and are not NEAR.
    __forceinline__ void drop_zeros()
    {
        long kept = 0;
        for (long i = 0; i < length; ++i) {  // without a branch
            index[kept] = index[i];
            factor[kept] = factor[i];
            code[kept] = code[i];
            kept += (factor[i] != 0) | (code[i] != OFF);
        }
        length = kept;
    }
};

// What an entry becomes that is not in a choice.
template <class Real> __forceinline__ Real otherwise(Thresholds<Real> thresholds, long e)
{
    const Real theta = thresholds.theta[thresholds.per_coordinate ? e : 0];
    return theta == theta ? Real(0) : theta;  // passes on a NaN of θ
}

// Whether no threshold of E entries is NaN.
template <class Real> __forceinline__ bool are_numbers(Thresholds<Real> thresholds, long E)
{
    int wrong = 0;
    for (long e = 0; e < (thresholds.per_coordinate ? E : 1); ++e) wrong |= thresholds.theta[e] != thresholds.theta[e];
    return !wrong;
}

// Thresholds E complex numbers, block by block, so that nothing of their length is written but the result. Those that may
// live are gathered at its beginning, and then put in their places, from the last to the first. No θ is NaN.
template <class Real>
__forceinline__ void shrink_pairs(
    const Real* __restrict__ x, const Real* __restrict__ u, Real alpha, Thresholds<Real> thresholds, unsigned k,
    Real window, long E, Choice<Real> choice, Real* __restrict__ x_next, signed char* __restrict__ code)
{
    const long BLOCK = 512;
    Real z[2 * BLOCK], squares[BLOCK];
    const Real idle = idle_below(least_of(thresholds, E), window);
    const auto low = Choice<Real>::key_of_square(idle);
    choice.length = 0;
    for (long first = 0; first < E; first += BLOCK, x += 2 * BLOCK, u += 2 * BLOCK) {
        const long count = E - first < BLOCK ? E - first : BLOCK;
        for (long j = 0; j < 2 * count; ++j) z[j] = x[j] + alpha * u[j];
        INDEPENDENT
        for (long e = 0; e < count; ++e) squares[e] = z[2 * e] * z[2 * e] + z[2 * e + 1] * z[2 * e + 1];
        List<Real> list = {choice.index + choice.length, choice.magnitude + choice.length, 0};
        list.gather_from(squares, count, low);
        Real* const gathered = x_next + 2 * choice.length;
        for (long i = 0; i < list.length; ++i) {
            const long e = list.index[i];
            gathered[2 * i] = z[2 * e];
            gathered[2 * i + 1] = z[2 * e + 1];
            list.index[i] = first + e;
        }
        choice.length += list.length;
    }
    choice.decide(thresholds, idle, k, window);
    for (long e = 0; e < E; ++e) code[e] = OFF;
    long end = E;
    for (long i = choice.length; i-- > 0; end = choice.index[i]) {
        const long e = choice.index[i];
        const Real re = x_next[2 * i], im = x_next[2 * i + 1];
        for (long j = 2 * (e + 1); j < 2 * end; ++j) x_next[j] = 0;
        x_next[2 * e] = choice.factor[i] * re;
        x_next[2 * e + 1] = choice.factor[i] * im;
        code[e] = choice.code[i];
    }
    for (long j = 0; j < 2 * end; ++j) x_next[j] = 0;
}

// Samples of x and u. The threshold of entry e of sample i is threshold[i · per_sample + e · per_coordinate], and
// support[i · support_per_sample] entries may pass. `factor` has place for all entries of a sample.
template <class Real>
__forceinline__ void shrink_samples(
    const Real* __restrict__ x, const Real* __restrict__ u, Real alpha, const Real* threshold, long per_sample,
    long per_coordinate, const long long* support, long support_per_sample, Real window, Entries entries, long samples,
    Choice<Real> choice, Real* factor, Real* __restrict__ x_next, signed char* __restrict__ code)
{
    with_shape(entries, [=](const auto& shape) mutable {
        const long E = shape.count, N = E * shape.size, numbers = shape.snapshots * N;
        for (long i = 0; i < samples; ++i) {
            const Thresholds<Real> thresholds = {threshold + i * per_sample, per_coordinate != 0};
            const long begin = i * numbers;
            const unsigned k = limited(support[i * support_per_sample], E);
            Real* __restrict__ const row = x_next + begin;
            if constexpr (ARE_PAIRS<decltype(shape)>)
                if (are_numbers(thresholds, E)) {
                    shrink_pairs(x + begin, u + begin, alpha, thresholds, k, window, E, choice, row, code + i * E);
                    continue;
                }
            INDEPENDENT
            for (long j = 0; j < numbers; ++j) row[j] = x[begin + j] + alpha * u[begin + j];
            choice.choose(shape, {row, N}, thresholds, k, window);
            for (long e = 0; e < E; ++e) {
                factor[e] = otherwise(thresholds, e);
                code[i * E + e] = OFF;
            }
            for (long place = 0; place < choice.length; ++place) {
                factor[choice.index[place]] = choice.factor[place];
                code[i * E + choice.index[place]] = choice.code[place];
            }
            each_number(shape, 0, E, [=](long e, long snapshot, long at) { row[snapshot * N + at] *= factor[e]; });
        }
    });
}

// The backward pass of a sample, or of some of its entries, one after the other. d_z may begin as z. With EACH, each entry
// has a threshold.
template <bool WINDOW, bool EACH, class Shape, class Real>
__forceinline__ void shrink_sample_backward(
    const Shape& shape, Sample<const Real> delta, const signed char* code, Sample<const Real> z, Sample<const Real> u,
    const Real* threshold, Real window, Sample<Real> d_z, double* d_step_size, double* d_threshold)
{
    const long BLOCK = 256;
    Real square[BLOCK], product[BLOCK], a[BLOCK], b[BLOCK], d_theta[BLOCK];
    PartialSums<Real> alpha_sums, theta_sums;
    for (long first = 0; first < shape.count; first += BLOCK) {
        const long count = shape.count - first < BLOCK ? shape.count - first : BLOCK;
        over_entries(shape, first, count, square, [=](long row, long at) { return z(row, at) * z(row, at); });
        over_entries(shape, first, count, product, [=](long row, long at) { return z(row, at) * delta(row, at); });
        INDEPENDENT
        for (long e = 0; e < count; ++e) {
            const int what = WINDOW ? code[first + e] : code[first + e] & KIND;
            Real more = 0;
            shrink_joint_backward(
                sqrt(square[e]), product[e], what, threshold[EACH ? first + e : 0], window, a[e], b[e], more);
            d_theta[e] = more;
        }
        each_number(shape, first, count, [&](long e, long row, long at) {
            d_z(row, at) = a[e] * delta(row, at) + b[e] * z(row, at);
        });
        for (long row = 0; row < shape.snapshots; ++row) {
            const Real *const back = &d_z(row, first * shape.size), *const step = &u(row, first * shape.size);
            alpha_sums.add(count * shape.size, [=](auto at) { return at(back) * at(step); });
        }
        if (EACH)
            for (long e = 0; e < count; ++e) d_threshold[first + e] += d_theta[e];
        else
            theta_sums.add(count, [&](auto at) { return at(d_theta); });
    }
    alpha_sums.add_to(*d_step_size);
    if (!EACH) theta_sums.add_to(*d_threshold);
}

// The backward pass of E complex numbers of which few are not OFF. With EACH, each has a threshold.
template <bool EACH, class Real>
__forceinline__ void shrink_pairs_backward(
    const Real* __restrict__ delta, const signed char* __restrict__ code, const Real* __restrict__ x,
    const Real* __restrict__ u, Real alpha, const Real* threshold, Real window, long E, Real* __restrict__ d_z,
    double* d_step_size, double* d_threshold)
{
    double d_alpha = 0, d_theta = 0;
    for (long j = 0; j < 2 * E; ++j) d_z[j] = 0;
    for (long e = 0; e < E; ++e) {
        if (!code[e]) continue;
        const long j = 2 * e;
        const int what = window > 0 ? code[e] : code[e] & KIND;
        const Real re = x[j] + alpha * u[j], im = x[j + 1] + alpha * u[j + 1];
        Real a, b, more = 0;
        shrink_joint_backward(
            sqrt(re * re + im * im), re * delta[j] + im * delta[j + 1], what, threshold[EACH ? e : 0], window, a, b, more);
        d_z[j] = a * delta[j] + b * re;
        d_z[j + 1] = a * delta[j + 1] + b * im;
        d_alpha += d_z[j] * u[j] + d_z[j + 1] * u[j + 1];
        if (EACH)
            d_threshold[e] += more;
        else
            d_theta += more;
    }
    *d_step_size += d_alpha;
    if (!EACH) *d_threshold += d_theta;
}

// The backward pass of samples. d_threshold is laid out like the threshold, and is added to, as is d_step_size.
template <class Real>
__forceinline__ void shrink_samples_backward(
    const Real* delta, const signed char* code, const Real* x, const Real* u, Real alpha, const Real* threshold,
    long per_sample, long per_coordinate, Real window, Entries entries, long samples, Real* d_z, double* d_step_size,
    double* d_threshold)
{
    with_shape(entries, [=](const auto& shape) {
        const long N = shape.count * shape.size, numbers = shape.snapshots * N;
        for (long i = 0; i < samples; ++i) {
            const long begin = i * numbers;
            Real* const row = d_z + begin;
            if constexpr (ARE_PAIRS<decltype(shape)>) {
                const signed char* const codes = code + i * shape.count;
                int present = 0;
                for (long e = 0; e < shape.count; ++e) present += codes[e] != OFF;
                if (present <= FEW_PAIRS * shape.count) {
                    auto go_back = [&](auto run) {
                        run(delta + begin, codes, x + begin, u + begin, alpha, threshold + i * per_sample, window,
                            shape.count, row, d_step_size, d_threshold + i * per_sample);
                    };
                    per_coordinate ? go_back([](auto... all) { shrink_pairs_backward<true>(all...); })
                                   : go_back([](auto... all) { shrink_pairs_backward<false>(all...); });
                    continue;
                }
            }
            INDEPENDENT
            for (long j = 0; j < numbers; ++j) row[j] = x[begin + j] + alpha * u[begin + j];
            auto go_back = [&](auto run) {
                run(shape, Sample<const Real>{delta + begin, N}, code + i * shape.count, Sample<const Real>{row, N},
                    Sample<const Real>{u + begin, N}, threshold + i * per_sample, window, Sample<Real>{row, N},
                    d_step_size, d_threshold + i * per_sample);
            };
            if (window > 0)
                per_coordinate ? go_back([](auto... all) { shrink_sample_backward<true, true>(all...); })
                               : go_back([](auto... all) { shrink_sample_backward<true, false>(all...); });
            else
                per_coordinate ? go_back([](auto... all) { shrink_sample_backward<false, true>(all...); })
                               : go_back([](auto... all) { shrink_sample_backward<false, false>(all...); });
        }
    });
}
