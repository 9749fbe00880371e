"""ALISTA-EBT has a threshold for each sample: x_{t+1} = η(x_t + α_t u; θ_t ‖u‖₂ / 50, k_t) with u = Wᵀ(y − A x_t).

Li, Wang, Chen, Zhang, Mei, Liu, *Error-based thresholding for sparse coding*, arXiv 2112.10985.
"""

from __future__ import annotations

from cuista.checks import Array
from cuista.networks.couplings import Analytic
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import ErrorBased


class ErrorBasedAlista(Network):
    """ALISTA-EBT, which learns `step_size` (T,) and `threshold` (T,)."""

    name = "alista-ebt"
    title = "ALISTA-EBT"
    coupling = Analytic
    shrinkage = ErrorBased
    can_coordinate = False
    starts_relative = True

    def calibrate(self, y: Array) -> None:
        """Scale the thresholds so that their mean in the first layer is the threshold of ALISTA."""
        y, _ = self.in_units(self.ops.asarray(y, self.input_dtype))
        state, _ = self.begin(y)
        self.parameters["threshold"] /= self.propose(0, state)[1]
