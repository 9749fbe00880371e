"""ALISTA with error-based thresholds: θ_t ‖Wᵀ(y − A x_t)‖₂ / 50 for each sample, which fall as its error does.

Li, Wang, Chen, Zhang, Mei, Liu, *Error-based thresholding for sparse coding*, arXiv 2112.10985.
"""

from __future__ import annotations

from typing import ClassVar

from cuista.checks import Array
from cuista.networks.alista import Alista
from cuista.networks.base import Backprop, Gradients, Proposal, State

# A scale by which θ_t is about 1.
DIVISOR = 50.0


class ErrorBasedAlista(Alista):
    """The network. Learned: `step_size` (T,) and `threshold` (T,)."""

    name: ClassVar[str] = "alista-ebt"
    title: ClassVar[str] = "ALISTA-EBT"
    can_coordinate: ClassVar[bool] = False

    def calibrate(self, y: Array) -> None:
        """Make the first layer's mean threshold, and so all others' factor, that of ALISTA."""
        first = self.error(self.ops.matmul(self.ops.asarray(y, self.dtype), self.W))
        self.parameters["threshold"] /= float(self.ops.xp.mean(first))

    def error(self, u: Array) -> Array:
        """‖u‖₂ / 50 for the rows of u, (batch, 1)."""
        norm: Array = self.ops.xp.sqrt(self.ops.xp.sum(u * u, axis=1, keepdims=True)) / u.dtype.type(DIVISOR)
        return norm

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (x, seen) = self.ops, self.ops.xp, state
        alpha, theta = self.parameter("step_size", t), self.parameter("threshold", t)
        u = self.correction(t, x, seen)
        error = self.error(u)
        of_sample = theta.astype(x.dtype) * error
        x_next, code = ops.shrink_select(x, u, alpha, of_sample, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # With τ = θ e, e = ‖u‖ / 50: ∂L/∂θ = Σ ∂L/∂τ e, and ∂L/∂u has ∂L/∂τ θ u / (50² e), 0 where u = 0.
            dz, d_alpha, d_sample = ops.shrink_select_backward(of_state[0], code, x, u, alpha, of_sample, window)
            through_error = theta * d_sample / xp.where(error > 0, DIVISOR**2 * error, xp.ones_like(error))
            du = alpha.astype(dz.dtype) * dz + through_error.astype(u.dtype) * u
            gradients: Gradients = {"step_size": d_alpha, "threshold": (d_sample * error).sum()}
            return (self.correct_back(t, dz, du), None), gradients

        return (x_next, seen), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, seen = state
        u = self.correction(t, x, seen)
        error = self.error(u)
        return lambda alpha, theta: self.ops.shrink_select(x, u, alpha, x.dtype.type(theta) * error, self.support[t])[
            0
        ], float(self.ops.xp.mean(error))

    def fuse(self, signals: object) -> None:
        return None
