"""ALISTA: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t); θ_t, k_t), learning only the step sizes α_t and thresholds θ_t.

Liu, Chen, Wang, Yin, ICLR 2019. W is the analytic weight and stays as it is. So Wᵀy is computed once for all layers,
and unless N is far larger than M also WᵀA: a layer is then a single product with a sparse x, and so is its backward
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from cuista.checks import Array
from cuista.networks.base import Backprop, Gradients, Network, Proposal, State, constant_start
from cuista.ops import FusedStep, Scalar, Signals

# From ∂L/∂τ to ∂L/∂θ, and what τ adds to ∂L/∂x and ∂L/∂u (None for nothing).
ThresholdBackprop = Callable[[Any], tuple[Any, "Array | None", "Array | None"]]


class Alista(Network):
    """The network. Learned: `step_size` (T,) and `threshold` (T,) or (T, N)."""

    name: ClassVar[str] = "alista"
    title: ClassVar[str] = "ALISTA"

    def _prepare(self) -> None:
        A, W = self.sources
        # What takes x to −x AᵀW and d to −d WᵀA, factor by factor: the one that costs less when x is sparse.
        self.W = self.ops.asarray(W, self.dtype)
        chain = [-(A.T @ W)] if A.shape[1] <= 8 * A.shape[0] else [A.T, -W]
        self._forward = tuple(self.ops.asarray(factor, self.dtype) for factor in chain)
        self._backward = tuple(self.ops.asarray(factor.T, self.dtype) for factor in reversed(chain))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"step_size": (self.layers,), "threshold": self.threshold_shape}

    def published_start(self) -> dict[str, Array]:
        return {"step_size": self.of_layers(1.0), "threshold": self.thresholds(self.ista_start()[1])}

    def begin(self, y: Array) -> tuple[State, Backprop]:
        return (self.zeros(y), self.ops.matmul(y, self.W)), constant_start  # x_0 = 0, and Wᵀy

    def correction(self, t: int, x: Array, Wy: Array) -> Array:
        """U = Wᵀ(y − A x) for the rows of x (batch, N), from Wᵀy."""
        if t == 0:  # x_0 = 0
            return Wy
        u = self._through(self._forward, x)
        u += Wy
        return u

    def correct_back(self, t: int, dz: Array, du: Array) -> Array:
        """The backward pass of z = x + …, u = Wᵀ(y − A x): ∂L/∂x = dz − du WᵀA. x_0 depends on nothing."""
        if t > 0:
            dz += self._through(self._backward, du)
        return dz

    def threshold(self, theta: Scalar | Array, x: Array, u: Array) -> tuple[Scalar | Array, ThresholdBackprop]:
        """What an entry is compared with, τ, if the parameter is θ; and its backward pass. Here it is θ itself."""
        return theta, lambda of_tau: (of_tau, None, None)

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (x, Wy) = self.ops, state
        alpha, u = self.parameter("step_size", t), self.correction(t, x, Wy)
        tau, back_to_theta = self.threshold(self.parameter("threshold", t), x, u)
        x_next, code = ops.shrink_select(x, u, alpha, tau, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = x + α u: ∂L/∂u = α dz, sparse like x_next, but for what τ adds.
            dz, d_alpha, d_tau = ops.shrink_select_backward(of_state[0], code, x, u, alpha, tau, window)
            d_theta, more_of_x, more_of_u = back_to_theta(d_tau)
            du = alpha.astype(dz.dtype) * dz
            if more_of_u is not None:
                du += more_of_u
            of_x = self.correct_back(t, dz, du)
            if more_of_x is not None:
                of_x += more_of_x
            return (of_x, None), {"step_size": d_alpha, "threshold": d_theta}

        return (x_next, Wy), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x, Wy = state
        u = self.correction(t, x, Wy)

        def proposal(alpha: float, theta: float) -> Array:
            return self.ops.shrink_select(x, u, alpha, self.threshold(theta, x, u)[0], self.support[t])[0]

        return proposal, float(self.ops.xp.mean(self.ops.asarray(self.threshold(1.0, x, u)[0], x.dtype)))

    def fuse(self, signals: Signals) -> FusedStep | None:
        if type(self) is not Alista or len(self._forward) > 1 or self.per_coordinate:
            return None  # the kernel is for this network alone, and for WᵀA
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
        return self.one if name == "step_size" else super().parameter(name, t)


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
