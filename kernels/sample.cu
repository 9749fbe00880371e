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

// The same for complex and joint numbers. Rows are those of whole samples; the numbers of an entry share the support of the
// first of them, whose word is drawn again where it is not among those of the thread.
template <class Number>
__device__ __forceinline__ void draw_joint(
    const Source& source, const Word* __restrict__ limits, const Law<real>& law, Word first, Word end, int N,
    int snapshots, int group, Number* __restrict__ codes)
{
    const Word i = first / 2 + (Word)blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i >= end) return;
    const Words words = philox(source, i);
    for (Word e = 2 * i; e < 2 * i + 2 && e < end; ++e) {
        if (e < first) continue;
        const int j = e % N, of_group = j - j % group;
        const Word decides = e / N / snapshots * snapshots * N + of_group;
        const Words others = decides / 2 == i ? words : philox(source, decides / 2);
        const bool present = is_present(decides % 2 ? others.words[2] : others.words[0], limits[of_group]);
        codes[e - first] = present ? law.number<Number>(e % 2 ? words.words[3] : words.words[1]) : Number{};
    }
}

#define SPARSE_CODES(ENTRY, NUMBER)                                                                                   \
    KERNEL __launch_bounds__(256, 1) sparse_codes_##ENTRY(                                                            \
        Word seed, Word stream, Word step, const Word* limits, int bernoulli, real a, real b, Word q_limit,           \
        Word first, Word end, int N, int snapshots, int group, real* codes)                                           \
    {                                                                                                                 \
        draw_joint(                                                                                                   \
            Source{seed, stream, step, CODES}, limits, Law<real>{bernoulli, a, b, q_limit}, first, end, N, snapshots, \
            group, reinterpret_cast<NUMBER*>(codes));                                                                 \
    }

SPARSE_CODES(joint, real)
SPARSE_CODES(complex_joint, Complex<real>)

// The entries of standard normal numbers from `first` up to, but not including, `end`: four per thread.
template <class Number>
__device__ __forceinline__ void draw_normal(const Source& source, Word first, Word end, Number* __restrict__ numbers)
{
    const Word i = first / 4 + (Word)blockIdx.x * blockDim.x + threadIdx.x;
    if (4 * i >= end) return;
    const Words words = philox(source, i);
    for (Word e = 4 * i; e < 4 * i + 4 && e < end; ++e)
        if (e >= first) numbers[e - first] = normal_entry<Number>(words, e);
}

KERNEL __launch_bounds__(256, 1) normal(
    Word seed, Word stream, Word step, Word purpose, Word first, Word end, real* __restrict__ numbers)
{
    draw_normal(Source{seed, stream, step, purpose}, first, end, numbers);
}

KERNEL __launch_bounds__(256, 1) normal_complex(
    Word seed, Word stream, Word step, Word purpose, Word first, Word end, real* __restrict__ numbers)
{
    draw_normal(Source{seed, stream, step, purpose}, first, end, reinterpret_cast<Complex<real>*>(numbers));
}
