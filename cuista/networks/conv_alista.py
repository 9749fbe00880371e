"""Conv-ALISTA: x_{t+1} = η(x_t + α_t W ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t), where only α_t and θ_t are learned.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2. W is the analytic weight of the dictionary, rotated by 180°.
"""

from __future__ import annotations

import numpy as np

from cuista.checks import Array
from cuista.networks.conv import LAM, SCALE, ConvNetwork
from cuista.operators.convolution import polyphase


class ConvAlista(ConvNetwork):
    """Conv-ALISTA, which learns `step_size` and `threshold`, (T,) or (T, F)."""

    name = "conv-alista"
    title = "Conv-ALISTA"
    # Whether all layers share one step size.
    one_step = False

    def published_start(self) -> dict[str, Array]:
        return {"step_size": self.full(SCALE, self.steps), **self.thresholds(LAM * SCALE)}

    @property
    def steps(self) -> int:
        """The number of layers that have a step size of their own."""
        return 1 if self.one_step else self.layers

    def fast_start(self) -> dict[str, Array]:
        """Step sizes are 1/L, where L is the largest |Σ_m ŵ_m* d̂_m| of all frequencies; thresholds are λ/(5 L).

        Apart from the borders, the Σ_m ŵ_m* d̂_m are the eigenvalues of x ↦ W ⋆ (Σ_m d_m ⋆ x_m), where W is the rotated
        analytic weight. With a stride, they are those of P_D P_Wᴴ, with the filters' polyphase components P.
        """
        if self.stride > 1:
            phases = [polyphase(filters, self.stride, (16, 16)) for filters in (self.operator.D, self.W)]
            eigenvalues = (np.linalg.eigvals(D @ W.conj().swapaxes(1, 2)) for D, W in zip(*phases, strict=True))
            step = 1 / max(float(np.abs(each).max()) for each in eigenvalues)
        else:
            period = [max(8 * size, 64) for size in self.filter_shape]
            D, W = (np.fft.rfft2(filters, period, axes=(0, 1)) for filters in (self.operator.D, self.W))
            step = 1 / float(np.abs((W.conj() * D).sum(axis=2)).max())
        return {"step_size": self.full(step, self.steps), **self.thresholds(LAM * step / 5)}


class OneStepConvAlista(ConvAlista):
    """Conv-ALISTA with one step size for all layers; networks with one learned weight and no step sizes contain it."""

    name = "conv-alista-one-step"
    one_step = True
