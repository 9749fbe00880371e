"""ALISTA-AT: ALISTA with a threshold θ_t / (|x_t| / 0.1 + 1) for each entry, lower where the iterate is large.

Kim, Park, *Element-wise adaptive thresholds for learned iterative shrinkage thresholding algorithms*, IEEE Access 2020.
"""

from __future__ import annotations

from typing import Any, ClassVar

from cuista.checks import Array
from cuista.networks.alista import Alista, ThresholdBackprop
from cuista.ops import Scalar

# |x| at which the threshold is halved.
HALF = 0.1


class AdaptiveAlista(Alista):
    """The network. Learned: `step_size` (T,) and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "alista-at"
    title: ClassVar[str] = "ALISTA-AT"

    def threshold(self, theta: Scalar | Array, x: Array, u: Array) -> tuple[Scalar | Array, ThresholdBackprop]:
        share = 1 / (self.ops.xp.abs(x) / x.dtype.type(HALF) + 1)
        tau = self.ops.asarray(theta, x.dtype) * share

        def backprop(of_tau: Array) -> tuple[Any, Array | None, Array | None]:
            # τ = θ g(x), g' = −g² sign(x) / 0.1: ∂L/∂θ = Σ ∂L/∂τ g, over the batch or over all.
            of_theta = (of_tau * share).sum(axis=0)
            of_x = -(of_tau * tau * share).astype(x.dtype) * self.ops.xp.sign(x) / x.dtype.type(HALF)
            return of_theta if self.per_coordinate else of_theta.sum(), of_x, None

        return tau, backprop
