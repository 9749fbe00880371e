"""ALISTA-EBT: x_{t+1} = η(x_t + α_t u; θ_t ‖u‖₂ / 50, k_t) with u = Wᵀ(y − A x_t), a threshold for each sample.

Li, Wang, Chen, Zhang, Mei, Liu, *Error-based thresholding for sparse coding*, arXiv 2112.10985.
"""

from __future__ import annotations

from cuista.checks import Array
from cuista.networks.alista import Alista
from cuista.networks.shrinkages import ErrorBased


class ErrorBasedAlista(Alista):
    """The network. Learned: `step_size` (T,) and `threshold` (T,)."""

    name = "alista-ebt"
    title = "ALISTA-EBT"
    shrinkage = ErrorBased
    can_coordinate = False
    starts_relative = True

    def calibrate(self, y: Array) -> None:
        """Make the first layer's mean threshold that of ALISTA."""
        state, _ = self.begin(self.ops.asarray(y, self.dtype))
        self.parameters["threshold"] /= self.propose(0, state)[1]
