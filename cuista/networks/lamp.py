"""LAMP: approximate message passing with learned matrices B_t (N, M) and thresholds.

    v_t     = y − A x_t + (‖x_t‖₀ / M) v_{t−1}        v_{−1} = 0
    x_{t+1} = η(x_t + B_t v_t; max(λ_t ‖v_t‖₂ / √M, 0))

Borgerding, Schniter, Rangan, IEEE Trans. Signal Processing 2017. The middle term of v is Onsager's correction: with it
‖v‖₂/√M estimates the standard deviation σ of the error in the argument of η.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import LAM, Backprop, Gradients, Network, OuterSum, Proposal, State, Unrolled, constant_start
from cuista.ops import Scalar


class Lamp(Network):
    """The network. Learned: `weight` B_t (T or 1, N, M) and `threshold` λ_t (T,), in units of σ."""

    name: ClassVar[str] = "lamp"
    title: ClassVar[str] = "LAMP"
    selects: ClassVar[bool] = False
    matrices: ClassVar[tuple[str, ...]] = ("weight",)
    can_untie: ClassVar[bool] = True
    can_coordinate: ClassVar[bool] = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.stack, self.N, self.M), "threshold": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {"weight": np.tile(self.ista_start()[0], (self.stack, 1, 1)), "threshold": self.of_layers(LAM)}

    def fast_start(self) -> dict[str, Array]:
        return {**self.published_start(), "weight": self.analytic_weights()}

    def matrix_rate(self, nmse_db: float) -> float | tuple[float, ...]:
        # Tied, B is not fitted to the layers yet, and has far to go.
        return super().matrix_rate(nmse_db) if self.untied else 1e-3

    def begin(self, y: Array) -> tuple[State, Backprop]:
        return (self.zeros(y), None, y), constant_start  # x_0, v_{−1}, y

    def step_size(self, t: int) -> Scalar:
        """α_t: 1, for B_t has it in it."""
        return self.one

    def residual(self, t: int, state: State) -> tuple[Array, Array | None, Array]:
        """v_t (batch, M); the factor of v_{t−1} in it, (batch, 1) or None in layer 0; and σ (batch, 1)."""
        xp, (x, v_before, y) = self.ops.xp, state
        v, onsager = y, None
        if t > 0:  # x_0 = 0
            onsager = xp.count_nonzero(x, axis=1)[:, None].astype(x.dtype) / x.dtype.type(self.M)
            v = y - self.ops.sparse_matmul(x, self.A_transposed) + onsager * v_before
        sigma = xp.sqrt(xp.sum(v * v, axis=1, keepdims=True) / v.dtype.type(self.M))
        return v, onsager, sigma

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (x, _, y) = self.ops, self.ops.xp, state
        B, alpha, factor = self.parameter("weight", t), self.step_size(t), self.parameter("threshold", t)
        v, onsager, sigma = self.residual(t, state)
        u = ops.matmul(v, B.T)
        theta = xp.maximum(factor * sigma, 0)
        x_next, code = ops.shrink_select(x, u, alpha, theta, 0, window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = x + α v Bᵀ, θ = max(λσ, 0), ∂σ/∂v = v / (M σ), 0 where v = 0; ‖x‖₀ is a constant.
            delta, of_v, _ = of_state
            dz, d_alpha, d_theta = ops.shrink_select_backward(delta, code, x, u, alpha, theta, window)
            d_theta = xp.where(factor * sigma > 0, d_theta, xp.zeros_like(d_theta))
            scaled = dz if alpha is self.one else dz * alpha.astype(dz.dtype)
            d_factor = xp.sum(d_theta * sigma)
            gradients: Gradients = {"weight": OuterSum(scaled, v), "threshold": d_factor, "step_size": d_alpha}
            through_sigma = factor * d_theta / xp.where(sigma > 0, self.M * sigma, xp.ones_like(sigma))
            dv = ops.sparse_matmul(scaled, B) + through_sigma.astype(v.dtype) * v
            if of_v is not None:
                dv += of_v
            if onsager is None:
                return (dz, None, None), gradients
            return (dz - ops.matmul(dv, self.A), onsager * dv, None), gradients

        return (x_next, v, y), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, (v, _, sigma) = state[0], self.residual(t, state)
        u = self.ops.matmul(v, self.parameter("weight", t).T)

        def proposal(alpha: float, factor: float) -> Array:
            return self.ops.shrink_select(x, u, alpha, factor * sigma, 0)[0]

        return proposal, float(self.ops.xp.mean(sigma))

    def precursor(self) -> Network | None:
        if not self.untied:
            return None
        return FixedLamp(*self.sources, layers=self.layers, ops=self.ops, dtype=self.dtype)

    def adopt(self, precursor: Unrolled) -> None:
        """B_t = α_t Wᵀ of a LAMP with that and step sizes."""
        weight = self.analytic_weights(precursor.parameters["step_size"])
        self.parameters = {"weight": weight, "threshold": precursor.parameters["threshold"]}


class FixedLamp(Lamp):
    """LAMP with B_t = α_t Wᵀ, W analytic. Learned: `step_size` α_t (T,) and `threshold` λ_t (T,)."""

    name: ClassVar[str] = "lamp-fixed-weight"
    matrices: ClassVar[tuple[str, ...]] = ()
    can_untie: ClassVar[bool] = False

    def _prepare(self) -> None:
        super()._prepare()
        self.weight = self.ops.asarray(self.sources[1].T, self.dtype)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"step_size": (self.layers,), "threshold": (self.layers,)}

    def published_start(self) -> dict[str, Array]:
        return {"step_size": self.of_layers(1.0), "threshold": self.of_layers(LAM)}

    def fast_start(self) -> dict[str, Array]:
        return self.published_start()

    def parameter(self, name: str, t: int) -> Array:
        return self.weight if name == "weight" else super().parameter(name, t)

    def step_size(self, t: int) -> Scalar:
        return self.parameter("step_size", t)
