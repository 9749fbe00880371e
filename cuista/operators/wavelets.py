"""Orthonormal wavelets on periodic signals, as operators from coefficients to signals.

A level of the transform filters and decimates. In the Fourier domain, filtering is a product, and decimation adds up
what lies half a period apart. So the transform is computed from the Fourier transforms of the subbands, which are
together no larger than that of the signal. It needs nothing but Fourier transforms and products, on any engine, and
gives the spectrum of the signal as well, which is all that operators need that act on it (`cuista.operators.spectral`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array, library
from cuista.errors import InputError
from cuista.operators import transforms
from cuista.operators.base import Operator, Shape
from cuista.operators.sampled import checked_shape
from cuista.ops import ReferenceOps

Index = tuple[slice, ...]
# How far the taps of a wavelet may be from orthonormal.
TOLERANCE = 1e-7


class Wavelet(Operator):
    """The synthesis of a signal from its coefficients in a basis of orthonormal wavelets, along one or two axes.

    The coefficients have the shape of the signal. Those of the coarsest level are in the corner where the indices are
    lowest; those of a finer level are beside it, with details along an axis in its upper half. They are those that
    PyWavelets computes with the mode `periodization`.

    Parameters
    ----------
    shape
        The shape of signals. The length of each axis must be a multiple of 2^level.
    wavelet
        The name of an orthonormal wavelet of PyWavelets: haar, db2, …, sym2, …, coif1, ….
    level
        The number of levels; if None, as many as the shape allows whose low-pass part is at least as long as the
        filter, but at least one.
    ops, dtype
        As in `Operator`. Signals may be real or complex.

    Raises
    ------
    InputError
        If there is no such wavelet, it is not orthonormal, or the shape does not allow that many levels.
    MissingLibraryError
        If PyWavelets is not installed. The wavelet haar does not need it.
    """

    kind = "wavelet"

    def __init__(
        self,
        shape: int | Sequence[int],
        wavelet: str = "db4",
        level: int | None = None,
        *,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(ops, dtype)
        self.signal_shape, self.wavelet, self.taps = checked_shape(shape), wavelet, _taps(wavelet)
        possible = min((n & -n).bit_length() - 1 for n in self.signal_shape)
        if level is None:
            sensible = int(math.log2(max(min(self.signal_shape) / len(self.taps), 1)))
            level = max(min(possible, sensible), 1)
        if not 1 <= level <= possible:
            needed = "even lengths" if possible == 0 else f"1 to {possible}, as lengths must be multiples of 2^level"
            raise InputError(
                f"the number of levels of wavelets on signals of shape {self.signal_shape} is {level}; expected "
                f"{needed}"
            )
        self.level = operator.index(level)
        self._real = self.dtype.kind != "c"

    @property
    def form(self) -> dict[str, Any]:
        return {"shape": list(self.signal_shape), "wavelet": self.wavelet, "level": self.level}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self.signal_shape, self.signal_shape

    @property
    def rows_norm_squared(self) -> float | None:
        return 1.0

    @cached_property
    def groups(self) -> Array:
        """The subband of each coefficient, (N,); 0 is the coarsest, and numbers rise towards finer ones."""
        groups, number = np.zeros(self.signal_shape, np.intp), 0
        for level in reversed(range(self.level)):
            for part in self._details(level):
                number += 1
                groups[part] = number
        return groups.ravel()

    def apply(self, x: Array) -> Array:
        return transforms.inverse_dft(self.ops, self.spectrum(x), self.signal_shape, self._real)

    def adjoint(self, y: Array) -> Array:
        return self.coefficients(transforms.dft(self.ops, y))

    def spectrum(self, x: Array) -> Array:
        """The unitary Fourier transform of the signals with these coefficients, as `transforms.dft` gives it."""
        axes = len(self.signal_shape)
        coarse = transforms.dft(self.ops, x[_of_all(self._low(self.level))])
        for level in reversed(range(self.level)):
            bands = [coarse] + [transforms.dft(self.ops, x[_of_all(part)]) for part in self._details(level)]
            for axis in reversed(range(axes)):
                bands = [self._merge(low, high, level, axis) for low, high in _pairs(bands)]
            (coarse,) = bands
        return coarse

    def coefficients(self, spectrum: Array) -> Array:
        """The coefficients of the signals with this spectrum: the adjoint of `spectrum`."""
        x = self.ops.xp.empty((len(spectrum), *self.signal_shape), self.dtype)
        for level in range(self.level):
            bands = [spectrum]
            for axis in range(len(self.signal_shape)):
                bands = [part for band in bands for part in self._split(band, level, axis)]
            spectrum, *details = bands
            for part, band in zip(self._details(level), details, strict=True):
                self._write(x, part, band, level)
        self._write(x, self._low(self.level), spectrum, self.level - 1)
        return x  # type: ignore[no-any-return]

    def _write(self, x: Array, part: Index, band: Array, level: int) -> None:
        shape = tuple(n >> (level + 1) for n in self.signal_shape)
        x[_of_all(part)] = transforms.inverse_dft(self.ops, band, shape, self._real)

    def _low(self, level: int) -> Index:
        """Where the low-pass part is after this many levels."""
        return tuple(slice(n >> level) for n in self.signal_shape)

    def _details(self, level: int) -> list[Index]:
        """Where the details of a level are, 0 being the finest: first those that are details along the last axis."""
        sizes, axes = [n >> (level + 1) for n in self.signal_shape], len(self.signal_shape)
        highs = [[number >> (axes - 1 - axis) & 1 for axis in range(axes)] for number in range(1, 2**axes)]
        return [tuple(slice(h * n, (h + 1) * n) for h, n in zip(high, sizes, strict=True)) for high in highs]

    @cached_property
    def _responses(self) -> list[list[tuple[Array, Array]]]:
        """For each level and axis, what the spectra of the two bands are multiplied by, (1, n or n/2 + 1, 1, …)."""
        L, dtype = len(self.taps), np.result_type(self.dtype, np.complex64)
        places = np.arange(L) - L // 2 + 1  # as PyWavelets counts them
        bands = self.taps, self.taps[::-1] * (-1.0) ** np.arange(L)

        def response(taps: Array, n: int, axis: int) -> Array:
            periodic = np.zeros(n)
            np.add.at(periodic, places % n, taps)
            found = np.fft.fft(periodic)
            # The squares of two frequencies half a period apart have the sum 1, because decimation brings a factor of
            # 1/√2 to unitary transforms. Taps have it only up to their own rounding errors.
            found /= np.sqrt(np.square(np.abs(found)) + np.square(np.abs(np.roll(found, n // 2))))
            found = found[: n // 2 + 1] if self._halved(axis) else found
            shape = [-1 if each == axis + 1 else 1 for each in range(len(self.signal_shape) + 1)]
            return self.ops.asarray(found.reshape(shape), dtype)

        return [
            [
                (response(bands[0], size >> level, axis), response(bands[1], size >> level, axis))
                for axis, size in enumerate(self.signal_shape)
            ]
            for level in range(self.level)
        ]

    def _halved(self, axis: int) -> bool:
        """Whether spectra have half of the frequencies along this axis."""
        return self._real and axis == len(self.signal_shape) - 1

    def _merge(self, low: Array, high: Array, level: int, axis: int) -> Array:
        """The spectrum of the signal with these two bands along an axis: X(k) = H(k) X_low(k) + G(k) X_high(k).

        The spectra of the bands have the period n/2.
        """
        xp, n, at = self.ops.xp, self.signal_shape[axis] >> level, axis + 1
        H, G = self._responses[level][axis]
        size = n // 2 + 1 if self._halved(axis) else n
        merged: Array = xp.empty((*low.shape[:at], size, *low.shape[at + 1 :]), low.dtype)
        kept = slice(low.shape[at])
        for part in [kept] if self._halved(axis) else [kept, slice(n // 2, n)]:
            here = merged[_along(at, part)]
            xp.multiply(H[_along(at, part)], low, out=here)
            here += G[_along(at, part)] * high
        if self._halved(axis):
            # X_low(n/2 − k) is the conjugate of X_low(k) at the opposite frequencies along the other axes.
            rest = slice(size - low.shape[at])
            opposite = H[..., ::-1][..., rest].conj() * low[..., rest]
            opposite += G[..., ::-1][..., rest].conj() * high[..., rest]
            for to, of in _mirror(merged.ndim - 2):
                xp.conjugate(opposite[of], out=merged[..., ::-1][..., rest][to])
        return merged

    def _split(self, spectrum: Array, level: int, axis: int) -> list[Array]:
        """The adjoint of `_merge`: X_low(k) = H̄(k) X(k) + H̄(k + n/2) X(k + n/2), and the same with G for X_high."""
        n, at, bands = self.signal_shape[axis] >> level, axis + 1, []
        for response in self._responses[level][axis]:
            kept = _along(at, slice(n // 4 + 1 if self._halved(axis) else n // 2))
            band = response[kept].conj() * spectrum[kept]
            if self._halved(axis):
                rest = _along(at, slice(n // 2 - n // 4, None))
                opposite = (response[rest].conj() * spectrum[rest])[..., ::-1].conj()
                for to, of in _mirror(band.ndim - 2):
                    band[to] += opposite[of]
            else:
                rest = _along(at, slice(n // 2, n))
                band += response[rest].conj() * spectrum[rest]
            bands.append(band)
        return bands


def _mirror(axes: int) -> list[tuple[Index, Index]]:
    """Pairs of indices, to and of: what a spectrum is at the opposite frequencies of these axes after the first.

    The frequency 0 is its own opposite. All others are in the reverse order.
    """
    pairs: list[tuple[Index, Index]] = [((slice(None),), (slice(None),))]
    for _ in range(axes):
        halves = (slice(1), slice(1)), (slice(1, None), slice(None, 0, -1))
        pairs = [((*to, to_half), (*of, of_half)) for to, of in pairs for to_half, of_half in halves]
    return pairs


def _of_all(part: Index) -> Index:
    """The index of this part of each signal of a batch."""
    return (slice(None), *part)


def _along(axis: int, part: slice) -> Index:
    """The index of this part along an axis."""
    return (*[slice(None)] * axis, part)


def _pairs(bands: list[Array]) -> list[tuple[Array, Array]]:
    return list(zip(bands[::2], bands[1::2], strict=True))


def _taps(wavelet: str) -> Array:
    """The low-pass taps with which the wavelet synthesises."""
    if wavelet == "haar":
        return np.full(2, math.sqrt(0.5))
    pywt = library("pywt", "operators", "wavelets other than haar need PyWavelets")
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise InputError(f"{wavelet!r} is not a discrete wavelet of PyWavelets; expected haar, db2, sym4, … ")
    taps = np.array(pywt.Wavelet(wavelet).rec_lo)
    overlaps = [taps[: len(taps) - shift] @ taps[shift:] for shift in range(0, len(taps), 2)]
    if not pywt.Wavelet(wavelet).orthogonal or np.abs(np.array(overlaps) - np.eye(1, len(overlaps))).max() > TOLERANCE:
        raise InputError(f"the wavelet {wavelet} is not orthonormal; choose one of haar, db2, …, sym2, …, coif1, …")
    return taps
