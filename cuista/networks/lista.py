"""LISTA and LISTA-SS: x_{t+1} = η(B y + W_t x_t; max(θ_t, 0), k_t), learning B (N, M), W_t (N, N) and θ_t.

Gregor, LeCun, ICML 2010; support selection (SS): Chen, Liu, Wang, Yin, NeurIPS 2018.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.alista import contained_in
from cuista.networks.base import Backprop, Gradients, Network, OuterSum, State, Unrolled


class Lista(Network):
    """LISTA. Learned: `input_weight` B (1, N, M), `weight` W_t (T or 1, N, N), `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "lista"
    title: ClassVar[str] = "LISTA"
    selects: ClassVar[bool] = False
    matrices: ClassVar[tuple[str, ...]] = ("input_weight", "weight")
    can_untie: ClassVar[bool] = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        N = self.N
        return {"input_weight": (1, N, self.M), "weight": (self.stack, N, N), "threshold": self.threshold_shape}

    def published_start(self) -> dict[str, Array]:
        B, theta = self.ista_start()
        return {**self._from_input_weight(B), "threshold": self.thresholds(theta)}

    def _from_input_weight(self, B: Array) -> dict[str, Array]:
        """B and W_t = I − B A, with which a layer is a step x + B (y − A x)."""
        W = np.eye(self.N) - B @ self.sources[0]
        return {"input_weight": B[None], "weight": np.tile(W, (self.stack, 1, 1))}

    def begin(self, y: Array) -> tuple[State, Backprop]:
        ops = self.ops

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # Every layer adds its dz to ∂L/∂(B y).
            return (), {"input_weight": OuterSum(of_state[1], y)}

        return (self.zeros(y), ops.matmul(y, self.parameter("input_weight", 0).T)), backprop

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (x, By) = self.ops, state
        W, theta = self.parameter("weight", t), self.parameter("threshold", t)
        Wx = ops.matmul(x, W.T) if t > 0 else x  # x_0 = 0
        x_next, code = self.shrink(t, By, Wx, theta, window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = By + x Wᵀ: ∂L/∂W = Σ dz ⊗ x and ∂L/∂x = dz W.
            delta, of_By = of_state
            dz, _, d_theta = ops.shrink_select_backward(delta, code, By, Wx, self.one, self.clamped(theta), window)
            of_By = dz if of_By is None else of_By + dz
            gradients: Gradients = {"threshold": d_theta * (theta > 0)}
            if t > 0:
                gradients["weight"] = OuterSum(dz, x)
                dz = ops.sparse_matmul(dz, W)
            return (dz, of_By), gradients

        return (x_next, By), backprop

    def clamped(self, theta: Array) -> Array:
        """max(θ, 0)."""
        clamped: Array = self.ops.xp.maximum(theta, 0)
        return clamped

    def shrink(self, t: int, By: Array, Wx: Array, theta: Array, window: float) -> tuple[Array, Array]:
        """The next iterate η(B y + W x), and its codes."""
        return self.ops.shrink_select(By, Wx, self.one, self.clamped(theta), self.support[t], window)

    def matrix_rate(self, nmse_db: float) -> float:
        # A change of W_t is multiplied by x, not by the residual: it must be small beside the error.
        return float(1e-3 * 10 ** (nmse_db / 20))

    def precursor(self) -> Network | None:
        return contained_in(self, self.untied)

    def adopt(self, precursor: Unrolled) -> None:
        """Become an ALISTA: B = Wᵀ and W_t = I − WᵀA if its step sizes are 1.

        With other step sizes B would have to be α_t Wᵀ, and it is the same in all layers. But η is odd and
        positively homogeneous, so that iterates c_t x_t can be computed instead, with c_{t+1} α_t = α_{T−1} for all t:
        B = α_{T−1} Wᵀ, W_t = c_{t+1}/c_t (I − α_t WᵀA) and θ_t |c_{t+1}|. The last iterate is what it was, for c_T = 1.
        """
        A, W = self.sources
        start = self._from_input_weight(W.T)
        alista = {name: self.ops.to_numpy(value) for name, value in precursor.parameters.items()}
        theta = alista["threshold"]
        if self.untied:
            alpha = alista["step_size"]
            alpha = np.where(np.abs(alpha) < 1e-3, 1e-3, alpha)  # for c to be of a reasonable size
            c = alpha[-1] / alpha  # c_1, …, c_T
            ratio = np.append(1.0, c[1:] / c[:-1])  # W_0 does not matter, for x_0 = 0
            start["input_weight"] = alpha[-1] * W.T[None]
            start["weight"] = ratio[:, None, None] * (np.eye(self.N) - alpha[:, None, None] * (W.T @ A))
            theta = theta * np.abs(c).reshape(-1, *[1] * (theta.ndim - 1))
        self.parameters = {**start, "threshold": theta}


class ListaSs(Lista):
    """LISTA-SS: LISTA with support selection."""

    name: ClassVar[str] = "lista-ss"
    title: ClassVar[str] = "LISTA-SS"
    selects: ClassVar[bool] = True
