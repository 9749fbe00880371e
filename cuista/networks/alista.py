"""ALISTA: x_{t+1} = η(x_t + α_t Wᵀ(y − A x_t); θ_t, k_t), learning only the step sizes α_t and thresholds θ_t.

Liu, Chen, Wang, Yin, ICLR 2019. W is the analytic weight and stays as it is. So Wᵀy is computed once for all layers,
and unless N is far larger than M also WᵀA: a layer is then a single product with a sparse x, and so is its backward
pass.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.networks.base import Backprop, Gradients, Network, check_schedule, scale_of, support_schedule
from cuista.ops import FusedStep, ReferenceOps, Signals


class Alista(Network):
    """The network.

    Parameters
    ----------
    A, W
        Measurement matrix and analytic weight, (M, N).
    layers
        T.
    percent, max_percent
        The support schedule: min((t + 1)·p, p_max) percent of the entries may pass unshrunk in layer t.
    per_coordinate
        One threshold per coordinate, (T, N), instead of one per layer, (T,).
    parameters
        `step_size` (T,) and `threshold` (T,) or (T, N); where the paper starts if None.
    ops, dtype
        The engine, and the precision it computes in.

    Raises
    ------
    InputError
        If the schedule is out of range.
    """

    name: ClassVar[str] = "alista"

    def __init__(
        self,
        A: Array,
        W: Array,
        *,
        layers: int = 16,
        percent: float = 1.2,
        max_percent: float = 13.0,
        per_coordinate: bool = False,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(ops=ops, dtype=dtype)
        check_schedule(layers, percent, max_percent)
        self.percent, self.max_percent = percent, max_percent
        self.support = support_schedule(A.shape[1], layers, percent, max_percent)
        # What takes x to −x AᵀW and d to −d WᵀA, factor by factor: the one that costs less when x is sparse.
        self.W = self.ops.asarray(W, dtype)
        chain = [-(A.T @ W)] if A.shape[1] <= 8 * A.shape[0] else [A.T, -W]
        self._forward = tuple(self.ops.asarray(factor, dtype) for factor in chain)
        self._backward = tuple(self.ops.asarray(factor.T, dtype) for factor in reversed(chain))
        if parameters is None:
            # θ = λ / scale with λ = 0.4, the threshold of ISTA at its step size, is where the paper starts.
            shape = (layers, A.shape[1]) if per_coordinate else (layers,)
            parameters = {"step_size": np.ones(layers), "threshold": np.full(shape, 0.4 / scale_of(A))}
        self.parameters = parameters

    @property
    def size(self) -> int:
        return int(self.W.shape[1])

    def observe(self, y: Array) -> Array:
        return self.ops.matmul(y, self.W)

    def correction(self, x: Array, seen: Array) -> Array:
        """U = Wᵀ(y − A x) for the rows of x, (batch, N)."""
        u = self._through(self._forward, x)
        u += seen
        return u

    def layer(self, t: int, x: Array, seen: Array, window: float = 0.0) -> tuple[Array, Backprop]:
        ops = self.ops
        alpha, theta = self.parameters["step_size"][t], self.parameters["threshold"][t]
        u = self.correction(x, seen) if t > 0 else seen  # x_0 = 0
        x_next, code = ops.shrink_select(x, u, alpha, theta, self.support[t], window)

        def backprop(delta: Array) -> tuple[Array, Gradients]:
            # z = x + α (y W − x AᵀW), so ∂L/∂x = dz − α dz WᵀA; dz is sparse like x_next.
            dz, d_alpha, d_theta = ops.shrink_select_backward(delta, code, x, u, alpha, theta, window)
            gradients: Gradients = {"step_size": d_alpha, "threshold": d_theta}
            if t > 0:  # x_0 depends on nothing
                back = self._through(self._backward, dz)
                back *= alpha.astype(back.dtype)
                dz += back
            return dz, gradients

        return x_next, backprop

    def fuse(self, signals: Signals) -> FusedStep | None:
        if len(self._forward) > 1 or self.parameters["threshold"].ndim > 1:
            return None
        return self.ops.fuse_alista(signals, self.W, self._forward[0], self._backward[0])

    def _through(self, factors: tuple[Array, ...], rows: Array) -> Array:
        product = self.ops.sparse_matmul(rows, factors[0])
        for factor in factors[1:]:
            product = self.ops.matmul(product, factor)
        return product
