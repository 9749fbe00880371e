"""Conv-ALISTA: x_{t+1} = η(x_t + α_t W ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t), learning only α_t and θ_t.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2. W is the analytic weight of the dictionary, rotated by 180°.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.conv import LAM, SCALE, ConvNetwork
from cuista.ops import Scalar


class ConvAlista(ConvNetwork):
    """The network. Learned: `step_size` (T,) and `threshold` (T,)."""

    name: ClassVar[str] = "conv-alista"
    title: ClassVar[str] = "Conv-ALISTA"

    def _prepare(self) -> None:
        super()._prepare()
        self.W = self.ops.asarray(self.sources[1][::-1, ::-1], self.dtype)

    @property
    def steps(self) -> int:
        """How many step sizes there are."""
        return self.layers

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"step_size": (self.steps,), "threshold": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {"step_size": np.full(self.steps, SCALE), "threshold": self.of_layers(LAM * SCALE)}

    def fast_start(self) -> dict[str, Array]:
        step = self.first_step()
        return {"step_size": np.full(self.steps, step), "threshold": self.of_layers(LAM * step / 5)}

    def weight(self, t: int) -> Array:
        return self.W

    def step_size(self, t: int) -> Scalar:
        return self.parameter("step_size", t)


class OneStepConvAlista(ConvAlista):
    """Conv-ALISTA with one step size for all layers: what a network with one learned weight and none contains."""

    name: ClassVar[str] = "conv-alista-one-step"

    @property
    def steps(self) -> int:
        return 1
