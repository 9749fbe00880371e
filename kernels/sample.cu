// Kernel 3: sparse codes and noise, drawn where they are needed. See ReferenceOps.sparse_codes and .normal.
#include "philox.cuh"

// x* (size / N, N): two entries a thread.
KERNEL __launch_bounds__(256, 1) sparse_codes(
    Word seed, Word stream, Word step, const Word* __restrict__ limits, int bernoulli, real a, real b, Word q_limit,
    long long size, int N, real* __restrict__ codes)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i >= size) return;
    const Words words = philox(Source{seed, stream, step, 0}, i);
    const Law law = {bernoulli, a, b, q_limit};
    for (long long e = 2 * i; e < 2 * i + 2 && e < size; ++e) codes[e] = sparse_entry(words, e, limits[e % N], law);
}

// Standard normal numbers: four a thread.
KERNEL __launch_bounds__(256, 1) normal(
    Word seed, Word stream, Word step, Word purpose, long long size, real* __restrict__ numbers)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i >= size) return;
    const Words words = philox(Source{seed, stream, step, purpose}, i);
    for (long long e = 4 * i; e < 4 * i + 4 && e < size; ++e) numbers[e] = normal_entry(words, e);
}
