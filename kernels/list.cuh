// Products with a sparse vector, which read the rows of a matrix that meet a non-zero.
#pragma once
#include "common.cuh"

// The non-zero entries of a vector, in the order of their indices, in shared memory; zeros make their number a multiple of
// AT_ONCE. (What this multiplies has fewer than 2³² entries, for shared memory limits its rows.)
struct List {
    unsigned* index;
    real* value;
    int* counts;  // of each 32 entries of the vector
    int length;

    // All threads; `vector` is read by each thread at its own entries alone.
    __device__ void gather_from(const real* vector, int N)
    {
        const int chunks = (N + 31) / 32;
        for (int chunk = warp(); chunk < chunks; chunk += blockDim.x / 32) {
            const int j = 32 * chunk + lane();
            const unsigned present = __ballot_sync(ALL, j < N && vector[j] != 0);
            if (lane() == 0) counts[chunk] = __popc(present);
        }
        __syncthreads();  // … which also waits for all that still read the list of before
        int before = 0, seen = 0;
        for (int chunk = warp(); chunk < chunks; chunk += blockDim.x / 32) {
            for (; seen < chunk; ++seen) before += counts[seen];
            const int j = 32 * chunk + lane();
            const bool mine = j < N && vector[j] != 0;
            const unsigned present = __ballot_sync(ALL, mine);
            if (mine) {
                const int place = before + __popc(present & ((1u << lane()) - 1));
                index[place] = j;
                value[place] = vector[j];
            }
        }
        for (; seen < chunks; ++seen) before += counts[seen];
        length = (before + AT_ONCE - 1) / AT_ONCE * AT_ONCE;
        if (threadIdx.x < length - before) {
            index[before + threadIdx.x] = 0;
            value[before + threadIdx.x] = 0;
        }
        __syncthreads();
    }

    // Entry j of the vector times a matrix with so many columns.
    __device__ __forceinline__ real times(const real* __restrict__ matrix, unsigned columns, unsigned j) const
    {
        real sum = 0;
        for (int first = 0; first < length; first += AT_ONCE)
#pragma unroll
            for (int i = first; i < first + AT_ONCE; ++i) sum = fma(value[i], matrix[index[i] * columns + j], sum);
        return sum;
    }
};
