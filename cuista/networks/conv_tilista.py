"""Conv-TiLISTA: x_{t+1} = η(x_t + α_t W ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t), learning one W for all layers, α_t and θ_t.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Unrolled
from cuista.networks.conv_lista_cp import ConvListaCp
from cuista.ops import Scalar


class ConvTiLista(ConvListaCp):
    """The network. Learned: `weight` W (1, s₁, s₂, F), `step_size` (T,) and `threshold` (T,)."""

    name: ClassVar[str] = "conv-tilista"
    title: ClassVar[str] = "Conv-TiLISTA"
    can_untie: ClassVar[bool] = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super().shapes, "step_size": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {**super().published_start(), "step_size": self.of_layers(1.0)}

    def step_size(self, t: int) -> Scalar:
        return self.parameter("step_size", t)

    def adopt(self, precursor: Unrolled) -> None:
        """W = W̄ α₀, α_t / α₀ and θ_t of a Conv-ALISTA with the weight W̄: so Adam finds all of a size."""
        steps = self.ops.to_numpy(precursor.parameters["step_size"])
        first = steps[:1].copy()
        self.parameters = {
            "weight": self.analytic_weights(first),
            "step_size": np.asarray(steps / first),
            "threshold": precursor.parameters["threshold"],
        }
