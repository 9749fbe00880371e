"""HyperLISTA: three numbers for all layers, and no training; all else adapts to each sample.

    z       = x_t + Wᵀ(y − A x_t) + β_t (x_t − x_{t−1})
    θ_t     = c₁ ‖A⁺(y − A x_t)‖₁
    β_t     = c₂ ‖x_t‖₀
    k_t     = (N − 1)·min(max(c₃ log(‖A⁺y‖₁ / ‖A⁺(y − A x_t)‖₁), 0), 1)

Chen, Liu, Wang, Yin, *Hyperparameter tuning is all you need for LISTA*, NeurIPS 2021, for W with w_iᵀa_i = 1.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.alista import Alista
from cuista.networks.base import Backprop, State, constant_start


class HyperLista(Alista):
    """The network. Searched for: `threshold` c₁, `momentum` c₂ and `support` c₃, (1,) each."""

    name: ClassVar[str] = "hyperlista"
    title: ClassVar[str] = "HyperLISTA"
    selects: ClassVar[bool] = False  # by no schedule
    has_gradients: ClassVar[bool] = False
    can_coordinate: ClassVar[bool] = False

    def _prepare(self) -> None:
        super()._prepare()
        A, _ = self.sources
        pseudo_inverse = np.linalg.pinv(A)
        self._inverse, self._residual = (
            self.ops.asarray(matrix.T, self.dtype) for matrix in (pseudo_inverse, -pseudo_inverse @ A)
        )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"threshold": (1,), "momentum": (1,), "support": (1,)}

    def published_start(self) -> dict[str, Array]:
        """The middle of the authors' grid."""
        return {"threshold": np.array([5e-3]), "momentum": np.array([5e-3]), "support": np.array([0.5])}

    def begin(self, y: Array) -> tuple[State, Backprop]:
        (x, Wy), _ = super().begin(y)
        return (x, Wy, x, self.ops.matmul(y, self._inverse)), constant_start  # x_0, Wᵀy, x_{−1}, A⁺y

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (x, Wy, x_before, inverse) = self.ops, self.ops.xp, state
        c1, c2, c3 = (self.parameter(name, t).astype(x.dtype) for name in ("threshold", "momentum", "support"))
        tiny = np.finfo(x.dtype).tiny
        error = inverse + ops.sparse_matmul(x, self._residual)
        error = xp.maximum(xp.sum(xp.abs(error), axis=1, keepdims=True), tiny)
        beta = c2 * xp.count_nonzero(x, axis=1)[:, None].astype(x.dtype)
        first = xp.maximum(xp.sum(xp.abs(inverse), axis=1), tiny)
        share = xp.clip(c3 * xp.log(first / error[:, 0]), 0, 1)
        k = xp.rint((self.N - 1) * share).astype(np.int32)
        u = self.correction(t, x, Wy)
        x_next, _ = ops.shrink_select(x + beta * (x - x_before), u, self.one, c1 * error, k)
        return (x_next, Wy, x, inverse), constant_start
