"""Masks, which say which coefficients of a transform are measured, drawn from a seed.

The zero frequency is at index 0 along each axis, as `numpy.fft` has it. A mask that is drawn with the zero frequency in
the middle is shifted by `numpy.fft.ifftshift`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cuista import storage
from cuista.checks import Array, check_finite
from cuista.counter import MASK, MATRIX, Key
from cuista.errors import InputError
from cuista.ops import ReferenceOps

# The factor by which the angle between lines exceeds that to which they would fill the plane.
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Mask:
    """A choice of coefficients.

    Attributes
    ----------
    sampled
        Which coefficients are measured, bool, in the shape of the transform.
    made
        How the mask was made: the name of a function of this module without its `_mask`, as `kind`, and its arguments.
        None if the mask was given.
    """

    sampled: Array
    made: Mapping[str, Any] | None = field(default=None)

    @property
    def sha256(self) -> str:
        """The hash of what is measured."""
        return storage.sha256(self.sampled)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the transform."""
        return self.sampled.shape

    @property
    def size(self) -> int:
        """The number M of coefficients that are measured."""
        return int(np.count_nonzero(self.sampled))


def random_mask(shape: Sequence[int], rate: float, seed: int = 0, power: float = 0.0) -> Mask:
    """A mask of round(rate·N) coefficients, drawn without replacement.

    Parameters
    ----------
    shape
        The shape of the transform, one or two axes.
    rate
        The share of coefficients that are measured, more than 0 and at most 1.
    seed
        The seed, a whole number from 0 to 2⁶⁴ − 1.
    power
        With power p, a coefficient at the frequency f, |f| ≤ 1 along each axis, is drawn with a weight proportional to
        (1 − |f|/√d)^p, where d is the number of axes (variable density: Lustig, Donoho, Pauly, Magn. Reson. Med. 2007).
        With 0, all are equally likely.

    Raises
    ------
    InputError
        If a number is out of range.
    """
    shape, made = _checked(shape, rate, seed, kind="random", power=power)
    if not 0 <= power < np.inf:
        raise InputError(f"the power of the density is {power}; expected 0 or more")
    # Efraimidis, Spirakis, Inf. Process. Lett. 2006: the smallest of −log(u)/w, u uniform, are a draw with weights w.
    N = math.prod(shape)
    waits = -np.log(_uniform(seed, N))
    if power:
        radius = np.sqrt(sum(np.square(f) for f in np.meshgrid(*map(_frequencies, shape), indexing="ij")))
        waits /= np.maximum(1 - radius.ravel() / math.sqrt(len(shape)), 1e-3) ** power
    sampled = np.zeros(N, np.bool_)
    sampled[np.argsort(waits, kind="stable")[: max(round(rate * N), 1)]] = True
    return Mask(sampled.reshape(shape), made)


def radial_mask(shape: Sequence[int], rate: float, seed: int = 0) -> Mask:
    """A mask of lines through the zero frequency, in a plane.

    The angle between one line and the next is that of the golden section (Winkelmann et al., IEEE Trans. Med. Imaging
    2007), and the seed gives the first. The number of lines is the one whose share of coefficients is nearest to the
    rate. With each frequency, the opposite one is measured too.

    Parameters and errors are those of `random_mask`.
    """
    shape, made = _checked(shape, rate, seed, kind="radial", axes=2)
    (rows, columns), first = shape, float(_uniform(seed, 1)[0])
    wanted, reached = rate * math.prod(shape), 0
    along = np.linspace(0, 0.5, max(shape) + 1)  # leaves no gaps
    sampled, lines = np.zeros(shape, np.bool_), 0
    while reached < wanted:
        angle, before, reached_before = math.pi * (first + GOLDEN * lines), sampled.copy(), reached
        down, across = math.sin(angle), math.cos(angle)
        # The line ends at the border of the square of frequencies from −½ to ½.
        end = 1 / max(abs(down), abs(across))
        i, j = (np.rint(size * end * part * along).astype(int) for size, part in ((rows, down), (columns, across)))
        for sign in (1, -1):
            sampled[sign * i % rows, sign * j % columns] = True
        lines, reached = lines + 1, int(np.count_nonzero(sampled))
    nearer = lines > 1 and wanted - reached_before < reached - wanted
    return Mask(before if nearer else sampled, made)


def cartesian_mask(shape: Sequence[int], rate: float, seed: int = 0, centre: float = 0.08) -> Mask:
    """A mask of whole lines along the last axis (readout) of a plane, chosen along the first one (phase encoding).

    Parameters
    ----------
    shape, rate, seed
        As in `random_mask`; round(rate·n) of the n lines are measured.
    centre
        The share of all n lines that are the lowest frequencies and always measured, at most the rate. The others are
        drawn without replacement.

    Raises
    ------
    InputError
        If a number is out of range.
    """
    shape, made = _checked(shape, rate, seed, kind="cartesian", axes=2, centre=centre)
    if not 0 <= centre <= rate:
        raise InputError(f"the share of lines in the centre is {centre}; expected 0 to the rate, {rate}")
    n = shape[0]
    wanted, dense = max(round(rate * n), 1), round(centre * n)
    order = np.argsort(np.abs(_frequencies(n)), kind="stable")
    chosen = np.zeros(n, np.bool_)
    chosen[order[:dense]] = True
    others = np.flatnonzero(~chosen)
    drawn = np.argsort(_uniform(seed, len(others)), kind="stable")
    chosen[others[drawn[: wanted - dense]]] = True
    return Mask(np.repeat(chosen[:, None], shape[1], axis=1), made)


MASKS: dict[str, Callable[..., Mask]] = {"random": random_mask, "radial": radial_mask, "cartesian": cartesian_mask}


def as_mask(mask: Mask | ArrayLike | None, shape: tuple[int, ...]) -> Mask:
    """The mask for a transform of this shape. None measures all coefficients; an array holds zeros and ones.

    The ones may be any other number, the same for all, as in masks that are pictures.

    Raises
    ------
    InputError
        If it has another shape or other values, or measures nothing.
    """
    if mask is None:
        return Mask(np.ones(shape, np.bool_))
    if not isinstance(mask, Mask):
        check_finite(np.asarray(mask), "the mask")
        values = np.unique(np.asarray(mask)[np.asarray(mask) != 0])
        if len(values) > 1:
            raise InputError(f"the mask has values from {values[0]:g} to {values[-1]:g}; expected zeros and ones")
    found = mask if isinstance(mask, Mask) else Mask(np.asarray(mask) != 0)
    if found.shape != shape:
        raise InputError(f"the mask has shape {found.shape}; expected that of the transform, {shape}")
    if not found.size:
        raise InputError("the mask measures nothing: choose at least one coefficient")
    return found


def _checked(
    shape: Sequence[int], rate: float, seed: int, axes: int | None = None, **made: Any
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape as a tuple, and how the mask is made, after a check of the arguments that all functions have."""
    shape = tuple(int(size) for size in shape)
    if not shape or min(shape) < 1 or (axes and len(shape) != axes):
        raise InputError(f"the shape of the mask is {shape}; expected {axes or '1 or 2'} positive numbers")
    if not 0 < rate <= 1:
        raise InputError(f"the sampling rate is {rate}; expected more than 0 and at most 1")
    if not 0 <= seed < 2**64:
        raise InputError(f"the seed is {seed}; expected a whole number from 0 to 2⁶⁴ − 1", option="seed")
    return shape, {"shape": list(shape), "rate": rate, "seed": seed, **made}


def _uniform(seed: int, count: int) -> Array:
    """Numbers that are uniform from 0 (exclusive) to 1."""
    words = ReferenceOps().random_words(Key(seed, MATRIX), MASK)(count)
    uniform: Array = ((words >> np.uint64(11)) + 1) * 2.0**-53
    return uniform


def _frequencies(n: int) -> Array:
    """The n frequencies of an axis, from −1 to 1."""
    return 2 * np.fft.fftfreq(n)
