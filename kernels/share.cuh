// A thread's share of the keys of a row, |z| as integers, for the selection by a warp or a block.
#pragma once
#include "common.cuh"

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

// In memory, for a warp.
struct OfWarp {
    const real* z;
    int size;

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const
    {
#pragma unroll 4
        for (int j = lane(); j < size; j += 32) visit(key_of(z[j]));
    }
};
