"""LISTA-CP and LISTA-CPSS: x_{t+1} = η(x_t + W_t (y − A x_t); θ_t, k_t), learning W_t (N, M) and θ_t.

Chen, Liu, Wang, Yin, NeurIPS 2018: the weights of ISTA coupled (CP), and with support selection (SS).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.alista import contained_in
from cuista.networks.base import Backprop, Gradients, Network, OuterSum, State, Unrolled
from cuista.ops import Scalar


class ListaCp(Network):
    """LISTA-CP. Learned: `weight` W_t (T or 1, N, M) and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "lista-cp"
    title: ClassVar[str] = "LISTA-CP"
    selects: ClassVar[bool] = False
    matrices: ClassVar[tuple[str, ...]] = ("weight",)
    can_untie: ClassVar[bool] = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.stack, self.N, self.M), "threshold": self.threshold_shape}

    def published_start(self) -> dict[str, Array]:
        weight, theta = self.ista_start()
        return {"weight": np.tile(weight, (self.stack, 1, 1)), "threshold": self.thresholds(theta)}

    def step_size(self, t: int) -> Scalar:
        """α_t: 1, for W_t has it in it."""
        return self.one

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (x, y) = self.ops, state
        W, alpha, theta = self.parameter("weight", t), self.step_size(t), self.parameter("threshold", t)
        r = y - ops.sparse_matmul(x, self.A_transposed) if t > 0 else y  # x_0 = 0
        u = ops.matmul(r, W.T)
        x_next, code = ops.shrink_select(x, u, alpha, theta, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = x + α r Wᵀ with r = y − x Aᵀ: ∂L/∂W = Σ α dz ⊗ r and ∂L/∂x = dz − α dz W A.
            dz, d_alpha, d_theta = ops.shrink_select_backward(of_state[0], code, x, u, alpha, theta, window)
            scaled = dz if alpha is self.one else dz * alpha.astype(dz.dtype)
            gradients: Gradients = {"weight": OuterSum(scaled, r), "threshold": d_theta, "step_size": d_alpha}
            of_x = dz - ops.matmul(ops.sparse_matmul(scaled, W), self.A) if t > 0 else dz
            return (of_x, None), gradients

        return (x_next, y), backprop

    def precursor(self) -> Network:
        return contained_in(self, self.untied or "step_size" in self.shapes)

    def adopt(self, precursor: Unrolled) -> None:
        """W_t = α_t Wᵀ of an ALISTA, whose step sizes are folded into the weights."""
        weight = self.analytic_weights(precursor.parameters["step_size"] if self.untied else None)
        self.parameters = {"weight": weight, "threshold": precursor.parameters["threshold"]}


class ListaCpss(ListaCp):
    """LISTA-CPSS: LISTA-CP with support selection."""

    name: ClassVar[str] = "lista-cpss"
    title: ClassVar[str] = "LISTA-CPSS"
    selects: ClassVar[bool] = True
