// The products of a convolutional layer are matrix products with copies of an image, each shifted by a tap of a filter.
// See cuista/ops/borders.py.
#include "common.cuh"

// The copies (s₁s₂, H·W) of an image (H + s₁ − 1, W + s₂ − 1): one entry per thread.
KERNEL __launch_bounds__(256, 1) taps(
    const real* __restrict__ image, int s1, int s2, int height, int width, real* __restrict__ copies)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, pixels = (long long)height * width;
    if (e >= s1 * s2 * pixels) return;
    const int tap = e / pixels, row = e % pixels / width, column = e % width;
    copies[e] = image[(long long)(row + tap / s2) * (width + s2 - 1) + column + tap % s2];
}

// An image (height, width), one pixel per thread: each is the sum, over all taps (i, j), of the entry of the tap's copy
// in copies (s₁s₂, rows, columns) that lies (i, j) further on if `sign` is 1, or (i, j) before if it is −1.
KERNEL __launch_bounds__(256, 1) sum_taps(
    const real* __restrict__ copies, int s1, int s2, int sign, int rows, int columns, int height, int width,
    real* __restrict__ image)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= (long long)height * width) return;
    real sum = 0;
    for (int tap = 0; tap < s1 * s2; ++tap) {
        const int row = int(e / width) + sign * (tap / s2), column = int(e % width) + sign * (tap % s2);
        if (row >= 0 && row < rows && column >= 0 && column < columns)
            sum += copies[((long long)tap * rows + row) * columns + column];
    }
    image[e] = sum;
}
