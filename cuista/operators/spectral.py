"""Operators that act on the spectrum of a signal: sampled Fourier transforms, and circular convolution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, as_numbers, check_finite, in_double
from cuista.errors import InputError, NumericalError
from cuista.operators import transforms
from cuista.operators.base import Operator, Shape
from cuista.operators.masks import Mask, as_mask
from cuista.operators.sampled import checked_shape
from cuista.ops import ReferenceOps
from cuista.ops.joint import real_of
from cuista.ops.reference import NOT_POSITIVE


class Spectral(Operator):
    """An operator that is given by what it does to the unitary Fourier transform of a signal.

    A spectrum is that of `transforms.dft`: of real signals, it has one half of the frequencies.
    """

    signal_shape: tuple[int, ...]

    @property
    def shift_invariant(self) -> bool:
        return True  # a shift changes only the phases of a spectrum

    @abstractmethod
    def measure(self, spectrum: Array) -> Array:
        """A x, given the spectrum of x."""

    @abstractmethod
    def spectrum(self, y: Array) -> Array:
        """The spectrum of Aᴴ y."""

    def apply(self, x: Array) -> Array:
        return self.measure(transforms.dft(self.ops, x))

    def adjoint(self, y: Array) -> Array:
        return transforms.inverse_dft(self.ops, self.spectrum(y), self.signal_shape, self.dtype.kind != "c")


class Fourier(Spectral):
    """Coefficients of the unitary discrete Fourier transform along one or two axes, in the order of the array.

    Signals are complex by default, and A Aᴴ = I. With a real dtype, signals are real and measurements are complex. Then
    A Aᴴ has the eigenvalue 1 for a frequency that is measured together with its opposite, and ½ for one that is
    measured alone. What contradicts itself in measurements, because no real signal has them, is without effect.

    Parameters
    ----------
    shape
        The shape of signals, of one or two axes.
    mask
        Which coefficients are measured, a `Mask` or an array of this shape, with the zero frequency at index 0 along
        each axis; None for all.
    ops, dtype
        As in `Operator`.

    Raises
    ------
    InputError
        If the mask has another shape, or measures nothing.
    """

    kind = "fourier"

    def __init__(
        self,
        shape: int | Sequence[int],
        mask: Mask | ArrayLike | None = None,
        *,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.complex64,
    ) -> None:
        super().__init__(ops, dtype)
        self.signal_shape = checked_shape(shape)
        self.mask = as_mask(mask, self.signal_shape)
        self._real = self.dtype.kind != "c"

    @property
    def form(self) -> dict[str, Any]:
        return {"shape": list(self.signal_shape), "mask": None if self.mask.sampled.all() else self.mask}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (self.mask.size,), self.signal_shape

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return np.result_type(self.dtype, np.complex64)

    @property
    def rows_norm_squared(self) -> float | None:
        return self._eigenvalues if isinstance(self._eigenvalues, float) else None

    @property
    def norm_squared(self) -> float:
        return float(np.max(self.ops.to_numpy(self._eigenvalues)))

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r, or, where signals are real, what it has in common with the measurements of a signal."""
        real = real_of(r.dtype).type
        return r * (real(1) / (self._eigenvalues + real(ridge)))  # type: ignore[no-any-return]

    @cached_property
    def _eigenvalues(self) -> Any:
        """The eigenvalue of A Aᴴ for each measurement (M,), or one number if all are the same."""
        if not self._real:
            return 1.0
        opposite = self.mask.sampled.ravel()[_opposite(self.signal_shape)]
        values = np.where(opposite, 1.0, 0.5)[self.mask.sampled.ravel()]
        return float(values[0]) if (values == values[0]).all() else self.ops.asarray(values, self.dtype)

    @cached_property
    def _places(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Which measurements are in the spectrum, and where; and which are there as their conjugates.

        In half a spectrum, all that are not in the first or in the middle column are in one of the two only.
        """
        measured = np.flatnonzero(self.mask.sampled)
        if not self._real:
            nothing = self.ops.asarray([], np.intp)
            everything = np.arange(len(measured)), measured
            return tuple(self.ops.asarray(each, np.intp) for each in everything), (nothing, nothing)  # type: ignore
        *_, n = self.signal_shape
        half = n // 2 + 1

        def there(places: Array) -> Any:
            rows, columns = np.divmod(places, n)
            which = np.flatnonzero(columns < half)
            return tuple(self.ops.asarray(each, np.intp) for each in (which, (rows * half + columns)[which]))

        return there(measured), there(_opposite(self.signal_shape)[measured])

    def measure(self, spectrum: Array) -> Array:
        flat, ((direct, places), (opposite, others)) = spectrum.reshape(len(spectrum), -1), self._places
        if not self._real:
            return flat[:, places]
        y = self.ops.xp.empty((len(flat), self.M), flat.dtype)
        y[:, opposite] = flat[:, others].conj()
        y[:, direct] = flat[:, places]
        return y  # type: ignore[no-any-return]

    def spectrum(self, y: Array) -> Array:
        (direct, places), (opposite, others) = self._places
        *rows, n = self.signal_shape
        shape = (len(y), *rows, n // 2 + 1 if self._real else n)
        full = self.ops.xp.zeros(shape, y.dtype)
        flat = full.reshape(len(y), -1)
        if not self._real:
            flat[:, places] = y
            return full  # type: ignore[no-any-return]
        # Re(Fᴴ y) has the mean of y at k and of ȳ at −k as its coefficient at k.
        y = y / real_of(y.dtype).type(2)
        flat[:, places] = y[:, direct]
        flat[:, others] += y[:, opposite].conj()
        return full  # type: ignore[no-any-return]


class Circular(Spectral):
    """Circular convolution with a kernel along one or two axes: y_i = Σ_j k_j x_{i − j}, where indices are periodic.

    Parameters
    ----------
    kernel
        The kernel, no longer than signals along any axis. Its first entry is that of the shift 0.
    shape
        The shape of signals.
    ops, dtype
        As in `Operator`. If the kernel is complex, so are the signals.

    Raises
    ------
    InputError
        If the kernel is not an array of finite numbers that fits, or is zero.
    """

    kind = "circular"

    def __init__(
        self,
        kernel: ArrayLike,
        shape: int | Sequence[int],
        *,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.kernel, self.signal_shape = as_numbers(kernel, "the kernel"), checked_shape(shape)
        check_finite(self.kernel, "the kernel")
        super().__init__(ops, np.result_type(dtype, np.complex64) if self.kernel.dtype.kind == "c" else dtype)
        fits = self.kernel.ndim == len(self.signal_shape)
        if not fits or any(k > n for k, n in zip(self.kernel.shape, self.signal_shape, strict=True)):
            raise InputError(f"the kernel has shape {self.kernel.shape}; expected at most {self.signal_shape}")
        if not self.kernel.any():
            raise InputError("the kernel is zero; a zero kernel measures nothing")
        fft = np.fft.fftn if self.dtype.kind == "c" else np.fft.rfftn
        kernel, axes = in_double(self.kernel), tuple(range(self.kernel.ndim))
        self._inverses: dict[float, Array] = {}
        self._response = fft(kernel, self.signal_shape, axes)

    @property
    def form(self) -> dict[str, Any]:
        return {"kernel": self.kernel, "shape": list(self.signal_shape)}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self.signal_shape, self.signal_shape

    @property
    def norm_squared(self) -> float:
        return float(np.square(np.abs(self._response)).max())

    @cached_property
    def _factor(self) -> Array:
        return self.ops.asarray(self._response, np.result_type(self.dtype, np.complex64))

    def measure(self, spectrum: Array) -> Array:
        real = self.dtype.kind != "c"
        return transforms.inverse_dft(self.ops, self._factor * spectrum, self.signal_shape, real)

    def spectrum(self, y: Array) -> Array:
        found: Array = self._factor.conj() * transforms.dft(self.ops, y)
        return found

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r, a division in the Fourier domain.

        Raises
        ------
        NumericalError
            If G is singular: without a ridge, no frequency may be lost.
        """
        if ridge not in self._inverses:
            G = np.square(np.abs(self._response)) + ridge
            if G.min() <= np.finfo(np.float64).eps * G.max():
                raise NumericalError(NOT_POSITIVE)
            self._inverses[ridge] = self.ops.asarray(1 / G, real_of(self.dtype))
        solved = self._inverses[ridge] * transforms.dft(self.ops, r)
        return transforms.inverse_dft(self.ops, solved, self.signal_shape, self.dtype.kind != "c")


def _opposite(shape: tuple[int, ...]) -> Array:
    """For each frequency, in the order of the array, where the opposite one is."""
    grids = np.meshgrid(*[-np.arange(n) % n for n in shape], indexing="ij")
    return np.ravel_multi_index([grid.ravel() for grid in grids], shape)
