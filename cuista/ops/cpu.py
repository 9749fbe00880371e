"""The CPU engine: the primitives of `ReferenceOps`, made fast with NumPy and SciPy alone.

Unlike the definition, it recycles arrays instead of allocating them, selects by the bit pattern of |z| (integers sort
faster, and non-negative floats have the order of their bit patterns), forms no intermediate that later passes can do
without, and multiplies only the non-zero entries of a sparse code.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista import parallel
from cuista.checks import Array
from cuista.errors import NumericalError
from cuista.kernels.constants import BETA1, BETA2, EPSILON, KIND, NEAR, SHRUNK_DOWN, SHRUNK_UP
from cuista.ops.borders import Shape, gather, map_shape, pad_zeros, spread, taps
from cuista.ops.joint import ALONE, Joint, as_real, is_plain
from cuista.ops.reference import NOT_POSITIVE, Descent, ReferenceOps, Result, Scalar, Scalars

# Below this share of non-zeros, a sparse product is faster than a dense one: with AVX2, one thread and matrices of
# 250 × 500 and 500 × 500, below 0.07 to 0.15, and with AVX-512 lower. This is a constant because BLAS adds in another
# order. If it were measured in each process, runs with the same seed would differ in their last bits.
SPARSE_DENSITY = 0.1
# The same where rows are multiplied one by one. The measurements of problems depend on it in their last bits.
SPARSE_ROWS = 0.15
# How many rows or columns of a large product are computed at a time.
PART = 128
# What arrays are aligned to in bytes: a cache line, which is also the widest vector.
LINE = 64
# From this size in bytes on, NumPy asks for large pages of memory, which matter more.
LARGE_PAGES = 2**22
# How many bytes of a convolutional network's maps are computed at a time: they should stay in a core's cache.
BAND_BYTES = 2**20


class CpuOps(ReferenceOps):
    """The primitives on NumPy arrays."""

    def __init__(self) -> None:
        super().__init__()
        self._pool = _Pool()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return self._pool.empty(shape, dtype)

    def in_batches(
        self, shape: tuple[int, ...], work: Callable[[slice], Result], batch: int | None = None
    ) -> list[Result]:
        return parallel.in_batches(shape[0], work, batch or self.rows_at_a_time(shape))

    def rows_at_a_time(self, shape: tuple[int, ...]) -> int:
        return parallel.batch_for(shape[1])

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if out is None:
            stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            out = self._pool.empty((*stack, a.shape[-2], b.shape[-1]), a.dtype)
        return product(a, b, out)

    def solve_positive(self, G: Array, B: Array) -> Array:
        from scipy.linalg import get_lapack_funcs

        posv: Any = get_lapack_funcs("posv", (G, B))
        solutions = np.empty(B.shape, B.dtype)
        for g, b, solution in zip(G, B, solutions, strict=True):
            _, solution[...], failed = posv(g, b)
            if failed:
                raise NumericalError(NOT_POSITIVE)
        return solutions

    def sparse_matmul(self, a: Array, b: Array) -> Array:
        if a.dtype != b.dtype or not a.flags.c_contiguous:
            return self.matmul(a, b)
        nonzero = np.not_equal(a, 0, out=self._pool.empty(a.shape, np.bool_))
        if np.count_nonzero(nonzero) > SPARSE_DENSITY * a.size:
            return self.matmul(a, b)
        return _multiply(a, np.flatnonzero(nonzero), b)

    def matmul_by_rows(self, a: Array, b: Array, density: float) -> Array:
        if density > SPARSE_ROWS:
            return super().matmul_by_rows(a, b, density)
        return _multiply(a, np.flatnonzero(a), b)

    def shrink_select(
        self,
        x: Array,
        u: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int | Array,
        window: float = 0.0,
        one_sided: bool = False,
        joint: Joint = ALONE,
    ) -> tuple[Array, Array]:
        if not isinstance(k, int) or not is_plain(x, joint):
            return super().shrink_select(x, u, step_size, threshold, k, window, one_sided, joint)
        empty = self._pool.empty
        theta = np.asarray(threshold, dtype=x.dtype)
        z = np.multiply(u, np.asarray(step_size, dtype=x.dtype), out=empty(x.shape, x.dtype))
        z += x
        if one_sided:
            np.maximum(z, 0, out=z)
        magnitude = np.abs(z, out=empty(x.shape, x.dtype))

        cutoff: Array = np.asarray(np.inf, x.dtype)  # if no entry may pass: no magnitude exceeds it
        if k > 0:
            rank = max(x.shape[1] - 1 - k, 0)
            ordered = empty(x.shape, x.dtype)
            ordered[...] = magnitude
            ordered.view(f"i{x.dtype.itemsize}").partition(rank, axis=1)
            cutoff = ordered[:, rank, None]
        # Soft thresholding subtracts clip(z, −θ, θ) from every entry that does not pass.
        if theta.ndim == 0:
            held = np.less_equal(magnitude, np.maximum(cutoff, theta), out=empty(x.shape, np.bool_))
        else:
            held = np.less_equal(magnitude, cutoff, out=empty(x.shape, np.bool_))
            held |= magnitude <= theta
        x_next = empty(x.shape, x.dtype)
        if np.all(theta >= 0):
            np.clip(z, -theta, theta, out=x_next)
        else:  # clip would need −θ ≤ θ
            np.multiply(np.sign(z), np.minimum(theta, magnitude), out=x_next)
        x_next *= held
        np.subtract(z, x_next, out=x_next)

        # OFF, PASSED, SHRUNK_UP, SHRUNK_DOWN = 0, 1, 2, 3 = alive · (1 + held · (1 + negative))
        code = np.signbit(z).view(np.int8)
        code += np.int8(1)
        code *= held.view(np.int8)
        code += np.int8(1)
        code *= np.not_equal(x_next, 0, out=held).view(np.int8)
        if window:
            near = np.greater(magnitude, cutoff, out=held)
            magnitude -= theta
            np.abs(magnitude, out=magnitude)
            near &= magnitude < np.asarray(window, dtype=x.dtype) * theta
            code |= near.view(np.int8) << np.int8(2)
        return x_next, code

    def shrink_select_backward(
        self,
        delta: Array,
        code: Array,
        x: Array,
        u: Array,
        step_size: Scalar,
        threshold: Scalars,
        window: float = 0.0,
        joint: Joint = ALONE,
    ) -> tuple[Array, Scalar, Scalars]:
        if not is_plain(x, joint):
            return super().shrink_select_backward(delta, code, x, u, step_size, threshold, window, joint)
        empty = self._pool.empty
        kind = np.bitwise_and(code, np.int8(KIND), out=empty(code.shape, np.int8))
        flags = np.not_equal(kind, 0, out=empty(code.shape, np.bool_))
        d_z = np.multiply(delta, flags, out=empty(delta.shape, delta.dtype))

        sign = np.equal(kind, SHRUNK_DOWN, out=flags).astype(np.int8)
        sign -= np.equal(kind, SHRUNK_UP, out=flags).view(np.int8)
        minus_sign = empty(delta.shape, delta.dtype)
        minus_sign[...] = sign
        theta = np.asarray(threshold, dtype=x.dtype)
        d_threshold: Array
        if theta.ndim == 0:
            d_threshold = np.asarray(np.vdot(minus_sign, delta), dtype=np.float64)
        else:
            to = {(delta.shape[1],): "n", (delta.shape[0], 1): "b", delta.shape: "bn"}[theta.shape]
            d_threshold = np.einsum(f"bn,bn->{to}", minus_sign, delta).astype(np.float64).reshape(theta.shape)
        if window:  # few entries are near
            near = np.flatnonzero(np.greater_equal(code, NEAR, out=flags))
            column = near % delta.shape[1]
            z = x.ravel()[near] + np.asarray(step_size, dtype=x.dtype) * u.ravel()[near]
            entry_threshold = theta if theta.ndim == 0 else np.broadcast_to(theta, x.shape)[near // x.shape[1], column]
            slope = delta.ravel()[near] / (2 * np.asarray(window, dtype=x.dtype) * entry_threshold)
            d_z.ravel()[near] += slope * np.abs(z)
            jump = slope.astype(np.float64) * z
            if theta.ndim == 0:
                d_threshold -= jump.sum()
            else:
                place = {(x.shape[1],): column, (x.shape[0], 1): near // x.shape[1], x.shape: near}[theta.shape]
                d_threshold -= np.bincount(place, jump, minlength=theta.size).reshape(theta.shape)
        return d_z, float(np.vdot(d_z, u)), d_threshold

    def conv_layer(
        self,
        x: Array | None,
        padded: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Array, Array, Any]:
        """Compute the layer one band of rows at a time.

        Without selection, a band stays in the cache from the first product to the last. The record holds the result and
        the mask of the entries that passed, which tell which entries were shrunk and in which direction.
        """
        (s1, s2, filters), dtype, empty = D.shape, padded.dtype, self._pool.empty
        picture = np.zeros((padded.shape[0] - 2 * (s1 - 1), padded.shape[1] - 2 * (s2 - 1)), dtype)
        height, width = map_shape((picture.shape[0], picture.shape[1]), (s1, s2), stride)
        theta, scaled = np.asarray(threshold, dtype), dtype.type(step_size) * W
        if theta.ndim:
            theta = theta[:, None, None]
        x_next = empty((filters, height, width), dtype)
        passed = empty(x_next.shape, np.bool_) if k else None
        bands = _bands(height, width, filters, dtype.itemsize)

        def analyse(rows: slice) -> Array:
            size = (rows.stop - rows.start) * width
            copies = _taps(padded, (s1, s2), rows, empty((s1 * s2, size), dtype), stride)
            z = np.matmul(scaled.reshape(-1, filters).T, copies, out=empty((filters, size), dtype))
            return z.reshape(filters, -1, width)

        def synthesize(rows: slice) -> None:
            band = x_next.reshape(filters, -1)[:, rows.start * width : rows.stop * width]
            copies = np.matmul(D.reshape(-1, filters), band, out=empty((s1 * s2, band.shape[1]), dtype))
            _gather(copies.reshape(s1 * s2, -1, width), picture, (s1, s2), rows.start, stride)

        for rows in bands:
            z = analyse(rows)
            if passed is None:
                if x is not None:
                    z += x[:, rows]
                _shrink(z, theta, x_next[:, rows], empty(z.shape, dtype))
                synthesize(rows)
            else:  # the selection needs all bands first
                x_next[:, rows] = z if x is None else np.add(z, x[:, rows], out=z)
        if passed is not None:
            least = _least_to_pass(x_next, theta, k)
            for rows in bands:
                z = empty(x_next[:, rows].shape, dtype)
                z[...] = x_next[:, rows]
                magnitude = np.abs(z, out=empty(z.shape, dtype))
                np.greater(magnitude, least, out=passed[:, rows])
                _shrink(z, theta, x_next[:, rows], magnitude)
                np.copyto(x_next[:, rows], z, where=passed[:, rows])
                synthesize(rows)
        return x_next, picture, (x_next, passed, padded, W, D, step_size, theta.ndim > 0, stride)

    def conv_layer_backward(
        self,
        d_x: Array | None,
        d_picture: Array,
        record: Any,
        wants_weight: bool = True,
        wants_dictionary: bool = False,
    ) -> tuple[Array, Array, Scalar, Scalars, Array | None, Array | None]:
        """Compute the gradients one band of rows at a time.

        Σ d_z u is computed as the inner product of the padded residual and the adjoint of the analysis applied to d_z.
        """
        x_next, passed, padded, W, D, step_size, by_filter, stride = record
        (s1, s2, filters), dtype, empty = D.shape, padded.dtype, self._pool.empty
        _, height, width = x_next.shape
        alpha = dtype.type(step_size)
        around = pad_zeros(np, d_picture, (s1, s2))
        rotated = np.ascontiguousarray(D[::-1, ::-1]).reshape(-1, filters).T
        d_z = empty(x_next.shape, dtype) if d_x is None else d_x
        d_padded = np.zeros_like(padded)
        d_weight = np.zeros((s1 * s2, filters), dtype) if wants_weight else None
        d_rotated = np.zeros((s1 * s2, filters), dtype) if wants_dictionary else None
        d_threshold: Any = np.zeros(filters) if by_filter else 0.0
        for rows in _bands(height, width, filters, dtype.itemsize):
            size = (rows.stop - rows.start) * width
            copies = _taps(around, (s1, s2), rows, empty((s1 * s2, size), dtype), stride)
            delta = np.matmul(rotated, copies, out=empty((filters, size), dtype)).reshape(filters, -1, width)
            if d_rotated is not None:
                d_rotated += np.matmul(copies, x_next[:, rows].reshape(filters, size).T)
            if d_x is not None:
                delta += d_x[:, rows]
            sign = np.sign(x_next[:, rows], out=empty(delta.shape, dtype))
            delta *= sign
            shrunk: Any = True if passed is None else ~passed[:, rows]
            d_threshold -= np.sum(delta, axis=(1, 2) if by_filter else None, where=shrunk).astype(np.float64)
            delta *= sign
            d_z[:, rows] = delta
            flat = delta.reshape(filters, size)
            back = np.matmul(W.reshape(-1, filters), flat, out=empty((s1 * s2, size), dtype))
            _spread(back.reshape(s1 * s2, -1, width), d_padded, (s1, s2), rows.start, stride)
            if d_weight is not None:
                d_weight += np.matmul(_taps(padded, (s1, s2), rows, copies, stride), flat.T)
        d_step_size = float(np.vdot(d_padded, padded))
        d_padded *= alpha
        if d_weight is not None:
            d_weight = (alpha * d_weight).reshape(W.shape)
        d_dictionary = None if d_rotated is None else d_rotated.reshape(D.shape)[::-1, ::-1]
        return d_z, d_padded, d_step_size, d_threshold, d_weight, d_dictionary

    def in_units(self, y: Array, unit: float) -> tuple[Array, Array]:
        if y.dtype.kind == "c":
            return super().in_units(y, unit)
        scaled, room = (self._pool.empty(y.shape, y.dtype) for _ in range(2))
        peak = np.abs(y, out=room).max(axis=-1, keepdims=True)
        peak[~(peak > 0)] = 1
        np.divide(y, peak, out=scaled)
        factor = np.sqrt(np.square(scaled, out=room).sum(axis=-1, keepdims=True)) / y.dtype.type(unit)
        factor[~(factor > 0)] = 1
        return np.divide(scaled, factor, out=scaled), factor * peak

    def half_squared_error(self, x: Array, target: Array, weights: Array | None = None) -> tuple[Scalar, Array]:
        if x.ndim > 2:
            return super().half_squared_error(x, target, weights)
        if x.dtype.kind == "c":
            loss, parts = self.half_squared_error(as_real(x), as_real(target.astype(x.dtype, copy=False)), weights)
            return loss, parts.view(x.dtype)
        error = np.subtract(x, target, out=self._pool.empty(x.shape, x.dtype))
        if weights is None:
            return 0.5 * float(np.vdot(error, error)), error
        delta = np.multiply(error, weights.astype(x.dtype)[:, None], out=self._pool.empty(x.shape, x.dtype))
        return 0.5 * float(np.vdot(error, delta)), delta

    def adam(self, parameter: Array, gradient: Array, mean: Array, square: Array, descent: Descent) -> None:
        if descent.logarithmic or parameter.ndim < 3:
            return super().adam(parameter, gradient, mean, square, descent)
        rate, factors, scale, _ = descent
        # Work piece by piece, so that the passes over a large matrix find each piece in the cache.
        one = np.asarray(1, parameter.dtype)  # multiplying by it gives this dtype
        for layer, factor in zip(range(len(parameter)), factors, strict=False):
            pieces = (array[layer].reshape(-1) for array in (parameter, gradient, mean, square))
            for p, g, m, v in zip(*map(_in_pieces, pieces), strict=True):
                g = np.multiply(g, (one * scale * factor).astype(one.dtype), out=self._pool.empty(g.shape, g.dtype))
                change = np.subtract(g, m, out=self._pool.empty(g.shape, g.dtype))
                change *= one * (1 - BETA1)
                m += change
                g *= g
                g -= v
                g *= one * (1 - BETA2)
                v += g
                np.sqrt(v, out=g)
                g += one * EPSILON
                np.divide(m, g, out=change)
                change *= one * rate
                p -= change
        return None


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """The product a b, written to `out` if it is given.

    A large product of two matrices is cut into parts of fixed size along its longer side, and these are shared out to
    the workers. Like this, its bits do not depend on their number, as they do if BLAS shares it out.
    """
    if a.ndim != 2 or b.ndim != 2 or 2.0 * a.size * b.shape[1] < parallel.SMALL_PRODUCT:
        return np.matmul(a, b, out=out)
    made = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b)) if out is None else out
    if a.shape[0] < b.shape[1]:
        parallel.in_batches(b.shape[1], lambda part: np.matmul(a, b[:, part], out=made[:, part]), PART)
    else:
        parallel.in_batches(a.shape[0], lambda part: np.matmul(a[part], b, out=made[part]), PART)
    return made


def _multiply(a: Array, nonzero: Array, b: Array) -> Array:
    """The product a b, given the flat indices of the non-zero entries of a in ascending order."""
    from scipy.sparse import csr_array

    rows, columns = a.shape
    starts = np.searchsorted(nonzero, np.arange(rows + 1) * columns)
    compressed = (a.ravel()[nonzero], (nonzero % columns).astype(np.int32), starts.astype(np.int32))
    return np.asarray(csr_array(compressed, shape=a.shape) @ b)


def _bands(height: int, width: int, filters: int, itemsize: int) -> list[slice]:
    """Slices of the rows of maps (F, height, width), each of about BAND_BYTES."""
    rows = max(1, BAND_BYTES // (filters * width * itemsize))
    return [slice(first, min(first + rows, height)) for first in range(0, height, rows)]


def _taps(image: Array, filter_shape: Shape, rows: slice, out: Array, stride: int) -> Array:
    """`borders.taps`, in a single copy if there is a stride: then each tap's part is small."""
    if stride == 1:
        return taps(np, image, filter_shape, rows, out)
    windows = np.lib.stride_tricks.sliding_window_view(image, filter_shape)[::stride, ::stride][rows]
    parts = windows.transpose(2, 3, 0, 1)
    out.reshape(parts.shape)[...] = parts
    return out


def _gather(copies: Array, image: Array, filter_shape: Shape, row: int, stride: int) -> None:
    """`borders.gather`. With a stride, it is the middle of what `_spread` makes of the taps in reverse order."""
    if stride == 1:
        return gather(copies, image, filter_shape, row)
    (s1, s2), (_, height, width) = filter_shape, copies.shape
    around = np.zeros(((height - 1) * stride + s1, (width - 1) * stride + s2), image.dtype)
    _spread(copies[::-1], around, filter_shape, 0, stride)
    first = row * stride - s1 + 1
    part = around[max(-first, 0) :, s2 - 1 : s2 - 1 + image.shape[1]]
    target = image[max(first, 0) :, : part.shape[1]][: len(part)]
    target += part[: len(target)]
    return None


def _spread(copies: Array, image: Array, filter_shape: Shape, row: int, stride: int) -> None:
    """`borders.spread`; with a stride, for up to q×q taps at a time, whose entries meet different pixels."""
    if stride == 1:
        return spread(copies, image, filter_shape, row)
    (s1, s2), (_, height, width) = filter_shape, copies.shape
    parts = copies.reshape(s1, s2, height, width)
    for i in range(0, s1, stride):
        for j in range(0, s2, stride):
            block = parts[i : i + stride, j : j + stride]
            pixels = np.zeros((height, stride, width, stride), image.dtype)
            pixels[:, : block.shape[0], :, : block.shape[1]] = block.transpose(2, 0, 3, 1)
            target = image[row * stride + i :, j:][: height * stride, : width * stride]
            target += pixels.reshape(height * stride, -1)[: target.shape[0], : target.shape[1]]
    return None


def _shrink(z: Array, theta: Array, out: Array, scratch: Array) -> None:
    """Write the soft thresholding of z to `out`; a negative θ moves every non-zero entry outwards."""
    if theta.ndim == 0 and theta >= 0:
        np.clip(z, -theta, theta, out=scratch)
    elif theta.ndim == 0:
        np.multiply(np.sign(z, out=scratch), theta, out=scratch)
    elif (theta >= 0).all():  # this is faster than `np.clip` with an array
        np.maximum(np.minimum(z, theta, out=scratch), -theta, out=scratch)
    else:
        np.multiply(np.sign(z), np.minimum(np.abs(z, out=scratch), theta, out=scratch), out=scratch)
    np.subtract(z, scratch, out=out)


def _least_to_pass(z: Array, theta: Array, k: int) -> Any:
    """The bound that an entry's magnitude must exceed for the entry to be above θ and among the k largest."""
    magnitude = np.abs(z).ravel()
    if theta.ndim == 0 and theta >= 0:
        magnitude = magnitude[magnitude > theta]
    k = min(k, z.size - 1)
    if magnitude.size <= k:
        return theta
    rank = magnitude.size - 1 - k
    magnitude.view(f"i{magnitude.itemsize}").partition(rank)  # integers sort faster than floats, in the same order
    return np.maximum(magnitude[rank], theta)


def _in_pieces(flat: Array) -> list[Array]:
    return [flat[first : first + 2**15] for first in range(0, flat.size, 2**15)]


class _Pool(threading.local):
    """A pool of aligned scratch arrays for each thread. An array is handed out again only when nobody holds it.

    The reference count shows whether it is held; views count, too. Without the pool, every large temporary would cost
    page faults. Where reference counts cannot be relied upon, every array is a new one.
    """

    KINDS = 32  # combinations of shape and dtype; beyond this, all arrays are forgotten
    OF_A_KIND = 256  # arrays of one kind; beyond this, they are forgotten, as a debugger may hold whatever it sees

    def __init__(self) -> None:
        self._arrays: defaultdict[Any, list[Array]] = defaultdict(list)
        self._unheld = _count_when_unheld()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised array."""
        if self._unheld is None:
            return _aligned(shape, dtype)
        if len(self._arrays) > self.KINDS:
            self._arrays.clear()
        arrays = self._arrays[shape, np.dtype(dtype)]
        found = _first_with(self._unheld, arrays)
        if found is None:
            if len(arrays) == self.OF_A_KIND:
                arrays.clear()
            found = _aligned(shape, dtype)
            arrays.append(found)
        return found


def _first_with(count: int, arrays: list[Array]) -> Array | None:
    """The first array with this reference count, which includes the references of the list and of this loop."""
    for array in arrays:
        if sys.getrefcount(array) == count:
            return array
    return None


def _count_when_unheld() -> int | None:
    """The reference count by which `_first_with` finds an array that only its list holds; None if counts cannot tell.

    CPython's counts are reliable unless a tracer holds the objects that it sees. Other interpreters have no such
    counts, and a free-threaded build does not keep a count in a single number.
    """
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not hasattr(sys, "getrefcount") or not gil or sys.gettrace() or sys.getprofile():
        return None
    arrays = [np.empty(2)]

    def count() -> int:
        return next((count for count in range(100) if _first_with(count, arrays) is not None), 0)

    unheld = count()
    view = arrays[0][1:]
    held = count()
    del view
    return unheld if held == unheld + 1 and count() == unheld else None


def _aligned(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised array that begins with a cache line, unless it is large. It is the base of its views."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size >= LARGE_PAGES:
        return np.empty(shape, dtype)
    memory = bytearray(size + LINE)  # if this were an array, it would be the base
    array: Array = np.ndarray(shape, dtype, memory, -np.frombuffer(memory, np.uint8).ctypes.data % LINE)
    return array
