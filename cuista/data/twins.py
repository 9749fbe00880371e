"""Columns of a matrix that no measurement can tell apart, because they are equal or opposite up to their scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cuista.checks import Array
from cuista.counter import CODES, MATRIX, Key
from cuista.ops import CpuOps

# Columns are twins if |a_iᵀa_j| is more than 1 − ALIKE for their directions.
ALIKE = 1e-6
# The number of random projections that twins must have in common, the number of columns that are compared at a time,
# and the number of pairs that are named.
PROJECTIONS, BLOCK, NAMED = 8, 256, 5
# The number of neighbours by the first projection with which a column is compared one by one.
NEIGHBOURS = 100


class Twins(NamedTuple):
    """Pairs of columns that cannot be told apart: the first few (i, j), and how many there are."""

    pairs: list[tuple[int, int]]
    number: int

    def __str__(self) -> str:
        named = ", ".join(f"{i} and {j}" for i, j in self.pairs)
        more = f" (and {self.number - len(self.pairs)} more pairs)" if self.number > len(self.pairs) else ""
        return (
            f"columns {named}{more} of the matrix cannot be told apart, because they are equal or opposite up to "
            "scale: no method can decide between them. Keep one of each pair"
        )


def twins(A: Array) -> Twins:
    """The pairs i < j of columns of a matrix (M, N) with |a_iᴴa_j| > 1 − 10⁻⁶ for their directions a_i and a_j.

    Directions that differ by a vector d have random Gaussian projections that differ by N(0, ‖d‖²), up to sign. So
    columns whose projections all are far from those of every other column have no twin, and only the rest are compared
    with one another. That takes O(M N) operations where twins are few.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        peaks = np.abs(A).max(axis=0)
        unit = A / peaks
        unit /= np.linalg.norm(unit, axis=0)
    random = CpuOps().normal(Key(0, MATRIX, 1), CODES, (PROJECTIONS, len(A)), np.float64)
    suspects = _suspects(np.abs(random @ unit), 6 * np.sqrt(2 * ALIKE))
    pairs: list[tuple[int, int]] = []
    count, own = 0, unit[:, suspects]
    for first in range(0, len(suspects), BLOCK):
        products = own[:, first : first + BLOCK].conj().T @ own[:, first:]
        i, j = np.nonzero(np.triu(np.abs(products) > 1 - ALIKE, 1))
        count += len(i)
        found = zip(suspects[first + i[:NAMED]].tolist(), suspects[first + j[:NAMED]].tolist(), strict=True)
        pairs = [*pairs, *found][:NAMED]
    return Twins(pairs, count)


def _suspects(projections: Array, reach: float) -> Array:
    """The columns of an array (P, N) of which another column is no further than `reach` away in every row."""
    order = np.argsort(projections[0], kind="stable")
    ordered = projections[:, order]
    suspect = np.zeros(len(order), bool)
    for offset in range(1, len(order)):
        near = ordered[0, offset:] - ordered[0, :-offset] <= reach
        near &= ~(suspect[offset:] & suspect[:-offset])
        if not near.any():
            break
        (left,) = np.nonzero(near)
        if offset == NEIGHBOURS:  # columns are crowded: those with more neighbours are all compared
            suspect[left] = suspect[left + offset] = True
            break
        left = left[(np.abs(ordered[:, left + offset] - ordered[:, left]) <= reach).all(axis=0)]
        suspect[left] = suspect[left + offset] = True
    return np.sort(order[suspect])
