// Kernel 1 for rows that would take one block too long: each row is divided among `parts` blocks. See
// ReferenceOps.shrink_select for what it computes.
#include "joint.cuh"

// Finds one more digit of the (k+1)-th largest magnitude of every row, from the highest digit down: the `width` bits of
// its key from bit `shift` on. Blocks count the digits of the keys key_at(j) that agree with the digits known so far. They
// add only integers, so their order makes no difference. The last block of a row to finish determines which digit the
// entry has, and how many of the counted keys have a larger one.
//
// What a block shares is declared by kernels, as in step.cuh: the shim does not find the variables of a template.
struct Digits {
    unsigned counted[1 << DIGIT], totals[8], earlier;
};

template <class KeyAt>
__device__ __forceinline__ void find_digit(
    Digits& shared, KeyAt key_at, int N, int parts, int k, int shift, int width, unsigned* __restrict__ counts,
    unsigned* __restrict__ ended, unsigned* __restrict__ rank, Key* __restrict__ cut)
{
    unsigned *const counted = shared.counted, *const totals = shared.totals, &earlier = shared.earlier;
    const int row = blockIdx.x / parts, digits = 1 << width;
    const bool first = shift + width == 8 * sizeof(Key) - 1;
    const Key known = first ? Key(0) : cut[row];
    const unsigned larger = first ? k : rank[row];
    counts += (long long)row << DIGIT;

    for (int digit = threadIdx.x; digit < digits; digit += blockDim.x) counted[digit] = 0;
    __syncthreads();
    for (int j = blockIdx.x % parts * blockDim.x + threadIdx.x; j < N; j += parts * blockDim.x) {
        const Key key = key_at(j);
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
    // Every thread has the same number of digits, and the first thread has the highest.
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
    if (before <= larger && larger < up_to) {  // true in one thread
        int digit = highest;
        for (; before + counted[digit] <= larger; --digit) before += counted[digit];
        cut[row] = known | Key(digit) << shift;
        rank[row] = larger - before;
        atomicExch(&ended[row], 0u);
    }
}

// Of single real numbers.
KERNEL __launch_bounds__(256, 1) select_digit(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size, int one_sided, int N,
    int parts, int k, int shift, int width,
    // For each row: the counts of the digits and of the finished blocks, which are zero before and after; how many of
    // the agreeing keys are larger than the entry's; and the entry's key, as far as it is known.
    unsigned* __restrict__ counts, unsigned* __restrict__ ended, unsigned* __restrict__ rank, Key* __restrict__ cut)
{
    __shared__ Digits shared;
    const real alpha = real(*step_size);
    x += (long long)(blockIdx.x / parts) * N;
    u += (long long)(blockIdx.x / parts) * N;
    auto key_at = [=](int j) { return key_of(sided(x[j] + alpha * u[j], one_sided)); };
    find_digit(shared, key_at, N, parts, k, shift, width, counts, ended, rank, cut);
}

// Of joint entries, among which a single complex number is one like others.
#define SELECT_DIGIT(ENTRY, NUMBER)                                                                                   \
    KERNEL __launch_bounds__(256, 1) select_digit_##ENTRY(                                                            \
        const real* x, const real* u, const double* step_size, int snapshots, int group, int count, int parts, int k, \
        int shift, int width, unsigned* counts, unsigned* ended, unsigned* rank, Key* cut)                            \
    {                                                                                                                 \
        __shared__ Digits shared;                                                                                     \
        const Step<NUMBER, false> step({snapshots, group, count}, x, u, nullptr, step_size, blockIdx.x / parts);      \
        auto key_at = [=](int e) { return key_of(step.magnitude(e)); };                                               \
        find_digit(shared, key_at, count, parts, k, shift, width, counts, ended, rank, cut);                          \
    }

SELECT_DIGIT(joint, real)
SELECT_DIGIT(complex_joint, Complex<real>)

// Thresholds z = x + α u, given the key of the (k+1)-th largest |z| of each row.
KERNEL __launch_bounds__(256, 1) shrink_parts(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size,
    const double* __restrict__ threshold, int per_coordinate, int per_sample, real window, int one_sided, int N,
    int parts, int k, const Key* __restrict__ cut, real* __restrict__ x_next, signed char* __restrict__ code)
{
    const int row = blockIdx.x / parts;
    const Key largest = k > 0 ? cut[row] : ~Key(0);  // none may pass
    const real alpha = real(*step_size);
    threshold += row * (long long)per_sample;
    const real theta = real(*threshold);
    for (int j = blockIdx.x % parts * blockDim.x + threadIdx.x; j < N; j += parts * blockDim.x) {
        const long long e = (long long)row * N + j;
        int what;
        const real z = sided(x[e] + alpha * u[e], one_sided);
        x_next[e] = shrink(z, per_coordinate ? real(threshold[j]) : theta, largest, window, what);
        code[e] = what;
    }
}

// The same for joint entries.
#define SHRINK_PARTS(ENTRY, NUMBER)                                                                                   \
    KERNEL __launch_bounds__(256, 1) shrink_parts_##ENTRY(                                                            \
        const real* x, const real* u, const double* step_size, const double* threshold, int per_coordinate,           \
        int per_sample, real window, int snapshots, int group, int count, int parts, int k, const Key* cut,           \
        real* x_next, signed char* code)                                                                              \
    {                                                                                                                 \
        const long long sample = blockIdx.x / parts;                                                                  \
        const Step<NUMBER, false> step({snapshots, group, count}, x, u, nullptr, step_size, sample);                  \
        NUMBER* const to = step.of_sample(x_next, sample);                                                            \
        const Key largest = k > 0 ? cut[sample] : ~Key(0);  /* none may pass */                                       \
        threshold += sample * per_sample;                                                                             \
        const real theta = real(*threshold);                                                                          \
        for (int e = blockIdx.x % parts * blockDim.x + threadIdx.x; e < count; e += parts * blockDim.x) {             \
            int what;                                                                                                 \
            const real own = per_coordinate ? real(threshold[e]) : theta;                                             \
            const real factor = shrink_joint(step.magnitude(e), own, largest, window, what);                          \
            step.entries.template each<false>(e, [&](long long at) { write(to + at, factor * step.z(at)); });         \
            code[sample * count + e] = what;                                                                          \
        }                                                                                                             \
    }

SHRINK_PARTS(joint, real)
SHRINK_PARTS(complex_joint, Complex<real>)
