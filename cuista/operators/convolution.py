"""The operator of a convolutional dictionary."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_filters
from cuista.errors import InputError
from cuista.operators.base import Operator, Shape
from cuista.ops import ReferenceOps
from cuista.ops.borders import map_shape, pad_zeros, strided
from cuista.ops.joint import ALONE, Joint


class Convolution(Operator):
    """The synthesis x ↦ Σ_m d_m ⋆ x_m of a picture (H, W) from maps (F, H + s₁ − 1, W + s₂ − 1) by valid correlations.

    The adjoint pads a picture with zeros and correlates it with the filters rotated by 180°. With a stride q, maps have
    entries in every q-th row and column only, (F, ⌈(H + s₁ − 1)/q⌉, ⌈(W + s₂ − 1)/q⌉).

    Parameters
    ----------
    D
        The filters d_m, (s₁, s₂, F), kept in float64.
    picture
        The size (H, W) of pictures. If None, pictures may have any size, but `shape` and the methods that need it raise
        InputError, and `apply` returns the largest picture that has such maps.
    stride
        The stride q, at most the size of the filters: otherwise no atom would reach some of the pixels.
    ops, dtype
        As in `Operator`.

    Raises
    ------
    InputError
        If D is not an array of finite numbers with this shape, if a filter is zero, if the size of pictures is not two
        positive whole numbers, or if the stride is out of range.
    """

    kind = "convolution"

    def __init__(
        self,
        D: ArrayLike,
        picture: tuple[int, int] | None = None,
        *,
        stride: int = 1,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(ops, dtype)
        self.D: Array = check_filters(D, "the dictionary").astype(np.float64, copy=False)
        self.picture = None if picture is None else checked_picture(picture)
        rows, columns, _ = self.D.shape
        self.filter_shape, self.stride = (rows, columns), check_stride(stride, (rows, columns))
        self.filters, self._rotated = (self.ops.asarray(each, self.dtype) for each in (self.D, self.D[::-1, ::-1]))

    @property
    def form(self) -> dict[str, Any]:
        picture = None if self.picture is None else list(self.picture)
        return {"D": self.D, "picture": picture, **({} if self.stride == 1 else {"stride": self.stride})}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        if self.picture is None:
            raise InputError("the convolution is for pictures of any size: give it a `picture` to have a shape")
        return self.picture, (self.D.shape[2], *map_shape(self.picture, self.filter_shape, self.stride))

    @cached_property
    def norm_squared(self) -> float:
        """‖A‖₂² for pictures of any size: the maximum of Σ_m |d̂_m|² over all frequencies, at most 1 % too large.

        The sum is a trigonometric polynomial of degree s − 1 in each direction, whose coefficients are the sum R of the
        filters' autocorrelations. The maximum of such a polynomial over N > 2(s − 1) equidistant points is at least
        cos(π(s − 1)/N) times its maximum (Ehlich, Zeller, *Schwankung von Polynomen zwischen Gitterpunkten*, Math.
        Zeitschrift 1964). Division by this factor gives an upper bound.

        With a stride, A maps sequences of F-vectors to sequences of q²-vectors. It is a convolution with the filters'
        polyphase components, whose transform P (q², F) takes the place of (d̂_m), and the largest eigenvalue of P Pᴴ
        that of the sum. For any vector v, ‖Pᴴv‖² is a trigonometric polynomial of degree ⌈(s − 1)/q⌉ at most.
        """
        if self.stride > 1:
            return self._strided_norm_squared()
        D, exponent = scaled(self.D)
        once = [2 * size - 1 for size in self.filter_shape]
        R = np.fft.irfft2(np.square(np.abs(np.fft.rfft2(D, once, axes=(0, 1)))).sum(axis=2), once)
        period = [max(32 * size, 256) for size in self.filter_shape]
        lags = np.ix_(*(np.arange(1 - size, size) for size in self.filter_shape))
        coefficients = np.zeros(period)
        coefficients[lags] = R[lags]
        sizes = zip(self.filter_shape, period, strict=True)
        least = np.prod([np.cos(np.pi * (size - 1) / points) for size, points in sizes])
        with np.errstate(over="ignore"):
            return float(np.ldexp(np.fft.rfft2(coefficients).real.max() / least, 2 * exponent))

    def _strided_norm_squared(self) -> float:
        D, exponent = scaled(self.D)
        degrees = [strided(size - 1, self.stride) for size in self.filter_shape]
        period = [max(32 * degree, 8) for degree in degrees]

        def largest_eigenvalue(P: Array) -> float:
            adjoint = P.conj().swapaxes(1, 2)
            return float(np.linalg.eigvalsh(P @ adjoint if P.shape[1] <= P.shape[2] else adjoint @ P).max())

        largest = max(map(largest_eigenvalue, polyphase(D, self.stride, (period[0], period[1]))))
        least = np.prod([np.cos(np.pi * degree / points) for degree, points in zip(degrees, period, strict=True)])
        with np.errstate(over="ignore"):
            return float(np.ldexp(largest / least, 2 * exponent))

    def apply(self, x: Array) -> Array:
        return self._stack([self.ops.synthesize(maps, self.filters, self.stride, self.picture) for maps in x])

    def adjoint(self, y: Array) -> Array:
        return self.proximal_step(None, y, 1.0, 0.0)[0]

    def proximal_step(
        self,
        x: Array | None,
        r: Array,
        step_size: float,
        threshold: float | Array,
        positive: bool = False,
        joint: Joint = ALONE,
    ) -> tuple[Array, Array]:
        """The step of `Operator`, computed by the engine's `conv_layer` unless entries must be positive, or are joint.

        On a CPU it is computed row by row, or in bands of rows, so that the maps stay in the cache.
        """
        if positive or joint != ALONE:
            return super().proximal_step(x, r, step_size, threshold, positive, joint)

        def step(maps: Array | None, picture: Array) -> tuple[Array, Array, Any]:
            padded = pad_zeros(self.ops.xp, picture, self.filter_shape)
            return self.ops.conv_layer(
                maps, padded, self._rotated, self.filters, step_size, threshold, stride=self.stride
            )

        after = list(map(step, [None] * len(r) if x is None else x, r))
        return self._stack([one[0] for one in after]), self._stack([one[1] for one in after])

    def _stack(self, arrays: Sequence[Array]) -> Array:
        """Stack the arrays into a batch. A single array is not copied."""
        stacked: Array = arrays[0][None] if len(arrays) == 1 else self.ops.xp.stack(arrays)
        return stacked


def checked_picture(picture: Sequence[int]) -> tuple[int, int]:
    """The size of pictures. Raises InputError unless it is two positive whole numbers."""
    try:
        rows, columns = map(operator.index, picture)
    except (TypeError, ValueError):
        rows = columns = 0
    if min(rows, columns) < 1:
        raise InputError(f"the size of pictures is {picture}; expected two positive whole numbers")
    return rows, columns


def check_stride(stride: int, filter_shape: tuple[int, int]) -> int:
    """The stride. Raises InputError unless it is from 1 to the smaller side of the filters."""
    if not 1 <= stride <= min(filter_shape):
        raise InputError(
            f"the stride is {stride}; expected a number from 1 to the size of the filters, which are "
            f"{filter_shape[0]}×{filter_shape[1]}",
            option="stride",
        )
    return stride


def polyphase(D: Array, stride: int, period: tuple[int, int]) -> Iterator[Array]:
    """Yield the Fourier transforms (n₂, q², F) of the filters' polyphase components, for each of n₁ frequencies.

    D (s₁, s₂, F) may be filters or analytic weights. The component (a, b) of a filter has its entries in the rows a,
    a + q, … and the columns b, b + q, …; its transform has the period (n₁, n₂).
    """
    rows, columns, filters = D.shape
    sizes = [strided(size, stride) for size in (rows, columns)]
    padded = np.zeros((sizes[0] * stride, sizes[1] * stride, filters))
    padded[:rows, :columns] = D
    parts = padded.reshape(sizes[0], stride, sizes[1], stride, filters).transpose(0, 2, 1, 3, 4)
    transformed = np.fft.fft(parts.reshape(sizes[0], sizes[1], -1, filters), period[1], axis=1)
    for frequency in range(period[0]):
        phases = np.exp(-2j * np.pi * frequency / period[0] * np.arange(sizes[0]))
        yield np.tensordot(phases, transformed, axes=1)


def scaled(D: Array, axis: tuple[int, ...] | None = None) -> tuple[Array, Any]:
    """D·2^−e and e, such that the largest magnitudes along the axes are from 1/2 to 1.

    This scaling does not round, and keeps later products from overflowing.
    """
    exponents = np.frexp(np.abs(D).max(axis=axis))[1]
    return np.ldexp(D, -exponents), exponents
