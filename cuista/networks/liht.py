"""LIHT: x_{t+1} = H(B y + W_t x_t; max(θ_t, 0)), hard thresholding H(z; θ) = z·[|z| > θ], learning B, W_t and θ_t.

Xin, Wang, Gao, Wipf, NeurIPS 2016. H has derivative 0 in θ almost everywhere, so the paper recipe leaves θ where it is.
The fast one fits it without derivatives, and then takes the jump at θ for a ramp.
"""

from __future__ import annotations

from cuista.networks.lista import Lista
from cuista.networks.shrinkages import Hard


class Liht(Lista):
    """The network. Learned: `input_weight` B (1, N, M), `weight` W_t (T or 1, N, N), `threshold` (T,) or (T, N)."""

    name = "liht"
    title = "LIHT"
    shrinkage = Hard

    def precursor(self) -> None:
        return None
