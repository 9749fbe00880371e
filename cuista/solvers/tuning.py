"""The choice of λ: the value of least error among some that are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from cuista.checks import Array

# How many values of λ are tried where all are.
TRIED = 24

Error = Callable[[float], float]


def lambdas(A: Array, y: Array, relative: Array | None = None) -> list[float]:
    """Values of λ for min ½‖y − A x‖² + λ‖x‖₁, as shares of the median of max_i |a_iᵀy| over measurements (batch, M).

    Beyond max_i |a_iᵀy| the solution is 0. The shares are 24 from 1e-4 to 1 if None, equally spaced on a log scale.
    """
    most = np.median(np.abs(y @ A).max(axis=1))
    values: list[float] = (most * (np.geomspace(1e-4, 1, TRIED) if relative is None else relative)).tolist()
    return values


def tune(
    error: Error, values: Sequence[float], each: Callable[[Error, Sequence[float]], Iterable[float]] = map
) -> tuple[float, float]:
    """The value of least error, and that error. `each` is what applies `error` to all values."""
    least, best = min(zip(each(error, values), values, strict=True))
    return best, least


def tune_unimodal(error: Error, values: Sequence[float]) -> float:
    """The one of some ordered values that has the least error, where the error falls up to there and rises from there.

    It is looked for from coarse to fine, so that only some of the values are tried.
    """

    @cache
    def of(index: int) -> float:
        return error(values[index])

    step = len(values) // 4
    best = min(range(step // 2, len(values), step), key=of)
    while step > 1:
        step //= 2
        best = min((near for near in (best - step, best, best + step) if 0 <= near < len(values)), key=of)
    return values[best]
