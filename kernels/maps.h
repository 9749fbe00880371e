// The maps of convolutional networks with a stride, between the products that BLAS computes. See ReferenceOps.conv_layer
// and cuista/ops/borders.py.
#pragma once

// The copies (s₁s₂, height·width) of an image with lines of `length` pixels, from a row of the copies on: entry (r, c) of
// the tap (i, j) is the pixel ((row + r) q + i, c q + j).
template <class Real>
__forceinline__ void taps(
    const Real* __restrict__ image, long length, long s1, long s2, long stride, long row, long height, long width,
    Real* __restrict__ copies)
{
    for (long i = 0; i < s1; ++i)
        for (long j = 0; j < s2; ++j)
            for (long r = 0; r < height; ++r, copies += width) {
                const Real* __restrict__ const line = image + ((row + r) * stride + i) * length + j;
                for (long c = 0; c < width; ++c) copies[c] = line[c * stride];
            }
}

// Adds to pixels of an image (lines, length) the entries of copies (s₁s₂, height, width), from a row of theirs on: entry
// (r, c) of the tap (i, j) to the pixel ((row + r) q − i, c q − j) if `sign` is 1, and (… + i, … + j) if it is −1.
template <class Real>
__forceinline__ void sum_taps(
    const Real* __restrict__ copies, long s1, long s2, long sign, long stride, long row, long height, long width,
    long lines, long length, Real* __restrict__ image)
{
    for (long i = 0; i < s1; ++i)
        for (long j = 0; j < s2; ++j) {
            const long shift = sign * j;
            const long first = shift > 0 ? (shift + stride - 1) / stride : 0, most = (length - 1 + shift) / stride + 1;
            const long last = most < width ? most : width;
            for (long r = 0; r < height; ++r, copies += width) {
                const long y = (row + r) * stride - sign * i;
                if (y < 0 || y >= lines) continue;
                Real* __restrict__ const line = image + y * length - shift;
                for (long c = first; c < last; ++c) line[c * stride] += copies[c];
            }
        }
}

// Thresholds z + x, or z if x is null. Of each filter, z has `size` entries, which are those from `first` on of the `whole`
// entries of x and x_next. The threshold of filter f is threshold[f · per_filter].
template <class Real>
__forceinline__ void shrink_maps(
    const Real* __restrict__ z, const Real* __restrict__ x, const Real* threshold, long per_filter, long filters,
    long size, long first, long whole, Real* __restrict__ x_next)
{
    auto shrink_map = [=](const Real* __restrict__ z, Real theta, long place, auto sum) __attribute__((always_inline)) {
        Real* __restrict__ const to = x_next + place;
        if (theta >= 0)
            for (long j = 0; j < size; ++j) {
                const Real value = sum(z, j);
                to[j] = value - (value < -theta ? -theta : value > theta ? theta : value);
            }
        else
            for (long j = 0; j < size; ++j) {
                const Real value = sum(z, j);
                to[j] = value - (value > 0 ? theta : value < 0 ? -theta : value);  // passes on a NaN
            }
    };
    for (long f = 0; f < filters; ++f, z += size) {
        const long place = f * whole + first;
        const Real theta = threshold[f * per_filter];
        if (x)
            shrink_map(z, theta, place, [=](const Real* z, long j) { return z[j] + x[place + j]; });
        else
            shrink_map(z, theta, place, [](const Real* z, long j) { return z[j]; });
    }
}

// The backward pass: what remains of δ + d_x, or of δ if d_x is null, where x_next is not 0, in place of δ and also in
// d_z; and for each filter −Σ d_z sign(x_next), which is added to d_threshold.
template <class Real>
__forceinline__ void shrink_maps_backward(
    Real* __restrict__ delta, const Real* d_x, const Real* __restrict__ x_next, long filters, long size, long first,
    long whole, Real* d_z, double* d_threshold)
{
    for (long f = 0; f < filters; ++f, delta += size) {
        const long place = f * whole + first;
        if (d_x)
            for (long j = 0; j < size; ++j) delta[j] += d_x[place + j];
        for (long j = 0; j < size; ++j) {
            delta[j] = x_next[place + j] != 0 ? delta[j] : 0;
            d_z[place + j] = delta[j];
        }
        const long SUMS = 16;
        Real sums[SUMS] = {};
        long j = 0;
        for (; j + SUMS <= size; j += SUMS)
            for (long c = 0; c < SUMS; ++c) sums[c] += x_next[place + j + c] > 0 ? delta[j + c] : -delta[j + c];
        for (long c = 0; j + c < size; ++c) sums[c] += x_next[place + j + c] > 0 ? delta[j + c] : -delta[j + c];
        double sum = 0;
        for (long c = 0; c < SUMS; ++c) sum += sums[c];
        d_threshold[f] -= sum;
    }
}
