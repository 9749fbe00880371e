// Support selection and thresholding of one row, by a warp or by a block.
#pragma once
#include "common.cuh"

// The number that is thresholded: z or, one-sided, max(z, 0). It passes on a NaN of z.
__device__ __forceinline__ real sided(real z, int one_sided) { return one_sided && z <= 0 ? real(0) : z; }

// -- a thread's share of the keys: |z| as integers --------------------------------------------------------------------

// In registers.
template <int ITEMS> struct Registers {
    const real (&z)[ITEMS];

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const
    {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) visit(key_of(z[i]));
    }
};

// In memory. Every blockDim.x-th entry belongs to the thread, and to no other, so no barrier is needed.
struct Strided {
    const real* z;
    int size;

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const
    {
        for (int j = threadIdx.x; j < size; j += blockDim.x) visit(key_of(z[j]));
    }
};

// The (k+1)-th largest key if it exceeds `low`, else `low`. If k is 0, a key that none exceeds.
//
// Bisection, with counts over all threads of the team. It begins at `low`, below which the cutoff does not matter to
// the caller, and ends as soon as a count identifies the key: after about log2(range / distance of neighbouring keys)
// rounds or, if there are ties, after at most as many rounds as a key has bits.
template <class Team, class Keys> __device__ __forceinline__ Key cutoff(Team& team, const Keys& keys, unsigned k, Key low)
{
    if (k == 0) return ~Key(0);
    auto count_above = [&](Key bound) {
        unsigned count = 0;  // of negative differences: no key has its top bit set, and this is cheaper than comparing
        keys.each([&](Key key) { count += unsigned((bound - key) >> (8 * sizeof(Key) - 1)); });
        return team.template over<Sum>(count);
    };
    if (count_above(low) <= k) return low;
    Key high = 0;
    keys.each([&](Key key) { high = Most::combine(high, key); });
    high = team.template over<Most>(high);
    while (high - low > 1) {  // more than k keys are above low, and at most k above high
        const Key middle = low + (high - low) / 2;
        const unsigned above = count_above(middle);
        if (above == k) {
            Key most = 0;
            keys.each([&](Key key) { most = key <= middle ? Most::combine(most, key) : most; });
            return team.template over<Most>(most);
        }
        if (above == k + 1) {
            Key least = ~Key(0);
            keys.each([&](Key key) { least = key > middle ? Least::combine(least, key) : least; });
            return team.template over<Least>(least);
        }
        (above > k ? low : high) = middle;
    }
    return high;
}

// With a single threshold θ, a cutoff below this key makes no difference, because nothing below it passes or is NEAR.
__device__ __forceinline__ Key lowest_cutoff(real theta, real window)
{
    // With a window it is a little lower than the window's edge, which is subject to rounding.
    const real floor = window > 0 ? theta * (1 - window) * real(0.999) : theta;
    return theta > 0 && floor > 0 ? key_of(floor) : Key(0);
}

// Thresholds one entry: returns x_next for z, and sets its code.
__device__ __forceinline__ real shrink(real z, real theta, Key cut, real window, int& code)
{
    // Selections instead of branches, because the lanes of a warp would take every side of a branch.
    const real magnitude = fabs(z), distance = magnitude - theta;
    const bool among_largest = key_of(z) > cut;
    const bool alive = (magnitude > theta) & (z != 0);
    const bool passed = alive & among_largest;
    const bool near = (window > 0) & among_largest & (fabs(distance) < window * theta);
    const int kind = passed ? PASSED : z > 0 ? SHRUNK_UP : SHRUNK_DOWN;
    code = (alive ? kind : OFF) | (near ? NEAR : 0);
    const real moved = passed ? z : copysign(distance, z);
    return alive ? moved : distance != distance ? distance : real(0);  // passes on a NaN of z or θ
}

// The backward pass of one entry, from δ: returns d_z and adds to ∂L/∂θ. See ReferenceOps.shrink_select_backward.
__device__ __forceinline__ real shrink_backward(real delta, int code, real z, real theta, real window, double& d_theta)
{
    const int kind = code & KIND;
    real d_z = kind == OFF ? real(0) : delta;
    if (kind == SHRUNK_UP) d_theta -= delta;
    if (kind == SHRUNK_DOWN) d_theta += delta;
    if (code & NEAR) {  // the jump from 0 to z, replaced by a ramp of width 2 h θ
        const real slope = delta / (2 * window * theta);
        d_z += slope * fabs(z);
        d_theta -= double(slope) * double(z);
    }
    return d_z;
}
