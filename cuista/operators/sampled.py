"""Some of the coefficients of an orthonormal transform, and the two transforms of this kind that are real."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.operators import transforms
from cuista.operators.base import Operator, Shape
from cuista.operators.masks import Mask, as_mask
from cuista.ops import ReferenceOps
from cuista.ops.joint import real_of


class Sampled(Operator):
    """The coefficients of an orthonormal transform that a mask chooses, in the order of the array: A Aᴴ = I.

    Parameters
    ----------
    shape
        The shape of signals, of one or two axes.
    mask
        Which coefficients are measured, a `Mask` or an array of this shape; None for all.
    ops, dtype
        As in `Operator`. Signals may be real or complex, and measurements are of the same kind.

    Raises
    ------
    InputError
        If the transform does not have this shape, or the mask has another one, or measures nothing.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        mask: Mask | ArrayLike | None = None,
        *,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(ops, dtype)
        self.signal_shape = checked_shape(shape)
        self.mask = as_mask(mask, self.signal_shape)

    @property
    def form(self) -> dict[str, Any]:
        return {"shape": list(self.signal_shape), "mask": None if self.takes_all else self.mask}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (self.mask.size,), self.signal_shape

    @property
    def takes_all(self) -> bool:
        """Whether all coefficients are measured."""
        return bool(self.mask.sampled.all())

    @property
    def rows_norm_squared(self) -> float | None:
        return 1.0

    @abstractmethod
    def transform(self, x: Array) -> Array:
        """All coefficients of a batch of signals, in their shape."""

    @abstractmethod
    def inverse(self, coefficients: Array) -> Array:
        """The signals with these coefficients."""

    def apply(self, x: Array) -> Array:
        measured: Array = self.transform(x).reshape(len(x), -1)[:, self._places]
        return measured

    def adjoint(self, y: Array) -> Array:
        coefficients = self.ops.xp.zeros((len(y), self.N), y.dtype)
        coefficients[:, self._places] = y
        return self.inverse(coefficients.reshape(-1, *self.signal_shape))

    @cached_property
    def _places(self) -> Any:
        """Where the coefficients are that are measured."""
        places = np.flatnonzero(self.mask.sampled)
        return slice(None) if self.takes_all else self.ops.asarray(places, np.intp)


class Cosine(Sampled):
    """Coefficients of the orthonormal discrete cosine transform (DCT-II), along one or two axes."""

    kind = "cosine"

    def transform(self, x: Array) -> Array:
        return transforms.dct(self.ops, x)

    def inverse(self, coefficients: Array) -> Array:
        return transforms.inverse_dct(self.ops, coefficients)

    def gains(self, ridge: float = 0.0) -> Array:
        """Exact gains: h_i = Σ_k m_k C_ki² / (1 + λ), where the mask m is 1 or 0.

        Along one axis of length n, with frequencies ω_k = πk/(2n), C_ki² = s_k cos²((2i + 1) ω_k) = s_k (1 + cos((2i +
        1) ω_2k))/2, where s_k = 2/n, or 1/n for k = 0. A frequency 2k > n stands for 2n − 2k with the opposite sign,
        and that of 2k = n is always 0. So the sum of the cosines is an inverse cosine transform.
        """
        if ridge not in self._gains:
            gains = self.mask.sampled.astype(np.float64)
            for axis in range(gains.ndim):
                gains = np.moveaxis(_square_columns(np.moveaxis(gains, axis, -1)), -1, axis)
            self._gains[ridge] = self.ops.asarray(gains / (1 + ridge), real_of(self.dtype))
        return self._gains[ridge]

    def gains_error(self, ridge: float = 0.0) -> float:
        return 0.0


class Hadamard(Sampled):
    """Coefficients of the orthonormal Walsh–Hadamard transform, along one or two axes, in the order of Sylvester.

    The length of each axis must be a power of two.
    """

    kind = "hadamard"

    def __init__(
        self,
        shape: int | Sequence[int],
        mask: Mask | ArrayLike | None = None,
        *,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(shape, mask, ops=ops, dtype=dtype)
        if any(size & (size - 1) for size in self.signal_shape):
            raise InputError(f"the shape of a Hadamard transform is {self.signal_shape}; expected powers of two")

    @property
    def alike(self) -> Array | None:
        return np.zeros(self.N, np.intp)  # all entries of the transform have the same magnitude

    def transform(self, x: Array) -> Array:
        return transforms.hadamard(self.ops, x)

    def inverse(self, coefficients: Array) -> Array:
        return transforms.hadamard(self.ops, coefficients)


def checked_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """The shape of signals as a tuple. Raises InputError unless it has one or two axes."""
    given = shape if isinstance(shape, Sequence) else np.atleast_1d(shape)
    checked = tuple(operator.index(size) for size in given)
    if len(checked) not in (1, 2) or min(checked) < 1:
        raise InputError(f"the shape of signals is {checked}; expected one or two positive numbers")
    return checked


def _square_columns(weights: Array) -> Array:
    """Σ_k w_k C_ki² for the orthonormal DCT-II C, along the last axis."""
    from scipy.fft import idct

    n = weights.shape[-1]
    k = np.arange(n)
    weighted = weights * np.where(k == 0, 1, 2) / n
    coefficients = np.zeros_like(weighted)
    low, high = k[2 * k < n], k[2 * k > n]
    coefficients[..., 2 * low] += weighted[..., low]
    coefficients[..., 2 * n - 2 * high] -= weighted[..., high]
    # SciPy's inverse with the norm `forward` is Σ of the coefficients times their cosines, all but the first twice.
    coefficients[..., 1:] /= 2
    cosines = idct(coefficients, norm="forward", axis=-1)
    return (weighted.sum(axis=-1, keepdims=True) + cosines) / 2  # type: ignore[no-any-return]
