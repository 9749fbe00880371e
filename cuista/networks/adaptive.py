"""ALISTA-AT has a threshold for each entry: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t); θ_t / (|x_t| / 0.1 + 1), k_t).

Kim, Park, *Element-wise adaptive thresholds for learned iterative shrinkage thresholding algorithms*, IEEE Access 2020.
"""

from __future__ import annotations

from cuista.networks.couplings import Analytic
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Adaptive


class AdaptiveAlista(Network):
    """ALISTA-AT, which learns `step_size` (T,) and `threshold`, (T,) or (T, N)."""

    name = "alista-at"
    title = "ALISTA-AT"
    coupling = Analytic
    shrinkage = Adaptive
