"""Robust ALISTA: x_{t+1} = η(x_t + α_t Wᵀ(y − Ã x_t); θ_t, k_t), where an encoder computes W from Ã.

Liu, Chen, Wang, Yin, ICLR 2019, section 4.3. Each measurement comes with the perturbed matrix Ã with which it was
taken. The network learns α_t, θ_t and the parameters of the encoder. Gradients flow through the decoder into W, and
through W into the encoder.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from cuista.checks import Array
from cuista.networks.base import Backprop, Gradients, Split, State, rms_of
from cuista.networks.couplings import Coupling, Parameters, Part, Step, StepBackprop
from cuista.networks.encoder import Encoder, transposed
from cuista.networks.exact_encoder import ExactEncoder
from cuista.networks.proximal import Proximal
from cuista.networks.shrinkages import Soft
from cuista.ops import Scalar
from cuista.ops.joint import ALONE, Joint

# Encoders map matrices to weights.
AnyEncoder = Encoder | ExactEncoder


class Encoded(Coupling):
    """u = Wᴴ(y − Ã x) for each matrix Ã of a stack and its measurements, where an encoder computes the weight W from Ã.

    Besides x, a layer passes on W, Ã and y. The backward pass collects the factors of ∂L/∂W in the second part of the
    state.
    """

    def __init__(self, encoder: AnyEncoder) -> None:
        self.encoder, self.ops, self.dtype = encoder, encoder.ops, encoder.dtype

    def begin(self, y: Any, parameters: Parameters) -> tuple[State, Backprop]:
        """The initial state for matrices Ã (n, M, N) and the measurements (n, samples, M) taken with each.

        With L snapshots, measurements are (n, samples, L, M), and those of a sample are rows of the state.
        """
        A, measured = y
        measured = measured.reshape(len(A), -1, A.shape[1])
        W, back = self.encoder.encode(A, parameters)
        x = self.ops.xp.zeros((*measured.shape[:2], A.shape[2]), self.dtype)

        def backprop(d_state: State) -> tuple[State, Gradients]:
            # u = r W̄, so ∂L/∂W is the sum over the layers of Σ r ⊗ ∂L/∂ū. It is one product of the concatenated rows of
            # all layers.
            if d_state[1] is None or not self.encoder.shapes:
                return (), {}
            r, d_u = (self.ops.xp.concatenate(rows, axis=1) for rows in zip(*d_state[1], strict=True))
            return (), back(self.ops.matmul(transposed(self.ops.xp, r), d_u.conj()))

        return (x, None, W, A, measured), backprop

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        ops, xp, (x, _, W, A, y) = self.ops, self.ops.xp, state
        r = y - ops.matmul(x, transposed(xp, A)) if t > 0 else y  # x_0 = 0
        u = ops.matmul(r, W.conj())

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # u = r W̄ and r = y − x Ãᵀ, so ∂L/∂x = ∂L/∂start − ∂L/∂u Wᵀ (Ã's conjugate).
            d_x, d_u = d.start.reshape(x.shape), d.u.reshape(x.shape)
            if t > 0:
                d_x = d_x - ops.matmul(ops.matmul(d_u, transposed(xp, W)), A.conj())
            return (d_x, [(r, d_u), *(d_carried[0] or [])], None, None, None), {}

        rows = (-1, x.shape[2])
        return Step(x.reshape(rows), u.reshape(rows)), (None, W, A, y), back


class RobustAlista(Proximal):
    """Robust ALISTA, which learns `step_size` (T,), `threshold`, (T,) or (T, N), and the parameters of the encoder.

    All layers share the encoder's parameters. Inputs are matrices Ã (n, M, N) and the measurements (n, samples, M)
    taken with each. Targets are the signals (samples, N), the same for all matrices. Iterates are (n, samples, N). With
    L snapshots, measurements are (n, samples, L, M), targets (samples, L, N), and iterates (n, samples, L, N).

    Parameters
    ----------
    encoder
        The encoder that computes the weights.
    M, N
        The shape of the matrices.
    parameters
        The parameters of the decoder and the encoder. The encoder's step matrices have an added first axis of length 1.
    positive, joint
        As in `Network`.
    options
        The other parameters of `Unrolled`; `ops` is by default that of the encoder, and the precision always is.
    """

    name = "robust-alista"
    title = "robust ALISTA"

    def __init__(
        self,
        encoder: AnyEncoder,
        M: int,
        N: int,
        *,
        parameters: dict[str, Array],
        positive: bool = False,
        joint: Joint = ALONE,
        **options: Any,
    ) -> None:
        self.encoder, self.M, self.N, self.joint = encoder, M, N, joint
        # These are attributes of the network, not of its class, because they depend on the encoder.
        self.matrices, self.logarithmic = encoder.matrices, ("threshold", *encoder.logarithmic)
        self.couple, self.shrink = Encoded(encoder), Soft(encoder.ops, positive, joint)
        # The dtype is the encoder's, which is complex if its matrix is.
        super().__init__(parameters=parameters, **{"ops": encoder.ops, **options, "dtype": encoder.dtype})
        step_matrices = self.parameters["step_matrix"][0] if encoder.matrices else ()
        self._rates = tuple(1e-3 * rms_of(self.ops.to_numpy(B)) for B in step_matrices)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shared = {name: shape if name == "ridge" else (1, *shape) for name, shape in self.encoder.shapes.items()}
        return {"step_size": (self.layers,), "threshold": self.threshold_shape, **shared}

    def published_start(self) -> dict[str, Array]:
        raise NotImplementedError("a robust network starts from a trained decoder")

    def matrix_rate(self, nmse_db: float) -> tuple[float, ...]:
        """A thousandth of the initial root mean square of each of the encoder's step matrices."""
        return self._rates

    def loss(self, state: State, target: Array, weights: Array | None, depth: int) -> tuple[Scalar, State, Gradients]:
        """½ Σ w_i ‖x − x*_i‖² over the signals x*_i and the matrices."""
        x, *others = state
        xp, rows, L = self.ops.xp, (-1, self.N), self.joint.snapshots
        if L > 1:  # the snapshots of a sample are rows with its weight, as in a state, also where x is an output
            x = x.reshape(len(x), -1, self.N)
            target = target.reshape(*target.shape[:-3], -1, self.N)
            weights = None if weights is None else xp.repeat(weights, L, axis=-1)
        every = xp.broadcast_to(target, x.shape).reshape(rows)
        repeated = None if weights is None else xp.broadcast_to(weights, x.shape[:2]).reshape(-1)
        loss, delta = self.ops.half_squared_error(x.reshape(rows), every, repeated)
        return loss, (delta.reshape(x.shape), *[None] * len(others)), {}

    def by_sample(self, x: Array) -> Array:
        """The rows (n, samples·L, N) of a state as the iterates of samples, (n, samples, L, N) if L > 1."""
        return x if self.joint.snapshots == 1 else x.reshape(len(x), -1, self.joint.snapshots, self.N)

    @property
    def shard(self) -> int:
        """A few matrices, each with all signals."""
        return self.ops.matrices

    def split(self, y: Any, target: Array, weights: Array | None) -> Split:
        """The batch is split by its matrices."""
        A, measured = y
        return Split(len(A), lambda rows: ((A[rows], measured[rows]), target, weights))
