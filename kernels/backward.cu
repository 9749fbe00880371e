// Kernel 2: the backward pass of kernel 1. Sums are made in a fixed order: a row by its warp, then the rows.
#include "select.cuh"

// dz, and for each row Σ dz u and its part of ∂L/∂θ. A warp for each row.
KERNEL __launch_bounds__(128, 1) backward_rows(
    const real* __restrict__ delta, const signed char* __restrict__ code, const real* __restrict__ x,
    const real* __restrict__ u, const double* __restrict__ step_size, const double* __restrict__ threshold,
    int per_coordinate, real window, int batch, int N, real* __restrict__ dz, double* __restrict__ row_sums)
{
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= batch) return;  // the whole warp does
    const long long offset = (long long)row * N;
    const real alpha = real(*step_size);
    const real theta = real(*threshold);
    double d_step_size = 0, d_threshold = 0;
    for (int j = lane(); j < N; j += 32) {
        const long long e = offset + j;
        const int what = code[e];
        const real u_entry = u[e];
        const real z = what & NEAR ? x[e] + alpha * u_entry : real(0);  // so that x is rarely read
        const real of_entry = per_coordinate ? real(threshold[j]) : theta;
        const real dz_entry = shrink_backward(delta[e], what, z, of_entry, window, d_threshold);
        dz[e] = dz_entry;
        d_step_size += double(dz_entry) * double(u_entry);
    }
    d_step_size = over_warp<Sum>(d_step_size);
    d_threshold = over_warp<Sum>(d_threshold);
    if (lane() == 0) {
        row_sums[2ll * row] = d_step_size;
        row_sums[2ll * row + 1] = d_threshold;
    }
}

// With a threshold per coordinate: the parts of ∂L/∂θ of `rows` rows after another, one thread a coordinate.
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

// The sums of the columns of an array (rows, columns). A block for each column.
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
