"""Conv-LISTA-CP and Conv-LISTA-CPSS: x_{t+1} = η(x_t + W_t ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t, k_t), learning W_t and θ_t.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2: the convolutional forms of LISTA-CP and, with support selection among all
entries of a picture's maps, LISTA-CPSS.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Unrolled
from cuista.networks.conv import LAM, SCALE, ConvNetwork
from cuista.networks.conv_alista import ConvAlista, OneStepConvAlista


class ConvListaCp(ConvNetwork):
    """Conv-LISTA-CP. Learned: `weight` W_t (T or 1, s₁, s₂, F) and `threshold` (T,)."""

    name: ClassVar[str] = "conv-lista-cp"
    title: ClassVar[str] = "Conv-LISTA-CP"
    matrices: ClassVar[tuple[str, ...]] = ("weight",)
    can_untie: ClassVar[bool] = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.stack, *self.sources[0].shape), "threshold": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        rotated = SCALE * self.sources[0][::-1, ::-1]
        return {"weight": np.tile(rotated, (self.stack, 1, 1, 1)), "threshold": self.of_layers(LAM * SCALE)}

    def weight(self, t: int) -> Array:
        return self.parameter("weight", t)

    def precursor(self) -> Unrolled:
        kind = ConvAlista if self.untied or "step_size" in self.shapes else OneStepConvAlista
        return kind(*self.sources, layers=self.layers, ops=self.ops, dtype=self.dtype)

    def adopt(self, precursor: Unrolled) -> None:
        """W_t = α_t W of a Conv-ALISTA, or α W if there is one for all layers."""
        weight = self.analytic_weights(precursor.parameters["step_size"])
        self.parameters = {"weight": weight, "threshold": precursor.parameters["threshold"]}


class ConvListaCpss(ConvListaCp):
    """Conv-LISTA-CPSS: Conv-LISTA-CP with support selection."""

    name: ClassVar[str] = "conv-lista-cpss"
    title: ClassVar[str] = "Conv-LISTA-CPSS"
    selects: ClassVar[bool] = True
