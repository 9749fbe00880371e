// Support selection: the exact cutoff of the k largest entries of a row. The CUDA kernels, in which a warp or a block
// shares a row, and the native code for the CPU, in which a thread has it for itself, share this file.
#pragma once
#include "entry.cuh"

// -- how two values are combined -------------------------------------------------------------------------------------

struct Sum {
    static const bool repeatable = false;  // whether a value may be combined twice
    template <class T> static __device__ __forceinline__ T combine(T a, T b) { return a + b; }
};
struct Most {
    static const bool repeatable = true;
    template <class T> static __device__ __forceinline__ T combine(T a, T b) { return a > b ? a : b; }
};
struct Least {
    static const bool repeatable = true;
    template <class T> static __device__ __forceinline__ T combine(T a, T b) { return a < b ? a : b; }
};

// -- selection -------------------------------------------------------------------------------------------------------

// The (k+1)-th largest key if it exceeds `low`, else `low`. If k is 0, a key that none exceeds.
//
// `keys.each` visits the caller's share of the keys, |z| as integers, and `team.over` combines one value from every
// member of the team.
//
// Bisection, with counts over the whole team. It begins at `low`, below which the cutoff does not matter to the caller,
// and ends as soon as a count identifies the key: after about log2(range / distance of neighbouring keys) rounds or, if
// there are ties, after at most as many rounds as a key has bits.
template <class Team, class Keys, class Key>
__device__ __forceinline__ Key cutoff(Team& team, const Keys& keys, unsigned k, Key low)
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
