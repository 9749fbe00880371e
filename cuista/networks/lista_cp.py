"""LISTA-CP and LISTA-CPSS: x_{t+1} = η(x_t + W_t (y − A x_t); θ_t, k_t), where W_t (N, M) and θ_t are learned.

Chen, Liu, Wang, Yin, NeurIPS 2018. CP stands for the coupling of ISTA's weights, and SS for support selection.
"""

from __future__ import annotations

from cuista.networks.alista import contained_in
from cuista.networks.couplings import Learned
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Soft


class ListaCp(Network):
    """LISTA-CP, which learns `weight` W_t (T or 1, N, M) and `threshold`, (T,) or (T, N)."""

    name = "lista-cp"
    title = "LISTA-CP"
    coupling = Learned
    shrinkage = Soft
    matrices = ("weight",)
    selects = False
    step_sizes = False
    can_untie = True

    def precursor(self) -> Network:
        return contained_in(self)


class ListaCpss(ListaCp):
    """LISTA-CPSS: LISTA-CP with support selection."""

    name = "lista-cpss"
    title = "LISTA-CPSS"
    selects = True
