"""Robust ALISTA: W = encoder(Ã), and ALISTA with it and Ã: x_{t+1} = η(x_t + α_t Wᵀ(y − Ã x_t); θ_t, k_t).

Liu, Chen, Wang, Yin, ICLR 2019, section 4.3. Each measurement comes with the perturbed matrix Ã that took it. Learned
are α_t, θ_t and what the encoder learns; gradients flow through the decoder into W, and through W into the encoder.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, ClassVar

from cuista.checks import Array
from cuista.networks.base import Backprop, Gradients, State, Unrolled, support_schedule
from cuista.networks.encoder import Encoder, rms_of, transposed
from cuista.networks.exact_encoder import ExactEncoder
from cuista.ops import Scalar

# What maps matrices to weights.
AnyEncoder = Encoder | ExactEncoder


class RobustAlista(Unrolled):
    """The network. Learned: `step_size` (T,), `threshold` (T,) or (T, N), and the encoder's, which its layers share.

    Parameters
    ----------
    encoder
        For matrices (M, N).
    M, N
        Their shape.
    parameters
        Of the decoder and the encoder. The encoder's have one axis more than its own, of length 1.
    options
        The others of `Unrolled`.
    """

    name: ClassVar[str] = "robust-alista"
    title: ClassVar[str] = "robust ALISTA"

    def __init__(self, encoder: AnyEncoder, M: int, N: int, *, parameters: dict[str, Array], **options: Any) -> None:
        self.encoder, self.M, self.N = encoder, M, N
        super().__init__(parameters=parameters, **options)
        step_matrices = self.parameters["step_matrix"][0] if encoder.matrices else ()
        self._rates = tuple(1e-3 * rms_of(self.ops.to_numpy(B)) for B in step_matrices)
        self.support = support_schedule(N, self.layers, self.percent, self.max_percent)

    def _prepare(self) -> None:
        # Of this network, not of its class: they depend on the encoder.
        self.matrices = self.encoder.matrices  # type: ignore[misc]
        self.logarithmic = ("threshold", *self.encoder.logarithmic)  # type: ignore[misc]
        self.product_operations = 2.0 * self.M * self.N

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        of_layers = (self.layers, self.N) if self.per_coordinate else (self.layers,)
        shared = {name: shape if name == "ridge" else (1, *shape) for name, shape in self.encoder.shapes.items()}
        return {"step_size": (self.layers,), "threshold": of_layers, **shared}

    def published_start(self) -> dict[str, Array]:
        raise NotImplementedError("a robust network starts from a trained decoder")

    def matrix_rate(self, nmse_db: float) -> tuple[float, ...]:
        """A thousandth of the size that each of the encoder's step matrices began with."""
        return self._rates

    def begin(self, y: Any) -> tuple[State, Backprop]:
        """The state before the first layer, for matrices Ã (n, M, N) and what each measured, (n, samples, M).

        It is x = 0 (n, samples, N), what is known of ∂L/∂W so far, W, Ã and y.
        """
        A, measured = y
        W, back = self.encoder.encode(A, self.parameters)
        x = self.ops.xp.zeros((*measured.shape[:2], self.N), self.dtype)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # ∂L/∂W is the sum over the layers of Σ r ⊗ ∂L/∂u: one product, of all layers' rows below each other.
            of_W = of_state[1]
            if of_W is None or not self.encoder.shapes:
                return (), {}
            r, du = (self.ops.xp.concatenate(rows, axis=1) for rows in zip(*of_W, strict=True))
            return (), back(self.ops.matmul(transposed(self.ops.xp, r), du))

        return (x, None, W, A, measured), backprop

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (x, _, W, A, y) = self.ops, self.ops.xp, state
        alpha, theta = self.parameter("step_size", t), self.parameter("threshold", t)
        r = y - ops.matmul(x, transposed(xp, A)) if t > 0 else y  # x_0 = 0
        u = ops.matmul(r, W)
        rows = (-1, self.N)
        flat, correction = x.reshape(rows), u.reshape(rows)
        x_next, code = ops.shrink_select(flat, correction, alpha, theta, self.support[t], window)

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # z = x + α u, u = r W, r = y − x Ãᵀ: ∂L/∂u = α dz, ∂L/∂W = Σ r ⊗ ∂L/∂u, ∂L/∂x = dz − ∂L/∂u Wᵀ Ã.
            dz, d_alpha, d_theta = ops.shrink_select_backward(
                of_state[0].reshape(rows), code, flat, correction, alpha, theta, window
            )
            du = (alpha.astype(dz.dtype) * dz).reshape(x.shape)
            of_x = dz.reshape(x.shape)
            if t > 0:
                of_x = of_x - ops.matmul(ops.matmul(du, transposed(xp, W)), A)
            of_W = [(r, du), *(of_state[1] or [])]
            return (of_x, of_W, None, None, None), {"step_size": d_alpha, "threshold": d_theta}

        return (x_next.reshape(x.shape), None, W, A, y), backprop

    def loss(self, state: State, target: Array, weights: Array | None) -> tuple[Scalar, State]:
        """½ Σ w_i ‖x − x*_i‖² over the signals x*_i and the matrices."""
        x, *others = state
        xp, rows = self.ops.xp, (-1, self.N)
        every = xp.broadcast_to(target, x.shape).reshape(rows)
        repeated = None if weights is None else xp.broadcast_to(weights, x.shape[:2]).reshape(-1)
        loss, delta = self.ops.half_squared_error(x.reshape(rows), every, repeated)
        return loss, (delta.reshape(x.shape), *[None] * len(others))

    def loss_and_gradients(
        self,
        y: Any,
        target: Array,
        depth: int,
        window: float = 0.0,
        weights: Array | None = None,
        wanted: Container[str] | None = None,
    ) -> tuple[Scalar, dict[str, Array]]:
        """The loss ½ Σ w_i ‖x_depth − x*_i‖² over matrices and signals, and its gradients.

        Parameters
        ----------
        y
            Matrices Ã (n, M, N), and what each of them measured, (n, samples, M).
        target
            x*, (samples, N), the same for all matrices.
        weights
            (samples,).
        """
        A, measured = y

        def one(part: slice) -> tuple[Scalar, dict[str, Array]]:
            pairs: Any = (A[part], measured[part])
            return Unrolled.loss_and_gradients(self, pairs, target, depth, window, weights, wanted)

        return self.sum_over_parts(A.shape, one, self.ops.at_a_time)

    def iterates(self, y: Any) -> Iterator[Array]:
        """x_1, …, x_T (n, samples, N) for matrices Ã (n, M, N) and what each measured, (n, samples, M)."""
        A, measured = (self.ops.asarray(array, self.dtype) for array in y)
        state, _ = self.begin((A, measured))
        for t in range(self.layers):
            state, _ = self.layer(t, state)
            yield state[0]
