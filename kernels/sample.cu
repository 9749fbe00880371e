// Kernel 3: sparse codes and noise, drawn on the device. See ReferenceOps.sparse_codes and ReferenceOps.normal.
#include "common.cuh"
#include "philox.cuh"

// The entries of x* (rows, N) from `first` up to, but not including, `end`: two per thread.
KERNEL __launch_bounds__(256, 1) sparse_codes(
    Word seed, Word stream, Word step, const Word* __restrict__ limits, int bernoulli, real a, real b, Word q_limit,
    Word first, Word end, int N, real* __restrict__ codes)
{
    const Word i = first / 2 + (Word)blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i >= end) return;
    const Words words = philox(Source{seed, stream, step, CODES}, i);
    const Law<real> law = {bernoulli, a, b, q_limit};
    for (Word e = 2 * i; e < 2 * i + 2 && e < end; ++e)
        if (e >= first) codes[e - first] = sparse_entry(words, e, limits[e % N], law);
}

// The entries of standard normal numbers from `first` up to, but not including, `end`: four per thread.
KERNEL __launch_bounds__(256, 1) normal(
    Word seed, Word stream, Word step, Word purpose, Word first, Word end, real* __restrict__ numbers)
{
    const Word i = first / 4 + (Word)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i >= end) return;
    const Words words = philox(Source{seed, stream, step, purpose}, i);
    for (Word e = 4 * i; e < 4 * i + 4 && e < end; ++e)
        if (e >= first) numbers[e - first] = normal_entry<real>(words, e);
}
