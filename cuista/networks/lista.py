"""LISTA and LISTA-SS: x_{t+1} = η(B y + W_t x_t; θ_t, k_t), where B (N, M), W_t (N, N) and θ_t are learned.

Gregor, LeCun, ICML 2010. Support selection (SS) is due to Chen, Liu, Wang, Yin, NeurIPS 2018. As in their code, LISTA
uses max(θ_t, 0) in place of θ_t, and LISTA-SS does not.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from cuista.networks.alista import contained_in
from cuista.networks.base import Unrolled
from cuista.networks.couplings import Recurrent
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Clamped, Soft


class Lista(Network):
    """LISTA, which learns `input_weight` B (1, N, M), `weight` W_t (T or 1, N, N) and `threshold`, (T,) or (T, N)."""

    name = "lista"
    title = "LISTA"
    coupling = Recurrent
    shrinkage: ClassVar[type[Soft]] = Clamped
    matrices = ("input_weight", "weight")
    selects = False
    step_sizes = False
    can_untie = True

    def matrix_rate(self, nmse_db: float) -> float:
        # A change in W_t is multiplied by x, not by the residual, so it must be small compared with the error.
        return float(1e-3 * 10 ** (nmse_db / 20))

    def precursor(self) -> Network | None:
        return contained_in(self)

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce an ALISTA: B = Wᵀ and W_t = I − WᵀA if its step sizes are 1.

        With other step sizes, B would have to be α_t Wᵀ, but it is the same in all layers. Because η is odd and
        positively homogeneous, the network can compute the iterates c_t x_t instead, with c_{t+1} α_t = α_{T−1} for all
        t. Then B = α_{T−1} Wᵀ, W_t = c_{t+1}/c_t (I − α_t WᵀA), and the thresholds are θ_t |c_{t+1}|. The last iterate
        stays the same, because c_T = 1. One-sided thresholding is not odd, so that there, negative α_t become small.
        """
        A, W = self.A, self.W
        Wh = W.conj().T
        start = self.couple.start(Wh, self.stack)
        alista = {name: self.ops.to_numpy(value) for name, value in precursor.parameters.items()}
        theta = alista["threshold"]
        if self.untied:
            alpha = alista["step_size"]
            size = alpha if self.positive else np.abs(alpha)
            alpha = np.where(size < 1e-3, 1e-3, alpha)  # keeps c from becoming huge, or negative where it must not
            c = alpha[-1] / alpha  # c_1, …, c_T
            ratio = np.append(1.0, c[1:] / c[:-1])  # W_0 does not matter, because x_0 = 0
            start["input_weight"] = alpha[-1] * Wh[None]
            start["weight"] = ratio[:, None, None] * (np.eye(self.N) - alpha[:, None, None] * (Wh @ A))
            theta = theta * np.abs(c).reshape(-1, *[1] * (theta.ndim - 1))
        self.parameters = {**self.parameters, **start, "threshold": theta}


class ListaSs(Lista):
    """LISTA-SS: LISTA with support selection, whose thresholds may become negative."""

    name = "lista-ss"
    title = "LISTA-SS"
    shrinkage = Soft
    selects = True
