"""TiLISTA: x_{t+1} = η(x_t + α_t W (y − A x_t); θ_t, k_t), where α_t, θ_t and one W (N, M) are learned.

Liu, Chen, Wang, Yin, ICLR 2019. It is LISTA-CPSS with a tied weight and a step size in each layer.
"""

from __future__ import annotations

from cuista.networks.alista import contained_in
from cuista.networks.base import Unrolled
from cuista.networks.couplings import Learned
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Soft


class TiLista(Network):
    """TiLISTA, which learns `weight` W (1, N, M), `step_size` (T,) and `threshold`, (T,) or (T, N)."""

    name = "tilista"
    title = "TiLISTA"
    coupling = Learned
    shrinkage = Soft
    matrices = ("weight",)

    def precursor(self) -> Network:
        return contained_in(self)

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce an ALISTA: its α_t and θ_t, and the conjugate transpose of its weight as W."""
        self.parameters = {**self.parameters, "weight": self.W.conj().T[None], **precursor.parameters}
