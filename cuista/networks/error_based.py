"""ALISTA with error-based thresholds: θ_t ‖Wᵀ(y − A x_t)‖₂ / 50 for each sample, which fall as its error does.

Li, Wang, Chen, Zhang, Mei, Liu, *Error-based thresholding for sparse coding*, arXiv 2112.10985.
"""

from __future__ import annotations

from typing import Any, ClassVar

from cuista.checks import Array
from cuista.networks.alista import Alista, ThresholdBackprop
from cuista.ops import Scalar

# A scale by which θ_t is about 1.
DIVISOR = 50.0


class ErrorBasedAlista(Alista):
    """The network. Learned: `step_size` (T,) and `threshold` (T,)."""

    name: ClassVar[str] = "alista-ebt"
    title: ClassVar[str] = "ALISTA-EBT"
    can_coordinate: ClassVar[bool] = False
    starts_relative: ClassVar[bool] = True

    def calibrate(self, y: Array) -> None:
        """Make the first layer's mean threshold that of ALISTA."""
        u = self.ops.matmul(self.ops.asarray(y, self.dtype), self.W)
        self.parameters["threshold"] /= float(self.ops.xp.mean(self.threshold(1.0, u, u)[0]))

    def threshold(self, theta: Scalar | Array, x: Array, u: Array) -> tuple[Scalar | Array, ThresholdBackprop]:
        xp = self.ops.xp
        error = xp.sqrt(xp.sum(u * u, axis=1, keepdims=True)) / u.dtype.type(DIVISOR)
        tau = self.ops.asarray(theta, x.dtype) * error

        def backprop(of_tau: Array) -> tuple[Any, Array | None, Array | None]:
            # τ = θ e, e = ‖u‖ / 50: ∂L/∂θ = Σ ∂L/∂τ e, and ∂e/∂u = u / (50² e), 0 where u = 0.
            factor = theta * of_tau / xp.where(error > 0, DIVISOR**2 * error, xp.ones_like(error))
            return (of_tau * error).sum(), None, factor.astype(u.dtype) * u

        return tau, backprop
