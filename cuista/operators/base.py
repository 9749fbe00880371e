"""The base class of linear operators, and a test of their adjoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.checks import in_double as double
from cuista.counter import MATRIX, PROBES, Key
from cuista.errors import InputError, NumericalError
from cuista.messages import warn
from cuista.ops import ReferenceOps, engine
from cuista.ops.joint import ALONE, Joint, real_of

# The number of columns that `gains` works on at a time, and the most numbers in them.
BLOCK, NUMBERS = 256, 2**22
# Up to this number of measurements, G⁻¹ is formed.
FORMED = 2**11
# Up to this number of coordinates, gains are computed from all columns.
EXACT = 2**12
# The number of random signals by which they are estimated otherwise.
PROBING = 256
# Conjugate gradients: a residual stays if in so many iterations its energy falls by less than a factor, and if that of
# the best one does so in many more, they end. Rounding errors of Aᴴr are up to so many times ε ‖A‖ ‖r‖.
STAYING, STAYS, PATIENCE, ROUNDING = 10, 0.98, 500, 16
# How far Lanczos' estimate of ‖A‖₂² may be too small, and how likely it is to be smaller still.
SHORT, UNLIKELY = 0.05, 1e-6

Shape = tuple[int, ...]


class Operator(ABC):
    """A linear operator A from signals to measurements. It applies to batches, whose samples lie along the first axis.

    Parameters
    ----------
    ops, dtype
        The engine (the CPU engine if None), and the dtype of signals, which are arrays of the engine.

    Attributes
    ----------
    kind
        What descriptions call the operator, if it can be described: see `cuista.operators.describe`.
    """

    kind: ClassVar[str] = ""

    def __init__(self, ops: ReferenceOps | None, dtype: DTypeLike) -> None:
        self.ops, self.dtype = ops or engine("cpu"), np.dtype(dtype)
        self._gains: dict[float, Array] = {}
        self._gram_inverses: dict[float, Array | None] = {}
        self._norm_squared: float | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[Shape, Shape]:
        """The shapes of one sample's measurements and of one signal."""

    @property
    def M(self) -> int:
        """The number of measurements of a sample."""
        return math.prod(self.shape[0])

    @property
    def N(self) -> int:
        """The number of coordinates of a signal."""
        return math.prod(self.shape[1])

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        """The dtype of measurements. Where signals are real and measurements are complex, A is linear over ℝ only.

        Its adjoint is then that for the inner product Re⟨a, b⟩.
        """
        return self.dtype

    @property
    def form(self) -> dict[str, Any]:
        """The arguments from which the class makes this operator, apart from engine and dtype, for `describe`."""
        raise NotImplementedError

    # -- what is known about A ------------------------------------------------------------------------------------

    @property
    def rows_norm_squared(self) -> float | None:
        """The c with A Aᴴ = c I for all measurements that a signal can have; None if there is none, or none is known.

        If c is known, nothing needs to be solved or estimated.
        """
        return None

    @property
    def shift_invariant(self) -> bool:
        """Whether measurements of a circularly shifted signal differ from those of the signal by a unitary map only."""
        return False

    @property
    def groups(self) -> Array | None:
        """A number from 0 for each coordinate, (N,), that tells which belong together, as those of a subband do."""
        return None

    @property
    def alike(self) -> Array | None:
        """A number from 0 for each coordinate, (N,); coordinates with the same number have the same gain.

        None if all columns must be looked at.
        """
        return np.zeros(self.N, np.intp) if self.shift_invariant or self.is_unitary else None

    @property
    def is_unitary(self) -> bool:
        """Whether A is the multiple of a unitary matrix."""
        return self.rows_norm_squared is not None and self.M == self.N and self.measured_dtype == self.dtype

    @property
    def norm_squared(self) -> float:
        """‖A‖₂². The step size of proximal gradient descent should not exceed its inverse.

        It is c if `rows_norm_squared` is, and otherwise an upper bound that is at most 5.3 % too large, from Lanczos'
        algorithm. With a probability of 10⁻⁶, it is no upper bound (see `_largest`).
        """
        if self._norm_squared is None:
            c = self.rows_norm_squared
            self._norm_squared = self._largest() if c is None else c
        return self._norm_squared

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """A x for a batch of signals."""

    @abstractmethod
    def adjoint(self, y: Array) -> Array:
        """Aᴴ y for a batch of measurements."""

    def proximal_step(
        self,
        x: Array | None,
        r: Array,
        step_size: float,
        threshold: float | Array,
        positive: bool = False,
        joint: Joint = ALONE,
    ) -> tuple[Array, Array]:
        """Soft-threshold x + α Aᴴ r, and apply A to the result. With r = y − A x, this is an iteration of ISTA.

        Parameters
        ----------
        x
            The signals; None stands for 0.
        r
            The residual, a batch of measurements.
        step_size, threshold
            The step size α, and the threshold θ ≥ 0: a number, or an array that broadcasts to the signals, or to the
            magnitudes of joint entries.
        positive
            Whether negative entries become 0, too.
        joint
            Which numbers are thresholded together, if signals are rows (batch·L, N): see `cuista.ops.joint`.

        Returns
        -------
        x_next, measurements
            The result, and A applied to it.
        """
        real: Any = real_of(self.dtype).type
        z = real(step_size) * self.adjoint(r)
        if x is not None:
            z += x
        xp, theta = self.ops.xp, real(threshold) if isinstance(threshold, float) else threshold.astype(real)
        x_next: Array
        if joint == ALONE and self.dtype.kind != "c":
            x_next = xp.maximum(z - theta, 0) if positive else z - xp.clip(z, -theta, theta)
        else:
            magnitude = joint.magnitudes(xp, z)
            factor = 1 - theta / xp.maximum(magnitude, xp.maximum(theta, np.finfo(real).tiny))  # 0 where m ≤ θ
            x_next = joint.spread(xp, factor, z) * z
        return x_next, self.apply(x_next)

    # -- the analytic weight, without forming it --------------------------------------------------------------------

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r for a batch of measurements r, where G = A Aᴴ + λI.

        Unless `rows_norm_squared` is known, G⁻¹ is formed and kept if there are at most 2048 measurements, A is not
        linear over ℝ only, and it is certain what is 0 in G. Otherwise, conjugate gradients (Hestenes, Stiefel, J. Res.
        Nat. Bur. Standards 1952) reduce each sample's residual norm to at most ε^⅔ ‖r‖, where ε is the machine epsilon
        of the dtype (ε^⅔ is 4e-11 for float64, 2e-5 for float32). Without a ridge, they also stop where that norm does
        not fall any more, because r has parts that no signal causes, if ‖Aᴴ(r − G u)‖ ≤ ε^⅚ ‖Aᴴr‖, or is a rounding
        error, for the solution u.

        If G is singular, Aᴴu is the solution of least norm, A⁺r. The user is told so if G⁻¹ would be formed, and the
        pseudo-inverse takes its place.

        Raises
        ------
        NumericalError
            If ten iterations per measurement of a sample are not enough, or many have gained nothing.
        """
        if self.rows_norm_squared is not None:
            return r * real_of(r.dtype).type(1 / (self.rows_norm_squared + ridge))  # type: ignore[no-any-return]
        can_form = self.M <= FORMED and self.measured_dtype == self.dtype
        if can_form and ridge not in self._gram_inverses:
            self._gram_inverses[ridge] = self._inverse(ridge)
        inverse = self._gram_inverses.get(ridge)
        if inverse is not None:
            return self.ops.matmul(r.reshape(len(r), -1), inverse).reshape(r.shape)
        return self._by_conjugate_gradients(r, ridge)

    def _by_conjugate_gradients(self, r: Array, ridge: float) -> Array:
        """The u of `solve_gram`.

        Without a ridge, they solve AᴴA x = Aᴴr, which has a solution even if r has parts that no signal causes. Each
        direction p for x is Aᴴv, and the v sum up to the u with Aᴴu = x. With a ridge, they solve G u = r, and p is v.
        """
        xp, least_norm, eps = self.ops.xp, ridge == 0, float(np.finfo(self.dtype).eps)

        def inner(a: Array, b: Array) -> Array:
            products: Array = xp.sum((a.conj() * b).real.reshape(len(a), -1), axis=1)
            return products

        def times(factors: Array, a: Array) -> Array:
            scaled: Array = factors.reshape(-1, *[1] * (a.ndim - 1)) * a
            return scaled

        solution, residual, v = xp.zeros_like(r), r, r
        s = self.adjoint(r) if least_norm else r
        p, energy, left_over = s, inner(s, s), inner(r, r)
        enough, enough_of_s = eps ** (4 / 3) * left_over, eps ** (5 / 3) * energy
        rounding = (ROUNDING * eps) ** 2 * self.norm_squared if least_norm else 0.0
        compared, stays, best, least = left_over, xp.zeros(len(r), bool), energy, energy
        with np.errstate(over="ignore", invalid="ignore"):  # where there is no convergence
            for k in range(1, 1 + 10 * math.prod(r.shape[1:])):
                left = ~(left_over <= enough)
                if least_norm:
                    left &= ~((stays & (energy <= enough_of_s)) | (energy <= rounding * left_over))
                if not bool(left.any()):
                    found: Array = solution
                    return found
                # Samples that are already solved do not change.
                image = self.apply(p) if least_norm else self.apply(self.adjoint(p)) + ridge * p
                curvature = inner(image if least_norm else p, image)
                length = xp.where(left, energy, 0) / xp.where(curvature > 0, curvature, 1)
                solution, residual = solution + times(length, v), residual - times(length, image)
                s = self.adjoint(residual) if least_norm else residual
                before, energy, left_over = energy, inner(s, s), inner(residual, residual)
                share = xp.where(left, energy, 0) / xp.where(left, before, 1)
                v = residual + times(share, v)
                p = s + times(share, p) if least_norm else v
                least = xp.minimum(least, energy)
                if k % STAYING == 0:
                    stays, compared = left_over > STAYS * compared, left_over
                if k % PATIENCE == 0:
                    if bool((left & ~(least < STAYS * best)).any()):
                        break
                    best = least
        raise NumericalError(
            "conjugate gradients do not converge, because the measurements nearly depend on each other: give a ridge"
        )

    def _inverse(self, ridge: float) -> Array | None:
        """The transpose of G⁻¹, or of its pseudo-inverse, (M, M), which rows of measurements are multiplied by.

        It is computed in double precision if this operator is certain to be the same there. Eigenvalues of G that are
        lost in its rounding then count as 0, and the user is told so. Otherwise they might be small but matter: None is
        returned if there are any.
        """
        from cuista.operators.description import in_double

        precise, columns, (measured, _) = in_double(self), [], self.shape
        operator = precise or self
        for part in self._parts(np.arange(self.M)):
            units = np.zeros((len(part), self.M), operator.dtype)
            units[np.arange(len(part)), part] = 1
            given = operator.ops.asarray(units.reshape(-1, *measured), operator.dtype)
            columns.append(operator.ops.to_numpy(operator.apply(operator.adjoint(given))).reshape(len(part), -1))
        gram = double(np.concatenate(columns).T) + ridge * np.eye(self.M)
        values, vectors = np.linalg.eigh(gram)
        sure = values > self.M * float(np.finfo(operator.dtype).eps) * values[-1]
        if not sure.all():
            if precise is None:
                return None
            warn(
                f"the {self.M} measurements of the operator depend on each other: their rank is "
                f"{np.count_nonzero(sure)}. What contradicts this is left out, as in solutions of least norm"
            )
        vectors = vectors[:, sure]
        return self.ops.asarray(((vectors / values[sure]) @ vectors.conj().T).T, self.dtype)

    def gains(self, ridge: float = 0.0) -> Array:
        """The gain h_i = a_iᴴG⁻¹a_i of each entry of a signal, where G = A Aᴴ + λI. Gains are kept for each λ.

        They are computed from one column of A for each number in `alike`, or from all columns if there are at most
        4096. Otherwise, they are estimated: see `gains_error`.
        """
        if ridge not in self._gains:
            alike, xp, (_, signal) = self.alike, self.ops.xp, self.shape
            if alike is not None:
                _, first = np.unique(alike, return_index=True)
                gains = self._gains_of(first, ridge)[self.ops.asarray(alike, np.intp)]
            elif self.N <= EXACT:
                gains = self._gains_of(np.arange(self.N), ridge)
            else:
                gains = self._estimated_gains(ridge)
            self._gains[ridge] = self._all_measured(xp.asarray(gains)).reshape(signal)
        return self._gains[ridge]

    def _all_measured(self, gains: Array) -> Array:
        """The gains (N,), after a check that each coordinate is measured.

        Raises
        ------
        InputError
            If the gain of a coordinate is 0.
        """
        unmeasured = self.ops.to_numpy(gains <= np.finfo(self.dtype).eps ** 1.5 * float(gains.max()))
        if unmeasured.any():
            raise InputError(
                f"the operator does not measure coordinate {np.flatnonzero(unmeasured)[0]} of a signal (of {self.N}, "
                f"{np.count_nonzero(unmeasured)} are not measured), so that it cannot be recovered: choose another "
                "mask, or leave it out of the signals"
            )
        return gains

    def gains_error(self, ridge: float = 0.0) -> float:
        """The standard error of `gains`, relative to their mean h̄; 0 if they are exact.

        The estimate is the mean of z ⊙ AᴴG⁻¹A z over 256 random vectors z of signs (Hutchinson, Commun. Stat. Simul.
        1989; Bekas, Kokiopoulou, Saad, Appl. Numer. Math. 2007). Because no eigenvalue of B = AᴴG⁻¹A exceeds 1, the
        variance Σ_{j≠i} |B_ij|² of a single estimate is at most h_i (1 − h_i). The error is at most √((1/h̄ − 1) / 256).
        """
        if self.alike is not None or self.N <= EXACT:
            return 0.0
        mean = float(self.gains(ridge).mean())
        return math.sqrt(max(1 / mean - 1, 0) / PROBING)

    def _gains_of(self, coordinates: Array, ridge: float) -> Array:
        """The gains of these coordinates, exactly."""
        xp, (_, signal), parts = self.ops.xp, self.shape, []
        for part in self._parts(coordinates):
            units = xp.zeros((len(part), self.N), self.dtype)
            units[xp.arange(len(part)), self.ops.asarray(part, np.intp)] = 1
            a = self.apply(units.reshape(-1, *signal))
            parts.append((a.conj() * self.solve_gram(a, ridge)).real.reshape(len(a), -1).sum(axis=1))
        gains: Array = xp.concatenate(parts)
        return gains

    def _estimated_gains(self, ridge: float) -> Array:
        """Estimates of all gains, none less than its own standard error, so that all are positive."""
        (_, signal), total = self.shape, self.ops.xp.zeros(self.N, np.float64)
        draw = self.ops.random_words(Key(0, MATRIX), PROBES)
        for part in self._parts(np.arange(PROBING)):
            bits = np.unpackbits(draw(-(-len(part) * self.N // 64)).view(np.uint8))[: len(part) * self.N]
            z = self.ops.asarray(2.0 * bits.reshape(len(part), self.N) - 1, self.dtype)
            a = self.apply(z.reshape(-1, *signal))
            found = self.adjoint(self.solve_gram(a, ridge)).reshape(z.shape)
            total += (z * found).real.sum(axis=0, dtype=np.float64)
        gains = total / PROBING
        floor = math.sqrt(max(float(gains.mean()), np.finfo(float).tiny) / PROBING)
        return self.ops.asarray(self.ops.xp.maximum(gains, floor), real_of(self.dtype))

    def _parts(self, coordinates: Array) -> Iterable[Array]:
        """Parts of an array of coordinates, for each of which signals fit into memory."""
        size = max(min(BLOCK, NUMBERS // self.N), 1)
        return (coordinates[first : first + size] for first in range(0, len(coordinates), size))

    def _largest(self) -> float:
        """An upper bound of the largest eigenvalue of AᴴA, from Lanczos' algorithm with a random start.

        After k steps, for n real unknowns, its estimate is short of the eigenvalue by a share of more than ε with a
        probability of at most 1.648 √n exp(−√ε (2k − 1)), whatever the matrix (Kuczyński, Woźniakowski, SIAM J. Matrix
        Anal. Appl. 1992). There are as many steps as make this 10⁻⁶ with ε = 5 %. The estimate is divided by 1 − ε.
        """
        ops, xp, (_, signal) = self.ops, self.ops.xp, self.shape
        n = self.N * (2 if self.dtype.kind == "c" else 1)
        steps = math.ceil((math.log(1.648 * math.sqrt(n) / UNLIKELY) / math.sqrt(SHORT) + 1) / 2)
        v = ops.normal(Key(0, MATRIX, 1), PROBES, (1, self.N), self.dtype).reshape(1, *signal)
        v, before = v / math.sqrt(float(ops.inner(v, v))), xp.zeros_like(v)
        diagonal: list[float] = []
        beside: list[float] = []
        for _ in range(min(steps, n)):
            w = self.adjoint(self.apply(v)) - (beside[-1] if beside else 0) * before
            diagonal.append(float(ops.inner(v, w)))
            w = w - diagonal[-1] * v
            beside.append(math.sqrt(float(ops.inner(w, w))))
            if beside[-1] <= np.finfo(self.dtype).eps * max(map(abs, diagonal)):
                break
            before, v = v, w / beside[-1]
        T = np.diag(diagonal) + np.diag(beside[: len(diagonal) - 1], 1) + np.diag(beside[: len(diagonal) - 1], -1)
        return float(np.linalg.eigvalsh(T)[-1] / (1 - SHORT))

    def correction(self, r: Array, ridge: float = 0.0) -> Array:
        """Wᴴ r = h⁻¹ ⊙ Aᴴ(G⁻¹ r) for a batch of measurements r, where W is the analytic weight with the ridge λ.

        The columns w_i = G⁻¹a_i / h_i of W minimise ‖WᴴA‖²_F + λ‖W‖²_F subject to w_iᴴa_i = 1.
        """
        u: Array = self.adjoint(self.solve_gram(r, ridge)) / self.gains(ridge)
        return u


def dot_test(operator: Operator, samples: int = 3, seed: int = 0) -> float:
    """The difference between ⟨A x, y⟩ and ⟨x, Aᴴ y⟩ for random x and y, relative to ‖A x‖ ‖y‖.

    If the adjoint is right, the difference is only a rounding error. Where signals are real, real parts are compared.
    """
    ops, rng = operator.ops, np.random.default_rng(seed)

    def random(shape: Shape, dtype: np.dtype[Any]) -> Array:
        numbers = rng.standard_normal((2, samples, *shape))
        return ops.asarray(numbers[0] + 1j * numbers[1] if dtype.kind == "c" else numbers[0], dtype)

    y, x = map(random, operator.shape, (operator.measured_dtype, operator.dtype))
    forward, back, x, y = (double(ops.to_numpy(array)) for array in (operator.apply(x), operator.adjoint(y), x, y))
    difference = complex(np.vdot(forward, y)) - complex(np.vdot(x, back))
    if operator.dtype.kind != "c":
        difference = complex(difference.real)
    return float(abs(difference) / (np.linalg.norm(forward) * np.linalg.norm(y)))
