"""Conv-TiLISTA: x_{t+1} = η(x_t + α_t W ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t), where α_t, θ_t and one W are learned.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2.
"""

from __future__ import annotations

import numpy as np

from cuista.networks.base import Unrolled
from cuista.networks.conv_lista_cp import ConvListaCp


class ConvTiLista(ConvListaCp):
    """Conv-TiLISTA, which learns `weight` W (1, s₁, s₂, F), `step_size` and `threshold`, (T,) or (T, F)."""

    name = "conv-tilista"
    title = "Conv-TiLISTA"
    step_sizes = True
    can_untie = False

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce a Conv-ALISTA with the weight W̄: W = α₀ W̄, step sizes α_t / α₀, and θ_t.

        Scaling by α₀ gives the parameters similar sizes, as suits Adam.
        """
        steps = self.ops.to_numpy(precursor.parameters["step_size"])
        first = steps[:1].copy()
        own = {"weight": self.analytic_weights(first), "step_size": np.asarray(steps / first)}
        self.parameters = {**precursor.parameters, **own}
