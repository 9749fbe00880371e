// The loss and its derivative in one pass over device memory. See ReferenceOps.half_squared_error.
#include "common.cuh"

// Writes δ = w (x − x*), (rows, N), and for every block the sum of ½ (x − x*) δ over its entries. Blocks take
// consecutive parts of PART entries of a row in turn. Without weights, w is 1.
KERNEL __launch_bounds__(256, 1) half_squared_error(
    const real* __restrict__ x, const real* __restrict__ target, const real* __restrict__ weights, long long rows,
    long long N, real* __restrict__ delta, double* __restrict__ sums)
{
    const int PART = 2048;
    __shared__ unsigned long long slots[64];
    Block team(slots);
    const long long parts = (N + PART - 1) / PART;
    double sum = 0;
    for (long long part = blockIdx.x; part < rows * parts; part += gridDim.x) {
        const long long row = part / parts, begin = row * N + part % parts * PART;
        const long long end = min(begin + PART, (row + 1) * N);
        const real weight = weights ? weights[row] : real(1);
        for (long long e = begin + threadIdx.x; e < end; e += blockDim.x) {
            const real error = x[e] - target[e];
            delta[e] = error * weight;
            sum += double(error) * double(delta[e]);
        }
    }
    sum = team.over<Sum>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = 0.5 * sum;
}
