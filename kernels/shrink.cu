// Kernel 1: z = x + α u, the exact selection of the k largest |z| of every row, and thresholding, in one pass over
// device memory. See ReferenceOps.shrink_select for what it computes.
#include "share.cuh"

// The threshold of entry j in row i is threshold[i · per_sample + j · per_coordinate]. In the kernels that take a warp per
// row, u is the sum of two arrays if `more` is not null, x is 0 if it is null, and a null `code` is not written.

// One warp per row, which it holds in registers: N ≤ 32 · ITEMS. Entries are read and written WIDTH at a time; if WIDTH
// is 4, N must be a multiple of 4.
template <int ITEMS, int WIDTH>
__device__ __forceinline__ void shrink_rows(
    const real* __restrict__ x, const real* __restrict__ u, const real* __restrict__ more,
    const double* __restrict__ step_size, const double* __restrict__ threshold, int per_coordinate, int per_sample,
    real window, int one_sided, int batch, int N, int k, real* __restrict__ x_next, signed char* __restrict__ code)
{
    typedef Pack<real, WIDTH> Reals;
    typedef Pack<signed char, WIDTH> Codes;
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= batch) return;  // the whole warp returns
    const long long offset = (long long)row * N;
    const real alpha = real(*step_size);
    threshold += row * (long long)per_sample;
    const real theta = real(*threshold);

    real z[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS / WIDTH; ++i) {
        const int j = (32 * i + lane()) * WIDTH;
        Reals x_read = {}, u_read = {}, more_read = {};
        if (j < N) {
            if (x) x_read = *reinterpret_cast<const Reals*>(x + offset + j);
            u_read = *reinterpret_cast<const Reals*>(u + offset + j);
            if (more) more_read = *reinterpret_cast<const Reals*>(more + offset + j);
        }
#pragma unroll
        for (int c = 0; c < WIDTH; ++c) {
            const real step = more ? u_read.lanes[c] + more_read.lanes[c] : u_read.lanes[c];
            z[WIDTH * i + c] = sided(x_read.lanes[c] + alpha * step, one_sided);
        }
    }
    Warp team;
    const Key low = per_coordinate ? Key(0) : lowest_cutoff(theta, window);
    const Key cut = cutoff(team, Registers<ITEMS>{z}, k, low);
#pragma unroll
    for (int i = 0; i < ITEMS / WIDTH; ++i) {
        const int j = (32 * i + lane()) * WIDTH;
        if (j >= N) continue;
        Reals result;
        Codes codes;
#pragma unroll
        for (int c = 0; c < WIDTH; ++c) {
            int what;
            const real entry_threshold = per_coordinate ? real(threshold[j + c]) : theta;
            result.lanes[c] = shrink(z[WIDTH * i + c], entry_threshold, cut, window, what);
            codes.lanes[c] = what;
        }
        *reinterpret_cast<Reals*>(x_next + offset + j) = result;
        if (code) *reinterpret_cast<Codes*>(code + offset + j) = codes;
    }
}

#define SHRINK_ROWS(ITEMS, WIDTH)                                                                                     \
    KERNEL __launch_bounds__(128, 1) shrink_rows_##ITEMS##_##WIDTH(                                                      \
        const real* x, const real* u, const real* more, const double* step_size, const double* threshold,             \
        int per_coordinate, int per_sample, real window, int one_sided, int batch, int N, int k, real* x_next,        \
        signed char* code)                                                                                            \
    {                                                                                                                 \
        shrink_rows<ITEMS, WIDTH>(                                                                                    \
            x, u, more, step_size, threshold, per_coordinate, per_sample, window, one_sided, batch, N, k, x_next,     \
            code);                                                                                                    \
    }

SHRINK_ROWS(4, 1)
SHRINK_ROWS(8, 1)
SHRINK_ROWS(16, 1)
SHRINK_ROWS(32, 1)
SHRINK_ROWS(4, 4)
SHRINK_ROWS(8, 4)
SHRINK_ROWS(16, 4)
SHRINK_ROWS(32, 4)

// One block per row, which keeps z in shared memory.
KERNEL __launch_bounds__(256, 1) shrink_long_rows(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size,
    const double* __restrict__ threshold, int per_coordinate, int per_sample, real window, int one_sided, int N,
    int k, real* __restrict__ x_next, signed char* __restrict__ code)
{
    SHARED_MEMORY(shared);
    __shared__ unsigned long long slots[64];
    const long long offset = (long long)blockIdx.x * N;
    real* const z = reinterpret_cast<real*>(shared);
    const real alpha = real(*step_size);
    threshold += blockIdx.x * (long long)per_sample;
    const real theta = real(*threshold);
    for (int j = threadIdx.x; j < N; j += blockDim.x)
        z[j] = sided(x[offset + j] + alpha * u[offset + j], one_sided);

    Block team(slots);
    const Key low = per_coordinate ? Key(0) : lowest_cutoff(theta, window);
    const Key cut = cutoff(team, Strided{z, N}, k, low);
    for (int j = threadIdx.x; j < N; j += blockDim.x) {
        int what;
        x_next[offset + j] = shrink(z[j], per_coordinate ? real(threshold[j]) : theta, cut, window, what);
        code[offset + j] = what;
    }
}
