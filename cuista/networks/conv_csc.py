"""Conv-CSC: x_{t+1} = η(x_t + W_t ⋆ (f − Σ_m d_{t,m} ⋆ x_{t,m}); θ_t), with the result Σ_m c_m ⋆ x_{T,m}.

Simon, Elad, NeurIPS 2019 (CSCNet): the filters W of the analysis, D of the synthesis and C of the output are learned,
one of each for all layers, and thresholds for each filter. By default, each layer has its own W_t and D_t, as in CDLNet
(Janjušević, Khalilian-Gourtani, Wang, IEEE Open J. Signal Processing 2022). Here, D and C start as the dictionary, and
W as its analytic weight for the stride of the maps, so that the network starts as the Conv-ALISTA that it contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Unrolled
from cuista.networks.conv_lista_cp import ConvListaCp
from cuista.operators import Convolution


class ConvCsc(ConvListaCp):
    """Conv-CSC, which learns `weight` and `synthesis`, (T, s₁, s₂, F) each, and `threshold` (T, F).

    Layer t synthesises its picture with `synthesis[t]`, so that the last filters are those of the output. If layers are
    not `untied`, `weight` and `synthesis` are (1, s₁, s₂, F), and the last layer has an `output` (1, s₁, s₂, F).
    """

    name = "conv-csc"
    title = "Conv-CSC"
    matrices: tuple[str, ...] = ("weight", "synthesis", "output")
    last = ("output",)
    usual_stride = 2
    # The Conv-ALISTA that it contains is trained for a few steps only, because everything is learned after it.
    recipe: ClassVar[Mapping[str, Any]] = {"batch": 8, "max_steps": 50, "matrix_steps": 16_000, "fine_rate": 2e-2}

    def __init__(
        self,
        operator: Convolution,
        W: Array,
        *,
        layers: int = 16,
        per_filter: bool = True,
        untied: bool = True,
        **options: Any,
    ) -> None:
        if untied:
            self.matrices = ("weight", "synthesis")
        super().__init__(operator, W, layers=layers, per_filter=per_filter, untied=untied, **options)

    def published_start(self) -> dict[str, Array]:
        return {**super().published_start(), **self._dictionaries()}

    def _dictionaries(self) -> dict[str, Array]:
        repeated = np.tile(self.operator.D, (self.stack, 1, 1, 1))
        return {name: repeated for name in self.matrices if name != "weight"}

    def synthesis(self, t: int) -> str:
        return "output" if "output" in self.matrices and t == self.layers - 1 else "synthesis"

    def rate_of(self, name: str, nmse_db: float) -> float:
        # The entries of the analysis are several times as small as those of the dictionaries. The more layers there
        # are, the less each may change: at twice these rates, sixteen layers diverge.
        return min(1.0, 8 / self.layers) * (1.6e-3 if name == "weight" else 4e-3)

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce a Conv-ALISTA: W is multiplied by its step sizes, and D and C are the dictionary."""
        super().adopt(precursor)
        self.parameters = {**self.parameters, **self._dictionaries()}
