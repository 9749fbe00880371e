"""LAMP: approximate message passing with learned matrices B_t (N, M) and thresholds.

    v_t     = y − A x_t + (‖x_t‖₀ / M) v_{t−1}        v_{−1} = 0
    x_{t+1} = η(x_t + B_t v_t; max(λ_t ‖v_t‖₂ / √M, 0))

Borgerding, Schniter, Rangan, IEEE Trans. Signal Processing 2017.
"""

from __future__ import annotations

from cuista.networks.couplings import FixedOnsager, Onsager
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import NoiseScaled


class Lamp(Network):
    """LAMP, which learns `weight` B_t (T or 1, N, M) and `threshold` λ_t, (T,) or (T, N).

    The λ_t are in units of σ = ‖v_t‖₂ / √M.
    """

    name = "lamp"
    title = "LAMP"
    coupling = Onsager
    shrinkage = NoiseScaled
    matrices = ("weight",)
    selects = False
    step_sizes = False
    can_untie = True

    def matrix_rate(self, nmse_db: float) -> float | tuple[float, ...]:
        # A tied B has no precursor that fits it to the layers, so it has far to go.
        return super().matrix_rate(nmse_db) if self.untied else 1e-3

    def precursor(self) -> Network | None:
        return self.contained(FixedLamp) if self.untied else None


class FixedLamp(Network):
    """LAMP with B_t = α_t Wᵀ and the analytic W, which learns `step_size` α_t (T,) and `threshold` λ_t as LAMP does."""

    name = "lamp-fixed-weight"
    title = "LAMP with a fixed weight"
    coupling = FixedOnsager
    shrinkage = NoiseScaled
    selects = False
