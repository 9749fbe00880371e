// Kernel 2: the backward pass of kernel 1. Sums are added in a fixed order: each warp sums its rows, and then the
// warps' sums are added.
#include "common.cuh"

// Computes d_z and, for every warp, two sums over its rows: Σ d_z u and the contribution to ∂L/∂θ. There are `size`
// entries in rows of N, the last of which may be shorter. They are read and written WIDTH at a time; if WIDTH is 4,
// `size` and N must be multiples of 4.
template <int WIDTH>
__device__ __forceinline__ void go_back(
    const real* __restrict__ delta, const signed char* __restrict__ code, const real* __restrict__ x,
    const real* __restrict__ u, const double* __restrict__ step_size, const double* __restrict__ threshold,
    int per_coordinate, real window, long long size, int N, real* __restrict__ d_z, double* __restrict__ sums)
{
    typedef Pack<real, WIDTH> Reals;
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = gridDim.x * blockDim.x / 32;
    const real alpha = real(*step_size);
    const real theta = real(*threshold);
    double d_step_size = 0, d_threshold = 0;
    for (long long offset = (long long)first * N; offset < size; offset += (long long)warps * N) {
        const int end = size - offset < N ? size - offset : N;
        for (int j = WIDTH * lane(); j < end; j += 32 * WIDTH) {
            const long long e = offset + j;
            const Reals delta_read = *reinterpret_cast<const Reals*>(delta + e);
            const Reals u_read = *reinterpret_cast<const Reals*>(u + e);
            const Pack<signed char, WIDTH> codes = *reinterpret_cast<const Pack<signed char, WIDTH>*>(code + e);
            Reals result;
#pragma unroll
            for (int c = 0; c < WIDTH; ++c) {
                const int what = codes.lanes[c];
                const real z = what & NEAR ? x[e + c] + alpha * u_read.lanes[c] : real(0);  // only NEAR entries need x
                const real entry_threshold = per_coordinate ? real(threshold[j + c]) : theta;
                result.lanes[c] = shrink_backward(delta_read.lanes[c], what, z, entry_threshold, window, d_threshold);
                d_step_size += double(result.lanes[c]) * double(u_read.lanes[c]);
            }
            *reinterpret_cast<Reals*>(d_z + e) = result;
        }
    }
    d_step_size = over_warp<Sum>(d_step_size);
    d_threshold = over_warp<Sum>(d_threshold);
    if (lane() == 0) {
        sums[2 * first] = d_step_size;
        sums[2 * first + 1] = d_threshold;
    }
}

#define BACKWARD_ROWS(WIDTH)                                                                                          \
    KERNEL __launch_bounds__(128, 1) backward_rows_##WIDTH(                                                           \
        const real* delta, const signed char* code, const real* x, const real* u, const double* step_size,            \
        const double* threshold, int per_coordinate, real window, long long size, int N, real* d_z, double* sums)     \
    {                                                                                                                 \
        go_back<WIDTH>(delta, code, x, u, step_size, threshold, per_coordinate, window, size, N, d_z, sums);          \
    }

BACKWARD_ROWS(1)
BACKWARD_ROWS(4)

// For a threshold per coordinate: the partial sums of ∂L/∂θ over `rows` consecutive rows, one thread per coordinate.
KERNEL __launch_bounds__(128, 1) backward_columns(
    const real* __restrict__ delta, const signed char* __restrict__ code, const real* __restrict__ x,
    const real* __restrict__ u, const double* __restrict__ step_size, const double* __restrict__ threshold,
    real window, int batch, int N, int rows, double* __restrict__ sums)
{
    const int blocks = (N + blockDim.x - 1) / blockDim.x;
    const int part = blockIdx.x / blocks;
    const int j = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
    if (j >= N) return;
    const real alpha = real(*step_size);
    const real theta = real(threshold[j]);
    double d_threshold = 0;
    for (int row = part * rows; row < batch && row < (part + 1) * rows; ++row) {
        const long long e = (long long)row * N + j;
        const int what = code[e];
        const real z = what & NEAR ? x[e] + alpha * u[e] : real(0);
        shrink_backward(delta[e], what, z, theta, window, d_threshold);
    }
    sums[(long long)part * N + j] = d_threshold;
}

// The sums of the columns of an array (rows, columns). One block per column.
KERNEL __launch_bounds__(256, 1) sum_rows(
    const double* __restrict__ array, int rows, int columns, double* __restrict__ sums)
{
    __shared__ unsigned long long slots[64];
    double sum = 0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) sum += array[(long long)row * columns + blockIdx.x];
    Block team(slots);
    sum = team.over<Sum>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
