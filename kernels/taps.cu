// The products of a convolutional layer are matrix products with copies of an image, each shifted by a tap of a filter.
// With a stride q, the copies have every q-th row and column only. See cuista/ops/borders.py.
#include "common.cuh"

// The copies (s₁s₂, rows·columns) of an image with rows of `width` pixels: one entry per thread.
KERNEL __launch_bounds__(256, 1) taps(
    const real* __restrict__ image, int s1, int s2, int stride, int rows, int columns, int width,
    real* __restrict__ copies)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, pixels = (long long)rows * columns;
    if (e >= s1 * s2 * pixels) return;
    const int tap = e / pixels, row = e % pixels / columns, column = e % columns;
    copies[e] = image[((long long)row * stride + tap / s2) * width + column * stride + tap % s2];
}

// An image (height, width), one pixel per thread: each is the sum, over all taps (i, j), of the entry of the tap's copy
// in copies (s₁s₂, rows, columns) that lies (i, j) further on if `sign` is 1, or (i, j) before if it is −1.
KERNEL __launch_bounds__(256, 1) sum_taps(
    const real* __restrict__ copies, int s1, int s2, int sign, int stride, int rows, int columns, int height, int width,
    real* __restrict__ image)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= (long long)height * width) return;
    real sum = 0;
    for (int tap = 0; tap < s1 * s2; ++tap) {
        const int y = int(e / width) + sign * (tap / s2), x = int(e % width) + sign * (tap % s2);
        const int row = y / stride, column = x / stride;
        if (y >= 0 && row < rows && x >= 0 && column < columns && row * stride == y && column * stride == x)
            sum += copies[((long long)tap * rows + row) * columns + column];
    }
    image[e] = sum;
}
