"""The CUDA engine: the primitives of `ReferenceOps` on a GPU, with kernels of our own where it matters.

The engine is given its array module and a kernel launcher. On a GPU these are CuPy and `CudaLauncher`. The tests use
NumPy and a launcher that runs the same kernels on the CPU, so that they run on any machine. No primitive waits for the
GPU: results that are numbers stay there as zero-dimensional arrays.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import Key
from cuista.device import Device
from cuista.kernels.constants import AT_ONCE, DIGIT
from cuista.ops.borders import Shape, map_shape, strided
from cuista.ops.joint import ALONE, Joint, is_plain, real_of
from cuista.ops.reference import Descent, FusedStep, Law, Normal, ReferenceOps, Result, Scalar, Scalars, Signals

if TYPE_CHECKING:
    from cuista.kernels import Launcher

# The most dynamic shared memory that a kernel asks for. On any GPU a block has 48 KiB, of which the kernel's static
# variables need some.
SHARED_BYTES = 47 * 1024
# How many entries each block takes of a row that is divided among several blocks.
PART = 2**13
# How many entries a warp takes at a time in the backward pass of rows longer than PART with a single threshold.
LENGTH = 2**10
# The longest row that a warp keeps in registers.
IN_REGISTERS = 1024
# How many entries of the iterates are computed at a time when a network is applied: enough for a whole GPU, and few
# enough that the arrays between a product and the thresholding after it stay in the L2 cache.
ENTRIES = 2**22
# How many entries a block takes at a time in loss.cu, and the most blocks that share a sum: enough for any GPU, with
# few partial sums to add.
SUM_PART = 2**11
SUM_BLOCKS = 1024
# The most warps that share the backward pass of a batch: enough for any GPU, with few partial sums to add.
BACKWARD_WARPS = 4096
# The fused step gathers a row of a matrix for every non-zero of every signal. It is faster than the hundred and more
# launches that the step takes otherwise, as long as the batch has at most this many non-zeros for each entry of a code
# (batch size × density). Each snapshot counts like a signal, and complex ones count twice, because a row of their
# matrix is twice as long. On an H100, in a machine that is slow to launch kernels, it took a quarter of the time of two
# shards at 540 (complex), and a quarter to three fifths at 860 (real). A faster host may gain less.
FUSED_DENSE_ROWS = 864


class CudaOps(ReferenceOps):
    """The primitives on a GPU's arrays.

    Parameters
    ----------
    xp
        The array module: CuPy.
    launch
        The launcher of the kernels.
    name
        The device's name, for example `cuda:0`.
    """

    shard, matrices, pictures = 1024, 32, 8
    engine = "cuda"

    def __init__(self, xp: Any, launch: Launcher, name: str = "cuda:0") -> None:
        super().__init__()
        self.xp, self.launch, self.name = xp, launch, name
        self._limits: dict[bytes, Array] = {}

    @classmethod
    def on(cls, device: Device) -> CudaOps:
        """The engine on a CUDA device."""
        import cupy

        from cuista.kernels import CudaLauncher

        return cls(cupy, CudaLauncher(device.index or 0), device.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).on, (Device(self.name),)

    def computing(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.xp.cuda.Device(Device(self.name).index)
        return context

    # -- arrays -------------------------------------------------------------------------------------------------

    def asarray(self, array: Any, dtype: DTypeLike) -> Array:
        with contextlib.nullcontext() if isinstance(array, self.xp.ndarray) else self.computing():
            converted: Array = self.xp.asarray(array, dtype=dtype, order="C")
        return converted

    def to_numpy(self, array: Any) -> Array:
        return np.asarray(array.get() if hasattr(array, "get") else array)

    def in_batches(
        self, shape: tuple[int, ...], work: Callable[[slice], Result], batch: int | None = None
    ) -> list[Result]:
        with self.computing():
            return super().in_batches(shape, work, batch)

    def rows_at_a_time(self, shape: tuple[int, ...]) -> int:
        return max(ENTRIES // math.prod(shape[1:]), 1)

    # -- products -----------------------------------------------------------------------------------------------

    def matmul_by_rows(self, a: Array, b: Array, density: float) -> Array:
        a, (rows, N), M = self.asarray(a, a.dtype), a.shape, b.shape[1]
        product: Array = self.xp.empty((rows, M), a.dtype)
        kernel = "matmul_by_rows_complex" if a.dtype.kind == "c" else "matmul_by_rows"
        self._launch(kernel, a.dtype, 256 * rows, 256, a, b, np.int32(N), np.int32(M), product)
        return product

    # -- thresholding with support selection --------------------------------------------------------------------

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
        if not isinstance(k, int):  # one k per sample, which no kernel supports
            return super().shrink_select(x, u, step_size, threshold, k, window, one_sided, joint)
        x, u = self.asarray(x, x.dtype), self.asarray(u, x.dtype)
        alpha, theta = self.asarray(step_size, np.float64), self.asarray(threshold, np.float64)
        if not is_plain(x, joint):
            return self._shrink_joint(x, u, alpha, theta, k, window, joint)
        batch, N = x.shape
        k = min(k, N - 1)
        x_next, code = self.xp.empty(x.shape, x.dtype), self.xp.empty(x.shape, np.int8)
        # The strides of the thresholds: from one entry to the next, and from one sample to the next.
        per_coordinate = int(theta.ndim > 0 and theta.shape[-1] > 1)
        per_sample = theta.shape[1] if theta.ndim > 1 else 0
        strides, side = (np.int32(per_coordinate), np.int32(per_sample)), np.int32(one_sided)
        inputs = (x, u, alpha, theta, *strides, x.dtype.type(window), side)
        if N <= IN_REGISTERS:
            self._shrink_rows((x, u, None), alpha, theta, strides, int(k), window, side, x_next, code)
        elif k > 0 and N * x.itemsize <= SHARED_BYTES:
            results, shared = (np.int32(N), np.int32(k), x_next, code), N * x.itemsize
            self._launch("shrink_long_rows", x.dtype, 256 * batch, 256, *inputs, *results, shared=shared)
        else:
            parts = -(-N // PART)
            sizes, threads = (np.int32(N), np.int32(parts), np.int32(k)), 256 * parts * batch
            cut = self._cutoff("select_digit", batch, (x, u, alpha, side, *sizes), threads) if k > 0 else None
            self._launch("shrink_parts", x.dtype, threads, 256, *inputs, *sizes, cut, x_next, code)
        return x_next, code

    def _shrink_rows(
        self,
        step: tuple[Array | None, Array, Array | None],
        alpha: Array,
        theta: Array,
        strides: tuple[np.int32, np.int32],
        k: int,
        window: float,
        side: np.int32,
        x_next: Array,
        code: Array | None,
    ) -> None:
        """Threshold x + α (u + more), where `step` is x, u and more, one warp per row."""
        batch, N = x_next.shape
        kernel = f"shrink_rows{_items(N)}_{_width(N, *(array for array in step if array is not None))}"
        sizes = (np.int32(batch), np.int32(N), np.int32(k))
        thresholding = (alpha, theta, *strides, x_next.dtype.type(window), side)
        self._launch(kernel, x_next.dtype, 32 * batch, 128, *step, *thresholding, *sizes, x_next, code)

    def _shrink_joint(
        self, x: Array, u: Array, alpha: Array, theta: Array, k: int, window: float, joint: Joint
    ) -> tuple[Array, Array]:
        """`shrink_select` for complex and joint entries."""
        batch, count, shape = _entries(x, joint)
        k = min(k, count - 1)
        x_next, code = self.xp.empty(x.shape, x.dtype), self.xp.empty((batch, count), np.int8)
        per_coordinate = int(theta.ndim > 0 and theta.shape[-1] > 1)
        strides = (np.int32(per_coordinate), np.int32(theta.shape[1] if theta.ndim > 1 else 0))
        kind, real = _kind_as_joint(x), real_of(x.dtype)
        if count <= IN_REGISTERS:
            self._shrink_samples((x, u, None), alpha, theta, strides, k, window, joint, x_next, code)
            return x_next, code
        inputs, magnitudes = (x, u, alpha, theta, *strides, real.type(window), *shape), count * real.itemsize
        if k > 0 and magnitudes <= SHARED_BYTES:
            results = (np.int32(k), x_next, code)
            self._launch(f"shrink_long_samples_{kind}", x.dtype, 256 * batch, 256, *inputs, *results, shared=magnitudes)
        else:
            parts = -(-count // PART)
            sizes, threads = (np.int32(parts), np.int32(k)), 256 * parts * batch
            selected = (x, u, alpha, *shape, *sizes)
            cut = self._cutoff(f"select_digit_{kind}", batch, selected, threads) if k > 0 else None
            self._launch(f"shrink_parts_{kind}", x.dtype, threads, 256, *inputs, *sizes, cut, x_next, code)
        return x_next, code

    def _shrink_samples(
        self,
        step: tuple[Array | None, Array, Array | None],
        alpha: Array,
        theta: Array,
        strides: tuple[np.int32, np.int32],
        k: int,
        window: float,
        joint: Joint,
        x_next: Array,
        code: Array | None,
    ) -> None:
        """`_shrink_rows` for complex and joint entries, one warp per sample."""
        (batch, count, shape), real = _entries(x_next, joint), real_of(x_next.dtype)
        shared = 0 if joint == ALONE else 4 * count * real.itemsize  # the magnitudes of the block's four warps
        kernel = f"shrink_complex{_items(count)}" if joint == ALONE else f"shrink_samples_{_kind(x_next, joint)}"
        thresholding = (alpha, theta, *strides, real.type(window), *shape, np.int32(batch), np.int32(k))
        self._launch(kernel, x_next.dtype, 32 * batch, 128, *step, *thresholding, x_next, code, shared=shared)

    def analytic_layers(
        self,
        x: Array | None,
        Wy: Array,
        packed: Array,
        step_size: Array,
        threshold: Array,
        support: tuple[int, ...],
        one_sided: bool = False,
        joint: Joint = ALONE,
    ) -> Array:
        count = Wy.shape[1] // joint.group
        if count > IN_REGISTERS:
            return super().analytic_layers(x, Wy, packed, step_size, threshold, support, one_sided, joint)
        Wy, products = self.asarray(Wy, Wy.dtype), None
        x = None if x is None else self.asarray(x, Wy.dtype)
        alpha, theta = self.asarray(step_size, np.float64), self.asarray(threshold, np.float64)
        strides = (np.int32(theta.ndim == 2 and theta.shape[1] > 1), np.int32(0))
        for t, k in enumerate(support):
            step: tuple[Array | None, Array, Array | None] = (None, Wy, None)
            if x is not None:
                products = self.matmul(x, packed, out=products)
                step = (x, products, Wy)
            after = self.xp.empty(Wy.shape, Wy.dtype)
            of_layer = (step, alpha[t : t + 1], theta[t : t + 1], strides, min(k, count - 1), 0.0)
            if is_plain(Wy, joint):
                self._shrink_rows(*of_layer, np.int32(one_sided), after, None)
            else:
                self._shrink_samples(*of_layer, joint, after, None)
            x = after
        assert x is not None  # there is at least one layer
        return x

    def _cutoff(self, kernel: str, batch: int, inputs: tuple[Any, ...], threads: int) -> Array:
        """The (k+1)-th largest magnitude of every row, as the integer of its bit pattern."""
        xp, dtype = self.xp, real_of(inputs[0].dtype)
        cut: Array = xp.empty(batch, f"u{dtype.itemsize}")
        state = (xp.zeros((batch, 2**DIGIT), np.uint32), xp.zeros(batch, np.uint32), xp.empty(batch, np.uint32), cut)
        shift = 8 * dtype.itemsize - 1  # the number of bits of a magnitude
        while shift > 0:
            width = min(DIGIT, shift)
            shift -= width
            bits = (np.int32(shift), np.int32(width))
            self._launch(kernel, dtype, threads, 256, *inputs, *bits, *state)
        return cut

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
        if getattr(threshold, "ndim", 0) > 1:
            return super().shrink_select_backward(delta, code, x, u, step_size, threshold, window, joint)
        dtype = delta.dtype
        delta, x, u = (self.asarray(array, dtype) for array in (delta, x, u))
        alpha, theta = self.asarray(step_size, np.float64), self.asarray(threshold, np.float64)
        code = self.asarray(code, np.int8)
        if not is_plain(x, joint):
            return self._joint_backward((delta, code, x, u, alpha, theta), window, joint)
        batch, N = x.shape
        # With one threshold for all entries, it does not matter which row an entry is in.
        length = N if theta.ndim or N <= PART else LENGTH
        warps = min(-(-x.size // (4 * length)) * 4, BACKWARD_WARPS)
        d_z, warp_sums = self.xp.empty(x.shape, dtype), self.xp.empty((warps, 2), np.float64)
        inputs, width = (delta, code, x, u, alpha, theta), _width(N, delta, code, u)
        sizes = (np.int32(theta.ndim), dtype.type(window), np.int64(x.size), np.int32(length))
        self._launch(f"backward_rows_{width}", dtype, 32 * warps, 128, *inputs, *sizes, d_z, warp_sums)
        d_step_size, d_threshold = self._sum_rows(warp_sums)
        if theta.ndim:
            parts = min(batch, 64)
            rows = -(-batch // parts)
            sums = self.xp.empty((parts, N), np.float64)
            sizes = (dtype.type(window), np.int32(batch), np.int32(N), np.int32(rows))
            self._launch("backward_columns", dtype, 128 * parts * -(-N // 128), 128, *inputs, *sizes, sums)
            d_threshold = self._sum_rows(sums)
        return d_z, d_step_size, d_threshold

    def _joint_backward(self, arrays: tuple[Array, ...], window: float, joint: Joint) -> tuple[Array, Scalar, Scalars]:
        """`shrink_select_backward` for complex and joint entries."""
        x, theta = arrays[2], arrays[5]
        (batch, count, shape), half_width = _entries(x, joint), real_of(x.dtype).type(window)
        length, kind = min(count, LENGTH), _kind(x, joint)
        warps = min(-(-batch * -(-count // length) // 4) * 4, BACKWARD_WARPS)
        d_z, warp_sums = self.xp.empty(x.shape, x.dtype), self.xp.empty((warps, 2), np.float64)
        sizes = (np.int32(theta.ndim), half_width, *shape, np.int64(batch), np.int32(length))
        self._launch(f"backward_{kind}", x.dtype, 32 * warps, 128, *arrays, *sizes, d_z, warp_sums)
        d_step_size, d_threshold = self._sum_rows(warp_sums)
        if theta.ndim:
            parts = min(batch, 64)
            sums = self.xp.empty((parts, count), np.float64)
            rows = (np.int32(batch), np.int32(-(-batch // parts)))
            threads = 128 * parts * -(-count // 128)
            self._launch(f"backward_columns_{kind}", x.dtype, threads, 128, *arrays, half_width, *shape, *rows, sums)
            d_threshold = self._sum_rows(sums)
        return d_z, d_step_size, d_threshold

    def _sum_rows(self, array: Array) -> Array:
        rows, columns = array.shape
        sums: Array = self.xp.empty(columns, np.float64)
        self._launch("sum_rows", array.dtype, 256 * columns, 256, array, np.int32(rows), np.int32(columns), sums)
        return sums

    # -- layers of convolutional networks ---------------------------------------------------------------------------

    def taps(self, image: Array, filter_shape: Shape, stride: int = 1) -> Array:
        places = tuple(strided(n - s + 1, stride) for n, s in zip(image.shape, filter_shape, strict=True))
        return self._taps(self.asarray(image, image.dtype)[None], None, filter_shape, places, stride)

    def gather(self, copies: Array, filter_shape: Shape, shape: Shape, stride: int = 1) -> Array:
        image: Array = self._sum_taps(copies[:, None], filter_shape, shape, stride)[0]
        return image

    def spread(self, copies: Array, filter_shape: Shape, shape: Shape, stride: int = 1) -> Array:
        image: Array = self._sum_taps(copies[:, None], filter_shape, shape, stride, sign=-1)[0]
        return image

    def _taps(
        self,
        images: Array,
        minus: Array | None,
        filter_shape: Shape,
        places: tuple[int, ...],
        stride: int,
        sign: int = 1,
        border: Shape = (0, 0),
        reflected: bool = False,
    ) -> Array:
        """The copies (s₁s₂, B·h·w) of images (B, H, W), less others, with places (h, w): see taps.cu."""
        (s1, s2), count = filter_shape, len(images)
        copies: Array = self.xp.empty((s1 * s2, count * math.prod(places)), images.dtype)
        sizes = map(np.int32, (count, s1, s2, sign, *border, reflected, stride, *places, *images.shape[1:]))
        self._launch("taps", images.dtype, copies.size, 256, images, minus, *sizes, copies)
        return copies

    def _sum_taps(
        self,
        copies: Array,
        filter_shape: Shape,
        shape: Shape,
        stride: int,
        sign: int = 1,
        border: Shape = (0, 0),
        reflected: bool = False,
        scale: float = 1.0,
    ) -> Array:
        """Images (B, H, W) of this shape of copies (s₁s₂, B, h, w), times `scale`: see taps.cu."""
        (s1, s2), copies, count = filter_shape, self.asarray(copies, copies.dtype), copies.shape[1]
        images: Array = self.xp.empty((count, *shape), copies.dtype)
        sizes = map(np.int32, (count, s1, s2, sign, *border, reflected, stride, *copies.shape[2:], *shape))
        self._launch("sum_taps", copies.dtype, images.size, 256, copies, copies.dtype.type(scale), *sizes, images)
        return images

    def conv_steps(
        self,
        maps: Any,
        f: Array,
        pictures: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        thresholds: Array,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Any, Array, Any]:
        """Process all pictures at once, with maps (F, B, h, w), unless the largest entries of each are selected."""
        if k > 0:
            return super().conv_steps(_apart(maps), f, pictures, W, D, step_size, thresholds, k, stride)
        maps = _together(self.xp, maps)
        (s1, s2, filters), dtype = D.shape, f.dtype
        count = len(f)
        borders: dict[str, Any] = {"border": (s1 - 1, s2 - 1), "reflected": True}
        f, pictures = self.asarray(f, dtype), self.asarray(pictures, dtype)
        places = map_shape((f.shape[1], f.shape[2]), (s1, s2), stride)
        copies = self._taps(f, pictures, (s1, s2), places, stride, **borders)
        u = self.matmul(W.reshape(s1 * s2, filters).T, copies)
        alpha, theta = self.asarray(step_size, np.float64), self.asarray(thresholds, np.float64)
        width = math.prod(theta.shape[1:])
        strides = np.int32(width > 1), np.int32(width if len(theta) > 1 else 0)
        sizes = (*strides, np.int32(filters), np.int32(count), np.int64(math.prod(places)))
        x_next: Array = self.xp.empty((filters, count, *places), dtype)
        self._launch("shrink_maps", dtype, u.size, 256, maps, u, alpha, theta, *sizes, x_next)
        copies = self.matmul(D.reshape(s1 * s2, filters), x_next.reshape(filters, -1)).reshape(-1, count, *places)
        found = self._sum_taps(copies, (s1, s2), (f.shape[1], f.shape[2]), stride)
        return x_next, found, (x_next, u, f, pictures, W, D, alpha, theta.ndim > 1, stride, borders)

    def conv_steps_backward(
        self, d_maps: Any, d_pictures: Any, record: Any, wants_weight: bool = True, wants_dictionary: bool = False
    ) -> tuple[Any, Array, Scalar, Array, Array | None, Array | None]:
        """Go back through all pictures at once.

        The adjoint of the synthesis correlates ∂L/∂picture, which is 0 beyond its borders, with the filters rotated by
        180°: it multiplies the filters as they are by copies that are shifted in the other direction.
        """
        if isinstance(record, list):  # of single pictures
            return super().conv_steps_backward(_apart(d_maps), d_pictures, record, wants_weight, wants_dictionary)
        d_maps = _together(self.xp, d_maps)
        x_next, u, f, pictures, W, D, alpha, by_filter, stride, borders = record
        (s1, s2, filters), dtype, count, places = D.shape, f.dtype, len(f), x_next.shape[2:]
        shape, alpha = (f.shape[1], f.shape[2]), alpha.astype(dtype)
        copies = self._taps(self.asarray(d_pictures, dtype), None, (s1, s2), places, stride, sign=-1)
        delta = self.matmul(D.reshape(s1 * s2, filters).T, copies)
        d_z, sums = self.xp.empty(x_next.shape, dtype), self.xp.empty((2, filters, count), np.float64)
        size = np.int64(math.prod(places))
        arrays = (delta, d_maps, x_next, u, size, d_z, sums[0], sums[1])
        self._launch("shrink_maps_backward", dtype, 256 * filters * count, 256, *arrays)
        d_threshold = sums[1].T if by_filter else sums[1].sum(axis=0)
        flat = d_z.reshape(filters, -1)
        d_dictionary = self.matmul(copies, x_next.reshape(filters, -1).T).reshape(D.shape) if wants_dictionary else None
        d_weight = None
        if wants_weight:
            copies = self._taps(f, pictures, (s1, s2), places, stride, **borders)
            d_weight = alpha * self.matmul(copies, flat.T).reshape(W.shape)
        back = self.matmul(alpha * W.reshape(s1 * s2, filters), flat).reshape(-1, count, *places)
        d_pictures = self._sum_taps(back, (s1, s2), shape, stride, sign=-1, scale=-1.0, **borders)
        return d_z, d_pictures, sums[0].sum(), d_threshold, d_weight, d_dictionary

    # -- measurements and loss --------------------------------------------------------------------------------------

    def in_units(self, y: Array, unit: float) -> tuple[Array, Array]:
        if y.ndim != 2 or y.dtype.kind == "c":
            return super().in_units(y, unit)
        y, (rows, M) = self.asarray(y, y.dtype), y.shape
        scaled, factors = self.xp.empty(y.shape, y.dtype), self.xp.empty((rows, 1), y.dtype)
        sizes = (y.dtype.type(unit), np.int32(rows), np.int32(M))
        self._launch("in_units", y.dtype, 32 * rows, 128, y, *sizes, scaled, factors)
        return scaled, factors

    def half_squared_error(self, x: Array, target: Array, weights: Array | None = None) -> tuple[Scalar, Array]:
        if x.dtype.kind == "c":  # the parts of complex numbers are as many real ones
            pair = _in_reals(self.asarray(x, x.dtype)), _in_reals(self.asarray(target, x.dtype))
            loss, d_parts = self.half_squared_error(*pair, weights)
            return loss, d_parts.view(x.dtype)
        dtype, rows = x.dtype, 1 if weights is None else len(x)
        x, target = self.asarray(x, dtype), self.asarray(target, dtype)
        delta: Array = self.xp.empty(x.shape, dtype)
        length = x.size // max(rows, 1)
        blocks = max(min(rows * -(-length // SUM_PART), SUM_BLOCKS), 1)
        sums = self.xp.empty((blocks, 1), np.float64)
        given = None if weights is None else self.asarray(weights, dtype)
        sizes = (np.int64(rows), np.int64(length))
        self._launch("half_squared_error", dtype, 256 * blocks, 256, x, target, given, *sizes, delta, sums)
        return self._sum_rows(sums)[0], delta

    # -- random numbers -----------------------------------------------------------------------------------------

    def normal(self, key: Key, purpose: int, shape: tuple[int, int], dtype: DTypeLike, first_row: int = 0) -> Array:
        numbers: Array = self.xp.empty(shape, dtype)
        kernel = "normal_complex" if numbers.dtype.kind == "c" else "normal"
        first, end = first_row * shape[1], (first_row + shape[0]) * shape[1]
        threads = -(-end // 4) - first // 4
        counter = (*map(np.uint64, key), np.uint64(purpose))
        self._launch(kernel, numbers.dtype, threads, 256, *counter, np.uint64(first), np.uint64(end), numbers)
        return numbers

    def sparse_codes(
        self,
        key: Key,
        rows: int,
        probability: Array,
        magnitude: Law,
        dtype: DTypeLike,
        first_row: int = 0,
        joint: Joint = ALONE,
    ) -> Array:
        N, L = probability.shape[0], joint.snapshots
        codes: Array = self.xp.empty((rows * L, N), dtype)
        first, end = first_row * L * N, (first_row + rows) * L * N
        threads, span = -(-end // 2) - first // 2, (np.uint64(first), np.uint64(end), np.int32(N))
        law = (self._limits_of(probability), *_law(magnitude, codes.dtype))
        if is_plain(codes, joint):
            self._launch("sparse_codes", codes.dtype, threads, 256, *map(np.uint64, key), *law, *span, codes)
        else:
            kernel, shape = f"sparse_codes_{_kind_as_joint(codes)}", (np.int32(L), np.int32(joint.group))
            self._launch(kernel, codes.dtype, threads, 256, *map(np.uint64, key), *law, *span, *shape, codes)
        return codes

    def _limits_of(self, probability: Array) -> Array:
        """The probabilities as 53-bit integers on the device, to compare random ones with; the latest few are kept."""
        name = probability.tobytes()
        limits = self._limits.get(name)
        if limits is None:
            if len(self._limits) > 8:
                self._limits.clear()  # another thread may do the same
            limits = self._limits[name] = self.asarray(np.rint(probability * 2.0**53).astype(np.uint64), np.uint64)
        return limits

    # -- descent ------------------------------------------------------------------------------------------------

    def track_loss(self, loss: Scalar, batch: int, mean_loss: Array) -> Scalar:
        scale = self.xp.empty((), np.float64)
        loss = self.asarray(loss, np.float64)
        self._launch("track_loss", mean_loss.dtype, 1, 1, loss, np.int32(batch), mean_loss, scale)
        return scale

    def adam(self, parameter: Array, gradient: Array, mean: Array, square: Array, descent: Descent) -> None:
        size, layers = parameter.size, parameter.shape[0]
        arrays, sizes = (parameter, gradient, mean, square), (np.int64(size), np.int32(size // layers))
        rate, scale = np.float64(descent.rate), self.asarray(descent.scale, np.float64)
        how = (rate, descent.factors, scale, np.int32(descent.logarithmic))
        self._launch("adam", parameter.dtype, size, 128, *arrays, *how, *sizes)

    def fuse_alista(
        self, signals: Signals, W: Array, forward: Array, backward: Array, one_sided: bool = False, joint: Joint = ALONE
    ) -> FusedStep | None:
        fused = _Fused(self, signals, W, forward, backward, one_sided, joint)
        return fused if fused.shared <= SHARED_BYTES else None

    def _launch(
        self, kernel: str, dtype: np.dtype[Any], threads: int, block: int, *arguments: Any, shared: int = 0
    ) -> None:
        if threads:  # without signals there is nothing to do
            self.launch(kernel, _real(dtype), -(-threads // block), block, tuple(map(_in_reals, arguments)), shared)


class _Fused:
    """The fused training step of kernels/step.cu, with its arrays on the device. A signal is a shard."""

    shard = 1

    def __init__(
        self, ops: CudaOps, signals: Signals, W: Array, forward: Array, backward: Array, one_sided: bool, joint: Joint
    ) -> None:
        self.ops, self.signals, self.one_sided, self.joint = ops, signals, one_sided, joint
        self.W, self.forward, self.backward = W, forward, backward
        self.threads = min(256, 32 * -(-W.shape[1] // 32))
        # A block's arrays: its teams' sums, the signal, Wᵀy, x, y, the list of non-zeros with counts and padding, and,
        # unless entries are single real numbers, their magnitudes.
        (M, N), longest, plain = W.shape, max(W.shape), is_plain(W, joint)
        self.kernel = "alista_step" if plain else f"alista_step_{_kind_as_joint(W)}"
        self.team_sums = max(_team_sums(columns, self.threads) for columns in (M, N))
        numbers = self.team_sums + joint.snapshots * (3 * N + M) + longest + AT_ONCE
        magnitudes = 0 if plain else N // joint.group * real_of(W.dtype).itemsize
        self.shared = numbers * W.itemsize + magnitudes + 4 * (longest + AT_ONCE) + 4 * -(-longest // 32)
        self.A_transposed = ops.asarray(signals.A.T, W.dtype)
        probabilities = np.stack([signals.probability, signals.hard_probability])
        self.limits = ops.asarray(np.rint(probabilities * 2.0**53).astype(np.uint64), np.uint64)
        self.log_ratio = ops.asarray(signals.log_ratio, np.float64)
        self.arrived = ops.xp.zeros((), np.uint32)
        self._work: tuple[Any, tuple[Array, ...]] = (None, ())

    def suits(self, batch: int, density: float) -> bool:
        rows = self.joint.snapshots * (2 if self.W.dtype.kind == "c" else 1)  # of real numbers, for each signal
        return batch * rows * density <= FUSED_DENSE_ROWS

    def __call__(
        self,
        parameters: dict[str, Array],
        support: tuple[int, ...],
        key: Key,
        batch: int,
        depth: int,
        window: float,
        weight_power: float,
        rows: slice | None = None,
    ) -> tuple[Scalar, dict[str, Array]]:
        ops, signals, real = self.ops, self.signals, real_of(self.W.dtype).type
        M, N = self.W.shape
        loss = ops.xp.empty((), np.float64)
        gradients = {name: ops.xp.empty(len(support), np.float64) for name in ("step_size", "threshold")}
        matrices = (self.A_transposed, self.W, self.limits, self.log_ratio)
        law = (
            *_law(signals.magnitude, self.W.dtype),
            np.int32(signals.positive),
            real(signals.noise),
            real(signals.unit),
            *map(np.int32, (M, N, *self.joint, self.team_sums)),
        )
        network = (self.forward, self.backward, parameters["step_size"], parameters["threshold"])
        first, stop = (0, batch) if rows is None else (rows.start, rows.stop)
        count = stop - first
        layers = (*self._arrays(count, depth, support), np.int32(len(support)), np.int32(depth))
        thresholding = (real(window), np.int32(self.one_sided))
        shares = map(np.float64, (signals.hard, signals.hard_before(batch) / batch, weight_power))
        arguments = (*matrices, *law, *network, *layers, *thresholding, *map(np.uint64, key), np.int32(first), *shares)
        results = (self.arrived, loss, *gradients.values())
        ops._launch(
            self.kernel, self.W.dtype, self.threads * count, self.threads, *arguments, *results, shared=self.shared
        )
        return loss, gradients

    def _arrays(self, batch: int, depth: int, support: tuple[int, ...]) -> tuple[Array, ...]:
        """The support schedule and the kernel's work arrays, on the device."""
        if self._work[0] != (batch, depth, support):
            xp, N, (L, G) = self.ops.xp, self.W.shape[1], self.joint
            z, u = (xp.empty((batch, depth, L, N), self.W.dtype) for _ in range(2))
            code = xp.empty((batch, depth, N // G), np.int8)
            sums = xp.empty((batch, 1 + 2 * depth), np.float64)
            self._work = ((batch, depth, support), (self.ops.asarray(support, np.int32), z, u, code, sums))
        return self._work[1]


def _together(xp: Any, maps: Any) -> Array | None:
    """Maps (F, B, h, w) of a list of maps (F, h, w), which layers with selection return."""
    together: Array | None = xp.stack(maps, axis=1) if isinstance(maps, list) else maps
    return together


def _apart(maps: Any) -> list[Array] | None:
    """The opposite of `_together`."""
    return maps if maps is None or isinstance(maps, list) else [maps[:, b].copy() for b in range(maps.shape[1])]


def _team_sums(columns: int, threads: int) -> int:
    """How many sums the teams of list.cuh make, into which a block of this many threads is divided for a product."""
    for width in (4, 1):
        teams = 0 if columns % width else threads // (-(-columns // (32 * width)) * 32)
        if teams > 1:
            return teams * columns
    return 0


def _real(dtype: np.dtype[Any]) -> str:
    """The kernels' name for a floating-point type, or for that of the parts of complex numbers."""
    return "float" if real_of(dtype) == np.float32 else "double"


def _in_reals(argument: Any) -> Any:
    """The argument, with complex arrays as pairs of real numbers, which is how kernels take them."""
    dtype = getattr(argument, "dtype", None)
    return argument.view(real_of(dtype)) if dtype is not None and dtype.kind == "c" else argument


def _kind(x: Array, joint: Joint) -> str:
    """How kernels are named for the entries of an iterate that are not single real numbers."""
    return "complex" if joint == ALONE else _kind_as_joint(x)


def _kind_as_joint(x: Array) -> str:
    """The same for a kernel that takes single complex numbers as joint entries."""
    return "complex_joint" if x.dtype.kind == "c" else "joint"


def _entries(x: Array, joint: Joint) -> tuple[int, int, tuple[np.int32, np.int32, np.int32]]:
    """The numbers of samples and of entries of a sample, and its entries as kernels take them."""
    count = x.shape[1] // joint.group
    return len(x) // joint.snapshots, count, (np.int32(joint.snapshots), np.int32(joint.group), np.int32(count))


def _items(count: int) -> str:
    """The end of a kernel's name that says how many entries a lane of a warp keeps in registers."""
    return f"_{next(items for items in (4, 8, 16, 32) if 32 * items >= count)}"


def _width(N: int, *arrays: Any) -> int:
    """How many entries of these arrays (batch, N) can be read at once: 4 if all rows are aligned, else 1."""
    return 4 if N % 4 == 0 and all(getattr(array.data, "ptr", 0) % 16 == 0 for array in arrays) else 1


def _law(magnitude: Law, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """The kernel arguments that make up a `Law` of philox.cuh."""
    real = real_of(dtype).type
    if isinstance(magnitude, Normal):
        return np.int32(0), real(magnitude.mean), real(magnitude.std), np.uint64(0)
    # The phase of a complex number takes the lower half of its word.
    q_limit = np.uint64(round(magnitude.q * 2.0 ** (32 if dtype.kind == "c" else 53)))
    return np.int32(1), real(magnitude.v0), real(magnitude.v1), q_limit
