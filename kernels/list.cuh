// Products with a sparse vector, which read only those rows of a matrix that belong to a non-zero entry.
#pragma once
#include "common.cuh"

// The non-zero entries of a vector, in the order of their indices, in shared memory, padded with zeros to a multiple of
// AT_ONCE. (The matrix has fewer than 2³² entries because shared memory limits the number of its rows.)
struct List {
    unsigned* index;
    real* value;
    int* counts;  // the non-zeros in each 32 entries of the vector
    int length;

    // All threads of the block call this. Each reads only its own entries of `vector`, every blockDim.x-th.
    __device__ void gather_from(const real* vector, int N)
    {
        const int chunks = (N + 31) / 32;
        for (int chunk = warp(); chunk < chunks; chunk += blockDim.x / 32) {
            const int j = 32 * chunk + lane();
            const unsigned present = __ballot_sync(ALL, j < N && vector[j] != 0);
            if (lane() == 0) counts[chunk] = __popc(present);
        }
        __syncthreads();  // also waits for threads that still read the previous list
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

    // Entry j of the product of the vector and a matrix with this many columns.
    __device__ __forceinline__ real times(const real* __restrict__ matrix, unsigned columns, unsigned j) const
    {
        real sum = 0;
        for (int first = 0; first < length; first += AT_ONCE)
#pragma unroll
            for (int i = first; i < first + AT_ONCE; ++i) sum = fma(value[i], matrix[index[i] * columns + j], sum);
        return sum;
    }
};
