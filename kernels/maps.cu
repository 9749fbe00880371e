// Thresholding of the maps of convolutional networks, and its backward pass, with a threshold for each filter and each
// picture, and without selection. Maps are (filters, pictures, places).
#include "common.cuh"
#include "entry.cuh"

// x_next = η(x + α u; θ), one entry per thread; without x, z = α u. θ of filter f and picture b is at
// threshold[f · by_filter + b · by_picture].
KERNEL __launch_bounds__(256, 1) shrink_maps(
    const real* __restrict__ x, const real* __restrict__ u, const double* __restrict__ step_size,
    const double* __restrict__ threshold, int by_filter, int by_picture, int filters, int pictures, long long places,
    real* __restrict__ x_next)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, map = e / places;
    if (map >= (long long)filters * pictures) return;
    const int filter = map / pictures, picture = map % pictures;
    const real theta = real(threshold[filter * by_filter + picture * by_picture]);
    const real moved = real(*step_size) * u[e];
    int code;
    x_next[e] = shrink(x ? x[e] + moved : moved, theta, ~Key(0), real(0), code);
}

// From δ = delta + d_x (null for 0): d_z, which is δ where x_next is not 0, and for each map Σ d_z u and the
// contribution −Σ sign(x_next) δ to ∂L/∂θ. One block per map.
KERNEL __launch_bounds__(256, 1) shrink_maps_backward(
    const real* __restrict__ delta, const real* __restrict__ d_x, const real* __restrict__ x_next,
    const real* __restrict__ u, long long places, real* __restrict__ d_z, double* __restrict__ d_step_size,
    double* __restrict__ d_threshold)
{
    __shared__ unsigned long long slots[64];
    Block team(slots);
    const long long begin = blockIdx.x * places, end = begin + places;
    double along_u = 0, shrunk = 0;
    for (long long e = begin + threadIdx.x; e < end; e += blockDim.x) {
        const real after = x_next[e], d = d_x ? delta[e] + d_x[e] : delta[e];
        const real result = after != 0 ? d : real(0);
        d_z[e] = result;
        along_u += double(result) * double(u[e]);
        shrunk -= after > 0 ? double(d) : after < 0 ? -double(d) : 0.0;
    }
    along_u = team.over<Sum>(along_u);
    shrunk = team.over<Sum>(shrunk);
    if (threadIdx.x == 0) {
        d_step_size[blockIdx.x] = along_u;
        d_threshold[blockIdx.x] = shrunk;
    }
}
