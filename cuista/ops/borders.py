"""The geometry of valid correlations: padding pictures, taking them apart into taps, and reassembling them.

The valid correlation of an image (H + s₁ − 1, W + s₂ − 1) with a filter of s₁×s₂ taps has the shape (H, W). It is the
sum, over the taps (i, j), of the filter's value times the image shifted by (i, j). With a stride q, only every q-th row
and column of it is computed, from the first on. Arrays may be NumPy's or an engine's, and `xp` is their array module.
"""

from __future__ import annotations

from typing import Any

from cuista.checks import Array

Shape = tuple[int, int]


def strided(length: int, stride: int) -> int:
    """How many of this many rows or columns are kept by a stride: ⌈length / q⌉."""
    return -(-length // stride)


def map_shape(picture: Shape, filter_shape: Shape, stride: int = 1) -> Shape:
    """The size (⌈(H + s₁ − 1)/q⌉, ⌈(W + s₂ − 1)/q⌉) of the maps of a picture (H, W)."""
    rows, columns = (strided(n + s - 1, stride) for n, s in zip(picture, filter_shape, strict=True))
    return rows, columns


def picture_shape(maps: Shape, filter_shape: Shape, stride: int = 1) -> Shape:
    """The size (h q − s₁ + 1, w q − s₂ + 1) of the largest pictures that have maps (h, w)."""
    rows, columns = (n * stride - s + 1 for n, s in zip(maps, filter_shape, strict=True))
    return rows, columns


def taps(
    xp: Any, image: Array, filter_shape: Shape, rows: slice | None = None, out: Array | None = None, stride: int = 1
) -> Array:
    """Return the shifted copies (s₁s₂, H·W) of an image (H + s₁ − 1, W + s₂ − 1), or only `rows` of each copy.

    With a stride q, the copies have the entries (0, 0), (0, q), … only, ⌈H/q⌉·⌈W/q⌉ in all.
    """
    s1, s2 = filter_shape
    height, width = (strided(n - s + 1, stride) for n, s in zip(image.shape, filter_shape, strict=True))
    rows = rows or slice(0, height)
    height = rows.stop - rows.start
    copies = xp.empty((s1 * s2, height * width), image.dtype) if out is None else out
    for tap in range(s1 * s2):
        i, j = divmod(tap, s2)
        copies[tap].reshape(height, width)[...] = image[
            _places(rows.start, height, i, stride), _places(0, width, j, stride)
        ]
    return copies


def gather(copies: Array, image: Array, filter_shape: Shape, row: int = 0, stride: int = 1) -> None:
    """Add to each pixel of an image (H, W), for every tap (i, j), the entry (i, j) further on in the tap's copy.

    `copies` (s₁s₂, rows, W + s₂ − 1) holds consecutive rows of the H + s₁ − 1 rows of each copy, starting at `row`.
    With all rows, this is the adjoint of `taps` on an image padded with zeros, with the taps in reverse order. With a
    stride, the copies have every q-th row and column only, and the others are 0; `row` counts those that they have.
    """
    (s1, s2), (height, width) = filter_shape, image.shape
    for tap in range(s1 * s2):
        i, j = divmod(tap, s2)
        rows, in_rows = _met(row, copies.shape[1], i, height, stride)
        columns, in_columns = _met(0, copies.shape[2], j, width, stride)
        if rows.start < rows.stop and columns.start < columns.stop:
            image[in_rows, in_columns] += copies[tap, rows, columns]


def spread(copies: Array, image: Array, filter_shape: Shape, row: int = 0, stride: int = 1) -> None:
    """Add each of `copies`, shifted by its tap, to an image (H + s₁ − 1, W + s₂ − 1): the adjoint of `taps`.

    `copies` (s₁s₂, rows, W) holds consecutive rows of the H rows of each copy, starting at `row`; with a stride, as in
    `gather`.
    """
    _, height, width = copies.shape
    for tap in range(len(copies)):
        i, j = divmod(tap, filter_shape[1])
        image[_places(row, height, i, stride), _places(0, width, j, stride)] += copies[tap]


def _places(first: int, count: int, shift: int, stride: int) -> slice:
    """The slice of the pixels (first + k) q + shift for k from 0 to `count` − 1."""
    start = first * stride + shift
    return slice(start, start + (count - 1) * stride + 1, stride)


def _met(first: int, count: int, shift: int, length: int, stride: int) -> tuple[slice, slice]:
    """Which of `count` entries, at the places (first + k) q − shift, meet an axis of this length; and their places."""
    begin = max(first, strided(shift, stride))
    end = min(first + count, strided(length + shift, stride))
    start = begin * stride - shift
    return slice(begin - first, end - first), slice(start, start + max(end - begin, 1) * stride - stride + 1, stride)


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
