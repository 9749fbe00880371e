"""The exact solution of min_x ½‖y − A x‖² + Σ λ_i |x_i| by an active-set method, for one vector of measurements.

Osborne, Presnell, Turlach, IMA J. Numerical Analysis 2000; Lee, Battle, Raina, Ng, NIPS 2006. The minimum over the
entries of a support with known signs solves a linear system. A step goes towards that minimum, up to the first entry
that would change its sign and therefore leaves the support. At the minimum, an entry with |a_iᵀr| > λ_i enters. The
objective falls with every step, so that the method ends after finitely many. The system is solved by a QR factorisation
of the support's columns, never by their Gram matrix, so that columns may be nearly alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.ops.joint import ALONE, Joint, squares

# A column depends on others if what these leave of it is smaller than this share of its norm.
DEPENDENT = 1e-10


class Support:
    """Some columns of a matrix, and the factorisation Q R of the matrix that they form, in the order of `chosen`.

    Parameters
    ----------
    columns
        The columns (N, M), of unit norm, which may be complex.
    y
        The measurements (M,), or (M, L) of several snapshots.
    """

    def __init__(self, columns: Array, y: Array) -> None:
        from scipy.linalg import get_lapack_funcs, qr_delete

        self._delete = qr_delete
        self._solve_triangular: Any = get_lapack_funcs("trtrs", (columns,))
        most, dtype = min(columns.shape), columns.dtype
        self.columns, self.y, self.chosen = columns, y, list[int]()
        self._Q = np.zeros((columns.shape[1], most), dtype, order="F")
        self._R = np.zeros((most, most), dtype, order="F")
        self._projections = np.zeros((most, *y.shape[1:]), dtype)

    @property
    def Q(self) -> Array:
        """The orthonormal basis (M, size) of the columns' span."""
        return self._Q[:, : len(self.chosen)]

    @property
    def projections(self) -> Array:
        """Qᴴy (size,) or (size, L)."""
        return self._projections[: len(self.chosen)]

    def solve(self, b: Array, transposed: bool = False) -> Array:
        """R⁻¹ b, or R⁻ᴴ b."""
        size = len(self.chosen)
        if not size:
            return np.zeros_like(b)
        solution: Array = self._solve_triangular(self._R[:size, :size], b, trans=2 * transposed)[0]
        return solution

    def add(self, column: int) -> bool:
        """Append a column unless it depends on the others; return whether it was appended."""
        size, Q, q = len(self.chosen), self.Q, self.columns[column]
        coefficients = np.zeros(size, q.dtype)
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            change = Q.conj().T @ q
            q = q - Q @ change
            coefficients += change
        left = float(np.linalg.norm(q))
        if size == self._Q.shape[1] or left < DEPENDENT:
            return False
        self._Q[:, size] = q / left
        self._R[:size, size], self._R[size, size] = coefficients, left
        self._projections[size] = self._Q[:, size].conj() @ (self.y - Q @ self.projections)
        self.chosen.append(column)
        return True

    def drop(self, place: int) -> None:
        """Remove the column at a place of `chosen`."""
        size = len(self.chosen)
        Q, R = self._delete(self.Q, self._R[:size, :size], place, which="col", check_finite=False)
        del self.chosen[place]
        self._Q[:, : size - 1], self._R[: size - 1, : size - 1] = Q[:, : size - 1], R[: size - 1, : size - 1]
        self._projections[: size - 1] = self.Q.conj().T @ self.y

    def combination(self, column: int) -> Array:
        """The coefficients (size,) with which the chosen columns come closest to another column."""
        return self.solve(self.Q.conj().T @ self.columns[column])

    def residual(self) -> Array:
        """What the chosen columns leave of y, in its shape."""
        r = self.y - self.Q @ self.projections
        return np.asarray(r - self.Q @ (self.Q.conj().T @ r))


class ActiveSet:
    """The solutions for one vector of measurements and any λ. Each search starts from the solution before it.

    Parameters
    ----------
    columns
        The columns of A as rows (N, M), contiguous, float64, of unit norm.
    y
        The measurements (M,), of a norm near 1.
    positive
        Whether x_i ≥ 0 is required.
    start
        Where to start (N,); 0 if None.

    Attributes
    ----------
    steps
        How many entries have entered or left the support so far.
    """

    def __init__(self, columns: Array, y: Array, positive: bool = False, start: Array | None = None) -> None:
        self.support, self.positive, self.steps = Support(columns, y), positive, 0
        if start is not None:
            for column in np.flatnonzero(start)[np.argsort(-np.abs(start[start != 0]))]:
                self.support.add(int(column))
        self.values = np.zeros(0) if start is None else start[self.support.chosen]
        self.signs = np.sign(self.values)

    def solve(self, lam: float | Array, most: float = np.inf) -> Array:
        """The minimiser (N,) for λ ≥ 0, a number or one for each entry, after `most` steps at most."""
        support, until = self.support, self.steps + most
        columns, chosen = support.columns, support.chosen
        lam = np.broadcast_to(np.asarray(lam, np.float64), columns.shape[:1])
        # What an entry's correlation may exceed λ by: a little, and what rounding makes of it.
        enough = lam + np.maximum(1e-10 * lam, 4 * np.finfo(float).eps * np.linalg.norm(support.y))
        barred: set[int] = set()  # entries whose entering changed nothing but digits that are rounded
        self._descend(lam)
        while self.steps < until:
            correlations = columns @ self._r
            excess = (correlations if self.positive else np.abs(correlations)) - enough
            excess[[*chosen, *barred]] = -np.inf
            best = int(np.argmax(excess))
            if not excess[best] > 0:
                break
            if self._enter(best, float(np.sign(correlations[best])), lam):
                barred.clear()
            else:
                barred.add(best)
        x = np.zeros(len(columns))
        x[chosen] = self.values
        return x

    def _enter(self, column: int, sign: float, lam: Array) -> bool:
        """Let an entry enter the support, and go to the minimum. Return whether x moved."""
        support = self.support
        self.steps += 1
        if support.add(column):
            self.values, self.signs = np.append(self.values, 0.0), np.append(self.signs, sign)
            return self._descend(lam)
        # It depends on the chosen columns. Along this direction A x stays, and Σ λ_i|x_i| falls up to the first 0.
        direction = -sign * support.combination(column)
        towards = direction * self.signs < -1e-8 * np.abs(direction).max(initial=0)
        if not towards.any():
            return False
        lengths = np.full(len(direction), np.inf)
        lengths[towards] = -self.values[towards] / direction[towards]
        place = int(np.argmin(lengths))
        leaving, length = support.chosen[place], lengths[place]
        support.drop(place)
        if not support.add(column):
            support.add(leaving)
            for name in ("values", "signs"):
                array = getattr(self, name)
                setattr(self, name, np.append(np.delete(array, place), array[place]))
            return False
        self.values = np.append(np.delete(self.values + length * direction, place), length * sign)
        self.signs = np.append(np.delete(self.signs, place), sign)
        return self._descend(lam) or bool(length > 0)

    def _descend(self, lam: Array) -> bool:
        """Go to the minimum over the support, which loses the entries that become 0. Return whether x moved."""
        support, moved, leaves = self.support, False, True
        while leaves:
            # Rᵀ R x = A_Sᵀ y − λ s, so that R x = Qᵀ y − R⁻ᵀ(λ s), and A x = Q (R x).
            image = support.projections - support.solve(lam[support.chosen] * self.signs, transposed=True)
            target = support.solve(image)
            crossing = target * self.signs <= 0
            shares = np.ones(len(target))
            before, after = self.values[crossing], target[crossing]
            shares[crossing] = np.where(before == 0, 0.0, before / np.where(before == after, 1.0, before - after))
            share, leaves = shares.min(initial=1.0), bool(crossing.any())
            change = share * (target - self.values)
            moved = moved or np.abs(change).max(initial=0) > 1e-12 * np.abs(target).max(initial=0)
            self.values = self.values + change if leaves else target
            gone = np.flatnonzero(crossing & (shares <= share))
            for place in gone[::-1]:
                support.drop(int(place))
            self.steps += len(gone)
            self.values, self.signs = np.delete(self.values, gone), np.delete(self.signs, gone)
        self._r = support.y - support.Q @ image
        return bool(moved)


def duality_gap(
    xp: Any, x: Array, r: Array, correlations: Array, lam: Array, positive: bool = False, joint: Joint = ALONE
) -> Array:
    """The duality gap of min ½‖y − A x‖² + Σ λ_i |x_i| at each x, relative to the objective at x: 0 at the minimum.

    The objective exceeds the minimum by at most this share of itself. The dual point is s r, with the largest s ≤ 1 for
    which s |a_iᴴr| ≤ λ_i, and the gap is ½(1 − s)²‖r‖² + Σ (λ_i |x_i| − s Re⟨x_i, a_iᴴr⟩), a sum of terms that are not
    negative, so that no digits cancel. The magnitudes of joint entries take the place of |x_i| and |a_iᴴr|.

    Parameters
    ----------
    xp
        The array module.
    x, r, correlations
        The codes (batch, N), the residuals y − A x (batch, M), and Aᴴr (batch, N).
    lam
        λ_i > 0, in a shape that broadcasts to the entries (batch, N).
    positive
        Whether x_i ≥ 0 is required, so that only a_iᵀr ≤ λ_i is.
    joint
        Which numbers are one entry. With L snapshots, there are batch·L rows, and the gaps are those of samples.
    """
    x, r, correlations = (array.astype(np.result_type(array.dtype, np.float64)) for array in (x, r, correlations))
    ratio = (correlations if positive else joint.magnitudes(xp, correlations)) / lam
    s = (1 / xp.maximum(ratio.max(axis=1), 1.0))[:, None]
    energy, penalty = joint.samples(squares(xp, r)).sum(axis=1), lam * joint.magnitudes(xp, x)
    missing = xp.maximum(penalty - joint.inner(joint.repeat(xp, s) * x, correlations), 0)
    gap = 0.5 * (1 - s[:, 0]) ** 2 * energy + missing.sum(axis=1)
    objective = 0.5 * energy + penalty.sum(axis=1)
    relative: Array = xp.where(objective > 0, gap / xp.where(objective > 0, objective, 1.0), 0.0)
    return relative
