// Kernel 1 for complex and joint entries: z = x + α u, the exact selection of the k largest magnitudes of every sample, and
// thresholding. See cuista.ops.joint.shrink for what it computes, and shrink.cu for the arguments.
#include "joint.cuh"
#include "share.cuh"

// Single complex numbers: one warp per row, which it holds in registers, N ≤ 32 · ITEMS. Where numbers and magnitudes do
// not fit, because both are long and many, it computes z again from what it read, which is then in the L1 or L2 cache.
template <int ITEMS>
__device__ __forceinline__ void shrink_complex(
    const Step<Complex<real>, true>& step, const double* __restrict__ threshold, int per_coordinate, real window, int k,
    Complex<real>* __restrict__ x_next, signed char* __restrict__ code)
{
    const bool KEPT = ITEMS * sizeof(real) <= 128;
    const int N = step.entries.count;
    const real theta = real(*threshold);
    Complex<real> z[KEPT ? ITEMS : 1];
    real magnitude[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int j = 32 * i + lane();
        const Complex<real> number = j < N ? step.z(j) : Complex<real>{};
        magnitude[i] = sqrt(inner(number, number));
        if (KEPT) z[i] = number;
    }
    Warp team;
    const Key low = per_coordinate ? Key(0) : lowest_cutoff(theta, window);
    const Key cut = cutoff(team, Registers<ITEMS>{magnitude}, k, low);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int j = 32 * i + lane();
        if (j >= N) continue;
        int what;
        const real factor = shrink_joint(magnitude[i], per_coordinate ? real(threshold[j]) : theta, cut, window, what);
        write(x_next + j, factor * (KEPT ? z[i] : step.z(j)));
        if (code) code[j] = what;
    }
}

#define SHRINK_COMPLEX(ITEMS)                                                                                         \
    KERNEL __launch_bounds__(128, 1) shrink_complex_##ITEMS(                                                          \
        const real* x, const real* u, const real* more, const double* step_size, const double* threshold,             \
        int per_coordinate, int per_sample, real window, int snapshots, int group, int count, int batch, int k,       \
        real* x_next, signed char* code)                                                                              \
    {                                                                                                                 \
        const long long row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;                                           \
        if (row >= batch) return;  /* the whole warp returns */                                                       \
        const Step<Complex<real>, true> step({snapshots, group, count}, x, u, more, step_size, row);                  \
        shrink_complex<ITEMS>(                                                                                        \
            step, threshold + row * per_sample, per_coordinate, window, k, step.of_sample(x_next, row),               \
            code ? code + row * count : nullptr);                                                                     \
    }

SHRINK_COMPLEX(4)
SHRINK_COMPLEX(8)
SHRINK_COMPLEX(16)
SHRINK_COMPLEX(32)

// Joint entries: a team of `every` threads per sample, whose magnitudes are in shared memory. It computes z again for the
// entry's numbers, whose count the compiler does not know.
template <class Keys, class Team, class Number>
__device__ __forceinline__ void shrink_samples(
    Team team, int first, int every, const Step<Number, false>& step, const double* __restrict__ threshold,
    int per_coordinate, real window, int k, real* magnitude, Number* __restrict__ x_next, signed char* __restrict__ code)
{
    const int count = step.entries.count;
    const real theta = real(*threshold);
    for (int e = first; e < count; e += every) magnitude[e] = step.magnitude(e);
    const Key low = per_coordinate ? Key(0) : lowest_cutoff(theta, window);
    const Key cut = cutoff(team, Keys{magnitude, count}, k, low);
    for (int e = first; e < count; e += every) {
        int what;
        const real factor = shrink_joint(magnitude[e], per_coordinate ? real(threshold[e]) : theta, cut, window, what);
        step.entries.template each<false>(e, [&](long long at) { write(x_next + at, factor * step.z(at)); });
        if (code) code[e] = what;
    }
}

// A warp per sample in `shrink_samples`; a block in `shrink_long_samples`, which takes single complex numbers, too.
#define SHRINK_JOINT(ENTRY, NUMBER)                                                                                   \
    KERNEL __launch_bounds__(128, 1) shrink_samples_##ENTRY(                                                          \
        const real* x, const real* u, const real* more, const double* step_size, const double* threshold,             \
        int per_coordinate, int per_sample, real window, int snapshots, int group, int count, int batch, int k,       \
        real* x_next, signed char* code)                                                                              \
    {                                                                                                                 \
        SHARED_MEMORY(shared);                                                                                        \
        const long long sample = (blockIdx.x * blockDim.x + threadIdx.x) / 32;                                        \
        if (sample >= batch) return;                                                                                  \
        const Step<NUMBER, false> step({snapshots, group, count}, x, u, more, step_size, sample);                     \
        shrink_samples<OfWarp>(                                                                                       \
            Warp(), lane(), 32, step, threshold + sample * per_sample, per_coordinate, window, k,                     \
            reinterpret_cast<real*>(shared) + warp() * count, step.of_sample(x_next, sample),                         \
            code ? code + sample * count : nullptr);                                                                  \
    }                                                                                                                 \
    KERNEL __launch_bounds__(256, 1) shrink_long_samples_##ENTRY(                                                     \
        const real* x, const real* u, const double* step_size, const double* threshold, int per_coordinate,           \
        int per_sample, real window, int snapshots, int group, int count, int k, real* x_next, signed char* code)     \
    {                                                                                                                 \
        SHARED_MEMORY(shared);                                                                                        \
        __shared__ unsigned long long slots[64];                                                                      \
        const long long sample = blockIdx.x;                                                                          \
        const Step<NUMBER, false> step({snapshots, group, count}, x, u, nullptr, step_size, sample);                  \
        shrink_samples<Strided>(                                                                                      \
            Block(slots), threadIdx.x, blockDim.x, step, threshold + sample * per_sample, per_coordinate, window, k,  \
            reinterpret_cast<real*>(shared), step.of_sample(x_next, sample), code + sample * count);                  \
    }

SHRINK_JOINT(joint, real)
SHRINK_JOINT(complex_joint, Complex<real>)
