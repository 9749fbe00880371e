"""The exact encoder computes the analytic weight of a matrix Ã: w_i = G⁻¹ã_i / (ã_iᴴG⁻¹ã_i) with G = ÃÃᴴ + λI.

The encoder of `encoder.py` approximates this weight (Liu, Chen, Wang, Yin, ICLR 2019, equation (16)). The ridge λ is
that of the noise-aware weight. It may be learned; there is nothing else to learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.errors import InputError
from cuista.networks.base import Gradients
from cuista.networks.encoder import Encoded, adjoint
from cuista.ops import ReferenceOps
from cuista.ops.joint import dtype_for


class ExactEncoder:
    """An encoder that computes the analytic weight by its closed form.

    Parameters
    ----------
    A
        The nominal matrix (M, N).
    ridge
        The ridge λ, or its initial value if it is learned.
    learned
        Whether λ is learned.
    ops, dtype
        The engine, and the precision of the results. They are computed in double precision, and complex if A is.

    Raises
    ------
    InputError
        If λ is negative or not finite, or if it is 0 although it is learned or the matrix has more rows than columns.
    """

    name = "exact"
    matrices: tuple[str, ...] = ()
    logarithmic: tuple[str, ...] = ("ridge",)

    def __init__(
        self, A: Array, *, ridge: float = 0.0, learned: bool = False, ops: ReferenceOps, dtype: Any = np.float32
    ) -> None:
        self.M, self.N = A.shape
        if not 0 <= ridge < np.inf:
            raise InputError(f"ridge is {ridge}; expected a number of 0 or more", option="ridge")
        if learned and not ridge:
            raise InputError(
                "ridge is 0, but its logarithm is learned: give a ridge to start from, such as 0.1", option="ridge"
            )
        if not ridge and self.M > self.N:
            raise InputError(
                f"the matrix is tall ({self.M}×{self.N}), so that A Aᵀ is singular: give a ridge", option="ridge"
            )
        self.ridge, self.learned, self.ops, self.dtype = float(ridge), learned, ops, dtype_for(A, dtype)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"ridge": (1,)} if self.learned else {}

    def published_start(self) -> dict[str, Array]:
        return {"ridge": np.array([self.ridge])} if self.learned else {}

    def encode(self, A: Array, parameters: dict[str, Array]) -> Encoded:
        """W (n, M, N) for matrices Ã (n, M, N), and the function that maps ∂L/∂W to ∂L/∂λ.

        Raises
        ------
        NumericalError
            If a matrix has dependent rows and λ is 0.
        """
        ops, xp = self.ops, self.ops.xp
        A = ops.asarray(A, dtype_for(A, np.float64))
        G = ops.matmul(A, adjoint(xp, A))
        # A training step may have made a learned λ negative. It then counts as 0, and its derivative is 0.
        ridge = xp.maximum(parameters["ridge"], 0) if self.learned else self.ridge
        G.reshape(len(G), -1)[:, :: self.M + 1] += ridge
        V = ops.solve_positive(G, A)
        s = xp.sum(A.conj() * V, axis=1)[:, None].real
        W = V / s

        def backprop(d_W: Array) -> Gradients:
            # W = V diag(1/s), s_i = ã_iᴴv_i, which is real: ∂v_i = ∂w_i / s_i − ã_i Re(∂w_iᴴv_i) / s_i². V = G⁻¹Ã and
            # dV/dλ = −G⁻¹V, so that ∂λ = −Re⟨∂V, G⁻¹V⟩ = −Re⟨G⁻¹∂V, V⟩.
            if not self.learned:
                return {}
            d_V = d_W / s - A * (xp.sum(d_W.conj() * V, axis=1)[:, None].real / (s * s))
            d_ridge = -ops.inner(ops.solve_positive(G, d_V), V)
            return {"ridge": xp.where(parameters["ridge"] > 0, d_ridge, 0.0)[0]}

        return ops.asarray(W, self.dtype), backprop
