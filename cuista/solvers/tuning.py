"""The choice of λ: the value with the least error among several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np

from cuista.checks import Array

# The number of values of λ if all are tried.
TRIED = 24

Error = Callable[[float], float]


def lambdas(A: Array, y: Array, relative: Array | None = None) -> list[float]:
    """Values of λ for min ½‖y − A x‖² + λ‖x‖₁, as shares of the median of max_i |a_iᵀy| over measurements (batch, M).

    If λ exceeds max_i |a_iᵀy|, the solution is 0. If `relative` is None, there are 24 shares from 1e-4 to 1, equally
    spaced on a logarithmic scale.
    """
    most = np.median(np.abs(y @ A).max(axis=1))
    values: list[float] = (most * (np.geomspace(1e-4, 1, TRIED) if relative is None else relative)).tolist()
    return values


def tune(
    error: Error, values: Sequence[float], each: Callable[[Error, Sequence[float]], Iterable[float]] = map
) -> tuple[float, float]:
    """The value with the least error, and this error. `each` applies `error` to all values, as `map` does."""
    least, best = min(zip(each(error, values), values, strict=True))
    return best, least


def tune_unimodal(error: Error, values: Sequence[float]) -> float:
    """The value with the least error among ordered values, if the error falls up to it and rises beyond it.

    The search goes from coarse to fine, so that only some of the values are tried.
    """

    @cache
    def error_at(index: int) -> float:
        return error(values[index])

    step = len(values) // 4
    best = min(range(step // 2, len(values), step), key=error_at)
    while step > 1:
        step //= 2
        best = min((near for near in (best - step, best, best + step) if 0 <= near < len(values)), key=error_at)
    return values[best]
