"""HyperLISTA has three numbers for all layers and needs no training. Everything else adapts to each sample.

    z       = x_t + Wᵀ(y − A x_t) + β_t (x_t − x_{t−1})
    θ_t     = c₁ ‖A⁺(y − A x_t)‖₁
    β_t     = c₂ ‖x_t‖₀
    k_t     = (N − 1)·min(max(c₃ log(‖A⁺y‖₁ / ‖A⁺(y − A x_t)‖₁), 0), 1)

Chen, Liu, Wang, Yin, *Hyperparameter tuning is all you need for LISTA*, NeurIPS 2021, for a W with w_iᵀa_i = 1.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import ClassVar

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Backprop, State, constant_start
from cuista.networks.couplings import Analytic, MatrixFree
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Soft
from cuista.ops.joint import real_of


class HyperLista(Network):
    """HyperLISTA. A search finds its parameters `threshold` c₁, `momentum` c₂ and `support` c₃, (1,) each.

    It has its own `layer`, because momentum, threshold and support depend on the sample. There is no backward pass.
    """

    name = "hyperlista"
    title = "HyperLISTA"
    coupling = Analytic
    shrinkage = Soft
    selects = False  # not by a schedule
    step_sizes = False
    has_gradients = False
    can_coordinate = False
    can_group = False
    # Where the search begins, log-spaced and wider than the authors' grid (0.001 … 0.01, 0.001 … 0.01, 0.1 … 1).
    grid: ClassVar = {
        "threshold": np.geomspace(1e-3, 3e-2, 8),
        "momentum": np.geomspace(1e-4, 1e-2, 5),
        "support": np.geomspace(0.03, 1.0, 6),
    }

    @cached_property
    def _inverse(self) -> tuple[Array, Array]:
        """(A⁺)ᵀ and −(A⁺A)ᵀ."""
        inverse = np.linalg.pinv(self.A)
        return self.ops.asarray(inverse.T, self.dtype), self.ops.asarray((-inverse @ self.A).T, self.dtype)

    def published_start(self) -> dict[str, Array]:
        """The middle of the authors' grid."""
        return {"threshold": np.array([5e-3]), "momentum": np.array([5e-3]), "support": np.array([0.5])}

    def fast_start(self) -> dict[str, Array]:
        return self.published_start()

    def begin(self, y: Array) -> tuple[State, Backprop]:
        y = y.reshape(-1, self.M)
        (x, Wy), _ = super().begin(y)
        inverse = None if isinstance(self.couple, MatrixFree) else self.ops.matmul(y, self._inverse[0])
        return (x, Wy, x, inverse), constant_start  # x_0, Wᵀy (or y), x_{−1}, A⁺y (or what layer 0 finds)

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, joint, (x, Wy, x_before, inverse) = self.ops, self.ops.xp, self.joint, state
        real, tiny = real_of(x.dtype), np.finfo(x.dtype).tiny
        c1, c2, c3 = (self.parameter(name, t).astype(real) for name in ("threshold", "momentum", "support"))
        step, _, _ = self.couple(t, (x, Wy), partial(self.parameter, t=t))
        if isinstance(self.couple, MatrixFree):
            error = self.couple.error(step)
            inverse = error if inverse is None else inverse  # x_0 = 0
        else:
            error = inverse + ops.sparse_matmul(x, self._inverse[1])
        now, first = (xp.maximum(joint.magnitudes(xp, each).sum(axis=1), tiny) for each in (error, inverse))
        present = xp.count_nonzero(joint.magnitudes(xp, x), axis=1).astype(real)
        share = xp.clip(c3 * xp.log(first / now), 0, 1)
        k = xp.rint((self.entries - 1) * share).astype(np.int32)
        beta = xp.repeat(c2 * present, joint.snapshots)[:, None]
        start = x + beta * (x - x_before)
        theta = c1 * now[:, None]
        x_next, _ = ops.shrink_select(start, step.u, self.one, theta, k, one_sided=self.positive, joint=joint)
        return (x_next, Wy, x, inverse), constant_start
