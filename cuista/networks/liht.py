"""LIHT: x_{t+1} = H(B y + W_t x_t; max(θ_t, 0)), where B, W_t and θ_t are learned.

Xin, Wang, Gao, Wipf, NeurIPS 2016. H(z; θ) = z·[|z| > θ] is hard thresholding. Its derivative with respect to θ is 0
almost everywhere, so the paper recipe does not change θ. The fast recipe fits θ without derivatives, and then treats
the jump at θ as a ramp.
"""

from __future__ import annotations

from cuista.networks.lista import Lista
from cuista.networks.shrinkages import Hard


class Liht(Lista):
    """LIHT, which learns `input_weight` B (1, N, M), `weight` W_t (T or 1, N, N) and `threshold`, (T,) or (T, N)."""

    name = "liht"
    title = "LIHT"
    shrinkage = Hard

    def precursor(self) -> None:
        return None
