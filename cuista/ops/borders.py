"""The geometry of valid correlations: padding pictures, taking them apart into taps, and reassembling them.

The valid correlation of an image (H + s₁ − 1, W + s₂ − 1) with a filter of s₁×s₂ taps has the shape (H, W). It is the
sum, over the taps (i, j), of the filter's value times the image shifted by (i, j). Arrays may be NumPy's or an
engine's, and `xp` is their array module.
"""

from __future__ import annotations

from typing import Any

from cuista.checks import Array

Shape = tuple[int, int]


def taps(xp: Any, image: Array, filter_shape: Shape, rows: slice | None = None, out: Array | None = None) -> Array:
    """Return the shifted copies (s₁s₂, H·W) of an image (H + s₁ − 1, W + s₂ − 1), or only `rows` of each copy."""
    (s1, s2), (height, width) = filter_shape, image.shape
    rows = rows or slice(0, height - s1 + 1)
    height, width = rows.stop - rows.start, width - s2 + 1
    copies = xp.empty((s1 * s2, height * width), image.dtype) if out is None else out
    for q in range(s1 * s2):
        i, j = divmod(q, s2)
        copies[q].reshape(height, width)[...] = image[rows.start + i : rows.stop + i, j : j + width]
    return copies


def gather(copies: Array, image: Array, filter_shape: Shape, row: int = 0) -> None:
    """Add to each pixel of an image (H, W), for every tap (i, j), the entry (i, j) further on in the tap's copy.

    `copies` (s₁s₂, rows, W + s₂ − 1) holds consecutive rows of the H + s₁ − 1 rows of each copy, starting at `row`.
    With all rows, this is the adjoint of `taps` on an image padded with zeros, with the taps in reverse order.
    """
    (s1, s2), (height, width) = filter_shape, image.shape
    for q in range(s1 * s2):
        i, j = divmod(q, s2)
        first, last = max(row - i, 0), min(row - i + copies.shape[1], height)
        if first < last:
            image[first:last] += copies[q, first + i - row : last + i - row, j : j + width]


def spread(copies: Array, image: Array, filter_shape: Shape, row: int = 0) -> None:
    """Add each of `copies`, shifted by its tap, to an image (H + s₁ − 1, W + s₂ − 1): the adjoint of `taps`.

    `copies` (s₁s₂, rows, W) holds consecutive rows of the H rows of each copy, starting at `row`.
    """
    _, height, width = copies.shape
    for q in range(len(copies)):
        i, j = divmod(q, filter_shape[1])
        image[row + i : row + i + height, j : j + width] += copies[q]


def pad_zeros(xp: Any, image: Array, filter_shape: Shape) -> Array:
    """Pad an image (H, W) with s₁ − 1 rows and s₂ − 1 columns of zeros on each side."""
    (p1, p2), (height, width) = (size - 1 for size in filter_shape), image.shape
    padded: Array = xp.zeros((height + 2 * p1, width + 2 * p2), image.dtype)
    padded[p1 : p1 + height, p2 : p2 + width] = image
    return padded


def pad_reflected(xp: Any, image: Array, filter_shape: Shape) -> Array:
    """Pad like `pad_zeros`, but with the reflected image, without repeating its edges. Requires H ≥ s₁ and W ≥ s₂."""
    padded = pad_zeros(xp, image, filter_shape)
    for axis, p in enumerate(size - 1 for size in filter_shape):
        side = padded.T if axis else padded
        if p:
            side[:p] = side[p + 1 : 2 * p + 1][::-1]
            side[-p:] = side[-2 * p - 1 : -p - 1][::-1]
    return padded


def fold_reflected(padded: Array, filter_shape: Shape) -> Array:
    """The adjoint of `pad_reflected`: add the borders to the pixels that they came from. `padded` is overwritten."""
    for axis, p in reversed(list(enumerate(size - 1 for size in filter_shape))):
        side = padded.T if axis else padded
        if p:
            side[p + 1 : 2 * p + 1] += side[:p][::-1]
            side[-2 * p - 1 : -p - 1] += side[-p:][::-1]
    return unpad(padded, filter_shape)


def unpad(padded: Array, filter_shape: Shape) -> Array:
    """The image without its borders: the adjoint of `pad_zeros`."""
    p1, p2 = (size - 1 for size in filter_shape)
    return padded[p1 : padded.shape[0] - p1, p2 : padded.shape[1] - p2]
