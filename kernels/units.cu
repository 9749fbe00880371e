// Measurements scaled to a common norm, in one pass over device memory. See ReferenceOps.in_units.
#include "common.cuh"

// One warp per row of y (rows, M).
KERNEL __launch_bounds__(128, 1) in_units(
    const real* __restrict__ y, real unit, int rows, int M, real* __restrict__ scaled, real* __restrict__ factors)
{
    const long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;  // the whole warp returns
    y += row * M;
    scaled += row * M;
    Key largest = 0;
    for (int m = lane(); m < M; m += 32) largest = Most::combine(largest, key_of(y[m]));
    real peak = number_of(over_warp<Most>(largest));
    if (!(peak > 0)) peak = 1;  // also where it is NaN
    double squares = 0;
    for (int m = lane(); m < M; m += 32) {
        const double ratio = y[m] / peak;
        squares += ratio * ratio;
    }
    real factor = sqrt(real(over_warp<Sum>(squares))) / unit;
    if (!(factor > 0)) factor = 1;
    for (int m = lane(); m < M; m += 32) scaled[m] = y[m] / peak / factor;
    if (lane() == 0) factors[row] = factor * peak;
}
