"""ALISTA with momentum: z = x_t + α_t Wᵀ(y − A x_t) + β_t (x_t − x_{t−1}), learning β_t too.

Chen, Liu, Wang, Yin, *Hyperparameter tuning is all you need for LISTA*, NeurIPS 2021.
"""

from __future__ import annotations

from typing import ClassVar

from cuista.checks import Array
from cuista.networks.alista import Alista, contained_in
from cuista.networks.base import Backprop, Gradients, Network, Proposal, State, Unrolled, constant_start


class MomentumAlista(Alista):
    """The network. Learned: `step_size` (T,), `momentum` β_t (T,), and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "alista-momentum"
    title: ClassVar[str] = "momentum ALISTA"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super().shapes, "momentum": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {**super().published_start(), "momentum": self.of_layers(0.0)}

    def begin(self, y: Array) -> tuple[State, Backprop]:
        (x, Wy), _ = super().begin(y)
        return (x, Wy, x), constant_start  # x_0, Wᵀy, x_{−1}

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (x, Wy, x_before) = self.ops, state
        alpha, theta = self.parameter("step_size", t), self.parameter("threshold", t)
        beta = self.parameter("momentum", t).astype(x.dtype)
        u, change = self.correction(t, x, Wy), x - x_before
        ahead = x + beta * change
        x_next, code = ops.shrink_select(ahead, u, alpha, theta, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = x + β (x − x₋) + α u; x_t is also the x₋ of the next layer.
            delta, _, of_before = of_state
            dz, d_alpha, d_theta = ops.shrink_select_backward(delta, code, ahead, u, alpha, theta, window)
            of_change = beta * dz
            d_beta = (dz.astype("float64") * change).sum()
            of_x = self.correct_back(t, dz, alpha.astype(dz.dtype) * dz) + of_change
            if of_before is not None:
                of_x += of_before
            return (of_x, None, -of_change), {"step_size": d_alpha, "momentum": d_beta, "threshold": d_theta}

        return (x_next, Wy, x), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        raise NotImplementedError  # it starts from an ALISTA

    def precursor(self) -> Network:
        return contained_in(self, True)

    def adopt(self, precursor: Unrolled) -> None:
        """Become an ALISTA: no momentum."""
        self.parameters = {**precursor.parameters, "momentum": self.of_layers(0.0)}
