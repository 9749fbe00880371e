"""Shrinkages, which threshold a layer's z = start + α u, and compute its threshold τ from the parameter θ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.networks.couplings import Step
from cuista.ops import ReferenceOps, Scalar
from cuista.ops.joint import ALONE, Joint, real_of, squares

# The publications start from ISTA with this λ, or from AMP with this λ in units of σ.
LAM = 0.4

# Maps ∂L/∂τ to ∂L/∂θ and what τ adds to the derivatives with respect to x, u and the residual (None for nothing).
ThresholdBackprop = Callable[[Any], tuple[Any, "Array | None", "Array | None", "Array | None"]]


class Soft:
    """Soft thresholding with τ = θ that lets the k largest entries pass unshrunk (support selection).

    Chen, Liu, Wang, Yin, NeurIPS 2018. With `positive`, thresholding is one-sided: that of max(z, 0) in place of z. The
    numbers of a `joint` entry are thresholded together.
    """

    def __init__(self, ops: ReferenceOps, positive: bool = False, joint: Joint = ALONE) -> None:
        self.ops, self.positive, self.joint = ops, positive, joint

    def start(self, scale: float) -> float:
        """The θ that the publications start from, where `scale` is the inverse of ISTA's step size."""
        return LAM / scale

    def threshold(self, theta: Scalar | Array, x: Array, step: Step) -> tuple[Scalar | Array, ThresholdBackprop]:
        """The threshold τ, given the iterate x before the layer, and its backward pass."""
        return theta, lambda d_tau: (d_tau, None, None, None)

    def __call__(
        self, step: Step, alpha: Scalar, tau: Scalar | Array, k: int, window: float = 0.0
    ) -> tuple[Array, Array]:
        """The next iterate, and the codes that `shrink_select_backward` takes."""
        return self.ops.shrink_select(step.start, step.u, alpha, tau, k, window, self.positive, self.joint)


class Clamped(Soft):
    """The same as `Soft` with τ = max(θ, 0)."""

    def threshold(self, theta: Scalar | Array, x: Array, step: Step) -> tuple[Scalar | Array, ThresholdBackprop]:
        return self.ops.xp.maximum(theta, 0), lambda d_tau: (d_tau * (theta > 0), None, None, None)


class Hard(Clamped):
    """Hard thresholding z·[|z| > τ] with τ = max(θ, 0), without support selection.

    Its derivative with respect to θ is 0 almost everywhere. With a window, the jump at τ is treated as a ramp
    (`ReferenceOps.hard_threshold`).
    """

    def start(self, scale: float) -> float:
        return float(np.sqrt(2 * LAM / scale))  # the threshold for λ‖x‖₀ instead of λ‖x‖₁

    def __call__(
        self, step: Step, alpha: Scalar, tau: Scalar | Array, k: int, window: float = 0.0
    ) -> tuple[Array, Array]:
        z = step.start + self.ops.asarray(alpha, real_of(step.u.dtype)) * step.u
        return self.ops.hard_threshold(z, tau, window, self.positive, self.joint)


class Adaptive(Soft):
    """A threshold for each entry, lower where the iterate is large: τ = θ / (|x| / 0.1 + 1)."""

    # The |x| at which the threshold is halved.
    HALF = 0.1

    def threshold(self, theta: Scalar | Array, x: Array, step: Step) -> tuple[Scalar | Array, ThresholdBackprop]:
        xp, joint, real = self.ops.xp, self.joint, real_of(x.dtype)
        half = real.type(self.HALF)
        share = 1 / (joint.magnitudes(xp, x) / half + 1)
        tau = self.ops.asarray(theta, real) * share

        def backprop(d_tau: Array) -> tuple[Any, Array | None, Array | None, Array | None]:
            # τ = θ g(|x|) and g' = −g² / 0.1, so ∂L/∂θ = Σ ∂L/∂τ g, summed over the batch or all entries. The gradient
            # of |x| is x's direction.
            d_theta = (d_tau * share).sum(axis=0)
            d_x = joint.spread(xp, -(d_tau * tau * share).astype(real), x) * joint.directions(xp, x) / half
            return d_theta if getattr(theta, "ndim", 0) else d_theta.sum(), d_x, None, None

        return tau, backprop


class ErrorBased(Soft):
    """A threshold for each sample, which falls with the sample's error: τ = θ ‖u‖₂ / 50.

    It is one for each sample, or one for each entry if there is a θ for each coordinate.
    """

    # A scale that makes θ about 1.
    DIVISOR = 50.0

    def threshold(self, theta: Scalar | Array, x: Array, step: Step) -> tuple[Scalar | Array, ThresholdBackprop]:
        xp, u = self.ops.xp, step.u
        rows, real = self.joint.samples(u), real_of(u.dtype)
        error = xp.sqrt(xp.sum(squares(xp, rows), axis=1, keepdims=True)) / real.type(self.DIVISOR)
        tau = self.ops.asarray(theta, real) * error

        def backprop(d_tau: Array) -> tuple[Any, Array | None, Array | None, Array | None]:
            # τ = θ e and e = ‖u‖ / 50, so ∂L/∂θ = Σ ∂L/∂τ e and ∂e/∂u = u / (50² e), or 0 where u = 0.
            d_error = xp.sum(theta * d_tau, axis=1, keepdims=True)
            factor = d_error / xp.where(error > 0, self.DIVISOR**2 * error, xp.ones_like(error))
            d_theta = xp.sum(d_tau * error, axis=0 if getattr(theta, "ndim", 0) else None)
            return d_theta, None, (factor.astype(real) * rows).reshape(u.shape), None

        return tau, backprop


class NoiseScaled(Soft):
    """A threshold in units of the residual's standard deviation in each sample: τ = max(θ σ, 0), σ = ‖r‖₂ / √M.

    It is one for each sample, or one for each entry if there is a θ for each coordinate.
    """

    def start(self, scale: float) -> float:
        return LAM

    def threshold(self, theta: Scalar | Array, x: Array, step: Step) -> tuple[Scalar | Array, ThresholdBackprop]:
        xp, r = self.ops.xp, step.residual
        assert r is not None  # this shrinkage needs a coupling with a residual
        rows, real = self.joint.samples(r), real_of(r.dtype)
        M = rows.shape[1]
        sigma = xp.sqrt(xp.sum(squares(xp, rows), axis=1, keepdims=True) / real.type(M))

        def backprop(d_tau: Array) -> tuple[Any, Array | None, Array | None, Array | None]:
            # ∂σ/∂r = r / (M σ), or 0 where r = 0.
            d_tau = xp.where(theta * sigma > 0, d_tau, xp.zeros_like(d_tau))
            d_sigma = xp.sum(theta * d_tau, axis=1, keepdims=True)
            factor = d_sigma / xp.where(sigma > 0, M * sigma, xp.ones_like(sigma))
            d_theta = xp.sum(d_tau * sigma, axis=0 if getattr(theta, "ndim", 0) else None)
            return d_theta, None, None, (factor.astype(real) * rows).reshape(r.shape)

        return xp.maximum(theta * sigma, 0), backprop
