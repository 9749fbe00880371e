"""The CPU engine: the primitives of `ReferenceOps`, made fast with NumPy and SciPy alone.

What it does differently: it recycles arrays instead of allocating them, selects by the bit pattern of |z| (the
integers sort faster, and non-negative floats order like them), forms no intermediate that a later pass can do
without, and multiplies by the non-zero entries of a sparse code only.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.ops.reference import KIND, NEAR, SHRUNK_UP, ReferenceOps

# Below this share of non-zeros a sparse product beats the dense one (measured at 64 × 500 × 500, one thread).
SPARSE_DENSITY = 0.2


class CpuOps(ReferenceOps):
    """The primitives on NumPy arrays. An instance is for one thread: its scratch arrays are its own."""

    def __init__(self) -> None:
        self._pool = _Pool()

    def matmul(self, a: Array, b: Array) -> Array:
        return np.matmul(a, b, out=self._pool.empty((a.shape[0], b.shape[1]), a.dtype))

    def sparse_matmul(self, a: Array, b: Array) -> Array:
        if a.dtype != b.dtype or not a.flags.c_contiguous:
            return self.matmul(a, b)
        rows, columns = a.shape
        flat = a.ravel()
        where = np.flatnonzero(np.not_equal(flat, 0, out=self._pool.empty(flat.shape, np.bool_)))
        if where.size > SPARSE_DENSITY * flat.size:
            return self.matmul(a, b)
        from scipy.sparse import csr_array

        starts = np.searchsorted(where, np.arange(rows + 1) * columns)
        compressed = (flat[where], (where % columns).astype(np.int32), starts.astype(np.int32))
        return np.asarray(csr_array(compressed, shape=a.shape) @ b)

    def shrink_select(
        self, x: Array, u: Array, step_size: float, threshold: float | Array, k: int, window: float = 0.0
    ) -> tuple[Array, Array]:
        empty = self._pool.empty
        theta = np.asarray(threshold, dtype=x.dtype)
        z = np.multiply(u, np.asarray(step_size, dtype=x.dtype), out=empty(x.shape, x.dtype))
        z += x
        magnitude = np.abs(z, out=empty(x.shape, x.dtype))

        rank = x.shape[1] - 1 - k
        ordered = empty(x.shape, x.dtype)
        ordered[...] = magnitude
        ordered.view(f"i{x.dtype.itemsize}").partition(rank, axis=1)
        cutoff = ordered[:, rank, None]
        # An entry that does not pass is cut by clip(z, −θ, θ), which is what soft thresholding takes away.
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
        step_size: float,
        threshold: float | Array,
        window: float = 0.0,
    ) -> tuple[Array, float, float | Array]:
        empty = self._pool.empty
        kind = np.bitwise_and(code, np.int8(KIND), out=empty(code.shape, np.int8))
        alive = np.not_equal(kind, 0, out=empty(code.shape, np.bool_))
        dz = np.multiply(delta, alive, out=empty(delta.shape, delta.dtype))

        # Only entries that were shrunk or are near the threshold have a say in ∂L/∂θ, and they are few.
        size = delta.shape[1]
        shrunk = np.flatnonzero(np.greater(kind, 1, out=alive))
        share = delta.ravel()[shrunk].astype(np.float64)
        np.negative(share, out=share, where=kind.ravel()[shrunk] == SHRUNK_UP)
        columns, shares = [shrunk % size], [share]
        theta = np.asarray(threshold, dtype=x.dtype)
        if window:
            near = np.flatnonzero(np.greater_equal(code, NEAR, out=alive))
            column = near % size
            z = x.ravel()[near] + np.asarray(step_size, dtype=x.dtype) * u.ravel()[near]
            slope = delta.ravel()[near] / (
                2 * np.asarray(window, dtype=x.dtype) * (theta if theta.ndim == 0 else theta[column])
            )
            dz.ravel()[near] += slope * np.abs(z)
            columns.append(column)
            shares.append(-slope.astype(np.float64) * z)
        d_step_size = float(np.vdot(dz, u))
        if theta.ndim == 0:
            return dz, d_step_size, float(sum(part.sum() for part in shares))
        d_threshold = np.bincount(np.concatenate(columns), np.concatenate(shares), minlength=size)
        return dz, d_step_size, d_threshold

    def half_squared_error(self, x: Array, target: Array, weights: Array | None = None) -> tuple[float, Array]:
        error = np.subtract(x, target, out=self._pool.empty(x.shape, x.dtype))
        if weights is None:
            return 0.5 * float(np.vdot(error, error)), error
        delta = np.multiply(error, weights.astype(x.dtype)[:, None], out=self._pool.empty(x.shape, x.dtype))
        return 0.5 * float(np.vdot(error, delta)), delta


class _Pool:
    """Arrays to compute in. One is handed out again only when nobody holds it any more.

    The reference count tells that, views included. Without this, every large temporary costs page faults.
    """

    def __init__(self) -> None:
        self._arrays: defaultdict[Any, list[Array]] = defaultdict(list)
        probe = [np.empty(1)]
        self._unheld = self._holders(probe, 0)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised array."""
        arrays = self._arrays[shape, np.dtype(dtype)]
        for i in range(len(arrays)):
            if self._holders(arrays, i) == self._unheld:
                return arrays[i]
        arrays.append(np.empty(shape, dtype))
        return arrays[-1]

    @staticmethod
    def _holders(arrays: list[Array], i: int) -> int:
        return sys.getrefcount(arrays[i])
