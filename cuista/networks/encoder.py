"""The encoder: W_{i+1} = W_i − B_i g(ÃᴴW_i − I) from W_0 = Ã, with learned step matrices B_i (M, N).

Liu, Chen, Wang, Yin, ICLR 2019, section 4.3 (AtoW_grad). It maps a perturbed matrix Ã to a weight for this matrix by
unrolled gradient descent on a loss of R = ÃᴴW − I, where B_i takes the place of the step size times Ã. In the losses
and their entrywise derivatives g, Q is a matrix of weights:

    l2     ½ Σ |R|² Q²     g = R Q²              expl2  ½ Σ e^{|R|²} Q  g = R e^{|R|²} Q
    l1     Σ |R| Q         g = sign(R) Q         expl1  Σ e^{|R|} Q     g = sign(R) e^{|R|} Q

The sign of a complex number is R/|R|.

rel1 and rel2 are l1 and l2 with a Q that is √(N − 1) on the diagonal and 1 elsewhere. Otherwise Q is 1 by default.

For rel2, and for l2 with the default Q, no N×N matrix is formed. With q = Q_ii² − 1 and d_i = ã_iᴴw_i,

    B g(ÃᴴW − I) = (B Ãᴴ) W − B diag(1 − q (d − 1)),

which takes two products of M²N operations instead of two of M N².
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.counter import MATRIX, START, Key
from cuista.errors import InputError
from cuista.networks.base import Backprop, Gradients, State, Unrolled, constant_start, rms_of
from cuista.ops import CpuOps, Scalar
from cuista.ops.joint import dtype_for, real_of, squares

LOSSES = ("l1", "l2", "rel1", "rel2", "expl1", "expl2")
STARTS = ("analytic", "nominal", "uniform", "normal")
# The ridge of the analytic start, as a share of the mean eigenvalue of A Aᴴ. It allows for perturbed matrices, whose
# eigenvalues differ.
_RIDGE = 0.05

# Maps ∂L/∂W after a layer to ∂L/∂W before it (None for W_0 = Ã, which is data) and ∂L/∂B.
LayerBackprop = Callable[[Array], "tuple[Array | None, Array]"]
# W, and the function that maps ∂L/∂W to the gradients of the parameters.
Encoded = tuple[Array, Callable[[Array], Gradients]]


class Encoder(Unrolled):
    """The encoder, which learns `step_matrix` B (T, M, N).

    Parameters
    ----------
    A
        The nominal matrix (M, N), whose columns have unit norm.
    layers
        The number of layers T.
    loss
        The loss, one of `LOSSES`.
    Q
        The weights Q (N, N) of a loss other than rel1 and rel2; all 1 if None.
    start
        The initial B_i. For `nominal`, they are η A. For `uniform`, their entries are uniform from −0.01 to 0.01, and
        for `normal`, they are normal with standard deviation 0.01. For `analytic`, which needs rel2, or l2 without Q,
        B_0 is (A Aᴴ + λI)⁻¹A, so that the first layer is a Newton step, and the other B_i are a multiple of B_0 with
        which the w_i grow until ã_iᴴw_i = 1. None stands for `analytic` if the loss allows it, and for `nominal`
        otherwise.
    eta
        The factor η.
    seed
        The seed of a random start.
    options
        `parameters`, `ops` and `dtype`, as in `Unrolled`.

    Raises
    ------
    InputError
        If there is no such loss or start, if Q or η is out of range, or if the loss does not allow Q or the start.
    """

    name = "atow"
    title = "AtoW"
    selects = False
    step_sizes = False
    can_coordinate = False
    matrices = ("step_matrix",)
    logarithmic = ()

    def __init__(
        self,
        A: Array,
        *,
        layers: int = 4,
        loss: str = "rel2",
        Q: Array | None = None,
        start: str | None = None,
        eta: float = 1e-3,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if loss not in LOSSES:
            raise InputError(
                f"{loss!r} is not a loss of the encoder; expected one of {', '.join(LOSSES)}", option="loss"
            )
        linear = loss in ("l2", "rel2") and Q is None
        start = start or ("analytic" if linear else "nominal")
        if start not in STARTS:
            known = ", ".join(STARTS)
            raise InputError(f"{start!r} is not a start of the encoder; expected one of {known}", option="start")
        if not 0 < eta < np.inf:
            raise InputError(f"η is {eta}; expected more than 0", option="eta")
        self.M, self.N = A.shape
        if Q is not None and loss in ("rel1", "rel2"):
            other = loss.replace("rel", "l")
            raise InputError(f"the loss {loss} has weights of its own: take {other} for other weights", option="loss")
        if Q is not None and Q.shape != (self.N, self.N):
            expected = f"({self.N}, {self.N})"
            raise InputError(f"the weights Q have shape {Q.shape}; expected {expected}", option="loss_weights")
        if Q is not None and not (Q >= 0).all():
            least = f"{Q.min():.4g}"
            raise InputError(f"the weights Q have entries down to {least}; expected 0 or more", option="loss_weights")
        if start == "analytic" and not linear:
            raise InputError(
                f"the analytic start is for l2 and rel2, and the loss is {loss}{' with Q' * (Q is not None)}: take "
                "another start",
                option="start",
            )
        self.source, self.loss_name, self.Q = A, loss, Q
        self.start, self.eta, self.seed = start, eta, seed
        # The loss without its weights, whether layers do without R = ÃᴴW − I, and q.
        self.kind = loss.replace("rel", "l")
        self.linear = linear
        self.q = float(self.N - 2) if loss == "rel2" else 0.0
        options["dtype"] = dtype_for(A, options.get("dtype", np.float32))
        super().__init__(layers=layers, **options)
        if loss == "rel1":
            Q = np.ones((self.N, self.N))
            np.fill_diagonal(Q, np.sqrt(self.N - 1))
        self.weights: Array | float = 1.0 if Q is None else self.ops.asarray(Q, real_of(self.dtype))
        # An entry of R that differs from 0 by rounding only, as on the diagonal at first, has no sign.
        self.zero = 8 * float(np.finfo(self.dtype).eps)

    def published_start(self) -> dict[str, Array]:
        shape, key = (self.layers * self.M, self.N), Key(self.seed, MATRIX, 1)
        if self.start == "analytic":
            G = self.source @ self.source.conj().T
            first = np.linalg.solve(G + _RIDGE * np.trace(G) / self.M * np.eye(self.M), self.source)
            # If B is c times the first one, whose columns are b_i, then w_i grows by about q c (1 − d_i) b_i. This
            # makes ã_iᴴw_i = 1 if c = 1 / (q ã_iᴴb_i). Here N stands for q, and the mean over i for ã_iᴴb_i.
            then = first / (self.N * np.einsum("mn,mn->n", self.source.conj(), first).real.mean())
            B = np.vstack([first, *[then] * (self.layers - 1)])
        elif self.start == "nominal":
            B = np.tile(self.eta * self.source, (self.layers, 1))
        elif self.start == "normal":
            B = 0.01 * CpuOps().normal(key, START, shape, dtype_for(self.source, np.float64))
        else:
            words = CpuOps().random_words(key, START)(shape[0] * shape[1])
            B = 0.02 * ((words >> np.uint64(11)) * 2.0**-53).reshape(shape) - 0.01
        return {"step_matrix": B.reshape(self.layers, self.M, self.N)}

    def matrix_rate(self, nmse_db: float) -> tuple[float, ...]:
        """The size to which the learning rate of each B_i is relative, as a root mean square.

        For the analytic start it is the initial size of each B_i, because these differ by a factor of about N. For
        other starts it is the size of A.
        """
        if self.start == "analytic":
            return tuple(map(rms_of, self.published_start()["step_matrix"]))
        return (rms_of(self.source),) * self.layers

    def begin(self, y: Array) -> tuple[State, Backprop]:
        """The state before the first layer for matrices Ã (n, M, N): W = Ã, and Ã itself."""
        return (y, y), constant_start

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        W, A = state
        W_next, back = self.step(self.parameter("step_matrix", t), W, A)

        def backprop(d_state: State) -> tuple[State, Gradients]:
            d_W, d_B = back(d_state[0])
            return (d_W, None), {"step_matrix": d_B}

        return (W_next, A), backprop

    def encode(self, A: Array, parameters: dict[str, Array]) -> Encoded:
        """W (n, M, N) for matrices Ã (n, M, N), and the function that maps ∂L/∂W to the gradients of the parameters.

        The parameters are those of a larger network whose layers share them, so that `step_matrix` is (1, T, M, N).
        """
        W, backward = A, []
        for B in parameters["step_matrix"][0]:
            W, back = self.step(B, W, A)
            backward.append(back)

        def backprop(d_W: Array) -> Gradients:
            d_B: list[Array] = []
            d_next: Any = d_W
            for back in reversed(backward):
                d_next, d_layer = back(d_next)
                d_B.append(d_layer)
            return {"step_matrix": self.ops.xp.stack(d_B[::-1])}

        return W, backprop

    def step(self, B: Array, W: Array, A: Array) -> tuple[Array, LayerBackprop]:
        """The next W (n, M, N) after one layer, and the backward pass."""
        return (self._linear_step if self.linear else self._step)(B, W, A)

    def _linear_step(self, B: Array, W: Array, A: Array) -> tuple[Array, LayerBackprop]:
        ops, xp, q = self.ops, self.ops.xp, real_of(W.dtype).type(self.q)
        C = ops.matmul(B, adjoint(xp, A))
        scale = 1 - q * (self._gains(A, W) - 1) if q else None
        W_next = ops.matmul(C, W)
        xp.subtract(W, W_next, out=W_next)
        W_next += B if scale is None else B * scale[:, None]

        def back(d_W: Array) -> tuple[Array | None, Array]:
            # W' = W − C W + B diag(s), C = B Ãᴴ, s = 1 − q(d − 1): ∂C = −∂W' Wᴴ, ∂B = ∂C Ã + ∂W' diag(s̄), ∂d = −q ∂s,
            # and ∂W = ∂W' − Cᴴ∂W' + Ã diag(∂d). The sum over the matrices of ∂C Ã is one product.
            d_C = ops.matmul(d_W, adjoint(xp, W))
            d_B = d_W.sum(axis=0) if scale is None else xp.einsum("amn,an->mn", d_W, scale.conj())
            d_B -= ops.matmul(xp.swapaxes(d_C, 0, 1).reshape(self.M, -1), A.reshape(-1, self.N))
            if W is A:
                return None, d_B
            d_W_before = ops.matmul(adjoint(xp, C), d_W)
            xp.subtract(d_W, d_W_before, out=d_W_before)
            if scale is not None:
                d_W_before -= A * (q * xp.einsum("amn,mn->an", d_W, B.conj()))[:, None]
            return d_W_before, d_B

        return W_next, back

    def _step(self, B: Array, W: Array, A: Array) -> tuple[Array, LayerBackprop]:
        ops = self.ops
        R = self.residual(A, W)
        _, g, back_through = self._loss_of(R)
        W_next = W - ops.matmul(B, g)

        def back(d_W: Array) -> tuple[Array | None, Array]:
            # W' = W − B g(R), R = ÃᴴW − I: ∂B = −Σ ∂W' gᴴ, ∂g = −Bᴴ∂W', ∂W = ∂W' + Ã ∂R.
            d_B = -ops.matmul(d_W, adjoint(ops.xp, g)).sum(axis=0)
            if W is A:
                return None, d_B
            if back_through is None:  # g is constant apart from jumps
                return d_W, d_B
            d_R = back_through(ops.matmul(B.conj().T, d_W))
            return d_W - ops.matmul(A, d_R), d_B

        return W_next, back

    def _gains(self, A: Array, W: Array) -> Array:
        """d_i = ã_iᴴw_i, (n, N)."""
        gains: Array = self.ops.xp.einsum("amn,amn->an", A.conj(), W)
        return gains

    def residual(self, A: Array, W: Array) -> Array:
        """R = ÃᴴW − I (n, N, N)."""
        R = self.ops.matmul(adjoint(self.ops.xp, A), W)
        R.reshape(len(R), -1)[:, :: self.N + 1] -= 1
        return R

    def _loss_of(self, R: Array) -> tuple[Array, Array, Callable[[Array], Array] | None]:
        """The loss of each entry, its derivative g(R), and the map from ∂L/∂g to ∂L/∂R (None for 0).

        With the direction e = R/|R|, g(R) = h(|R|) e, so that ∂R = (h/|R|) ∂g + (h' − h/|R|) Re(ē ∂g) e. That is h' ∂g
        for real numbers.
        """
        xp, Q = self.ops.xp, self.weights
        is_complex = R.dtype.kind == "c"
        size = squares(xp, R) if is_complex else R * R
        if self.kind == "l2":
            slope = xp.ones_like(size) * Q * Q
            return size * Q * Q / 2, R * Q * Q, lambda d: d * slope
        if self.kind == "expl2":
            grown = xp.exp(size) * Q
            if is_complex:
                return grown / 2, R * grown, lambda d: grown * (d + 2 * (R.conj() * d).real * R)
            return grown / 2, R * grown, lambda d: d * ((1 + 2 * size) * grown)
        magnitude = xp.abs(R)
        counts = magnitude > self.zero
        if not is_complex:
            sign = xp.where(counts, xp.sign(R), xp.zeros_like(R))
            if self.kind == "l1":
                return magnitude * Q, sign * Q, None
            grown = xp.exp(magnitude) * Q
            return grown, sign * grown, lambda d: d * grown
        inverse = xp.where(counts, 1 / xp.where(counts, magnitude, 1), 0)
        e = R * inverse
        h, slope = (Q, 0) if self.kind == "l1" else (xp.exp(magnitude) * Q,) * 2
        across = h * inverse
        loss: Array = magnitude * Q if self.kind == "l1" else xp.asarray(h)
        return loss, e * h, lambda d: across * d + (slope - across) * (e.conj() * d).real * e

    def losses(self, A: Array, W: Array) -> tuple[Array, Array]:
        """The losses (n,), float64, of weights W (n, M, N) for matrices Ã (n, M, N), and ∂L/∂W of their sum."""
        ops, xp = self.ops, self.ops.xp
        if not self.linear:
            loss, g, _ = self._loss_of(self.residual(A, W))
            return xp.sum(loss, axis=(1, 2), dtype=np.float64), ops.matmul(A, g)
        # ½‖ÃᴴW − I‖² = ½(⟨W, ÃÃᴴW⟩ − 2 Re Σd + N), and its derivative is ÃÃᴴW − Ã.
        GW = ops.matmul(ops.matmul(A, adjoint(xp, A)), W)
        d, q = self._gains(A, W), real_of(W.dtype).type(self.q)
        energy = xp.sum((W.conj() * GW).real, axis=(1, 2), dtype=np.float64)
        quadratic = energy - 2 * xp.sum(d.real, axis=1, dtype=np.float64) + self.N
        # Rounding may make a loss of almost 0 negative.
        loss = 0.5 * xp.maximum(quadratic, 0) + 0.5 * self.q * xp.sum(squares(xp, d - 1), axis=1, dtype=np.float64)
        return loss, GW - A * (1 - q * (d - 1))[:, None]

    def loss(self, state: State, target: Any, weights: Array | None, depth: int) -> tuple[Scalar, State, Gradients]:
        """The sum of the losses over the batch."""
        W, A = state
        losses, d_W = self.losses(A, W)
        return losses.sum(), (d_W, None), {}

    @property
    def shard(self) -> int:
        """A few matrices, so that memory holds only the layers of those being processed."""
        return self.ops.matrices


def adjoint(xp: Any, stack: Array) -> Array:
    """The conjugate transpose of each matrix in a stack (n, P, Q)."""
    each: Array = transposed(xp, stack).conj()
    return each


def transposed(xp: Any, stack: Array) -> Array:
    """The transpose of each matrix in a stack (n, P, Q)."""
    each: Array = xp.swapaxes(stack, 1, 2)
    return each
