"""ALISTA-AT: ALISTA with a threshold θ_t / (|x_t| / 0.1 + 1) for each entry, lower where the iterate is large.

Kim, Park, *Element-wise adaptive thresholds for learned iterative shrinkage thresholding algorithms*, IEEE Access 2020.
"""

from __future__ import annotations

from typing import ClassVar

from cuista.checks import Array
from cuista.networks.alista import Alista
from cuista.networks.base import Backprop, Gradients, Proposal, State

# |x| at which the threshold is halved.
HALF = 0.1


class AdaptiveAlista(Alista):
    """The network. Learned: `step_size` (T,) and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "alista-at"
    title: ClassVar[str] = "ALISTA-AT"

    def share(self, x: Array) -> Array:
        """g(x) = 1 / (|x| / 0.1 + 1), (batch, N), by which the threshold is multiplied."""
        share: Array = 1 / (self.ops.xp.abs(x) / x.dtype.type(HALF) + 1)
        return share

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (x, seen) = self.ops, self.ops.xp, state
        alpha, theta = self.parameter("step_size", t), self.parameter("threshold", t)
        share, u = self.share(x), self.correction(t, x, seen)
        of_entry = theta.astype(x.dtype) * share
        x_next, code = ops.shrink_select(x, u, alpha, of_entry, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # With τ = θ g(x): ∂L/∂θ = Σ ∂L/∂τ g, and ∂L/∂x has ∂L/∂τ θ g'(x), g' = −g² sign(x) / 0.1.
            dz, d_alpha, d_entry = ops.shrink_select_backward(of_state[0], code, x, u, alpha, of_entry, window)
            d_theta = (d_entry * share).sum(axis=0)
            of_x = self.correct_back(t, dz, alpha.astype(dz.dtype) * dz)
            of_x -= (d_entry * of_entry * share).astype(x.dtype) * xp.sign(x) / x.dtype.type(HALF)
            return (of_x, None), {"step_size": d_alpha, "threshold": d_theta if theta.ndim else d_theta.sum()}

        return (x_next, seen), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, seen = state
        share, u = self.share(x), self.correction(t, x, seen)
        return lambda alpha, theta: self.ops.shrink_select(x, u, alpha, x.dtype.type(theta) * share, self.support[t])[
            0
        ], float(self.ops.xp.mean(share))

    def fuse(self, signals: object) -> None:
        return None
