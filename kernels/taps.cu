// The products of a convolutional layer are matrix products with copies of images, each shifted by a tap of a filter.
// With a stride q, the copies have every q-th row and column only. See cuista/ops/borders.py.
#include "common.cuh"

// Where on an axis of this length a place before or after it is reflected to; −1 if borders are zeros instead.
__device__ __forceinline__ int within(int place, int length, int reflected)
{
    if (place >= 0 && place < length) return place;
    return !reflected ? -1 : place < 0 ? -place : 2 * (length - 1) - place;
}

// The copies (s₁s₂, count, rows, columns) of images (count, height, width), less the images `minus` unless it is null,
// one entry per thread. The copy of tap (i, j) has at its place p the pixel at q p + sign · (i, j) − (border1, border2).
// Beyond the borders, images are reflected, or 0.
KERNEL __launch_bounds__(256, 1) taps(
    const real* __restrict__ images, const real* __restrict__ minus, int count, int s1, int s2, int sign, int border1,
    int border2, int reflected, int stride, int rows, int columns, int height, int width, real* __restrict__ copies)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, places = (long long)rows * columns;
    if (e >= s1 * s2 * count * places) return;
    const int tap = e / (count * places), image = e / places % count, place = e % places;
    const int y = within(place / columns * stride + sign * (tap / s2) - border1, height, reflected);
    const int x = within(place % columns * stride + sign * (tap % s2) - border2, width, reflected);
    real value = 0;
    if (y >= 0 && x >= 0) {
        const long long pixel = ((long long)image * height + y) * width + x;
        value = minus ? images[pixel] - minus[pixel] : images[pixel];
    }
    copies[e] = value;
}

// The sum, over all taps (i, j), of the entry of the tap's copy that lies (i, j) further on from (y, x) if `sign` is 1,
// or (i, j) before if it is −1. `copies` points to the first tap's copy of an image; the next tap's is `step` numbers on.
__device__ __forceinline__ real sum_at(
    const real* __restrict__ copies, long long step, int s1, int s2, int sign, int stride, int rows, int columns, int y,
    int x)
{
    real sum = 0;
    for (int i = 0; i < s1; ++i) {
        const int place1 = y + sign * i, row = place1 / stride;
        if (place1 < 0 || row >= rows || row * stride != place1) continue;
        for (int j = 0; j < s2; ++j) {
            const int place2 = x + sign * j, column = place2 / stride;
            if (place2 >= 0 && column < columns && column * stride == place2)
                sum += copies[(i * s2 + j) * step + (long long)row * columns + column];
        }
    }
    return sum;
}

// A place on an axis of this length, and the places before and after the axis that are reflected to it.
__device__ __forceinline__ int mirrored(int place, int length, int which)
{
    return which == 0 ? place : which == 1 ? -place : 2 * (length - 1) - place;
}

// Images (count, height, width) of such sums over copies (s₁s₂, count, rows, columns), times `scale`, one pixel per
// thread: the adjoint of `taps`, whose borders it adds to the pixels that they were reflected from.
KERNEL __launch_bounds__(256, 1) sum_taps(
    const real* __restrict__ copies, real scale, int count, int s1, int s2, int sign, int border1, int border2,
    int reflected, int stride, int rows, int columns, int height, int width, real* __restrict__ images)
{
    const long long e = (long long)blockIdx.x * blockDim.x + threadIdx.x, pixels = (long long)height * width;
    if (e >= count * pixels) return;
    const int image = e / pixels, y = e % pixels / width, x = e % width;
    const long long places = (long long)rows * columns;
    const real* const own = copies + image * places;
    real sum = 0;
    for (int a = 0; a < 3; ++a) {
        const int y_before = mirrored(y, height, a);
        if (a && (!reflected || y_before == y || y_before < -border1 || y_before >= height + border1)) continue;
        for (int b = 0; b < 3; ++b) {
            const int x_before = mirrored(x, width, b);
            if (b && (!reflected || x_before == x || x_before < -border2 || x_before >= width + border2)) continue;
            const int place1 = y_before + border1, place2 = x_before + border2;
            sum += sum_at(own, count * places, s1, s2, sign, stride, rows, columns, place1, place2);
        }
    }
    images[e] = scale * sum;
}
