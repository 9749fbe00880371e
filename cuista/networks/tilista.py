"""TiLISTA: x_{t+1} = η(x_t + α_t W (y − A x_t); θ_t, k_t), learning one W (N, M) for all layers, α_t and θ_t.

Liu, Chen, Wang, Yin, ICLR 2019. It is LISTA-CPSS with a tied weight and a step size in each layer.
"""

from __future__ import annotations

from typing import ClassVar

from cuista.checks import Array
from cuista.networks.base import Unrolled
from cuista.networks.lista_cp import ListaCpss
from cuista.ops import Scalar


class TiLista(ListaCpss):
    """The network. Learned: `weight` W (1, N, M), `step_size` (T,), and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "tilista"
    title: ClassVar[str] = "TiLISTA"
    can_untie: ClassVar[bool] = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super().shapes, "step_size": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {**super().published_start(), "step_size": self.of_layers(1.0)}

    def step_size(self, t: int) -> Scalar:
        return self.parameter("step_size", t)

    def adopt(self, precursor: Unrolled) -> None:
        """W = Wᵀ, α_t and θ_t of an ALISTA."""
        self.parameters = {"weight": self.analytic_weights(), **precursor.parameters}
