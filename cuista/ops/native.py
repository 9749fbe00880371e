"""The native engine: the CPU engine with the primitives that the native library has.

All others are those of `CpuOps`. A call into the library releases the interpreter's lock, so that threads compute side
by side (`cuista.parallel`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from cuista import parallel
from cuista.checks import Array
from cuista.counter import Key
from cuista.kernels import native
from cuista.kernels.constants import LARGE_SHARD, MOST_ABREAST, SHARD, SPARE_PIXELS
from cuista.ops.borders import map_shape
from cuista.ops.cpu import LINE, CpuOps
from cuista.ops.joint import ALONE, Joint, is_plain, real_of
from cuista.ops.reference import Descent, FusedStep, Normal, OuterSums, Scalar, Scalars, Signals

# Below this share of non-zeros, a sparse product is faster than BLAS's dense one: with AVX2, one thread and matrices of
# 250 × 500 and 500 × 500, below 0.23 to 0.34. This is a constant because BLAS adds in another order. If it were
# measured in each process, runs with the same seed would differ in their last bits.
SPARSE_DENSITY = 0.25
# Up to this share of wanted entries, they are computed one by one, and up to this share of non-zeros, a gradient is
# formed a few rows at a time. Both are constants for the same reason. One machine with AVX2 had 0.2 and 0.4; another
# has 0.12 and 0.36 with AVX2, and 0.13 and 0.33 with AVX-512 (benchmarks/density.py).
WANTED_DENSITY = 0.15
OUTER_DENSITY = 0.4
# How many entries of a parameter a thread updates at a time.
PART = 2**17
# The length of the vectors by which products are timed.
TRIAL = 500


class NativeOps(CpuOps):
    """The primitives on NumPy arrays, with the native library.

    Parameters
    ----------
    library
        The library; None for the one that was installed.
    dense
        The share of non-zero entries above which whole layers of ALISTA multiply iterates as dense ones. It decides how
        long they take, and not a bit of their results. None for the share that is measured.
    """

    engine = "native"
    iterates_by_gram = True

    def __init__(self, library: native.Library | None = None, dense: float | None = None) -> None:
        super().__init__()
        self._library, self._dense = library or native.library(), dense

    def __reduce__(self) -> tuple[Any, ...]:
        from cuista.ops import engine

        return engine, ("cpu",)  # it may be unpickled where there is no library

    def sparse_matmul(self, a: Array, b: Array) -> Array:
        if (
            not _numbers_alike(a, b)
            or a.ndim != 2
            or b.ndim != 2
            or not (a.flags.c_contiguous and b.flags.c_contiguous)
        ):
            return self.matmul(a, b)
        (rows, inner), columns, empty = a.shape, b.shape[1], self._pool.empty
        _expect("the matrix", b, (inner, columns))
        if self._density(a) > SPARSE_DENSITY:
            return self.matmul(a, b)
        product = empty((rows, columns), a.dtype)
        index, value = empty((SHARD, inner), np.uint32), empty((SHARD, inner), a.dtype)
        parts = _parts(a)
        run = self._library("sparse_matmul", real_of(a.dtype))
        run(a, b, parts, rows, inner, columns * parts, index, value, product)
        return product

    def matmul_where(self, a: Array, b: Array, transposed: Array, where: Array) -> Array:
        dense = np.count_nonzero(where) > WANTED_DENSITY * where.size
        if dense or not _numbers_alike(a, transposed) or not transposed.flags.c_contiguous or where.dtype != np.int8:
            return self.matmul(a, b)
        (rows, inner), columns = a.shape, len(transposed)
        _expect("the transpose", transposed, (columns, inner))
        _expect("wanted entries", where, (rows, columns))
        empty, parts = self._pool.empty, _parts(a)
        product, index = empty((rows, columns), a.dtype), empty((columns,), np.uint32)
        room = empty((2, inner if parts == 2 else 0), a.dtype)
        run = self._library("multiply_where", real_of(a.dtype))
        run(self.asarray(a, a.dtype), transposed, where, parts, rows, inner, columns, index, room, product)
        return product

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
        plain = is_plain(x, joint)
        if not _numbers_alike(x, u) or x.shape != u.shape or (one_sided and not plain):
            return super().shrink_select(x, u, step_size, threshold, k, window, one_sided, joint)
        x, u = self.asarray(x, x.dtype), self.asarray(u, u.dtype)
        if not plain:
            return self._shrink_joint(x, u, step_size, threshold, k, window, joint)
        theta, support = self.asarray(threshold, x.dtype), self.asarray(k, np.int64)
        _expect("k", support, (), x.shape[:1])
        x_next, code = self._pool.empty(x.shape, x.dtype), self._pool.empty(x.shape, np.int8)
        run = self._library("shrink_select", x.dtype)
        thresholding = (float(step_size), theta, *_strides(theta, x.shape), support, support.ndim)
        room = (self._pool.empty(x.shape[1:], np.uint32), self._pool.empty(x.shape[1:], x.dtype))
        run(x, u, *thresholding, window, one_sided, *x.shape, *room, x_next, code)
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
        if not _numbers_alike(x, u, delta) or not x.shape == u.shape == delta.shape:
            return super().shrink_select_backward(delta, code, x, u, step_size, threshold, window, joint)
        delta, x, u = (self.asarray(each, x.dtype) for each in (delta, x, u))
        code, theta, plain = self.asarray(code, np.int8), self.asarray(threshold, real_of(x.dtype)), is_plain(x, joint)
        sizes = x.shape if plain else _entries(x, joint)
        _expect("the codes", code, (sizes[0], sizes[-1]))
        d_z, d_step_size, d_threshold = self._pool.empty(x.shape, x.dtype), np.zeros(1), np.zeros(theta.shape)
        run = self._library("shrink_select_backward" if plain else "shrink_joint_backward", theta.dtype)
        step = (x, u, float(step_size), theta, *_strides(theta, code.shape))
        run(delta, code, *step, window, *sizes, d_z, d_step_size, d_threshold)
        return d_z, float(d_step_size[0]), d_threshold

    def _shrink_joint(
        self, x: Array, u: Array, step_size: Scalar, threshold: Scalars, k: int | Array, window: float, joint: Joint
    ) -> tuple[Array, Array]:
        """`shrink_select` for joint entries."""
        sizes, real, empty = _entries(x, joint), real_of(x.dtype), self._pool.empty
        samples, *_, entries = sizes
        theta, support = self.asarray(threshold, real), self.asarray(k, np.int64)
        _expect("k", support, (), (samples,))
        x_next, code = empty(x.shape, x.dtype), empty((samples, entries), np.int8)
        thresholding = (float(step_size), theta, *_strides(theta, code.shape), support, support.ndim)
        room = (*self._room_to_choose(entries, real), empty((entries,), real))
        self._library("shrink_joint", real)(x, u, *thresholding, window, *sizes, *room, x_next, code)
        return x_next, code

    def _density(self, *arrays: Array) -> float:
        """The share of entries that are not zero."""
        present, size = 0, 0
        for array in arrays:  # NumPy counts the True faster than the numbers that are not zero
            nonzero = np.not_equal(array, 0, out=self._pool.empty(array.shape, np.bool_))
            present, size = present + np.count_nonzero(nonzero), size + array.size
        return present / max(size, 1)

    def pack(self, matrix: Array) -> Array:
        (rows, columns), real, parts = matrix.shape, real_of(matrix.dtype), _parts(matrix)
        size = rows * _padded(columns * parts, real)
        packed = np.empty(size + LINE // real.itemsize, real)
        packed = packed[-_address(packed) % LINE // real.itemsize :][:size]
        self._library("pack", real)(self.asarray(matrix, matrix.dtype), parts, rows, columns * parts, packed)
        return packed

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
        (rows, N), depth, dtype, real, empty = Wy.shape, len(support), Wy.dtype, real_of(Wy.dtype), self._pool.empty
        alpha, theta, entries = self.asarray(step_size, real), self.asarray(threshold, real), N // joint.group
        _expect("the step sizes", alpha, (depth,))
        _expect("the thresholds", theta, (depth,), (depth, entries))
        _expect_packed(packed, N, dtype)
        x_next = empty(Wy.shape, dtype)
        x_next[...] = 0 if x is None else x
        each, products = _padded(N, real), _room(N, dtype)
        at_once = min(_rows_at_a_time(joint, LARGE_SHARD), rows)
        lists = empty((at_once, each), np.uint32), empty((at_once, each), dtype), empty((at_once, products), real)
        layers = (alpha, theta, entries if theta.ndim == 2 else 1, self.asarray(support, np.int64), one_sided)
        sizes = (depth, rows, N, each, products)
        arrays = (self.asarray(Wy, dtype), packed)
        run = self._library("analytic_layers", real)
        kind, room = (_parts(Wy), *joint), self._room_to_choose(entries, real)
        run(*kind, *arrays, *layers, self._dense_from(real), *sizes, *lists, *room, x_next)
        return x_next

    def proximal_iterations(
        self,
        x: Array,
        ahead: Array,
        t: Array,
        Ay: Array,
        packed: Array,
        step_size: float,
        threshold: Scalars,
        count: int,
        momentum: bool,
        restart: bool = False,
        one_sided: bool = False,
    ) -> tuple[Array, Array, Array]:
        (rows, N), dtype, empty = x.shape, x.dtype, self._pool.empty
        given, theta = (self.asarray(each, dtype) for each in (Ay, threshold))
        for each in (ahead, given):
            _expect("a or Aᵀy", each, x.shape)
        _expect("t", t, (rows, 1))
        _expect_packed(packed, N, dtype)
        x_next, ahead_next, t_next = empty(x.shape, dtype), empty(x.shape, dtype), t.astype(np.float64)
        x_next[...], ahead_next[...] = x, ahead
        padded = _padded(N, dtype)
        room = [empty((min(rows, LARGE_SHARD), padded), kind) for kind in (np.uint32, dtype, dtype)]
        run = self._library("proximal_iterations", dtype)
        how = (momentum, restart, one_sided, self._dense_from(dtype), count, rows, N, padded)
        step = (given, packed, float(step_size), theta, *_strides(theta, x.shape))
        run(*step, *how, *room, empty((N,), dtype), x_next, ahead_next, t_next)
        return x_next, ahead_next, t_next

    def _room_to_choose(self, entries: int, real: np.dtype[Any]) -> tuple[Array, ...]:
        """The arrays in which the library chooses among this many joint entries."""
        empty = self._pool.empty
        return empty((entries,), np.uint32), empty((2, entries), real), empty((entries,), np.int8)

    # -- layers of convolutional networks ---------------------------------------------------------------------------

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
        """Compute the layer one row of the maps at a time; with selection, as the CPU engine does.

        The maps are arrays (F, h, w), as everywhere, but lie in memory place by place: see kernels/maps.h.
        """
        if k or not _alike(padded, W, D):
            return super().conv_layer(x, padded, W, D, step_size, threshold, k, stride)
        (s1, s2, filters), dtype = D.shape, padded.dtype
        height, width = (padded.shape[0] - 2 * (s1 - 1), padded.shape[1] - 2 * (s2 - 1))
        theta, shape = self.asarray(threshold, dtype), (filters, *map_shape((height, width), (s1, s2), stride))
        _expect("the filters of the analysis", W, D.shape)
        _expect("the thresholds", theta, (), (filters,))
        x_next, to = self._new_maps(shape, dtype)
        before = to if x is None else self._by_place(x, shape, dtype)
        image = _image(padded.shape, dtype)
        given = (*map(np.ascontiguousarray, (padded, W, D)), float(step_size), theta, theta.ndim)
        sizes = (s1, s2, filters, stride, *shape[1:], padded.shape[1])
        run = self._library("conv_layer", dtype)
        run(*given, before, x is not None, *sizes, *self._room_for_filters(D), to, image)
        picture = image[s1 - 1 : s1 - 1 + height, s2 - 1 : s2 - 1 + width]
        return x_next, picture, (x_next, None, padded, W, D, step_size, theta.ndim > 0, stride)

    def conv_step(
        self,
        x: Array | None,
        f: Array,
        picture: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Array, Array, Any]:
        if k or not _alike(f, picture, W, D):
            return super().conv_step(x, f, picture, W, D, step_size, threshold, k, stride)
        (s1, s2, filters), dtype, empty = D.shape, f.dtype, self._pool.empty
        theta, shape = self.asarray(threshold, dtype), (filters, *map_shape((f.shape[0], f.shape[1]), (s1, s2), stride))
        if f.shape[0] < s1 or f.shape[1] < s2:
            raise ValueError(f"the shape of the picture is {f.shape}; expected at least that of the filters, {s1}×{s2}")
        _expect("the picture", picture, f.shape)
        _expect("the filters of the analysis", W, D.shape)
        _expect("the thresholds", theta, (), (filters,))
        x_next, to = self._new_maps(shape, dtype)
        before = to if x is None else self._by_place(x, shape, dtype)
        residual = empty((f.shape[0] + 2 * (s1 - 1), f.shape[1] + 2 * (s2 - 1)), dtype)
        f, picture, W, D = map(np.ascontiguousarray, (f, picture, W, D))
        after, sizes = np.empty_like(f), (s1, s2, filters, stride, *shape[1:], *residual.shape)
        run = self._library("conv_step", dtype)
        given = (f, picture, W, D, float(step_size), theta, theta.ndim, before, x is not None)
        run(
            *given,
            *sizes,
            *self._room_for_filters(D),
            empty((residual.size + SPARE_PIXELS,), dtype),
            to,
            residual,
            after,
        )
        return x_next, after, (x_next, to, residual, W, D, step_size, theta.ndim > 0, sizes)

    def conv_step_backward(
        self,
        d_x: Array | None,
        d_picture: Array,
        record: Any,
        wants_weight: bool = True,
        wants_dictionary: bool = False,
    ) -> tuple[Array, Array, Scalar, Scalars, Array | None, Array | None]:
        if len(record) == 2:  # from the CPU engine
            return super().conv_step_backward(d_x, d_picture, record, wants_weight, wants_dictionary)
        x_next, x, residual, W, D, step_size, by_filter, sizes = record
        (s1, s2, filters), dtype, empty = D.shape, residual.dtype, self._pool.empty
        size = (residual.shape[0] - 2 * (s1 - 1), residual.shape[1] - 2 * (s2 - 1))
        _expect("the picture's gradient", d_picture, size)
        d_z, to = self._new_maps(x_next.shape, dtype)
        later = to if d_x is None else self._by_place(d_x, x_next.shape, dtype)
        d_picture = self.asarray(d_picture, dtype)
        room = (*self._room_for_filters(D), empty((2 * (residual.size + SPARE_PIXELS),), dtype))
        sums = empty((2 * s1 * s2 * _padded(filters, dtype),), dtype)
        before, d_step_size, d_threshold = np.empty_like(d_picture), np.zeros(1), np.zeros(filters)
        d_weight, d_dictionary = (np.empty_like(D) if want else sums for want in (wants_weight, wants_dictionary))
        run = self._library("conv_step_backward", dtype)
        given = (residual, d_picture, W, D, float(step_size), x, later, d_x is not None, wants_weight, wants_dictionary)
        run(*given, *sizes, *room, sums, to, before, d_step_size, d_threshold, d_weight, d_dictionary)
        return (
            *(d_z, before, float(d_step_size[0]), d_threshold if by_filter else float(d_threshold.sum())),
            d_weight if wants_weight else None,
            d_dictionary if wants_dictionary else None,
        )

    def _new_maps(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Uninitialised maps (F, h, w) that lie in memory place by place, and that memory."""
        memory = self._pool.empty((*shape[1:], _padded(shape[0], dtype)), dtype)
        return memory[:, :, : shape[0]].transpose(2, 0, 1), memory

    def _by_place(self, maps: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The memory of maps (F, h, w) if they are as `_new_maps` makes them, and else that of a copy."""
        _expect("the maps", maps, shape)
        row, memory = _padded(shape[0], dtype), maps.base
        if isinstance(memory, np.ndarray) and memory.shape == (*shape[1:], row) and memory.dtype == dtype == maps.dtype:
            step = dtype.itemsize
            alike = memory.flags.c_contiguous and maps.strides == (step, shape[2] * row * step, row * step)
            if alike and (row == shape[0] or _address(maps) == _address(memory)):
                return memory
        copy, memory = self._new_maps(shape, dtype)
        memory[:, :, shape[0] :] = 0
        copy[...] = maps
        return memory

    def _room_for_filters(self, D: Array) -> tuple[Array, Array, Array]:
        """The arrays in which the library places taps, the indices of a place's entries, and filters."""
        (s1, s2, filters), dtype, empty = D.shape, D.dtype, self._pool.empty
        row, patch = _padded(filters, dtype), _padded(s1 * (s2 + 3), dtype)
        numbers = s1 * s2 * row + filters * patch + 2 * row + MOST_ABREAST * patch
        return empty((s1 * s2,), np.dtype("l")), empty((row,), np.uint32), empty((numbers,), dtype)

    def adam(self, parameter: Array, gradient: Array, mean: Array, square: Array, descent: Descent) -> None:
        if not _alike(gradient, parameter, mean, square):
            return super().adam(parameter, gradient, mean, square, descent)
        gradient, layers = self.asarray(gradient, parameter.dtype), len(parameter)
        for each in (gradient, mean, square):
            _expect("a gradient or moment", each, parameter.shape)
        how = (*_scales(descent, layers, parameter.dtype), parameter.size // layers)
        run = self._library("adam", parameter.dtype)

        def work(part: slice) -> None:
            run(gradient, *how, part.start, part.stop - part.start, parameter, mean, square)

        _in_parts(parameter.size, work, PART)

    def adam_outer(self, parameter: Array, gradient: OuterSums, mean: Array, square: Array, descent: Descent) -> None:
        (layers, P, Q), dtype, empty = parameter.shape, parameter.dtype, self._pool.empty
        terms = [[self.asarray(each, dtype) for each in term] for of_layer in gradient for term in of_layer]
        alike = _numbers_alike(parameter, mean, square)
        if not terms or not alike or self._density(*(a for a, _ in terms)) > OUTER_DENSITY:
            return super().adam_outer(parameter, gradient, mean, square, descent)
        for each in (mean, square):
            _expect("a moment", each, parameter.shape)
        for a, b in terms:
            _expect("a term", a, (len(b), P))
            _expect("a term", b, (len(a), Q))
        if len(gradient) != layers:
            raise ValueError(f"the gradient has sums for {len(gradient)} matrices; expected {layers}")
        starts = np.cumsum([0, *map(len, gradient)], dtype=np.int64)
        words = np.array([(_address(a), _address(b), len(a)) for a, b in terms], np.uintp)
        real, parts, batch = real_of(dtype), _parts(parameter), max(len(a) for a, _ in terms)
        how, run = (*_scales(descent, layers, real), parts, P, Q), self._library("adam_outer", real)

        def work(rows: slice) -> None:
            room = (empty((SHARD, batch), np.uint32), empty((SHARD, batch), dtype), empty((SHARD, Q), dtype))
            assert terms  # which the words point to, so that they exist as long as a thread may read them
            run(words, starts, *how, rows.start, rows.stop - rows.start, batch, *room, parameter, mean, square)

        _in_parts(layers * P, work, max(PART // (parts * Q), SHARD))

    def _dense_from(self, dtype: np.dtype[Any]) -> float:
        """The share of non-zero entries above which iterates are multiplied as dense ones."""
        if self._dense is not None:
            return self._dense
        with _measuring:  # the first thread measures; the cache would let others do so at the same time
            return _measured_dense(self._library, dtype)

    def fuse_alista(
        self, signals: Signals, W: Array, forward: Array, backward: Array, one_sided: bool = False, joint: Joint = ALONE
    ) -> FusedStep | None:
        return _Fused(self, signals, W, forward, backward, one_sided, joint)


class _Fused:
    """The fused training step of kernels/step.h."""

    def __init__(
        self, ops: NativeOps, signals: Signals, W: Array, forward: Array, backward: Array, one_sided: bool, joint: Joint
    ) -> None:
        self.ops, self.signals, self.W, self.one_sided, self.joint = ops, signals, W, one_sided, joint
        self.forward, self.backward = forward, backward
        self.shard = _rows_at_a_time(joint, SHARD) // joint.snapshots
        self.A_transposed = ops.asarray(signals.A.T, W.dtype)
        probabilities = np.stack([signals.probability, signals.hard_probability])
        self.limits = np.rint(probabilities * 2.0**53).astype(np.uint64)
        self.log_ratio = ops.asarray(signals.log_ratio, np.float64)
        M, N = signals.A.shape
        _expect("the weight", W, (M, N))
        _expect("the probabilities", self.limits, (2, N))
        _expect("the ratios of densities", self.log_ratio, (N // joint.group + 1,))
        for packed in (forward, backward):
            _expect_packed(packed, N, W.dtype)

    def suits(self, batch: int, density: float) -> bool:
        return True  # where iterates are not sparse, it multiplies dense ones

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
        ops, signals, (M, N), dtype = self.ops, self.signals, self.W.shape, self.W.dtype
        empty, magnitude, joint, real, parts = ops.empty, signals.magnitude, self.joint, real_of(dtype), _parts(self.W)
        law: tuple[float, ...]
        if isinstance(magnitude, Normal):
            law = (0, *magnitude, 0)
        else:  # the phase of a complex number takes the lower half of its word
            law = (1, *magnitude[1:], round(magnitude.q * 2.0 ** (53 if parts == 1 else 32)))
        shares = (signals.hard, signals.hard_before(batch) / batch, weight_power)
        drawn = (*law, signals.positive, signals.noise, signals.unit, M, *key, *shares)
        names = ("step_size", "threshold")
        learned = [ops.asarray(parameters[name], real) for name in names]
        for parameter in learned:
            _expect("a parameter", parameter, (len(support),))
        if depth > len(support):
            raise ValueError(f"the depth is {depth}; expected at most the network's {len(support)} layers")
        layers = (self.forward, self.backward, *learned, ops.asarray(support, np.int64), window, self.one_sided)
        layers = (*layers, ops._dense_from(real))
        each, most, products = _padded(N, real), max(N, M), _room(N, dtype)
        at_once = self.shard * joint.snapshots
        kept = depth * each + 1

        first, stop = (0, batch) if rows is None else (rows.start, rows.stop)

        def work(part: slice) -> Array:
            samples = slice(first + part.start, first + part.stop)
            words = (empty((2 * most + 7,), np.uint64), empty((N,), np.uint64))
            lists = (empty((at_once, _padded(most, real)), np.uint32), empty((at_once, each), np.uint32))
            of_rows = (empty((4 * at_once + joint.snapshots + 1, each), dtype), empty((at_once, M), dtype))
            record = (empty((at_once, kept), np.uint32), empty((2, at_once, kept), dtype))
            codes, ends = empty((at_once * kept + each,), np.int8), empty((at_once, depth + 1), np.int_)
            sums, kind, room = np.zeros(1 + 2 * depth), (parts, *joint), ops._room_to_choose(N // joint.group, real)
            sizes = (depth, N, samples.start, samples.stop - samples.start, each, _padded(most, real), products)
            matrices = (self.A_transposed, self.W, self.limits, self.log_ratio)
            arrays = (*words, *lists, *of_rows, empty((at_once, products), real), *record, codes, kept, ends, *room)
            ops._library("alista_step", real)(*kind, *matrices, *drawn, *layers, *sizes, *arrays, sums)
            return sums

        sums = parallel.summed(parallel.in_batches(stop - first, work, self.shard), np.add)
        gradients = {name: np.zeros(len(support)) for name in names}
        for gradient, part in zip(gradients.values(), np.split(sums[1:], 2), strict=True):
            gradient[:depth] = part
        return float(sums[0]), gradients


_measuring = threading.Lock()


@cache
def _measured_dense(library: native.Library, dtype: np.dtype[Any]) -> float:
    """The share of non-zero entries from which dense products are faster than sparse ones on this machine.

    It is about 0.45 with AVX2, and 0.9 with vectors of 16 bytes. It is found by bisection, in about 10 ms, once in each
    process. Both products add in the same order, so that the bits of results do not depend on it.
    """
    rng = np.random.default_rng(0)
    x, place = rng.standard_normal((SHARD, TRIAL)).astype(dtype), rng.random((SHARD, TRIAL))
    engines = NativeOps(library, 1.0), NativeOps(library, 0.0)  # which multiply sparse iterates, and dense ones
    packed = engines[0].pack(rng.standard_normal((TRIAL, TRIAL)).astype(dtype))
    layer = packed, np.ones(1), np.full(1, np.inf), (0,)

    def seconds(ops: NativeOps, x: Array) -> float:
        start = time.perf_counter()
        ops.analytic_layers(x, x, *layer)
        return time.perf_counter() - start

    least, most = 0.0, 1.0
    for _ in range(4):
        share = (least + most) / 2
        part = np.where(place < share, x, 0)
        sparse, dense = (min(seconds(ops, part) for _ in range(3)) for ops in engines)
        least, most = (share, most) if sparse < dense else (least, share)
    return (least + most) / 2


def _in_parts(size: int, work: Callable[[slice], None], part: int) -> None:
    """Do work on `size` numbers in parts, by several threads if there is more than one part."""
    if size <= part:
        work(slice(0, size))
    else:
        parallel.in_batches(size, work, part)


def _scales(descent: Descent, layers: int, dtype: np.dtype[Any]) -> tuple[Array, float, bool]:
    """How gradients are scaled, layer by layer, and the rate, and whether the descent is logarithmic."""
    scales = (descent.scale * descent.factors[:layers]).astype(dtype)
    _expect("the factors", scales, (layers,))
    return scales, descent.rate, descent.logarithmic


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _alike(*arrays: Array) -> bool:
    """Whether arrays are of the same type, and of one that the library has."""
    dtype = arrays[0].dtype
    return dtype in (np.float32, np.float64) and all(array.dtype == dtype for array in arrays)


def _expect(name: str, array: Array, *shapes: tuple[int, ...]) -> None:
    """Refuse an array that has none of these shapes: the library would read or write beyond its end."""
    if array.shape not in shapes:
        raise ValueError(f"the shape of {name} is {array.shape}; expected {' or '.join(map(str, shapes))}")


def _expect_packed(packed: Array, N: int, dtype: np.dtype[Any]) -> None:
    """Refuse what is not a packed matrix (N, N) of this dtype. It is real, with two columns for a complex one."""
    real = real_of(dtype)
    _expect("a packed matrix", packed, (N * _padded(N if dtype == real else 2 * N, real),))
    if packed.dtype != real:
        raise ValueError(f"a packed matrix has the type {packed.dtype}; expected {real}")


def _numbers_alike(*arrays: Array) -> bool:
    """Whether arrays are of the same type, real or complex, and of one that the library has."""
    dtype = arrays[0].dtype
    kinds = (np.float32, np.float64, np.complex64, np.complex128)
    return dtype in kinds and all(array.dtype == dtype for array in arrays)


def _parts(array: Array) -> int:
    """How many real numbers each number of an array consists of."""
    return 2 if array.dtype.kind == "c" else 1


def _entries(x: Array, joint: Joint) -> tuple[int, int, int, int]:
    """The numbers of samples, of snapshots, of real numbers that an entry has in a row, and of entries."""
    return len(x) // joint.snapshots, joint.snapshots, joint.group * _parts(x), x.shape[1] // joint.group


def _rows_at_a_time(joint: Joint, shard: int) -> int:
    """How many rows the library takes through all layers together: about a shard of them, but whole samples."""
    return max(shard // joint.snapshots, 1) * joint.snapshots


def _strides(theta: Array, shape: tuple[int, ...]) -> tuple[int, int]:
    """How far the thresholds of one sample are from those of the next, and of one coordinate from those of the next."""
    _expect("the thresholds", theta, (), shape[1:], (shape[0], 1), shape)
    if theta.ndim < 2:
        return 0, theta.ndim
    return theta.shape[1], int(theta.shape[1] > 1)


def _image(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    """An image of zeros, with spare pixels after its end, to which the library may add 0."""
    return np.zeros(shape[0] * shape[1] + SPARE_PIXELS, dtype)[: shape[0] * shape[1]].reshape(shape)


def _padded(entries: int, dtype: np.dtype[Any]) -> int:
    """The number of entries of a row that is padded to whole lines."""
    line = LINE // dtype.itemsize
    return -(-entries // line) * line


def _room(N: int, dtype: np.dtype[Any]) -> int:
    """How many real numbers the library needs for each of a packed matrix's products: see kernels/sparse.h."""
    real = real_of(dtype)
    return _padded(N, real) if dtype.kind != "c" else 2 * _padded(2 * N, real)
