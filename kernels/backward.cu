// Kernel 2: the backward pass of kernel 1. Sums are added in a fixed order: each warp sums its rows, and then the
// warps' sums are added.
#include "joint.cuh"

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

// The same for complex and joint entries. Warps take `length` entries of a sample in turn.
#define BACKWARD(ENTRY, NUMBER, ALONE)                                                                                \
    KERNEL __launch_bounds__(128, 1) backward_##ENTRY(                                                                \
        const real* delta, const signed char* code, const real* x, const real* u, const double* step_size,            \
        const double* threshold, int per_coordinate, real window, int snapshots, int group, int count,                \
        long long batch, int length, real* d_z, double* sums)                                                         \
    {                                                                                                                 \
        go_back_joint<NUMBER, ALONE>(                                                                                 \
            delta, code, x, u, step_size, threshold, per_coordinate, window, {snapshots, group, count}, batch, length,\
            d_z, sums);                                                                                               \
    }                                                                                                                 \
    KERNEL __launch_bounds__(128, 1) backward_columns_##ENTRY(                                                        \
        const real* delta, const signed char* code, const real* x, const real* u, const double* step_size,            \
        const double* threshold, real window, int snapshots, int group, int count, int batch, int rows, double* sums) \
    {                                                                                                                 \
        sum_joint_columns<NUMBER, ALONE>(                                                                             \
            delta, code, x, u, step_size, threshold, window, {snapshots, group, count}, batch, rows, sums);           \
    }

template <class Number, bool ALONE>
__device__ __forceinline__ void go_back_joint(
    const real* __restrict__ delta, const signed char* __restrict__ code, const real* __restrict__ x,
    const real* __restrict__ u, const double* __restrict__ step_size, const double* __restrict__ threshold,
    int per_coordinate, real window, Entries entries, long long batch, int length, real* __restrict__ d_z,
    double* __restrict__ sums)
{
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = gridDim.x * blockDim.x / 32;
    const int parts = (entries.count + length - 1) / length;
    const real theta = real(*threshold);
    double d_step_size = 0, d_threshold = 0;
    for (long long part = first; part < batch * parts; part += warps) {
        const long long sample = part / parts;
        const int begin = part % parts * length, end = min(begin + length, entries.count);
        const Step<Number, ALONE> step(entries, x, u, nullptr, step_size, sample);
        for (int e = begin + lane(); e < end; e += 32)
            d_threshold += double(step.go_back(
                e, step.of_sample(delta, sample), code[sample * entries.count + e],
                per_coordinate ? real(threshold[e]) : theta, window, step.of_sample(d_z, sample), d_step_size));
    }
    d_step_size = over_warp<Sum>(d_step_size);
    d_threshold = over_warp<Sum>(d_threshold);
    if (lane() == 0) {
        sums[2 * first] = d_step_size;
        sums[2 * first + 1] = d_threshold;
    }
}

template <class Number, bool ALONE>
__device__ __forceinline__ void sum_joint_columns(
    const real* __restrict__ delta, const signed char* __restrict__ code, const real* __restrict__ x,
    const real* __restrict__ u, const double* __restrict__ step_size, const double* __restrict__ threshold,
    real window, Entries entries, int batch, int rows, double* __restrict__ sums)
{
    const int blocks = (entries.count + blockDim.x - 1) / blockDim.x;
    const int part = blockIdx.x / blocks;
    const int e = (blockIdx.x % blocks) * blockDim.x + threadIdx.x;
    if (e >= entries.count) return;
    const real theta = real(threshold[e]);
    double d_threshold = 0, unused = 0;
    for (long long sample = part * rows; sample < batch && sample < (part + 1) * rows; ++sample) {
        const Step<Number, ALONE> step(entries, x, u, nullptr, step_size, sample);
        d_threshold += double(step.go_back(
            e, step.of_sample(delta, sample), code[sample * entries.count + e], theta, window, nullptr, unused));
    }
    sums[(long long)part * entries.count + e] = d_threshold;
}

BACKWARD(complex, Complex<real>, true)
BACKWARD(joint, real, false)
BACKWARD(complex_joint, Complex<real>, false)

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
