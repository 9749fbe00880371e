"""ALISTA: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t); θ_t, k_t), learning only the step sizes α_t and thresholds θ_t.

Liu, Chen, Wang, Yin, ICLR 2019. W is the analytic weight and stays as it is. So Wᵀy is computed once for all layers,
and unless N is far larger than M also WᵀA: a layer is then a single product with a sparse x, and so is its backward
pass.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Backprop, Network, Proposal, State, _nothing, scale_of
from cuista.ops import FusedStep, Signals


class Alista(Network):
    """The network. Learned: `step_size` (T,) and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "alista"
    title: ClassVar[str] = "ALISTA"

    def _prepare(self, A: Array, W: Array) -> None:
        # What takes x to −x AᵀW and d to −d WᵀA, factor by factor: the one that costs less when x is sparse.
        self.W = self.ops.asarray(W, self.dtype)
        chain = [-(A.T @ W)] if A.shape[1] <= 8 * A.shape[0] else [A.T, -W]
        self._forward = tuple(self.ops.asarray(factor, self.dtype) for factor in chain)
        self._backward = tuple(self.ops.asarray(factor.T, self.dtype) for factor in reversed(chain))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"step_size": (self.layers,), "threshold": self.threshold_shape}

    def published_start(self) -> dict[str, Array]:
        # θ = λ / scale with λ = 0.4 is the threshold of ISTA at its step size.
        return {"step_size": self.of_layers(1.0), "threshold": self.thresholds(0.4 / scale_of(self.sources[0]))}

    def begin(self, y: Array) -> tuple[State, Backprop]:
        return (self.zeros(y), self.ops.matmul(y, self.W)), _nothing  # x_0 = 0, and Wᵀy

    def correction(self, t: int, x: Array, seen: Array) -> Array:
        """U = Wᵀ(y − A x) for the rows of x (batch, N), from Wᵀy, which has been `seen`."""
        if t == 0:  # x_0 = 0
            return seen
        u = self._through(self._forward, x)
        u += seen
        return u

    def correct_back(self, t: int, dz: Array, du: Array) -> Array:
        """The backward pass of z = x + …, u = Wᵀ(y − A x): ∂L/∂x = dz − du WᵀA. x_0 depends on nothing."""
        if t > 0:
            dz += self._through(self._backward, du)
        return dz

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (x, seen) = self.ops, state
        alpha, theta = self.parameter("step_size", t), self.parameter("threshold", t)
        u = self.correction(t, x, seen)
        x_next, code = ops.shrink_select(x, u, alpha, theta, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, dict[str, Array]]:
            # z = x + α u: ∂L/∂u = α dz, sparse like x_next.
            dz, d_alpha, d_theta = ops.shrink_select_backward(of_state[0], code, x, u, alpha, theta, window)
            of_x = self.correct_back(t, dz, alpha.astype(dz.dtype) * dz)
            return (of_x, None), {"step_size": d_alpha, "threshold": d_theta}

        return (x_next, seen), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, seen = state[:2]
        u = self.correction(t, x, seen)
        return lambda alpha, theta: self.ops.shrink_select(x, u, alpha, theta, self.support[t])[0], 1.0

    def fuse(self, signals: Signals) -> FusedStep | None:
        if len(self._forward) > 1 or self.per_coordinate:
            return None
        return self.ops.fuse_alista(signals, self.W, self._forward[0], self._backward[0])

    def _through(self, factors: tuple[Array, ...], rows: Array) -> Array:
        product = self.ops.sparse_matmul(rows, factors[0])
        for factor in factors[1:]:
            product = self.ops.matmul(product, factor)
        return product


class UnitAlista(Alista):
    """ALISTA with all step sizes 1: what a network with one matrix for all layers, and no step sizes, contains."""

    name: ClassVar[str] = "alista-unit-steps"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"threshold": self.threshold_shape}

    def published_start(self) -> dict[str, Array]:
        return {"threshold": super().published_start()["threshold"]}

    def parameter(self, name: str, t: int) -> Array:
        return self.ops.asarray(1.0, np.float64) if name == "step_size" else super().parameter(name, t)

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        state_next, alista = super().layer(t, state, window)

        def backprop(of_state: State) -> tuple[State, dict[str, Array]]:
            of_state, gradients = alista(of_state)
            return of_state, {"threshold": gradients["threshold"]}

        return state_next, backprop

    def fuse(self, signals: Signals) -> FusedStep | None:
        return None


def contained_in(network: Network, step_sizes: bool) -> Alista:
    """The ALISTA that a network with learned matrices contains, with step sizes or without."""
    kind = Alista if step_sizes else UnitAlista
    return kind(
        *network.sources,
        layers=network.layers,
        percent=network.percent,
        max_percent=network.max_percent,
        per_coordinate=network.per_coordinate,
        ops=network.ops,
        dtype=network.dtype,
    )
