"""Conv-TiLISTA: x_{t+1} = η(x_t + α_t W ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t), learning one W for all layers, α_t and θ_t.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2.
"""

from __future__ import annotations

import numpy as np

from cuista.networks.base import Unrolled
from cuista.networks.conv_lista_cp import ConvListaCp


class ConvTiLista(ConvListaCp):
    """The network. Learned: `weight` W (1, s₁, s₂, F), `step_size` (T,) and `threshold` (T,)."""

    name = "conv-tilista"
    title = "Conv-TiLISTA"
    step_sizes = True
    can_untie = False

    def adopt(self, precursor: Unrolled) -> None:
        """W = W̄ α₀, α_t / α₀ and θ_t of a Conv-ALISTA with the weight W̄: so Adam finds all of a size."""
        steps = self.ops.to_numpy(precursor.parameters["step_size"])
        first = steps[:1].copy()
        self.parameters = {
            "weight": self.analytic_weights(first),
            "step_size": np.asarray(steps / first),
            "threshold": precursor.parameters["threshold"],
        }
