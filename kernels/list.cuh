// Products with a sparse vector, which read only those rows of a matrix that belong to a non-zero entry.
#pragma once
#include "numbers.cuh"

// How a block shares out a product: teams of whole warps take AT_ONCE rows of the matrix in turn, and each thread of a
// team sums WIDTH neighbouring columns. Several teams keep more reads in flight than one.
template <int WIDTH> struct Teams {
    int size, count;

    __device__ __forceinline__ Teams(int columns, int threads)
        : size((columns / WIDTH + 31) / 32 * 32), count(columns % WIDTH ? 0 : threads / size)
    {
    }
};

// The non-zero entries of a vector, in the order of their indices, in shared memory, padded with zeros to a multiple of
// AT_ONCE. (The matrix has fewer than 2³² entries because shared memory limits the number of its rows.)
template <class Number> struct List {
    unsigned* index;
    Number* value;
    int* counts;       // the non-zeros in each 32 entries of the vector
    Number* of_teams;  // (count, columns), the sums of the teams; aligned as a Pack
    int length;

    // All threads of the block call this. Each reads only its own entries of `vector`, every blockDim.x-th.
    __device__ void gather_from(const Number* vector, int N)
    {
        const int chunks = (N + 31) / 32;
        for (int chunk = warp(); chunk < chunks; chunk += blockDim.x / 32) {
            const int j = 32 * chunk + lane();
            const unsigned present = __ballot_sync(ALL, j < N && is_nonzero(vector[j]));
            if (lane() == 0) counts[chunk] = __popc(present);
        }
        __syncthreads();  // also waits for threads that still read the previous list
        int before = 0, seen = 0;
        for (int chunk = warp(); chunk < chunks; chunk += blockDim.x / 32) {
            for (; seen < chunk; ++seen) before += counts[seen];
            const int j = 32 * chunk + lane();
            const bool mine = j < N && is_nonzero(vector[j]);
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
            value[before + threadIdx.x] = {};
        }
        __syncthreads();
    }

    // Calls use(j, entry) with every entry of the product of the vector and a matrix with this many columns. All threads
    // of the block call this after `gather_from`, and each gets every blockDim.x-th entry.
    template <class Use>
    __device__ __forceinline__ void multiply(const Number* __restrict__ matrix, int columns, Use use) const
    {
        if (Teams<4>(columns, blockDim.x).count > 1)
            in_teams<4>(matrix, columns, use);
        else if (Teams<1>(columns, blockDim.x).count > 1)
            in_teams<1>(matrix, columns, use);
        else
            for (int j = threadIdx.x; j < columns; j += blockDim.x) use(j, times(matrix, columns, j));
    }

    template <int WIDTH, class Use>
    __device__ __forceinline__ void in_teams(const Number* __restrict__ matrix, int columns, Use use) const
    {
        typedef Pack<Number, WIDTH> Numbers;
        const Teams<WIDTH> teams(columns, blockDim.x);
        const int team = threadIdx.x / teams.size, j = threadIdx.x % teams.size * WIDTH;
        if (team < teams.count && j < columns) {
            Numbers sum = {};
            for (int first = AT_ONCE * team; first < length; first += AT_ONCE * teams.count) {
#pragma unroll AT_ONCE / PARTS<Number>  // as many real numbers are in flight
                for (int i = first; i < first + AT_ONCE; ++i) {
                    const Numbers row = *reinterpret_cast<const Numbers*>(matrix + (index[i] * unsigned(columns) + j));
#pragma unroll
                    for (int c = 0; c < WIDTH; ++c)
                        sum.lanes[c] = multiply_add(number_at(value + i), row.lanes[c], sum.lanes[c]);
                }
            }
            *reinterpret_cast<Numbers*>(of_teams + team * columns + j) = sum;
        }
        __syncthreads();
        for (int own = threadIdx.x; own < columns; own += blockDim.x) {
            Number sum = of_teams[own];
            for (int other = 1; other < teams.count; ++other) sum = sum + of_teams[other * columns + own];
            use(own, sum);
        }
    }

    // Entry j of the product of the vector and a matrix with this many columns.
    __device__ __forceinline__ Number times(const Number* __restrict__ matrix, unsigned columns, unsigned j) const
    {
        Number sum = {};
        for (int first = 0; first < length; first += AT_ONCE)
#pragma unroll 4
            for (int i = first; i < first + AT_ONCE; ++i)
                sum = multiply_add(number_at(value + i), number_at(matrix + (index[i] * columns + j)), sum);
        return sum;
    }
};
