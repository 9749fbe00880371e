"""LIHT: x_{t+1} = H(B y + W_t x_t; θ_t) with hard thresholding H(z; θ) = z·[|z| > θ], learning B, W_t and θ_t.

Xin, Wang, Gao, Wipf, NeurIPS 2016. H has derivative 0 in θ almost everywhere, so the paper recipe leaves θ where it is.
The fast one fits it without derivatives, and then takes the jump at θ for a ramp (`ReferenceOps.hard_threshold`).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Proposal, State
from cuista.networks.lista import Lista


class Liht(Lista):
    """The network. Learned: `input_weight` B (1, N, M), `weight` W_t (T or 1, N, N), `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "liht"
    title: ClassVar[str] = "LIHT"

    def published_start(self) -> dict[str, Array]:
        # The λ‖x‖₀ that hard thresholding minimises has the threshold √(2λ / scale).
        theta = np.sqrt(2 * self.ista_start()[1])
        return {**super().published_start(), "threshold": self.thresholds(theta)}

    def fast_start(self) -> dict[str, Array]:
        return {**self.published_start(), **self._from_input_weight(self.sources[1].T)}

    def precursor(self) -> None:
        return None

    def shrink(self, t: int, By: Array, Wx: Array, theta: Array, window: float) -> tuple[Array, Array]:
        return self.ops.hard_threshold(By + Wx, self.clamped(theta), window)

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, By = state
        z = By + self.ops.matmul(x, self.parameter("weight", t).T)
        return lambda _, theta: self.ops.hard_threshold(z, theta)[0], 1.0
