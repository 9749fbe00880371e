"""ALISTA: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t); θ_t, k_t), where only step sizes α_t and thresholds θ_t are learned.

Liu, Chen, Wang, Yin, ICLR 2019. W is the analytic weight, which is not trained.
"""

from __future__ import annotations

from cuista.networks.couplings import Analytic
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Soft
from cuista.ops import FusedStep, Signals


class Alista(Network):
    """ALISTA, which learns `step_size` (T,) and `threshold`, (T,) or (T, N)."""

    name = "alista"
    title = "ALISTA"
    coupling = Analytic
    shrinkage = Soft

    def fuse(self, signals: Signals) -> FusedStep | None:
        couple = self.couple
        if type(self) is not Alista or not isinstance(couple, Analytic) or not couple.formed or self.per_coordinate:
            return None  # the kernel needs exactly this network, WᵀA, and one threshold per layer
        signals = signals._replace(unit=self.unit)
        backward = couple.packed_adjoint  # first, as the factor is there until it is packed itself
        return self.ops.fuse_alista(signals, couple.W, couple.packed, backward, self.positive, self.joint)


class UnitAlista(Alista):
    """ALISTA with all step sizes 1, which is contained in networks with one matrix for all layers and no step sizes."""

    name = "alista-unit-steps"
    title = "ALISTA with unit steps"
    step_sizes = False


def contained_in(network: Network) -> Network:
    """The ALISTA that a network with learned matrices contains.

    Its step sizes are 1 if the network cannot represent others.
    """
    return network.contained(Alista if network.untied or network.step_sizes else UnitAlista)
