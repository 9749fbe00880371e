"""ALISTA with momentum: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t) + β_t (x_t − x_{t−1}); θ_t, k_t). β_t is learned too.

Chen, Liu, Wang, Yin, *Hyperparameter tuning is all you need for LISTA*, NeurIPS 2021.
"""

from __future__ import annotations

import numpy as np

from cuista.networks.alista import contained_in
from cuista.networks.base import Unrolled
from cuista.networks.couplings import Analytic
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Soft


class MomentumAlista(Network):
    """Momentum ALISTA, which learns `step_size` (T,), `momentum` β_t (T,) and `threshold`, (T,) or (T, N)."""

    name = "alista-momentum"
    title = "momentum ALISTA"
    coupling = Analytic
    shrinkage = Soft
    momentum = True

    def precursor(self) -> Network:
        return contained_in(self)

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce an ALISTA: the momentum is 0."""
        self.parameters = {**precursor.parameters, "momentum": np.zeros(self.layers)}
