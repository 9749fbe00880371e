"""Groups of coordinates that share a threshold and a step size, such as those of a subband of wavelets."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.ops import ReferenceOps


class Groups:
    """A partition of coordinates into K groups.

    Parameters
    ----------
    numbers
        The group of each coordinate, (N,), from 0 to K − 1.
    ops
        The engine.

    Raises
    ------
    InputError
        If they are anything else, or a number is missing.
    """

    def __init__(self, numbers: ArrayLike, ops: ReferenceOps) -> None:
        given = np.asarray(numbers)
        if given.ndim != 1 or given.dtype.kind not in "iu" or not given.size:
            raise InputError(f"the groups have shape {given.shape} and dtype {given.dtype}; expected integers (N,)")
        missing = np.setdiff1d(np.arange(int(given.max()) + 1), given)
        if given.min() < 0 or missing.size:
            wrong = "negative numbers" if given.min() < 0 else f"none with number {missing[0]}"
            raise InputError(f"the groups have {wrong}; expected the numbers 0, 1, 2, … for the groups")
        self.numbers, self.ops = given.astype(np.intp), ops
        self.count = int(given.max()) + 1

    def spread(self, values: Array) -> Array:
        """The value of each coordinate's group, (N,), of values (K,)."""
        spread: Array = values[self._numbers]
        return spread

    def sum(self, values: Array) -> Array:
        """The sum of the values (N,) of each group, (K,), in float64, always added in the same order."""
        if self.ops.xp is np:
            return np.bincount(self.numbers, values, self.count)
        # A GPU's bincount adds in any order.
        order, ends = self._sorted
        ordered = values.astype(np.float64)[order]
        sums = [ordered[first:end].sum() for first, end in zip([0, *ends[:-1]], ends, strict=True)]
        total: Array = self.ops.xp.stack(sums)
        return total

    @cached_property
    def _numbers(self) -> Array:
        return self.ops.asarray(self.numbers, np.intp)

    @cached_property
    def _sorted(self) -> tuple[Array, list[int]]:
        """The coordinates, group by group, and where each group ends."""
        order = np.argsort(self.numbers, kind="stable")
        return self.ops.asarray(order, np.intp), np.cumsum(np.bincount(self.numbers)).tolist()
