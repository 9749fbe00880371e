// What thresholding and its backward pass do to a sample whose entries are complex or joint. See cuista.ops.joint.
//
// The kind of entry is given by the type of its numbers, which is real or Complex<real>, and by whether it is `ALONE`: a
// single number, as the compiler then knows, and not a group of numbers in each of several snapshots. Kernels take complex
// numbers as pairs of real ones; their arrays are aligned to whole numbers.
#pragma once
#include "numbers.cuh"

// How a sample is divided into entries: each is `group` neighbours in each of its `snapshots` rows.
struct Entries {
    int snapshots, group, count;

    // How many numbers a sample has.
    __device__ __forceinline__ long long numbers() const { return (long long)snapshots * group * count; }

    // Calls use(place in the sample) for every number of entry e.
    template <bool ALONE, class Use> __device__ __forceinline__ void each(int e, Use use) const
    {
        if constexpr (ALONE) {
            use((long long)e);
        } else {
            for (int row = 0; row < snapshots; ++row)
                for (int c = 0; c < group; ++c) use(((long long)row * count + e) * group + c);
        }
    }
};

// The backward pass of entry e, from δ of the sample: sets d_z, which may take the place of δ, adds to ∂L/∂α, and returns
// the entry's ∂L/∂θ, which is all that is computed if d_z is null. An entry that thresholding set to 0 is not read.
template <bool ALONE, class Number, class ZAt>
__device__ __forceinline__ real entry_backward(
    const Entries& entries, int e, int code, real theta, real window, ZAt z, const Number* delta, const Number* u,
    Number* d_z, double& d_step_size)
{
    const int what = window > 0 ? code : code & KIND;
    real square = 0, product = 0, a = 0, b = 0, d_theta = 0;
    if (what != OFF) {
        entries.each<ALONE>(e, [&](long long at) {
            const Number number = z(at);
            square += inner(number, number);
            product += inner(number, number_at(delta + at));
        });
        shrink_joint_backward(sqrt(square), product, what, theta, window, a, b, d_theta);
    }
    if (d_z)
        entries.each<ALONE>(e, [&](long long at) {
            Number result = {};
            if (what != OFF) {
                result = a * number_at(delta + at) + b * z(at);
                d_step_size += in_double(result, number_at(u + at));
            }
            write(d_z + at, result);
        });
    return d_theta;
}

// z = x + α u of a sample, where u is the sum of two arrays if `more` is not null, and x is 0 if it is null.
template <class Number, bool ALONE> struct Step {
    const Entries entries;
    const Number *x, *u, *more;
    const real alpha;

    __device__ __forceinline__ Step(
        Entries entries, const real* x, const real* u, const real* more, const double* step_size, long long sample)
        : entries(entries), x(of_sample(x, sample)), u(of_sample(u, sample)), more(of_sample(more, sample)),
          alpha(real(*step_size))
    {
    }

    template <class Of> __device__ __forceinline__ Number* of_sample(Of* array, long long sample) const
    {
        return array ? (Number*)array + sample * entries.numbers() : nullptr;
    }

    __device__ __forceinline__ Number z(long long at) const
    {
        const Number step = more ? number_at(u + at) + number_at(more + at) : number_at(u + at);
        return (x ? number_at(x + at) : Number{}) + alpha * step;
    }

    __device__ __forceinline__ real magnitude(int e) const
    {
        real sum = 0;
        entries.each<ALONE>(e, [&](long long at) {
            const Number number = z(at);
            sum += inner(number, number);
        });
        return sqrt(sum);
    }

    // The backward pass of entry e, from δ of the sample: see entry_backward.
    __device__ __forceinline__ real go_back(
        int e, const Number* delta, int code, real theta, real window, Number* d_z, double& d_step_size) const
    {
        return entry_backward<ALONE>(
            entries, e, code, theta, window, [&](long long at) { return z(at); }, delta, u, d_z, d_step_size);
    }
};
