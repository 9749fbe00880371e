// What the kernels share: the floating-point type, and reductions over a warp and over a block. What the native code
// for the CPU shares with them is in entry.cuh and select.cuh.
//
// Every file is compiled twice, with REAL = float and with REAL = double, and with the constants of constants.py. The
// compiler does not contract a·b + c, so that z = x + α u has the bits of its definition in NumPy; where a fused
// multiply-add is wanted, the code calls fma(). No kernel uses a floating-point atomic, so two runs give the same bits.
#pragma once
#include "select.cuh"

typedef REAL real;

#define KERNEL extern "C" __global__ void

#ifndef SHARED_MEMORY
// The launch's dynamic shared memory.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

const unsigned ALL = 0xffffffffu;

__device__ __forceinline__ int lane() { return threadIdx.x & 31; }
__device__ __forceinline__ int warp() { return threadIdx.x >> 5; }

// WIDTH numbers that are read or written together, up to 16 bytes at a time.
template <class T, int WIDTH> struct alignas(sizeof(T) * WIDTH < 16 ? sizeof(T) * WIDTH : 16) Pack { T lanes[WIDTH]; };

typedef KeyOf<real>::type Key;

// The number whose `key_of` this is.
__device__ __forceinline__ float number_of(unsigned key) { return __uint_as_float(key); }
__device__ __forceinline__ double number_of(unsigned long long key) { return __longlong_as_double((long long)key); }

// -- reductions ------------------------------------------------------------------------------------------------------

// Combines one value from every lane. All lanes get the result, with the same bits.
template <class Operation, class T> __device__ __forceinline__ T over_warp(T value)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value = Operation::combine(value, __shfl_xor_sync(ALL, value, distance));
    return value;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // these have an instruction for it
template <> __device__ __forceinline__ unsigned over_warp<Sum, unsigned>(unsigned value)
{
    return __reduce_add_sync(ALL, value);
}
template <> __device__ __forceinline__ unsigned over_warp<Most, unsigned>(unsigned value)
{
    return __reduce_max_sync(ALL, value);
}
template <> __device__ __forceinline__ unsigned over_warp<Least, unsigned>(unsigned value)
{
    return __reduce_min_sync(ALL, value);
}
#endif

// The threads that work on a row together: a warp …
struct Warp {
    template <class Operation, class T> __device__ __forceinline__ T over(T value) { return over_warp<Operation>(value); }
};

// … or a block of whole warps. Every reduction takes one barrier: consecutive reductions use the two halves of `slots`
// in turn, and a thread returns to a half only after all threads have passed the barrier in between.
struct Block {
    unsigned long long* slots;  // shared, 64 words
    int turn;

    __device__ explicit Block(unsigned long long* shared) : slots(shared), turn(0) {}

    template <class Operation, class T> __device__ __forceinline__ T over(T value)
    {
        value = over_warp<Operation>(value);
        T* const totals = reinterpret_cast<T*>(slots + 32 * turn);
        turn ^= 1;
        if (lane() == 0) totals[warp()] = value;
        __syncthreads();
        const bool one_more = lane() >= blockDim.x / 32;
        value = totals[one_more ? 0 : lane()];
        return over_warp<Operation>(one_more && !Operation::repeatable ? T(0) : value);
    }
};
