"""Conv-LISTA-CP and Conv-LISTA-CPSS: x_{t+1} = η(x_t + W_t ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t, k_t).

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2. These are the convolutional forms of LISTA-CP and LISTA-CPSS. They learn
W_t and θ_t. Conv-LISTA-CPSS selects the support among all entries of a picture's maps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Unrolled
from cuista.networks.conv import ConvNetwork
from cuista.networks.conv_alista import ConvAlista, OneStepConvAlista


class ConvListaCp(ConvNetwork):
    """Conv-LISTA-CP, which learns `weight` W_t (T or 1, s₁, s₂, F) and `threshold`, (T,) or (T, F)."""

    name = "conv-lista-cp"
    title = "Conv-LISTA-CP"
    matrices: tuple[str, ...] = ("weight",)
    step_sizes = False
    can_untie = True

    def precursor(self) -> Unrolled:
        kind = ConvAlista if self.untied or self.step_sizes else OneStepConvAlista
        form: dict[str, Any] = {"layers": self.layers, "per_filter": self.per_filter}
        return kind(self.operator, self.W, **form, noise=self.noise, sensing=self.sensing)

    def analytic_weights(self, step_sizes: Array) -> Array:
        """The rotated analytic weight multiplied by each of the step sizes, (T or 1, s₁, s₂, F)."""
        factors = self.ops.to_numpy(step_sizes).reshape(len(step_sizes), 1, 1, -1)
        return np.asarray(factors * self.W[::-1, ::-1])

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce a Conv-ALISTA: W_t = α_t W, or α W if all layers share one step size."""
        found = dict(precursor.parameters)
        self.parameters = {"weight": self.analytic_weights(found.pop("step_size")), **found}


class ConvListaCpss(ConvListaCp):
    """Conv-LISTA-CPSS: Conv-LISTA-CP with support selection."""

    name = "conv-lista-cpss"
    title = "Conv-LISTA-CPSS"
    selects = True
