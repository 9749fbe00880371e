// Support selection and thresholding of one row, by a warp or by a block.
#pragma once
#include "common.cuh"

// -- the keys that a thread has a share of: |z| as integers ------------------------------------------------------------

// In registers.
template <int ITEMS> struct Registers {
    const real (&z)[ITEMS];

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const
    {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) visit(key_of(z[i]));
    }
};

// In memory: every blockDim.x-th entry is the thread's own, and only the thread's own, so that no barrier is needed.
struct Strided {
    const real* z;
    int size;

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const
    {
        for (int j = threadIdx.x; j < size; j += blockDim.x) visit(key_of(z[j]));
    }
};

// The (k+1)-th largest key if it is more than `low`, else `low`; and what no key exceeds if k is 0.
//
// Bisection with counts over all threads of the team. It begins at `low`, below which the caller does not care, and ends
// as soon as a count says which key it is: after about log2(range / distance of neighbouring keys) rounds, and at the
// latest, when there are ties, after the bits of a key.
template <class Team, class Keys> __device__ __forceinline__ Key cutoff(Team& team, const Keys& keys, unsigned k, Key low)
{
    if (k == 0) return ~Key(0);
    auto count_above = [&](Key bound) {
        unsigned count = 0;  // of differences below 0: no key has its top bit set, and this is cheaper than comparing
        keys.each([&](Key key) { count += unsigned((bound - key) >> (8 * sizeof(Key) - 1)); });
        return team.template over<Sum>(count);
    };
    if (count_above(low) <= k) return low;
    Key high = 0;
    keys.each([&](Key key) { high = Most::of(high, key); });
    high = team.template over<Most>(high);
    while (high - low > 1) {  // more than k keys are above low, and at most k above high
        const Key middle = low + (high - low) / 2;
        const unsigned above = count_above(middle);
        if (above == k) {
            Key most = 0;
            keys.each([&](Key key) { most = key <= middle ? Most::of(most, key) : most; });
            return team.template over<Most>(most);
        }
        if (above == k + 1) {
            Key least = ~Key(0);
            keys.each([&](Key key) { least = key > middle ? Least::of(least, key) : least; });
            return team.template over<Least>(least);
        }
        (above > k ? low : high) = middle;
    }
    return high;
}

// Below this key the cutoff makes no difference with one threshold θ: nothing passes or is near there.
__device__ __forceinline__ Key lowest_cutoff(real theta, real window)
{
    // A little lower where there is a window, for its edge is subject to rounding.
    const real floor = window > 0 ? theta * (1 - window) * real(0.999) : theta;
    return theta > 0 && floor > 0 ? key_of(floor) : Key(0);
}

// One entry: z to x_next, and its code.
__device__ __forceinline__ real shrink(real z, real theta, Key cut, real window, int& code)
{
    // Selections throughout, for the lanes of a warp would take all ways of every branch.
    const real magnitude = fabs(z), distance = magnitude - theta;
    const bool among_largest = key_of(z) > cut;
    const bool alive = (magnitude > theta) & (z != 0);
    const bool passed = alive & among_largest;
    const bool near = (window > 0) & among_largest & (fabs(distance) < window * theta);
    const int kind = passed ? PASSED : z > 0 ? SHRUNK_UP : SHRUNK_DOWN;
    code = (alive ? kind : OFF) | (near ? NEAR : 0);
    const real moved = passed ? z : copysign(distance, z);
    return alive ? moved : distance != distance ? distance : real(0);  // NaN, of z or of θ, goes on
}

// The backward pass of an entry, from δ: returns d_z and adds to ∂L/∂θ. See ReferenceOps.shrink_select_backward.
__device__ __forceinline__ real shrink_backward(real delta, int code, real z, real theta, real window, double& d_theta)
{
    const int kind = code & KIND;
    real d_z = kind == OFF ? real(0) : delta;
    if (kind == SHRUNK_UP) d_theta -= delta;
    if (kind == SHRUNK_DOWN) d_theta += delta;
    if (code & NEAR) {  // the jump from 0 to z, taken for a ramp of width 2 h θ
        const real slope = delta / (2 * window * theta);
        d_z += slope * fabs(z);
        d_theta -= double(slope) * double(z);
    }
    return d_z;
}
