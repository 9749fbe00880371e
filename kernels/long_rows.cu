// Kernel 1 for rows that one block would take too long for: each is shared out to so many blocks, its `parts`.
// See ReferenceOps.shrink_select for what it computes.
#include "select.cuh"

// One digit more of the (k+1)-th largest |z| of every row, from the highest down: bits `shift` to `shift + width` of its
// key. Blocks count the digits of keys that agree with what is known so far; they add integers only, so that their order
// makes no difference. A row's block that ends last sees which digit has the entry, and how many of these keys are before
// it.
KERNEL __launch_bounds__(256, 1) select_digit(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size, int N, int parts, int k,
    int shift, int width,
    // Of each row: zeros, which they are again afterwards, for digits and for the blocks that have ended; how many of the
    // keys that agree are larger than the entry's; and its key, as far as it is known.
    unsigned* __restrict__ counts, unsigned* __restrict__ ended, unsigned* __restrict__ rank, Key* __restrict__ cut)
{
    __shared__ unsigned counted[1 << DIGIT];
    __shared__ unsigned totals[8];
    __shared__ unsigned earlier;
    const int row = blockIdx.x / parts, digits = 1 << width;
    const bool first = shift + width == 8 * sizeof(Key) - 1;
    const Key known = first ? Key(0) : cut[row];
    const unsigned larger = first ? k : rank[row];
    const real alpha = real(*step_size);
    x += (long long)row * N;
    u += (long long)row * N;
    counts += (long long)row << DIGIT;

    for (int digit = threadIdx.x; digit < digits; digit += blockDim.x) counted[digit] = 0;
    __syncthreads();
    for (int j = blockIdx.x % parts * blockDim.x + threadIdx.x; j < N; j += parts * blockDim.x) {
        const Key key = key_of(x[j] + alpha * u[j]);
        if (key >> (shift + width) == known >> (shift + width)) atomicAdd(&counted[key >> shift & (digits - 1)], 1u);
    }
    __syncthreads();
    for (int digit = threadIdx.x; digit < digits; digit += blockDim.x)
        if (counted[digit]) atomicAdd(&counts[digit], counted[digit]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) earlier = atomicAdd(&ended[row], 1u);
    __syncthreads();
    if (earlier != parts - 1) return;
    __threadfence();

    for (int digit = threadIdx.x; digit < digits; digit += blockDim.x) counted[digit] = atomicExch(&counts[digit], 0u);
    __syncthreads();
    // Every thread has as many digits, the first one the highest.
    const int each = digits / blockDim.x, highest = digits - 1 - threadIdx.x * each;
    unsigned own = 0;
    for (int i = 0; i < each; ++i) own += counted[highest - i];
    unsigned up_to = own;
    for (int distance = 1; distance < 32; distance *= 2) {
        const unsigned other = __shfl_up_sync(ALL, up_to, distance);
        if (lane() >= distance) up_to += other;
    }
    if (lane() == 31) totals[warp()] = up_to;
    __syncthreads();
    for (int i = 0; i < warp(); ++i) up_to += totals[i];
    unsigned before = up_to - own;
    if (before <= larger && larger < up_to) {  // one thread
        int digit = highest;
        for (; before + counted[digit] <= larger; --digit) before += counted[digit];
        cut[row] = known | Key(digit) << shift;
        rank[row] = larger - before;
        atomicExch(&ended[row], 0u);
    }
}

// The thresholding of z = x + α u, with the (k+1)-th largest |z| of each row known.
KERNEL __launch_bounds__(256, 1) shrink_parts(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size,
    const double* __restrict__ threshold, int per_coordinate, int per_sample, real window, int N, int parts, int k,
    const Key* __restrict__ cut, real* __restrict__ x_next, signed char* __restrict__ code)
{
    const int row = blockIdx.x / parts;
    const Key largest = k > 0 ? cut[row] : ~Key(0);  // none may pass
    const real alpha = real(*step_size);
    threshold += row * (long long)per_sample;
    const real theta = real(*threshold);
    for (int j = blockIdx.x % parts * blockDim.x + threadIdx.x; j < N; j += parts * blockDim.x) {
        const long long e = (long long)row * N + j;
        int what;
        x_next[e] = shrink(x[e] + alpha * u[e], per_coordinate ? real(threshold[j]) : theta, largest, window, what);
        code[e] = what;
    }
}
