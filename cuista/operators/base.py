"""The base class of linear operators, and a test of their adjoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.errors import NumericalError
from cuista.ops import ReferenceOps, engine
from cuista.ops.joint import ALONE, Joint, real_of

# The number of columns that `gains` works on at a time.
BLOCK = 256

Shape = tuple[int, ...]


class Operator(ABC):
    """A linear operator A from signals to measurements. It applies to batches, whose samples lie along the first axis.

    Parameters
    ----------
    ops, dtype
        The engine (the CPU engine if None), and the dtype of signals and measurements, which are arrays of the engine.
    """

    def __init__(self, ops: ReferenceOps | None, dtype: DTypeLike) -> None:
        self.ops, self.dtype = ops or engine("cpu"), np.dtype(dtype)
        self._gains: dict[float, Array] = {}

    @property
    @abstractmethod
    def shape(self) -> tuple[Shape, Shape]:
        """The shapes of one sample's measurements and of one signal."""

    @property
    @abstractmethod
    def norm_squared(self) -> float:
        """‖A‖₂². The step size of proximal gradient descent should not exceed its inverse."""

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

        Conjugate gradients (Hestenes, Stiefel, J. Res. Nat. Bur. Standards 1952) reduce each sample's residual norm to
        at most ε^⅔ ‖r‖, where ε is the machine epsilon of the dtype (ε^⅔ is 4e-11 for float64, 2e-5 for float32).

        Raises
        ------
        NumericalError
            If ten iterations per measurement of a sample are not enough, as may happen if G is singular.
        """
        xp, axes = self.ops.xp, tuple(range(1, r.ndim))

        def inner(a: Array, b: Array) -> Array:
            product: Array = xp.sum((a.conj() * b).real, axis=axes, keepdims=True)
            return product

        solution, residual, direction, energy = xp.zeros_like(r), r, r, inner(r, r)
        enough = float(np.finfo(self.dtype).eps) ** (4 / 3) * energy
        with np.errstate(over="ignore", invalid="ignore"):  # if G is singular, values may overflow
            for _ in range(10 * math.prod(r.shape[1:])):
                left = ~(energy <= enough)  # samples that are already solved do not change
                if not bool(left.any()):
                    break
                image = self.apply(self.adjoint(direction)) + ridge * direction
                curvature = inner(direction, image)
                length = xp.where(left, energy, 0) / xp.where(curvature > 0, curvature, 1)
                solution, residual = solution + length * direction, residual - length * image
                before, energy = energy, inner(residual, residual)
                direction = residual + xp.where(left, energy, 0) / xp.where(left, before, 1) * direction
            else:
                raise NumericalError("conjugate gradients do not converge, as if A Aᴴ were singular: give a ridge")
        found: Array = solution
        return found

    def gains(self, ridge: float = 0.0) -> Array:
        """The gain h_i = a_iᴴG⁻¹a_i of each entry of a signal, where G = A Aᴴ + λI.

        The gains are computed exactly, from all columns of A, and kept for each λ.
        """
        if ridge not in self._gains:
            xp, (_, signal) = self.ops.xp, self.shape
            N = math.prod(signal)
            parts = []
            for first in range(0, N, BLOCK):
                units = xp.eye(min(BLOCK, N - first), N, first, dtype=self.dtype)
                a = self.apply(units.reshape(-1, *signal))
                parts.append((a.conj() * self.solve_gram(a, ridge)).real.reshape(len(a), -1).sum(axis=1))
            self._gains[ridge] = xp.concatenate(parts).reshape(signal)
        return self._gains[ridge]

    def correction(self, r: Array, ridge: float = 0.0) -> Array:
        """Wᴴ r = h⁻¹ ⊙ Aᴴ(G⁻¹ r) for a batch of measurements r, where W is the analytic weight with the ridge λ.

        The columns w_i = G⁻¹a_i / h_i of W minimise ‖WᴴA‖²_F + λ‖W‖²_F subject to w_iᴴa_i = 1.
        """
        u: Array = self.adjoint(self.solve_gram(r, ridge)) / self.gains(ridge)
        return u


def dot_test(operator: Operator, samples: int = 3, seed: int = 0) -> float:
    """The difference between ⟨A x, y⟩ and ⟨x, Aᴴ y⟩ for random x and y, relative to ‖A x‖ ‖y‖.

    If the adjoint is right, the difference is only a rounding error.
    """
    ops, rng = operator.ops, np.random.default_rng(seed)

    def random(shape: Shape) -> Array:
        numbers = rng.standard_normal((2, samples, *shape))
        return ops.asarray(numbers[0] + 1j * numbers[1] if operator.dtype.kind == "c" else numbers[0], operator.dtype)

    y, x = map(random, operator.shape)
    forward, back, x, y = (ops.to_numpy(array) for array in (operator.apply(x), operator.adjoint(y), x, y))
    both: Any = np.vdot(forward, y), np.vdot(x, back)
    return float(abs(both[0] - both[1]) / (np.linalg.norm(forward) * np.linalg.norm(y)))
