"""Couplings, which compute a layer's z = start + α u, before it is thresholded, from the iterate and the measurements.

Each computes start and u in its own way, usually u = Wᴴ(y − A x), and has a backward pass. Backward passes take
∂L/∂start and ∂L/∂u, which includes the step size (`cuista.networks.proximal`). The gradient of a real L with respect to
a complex z is g = ∂L/∂Re z + i ∂L/∂Im z, so that dL = Re⟨g, dz⟩, and z = K x gives g_x = Kᴴ g_z.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from cuista.checks import Array, in_double
from cuista.networks.base import Backprop, Gradients, State, constant_start
from cuista.operators import Dense, Operator
from cuista.ops import OuterSum
from cuista.ops.cpu import product
from cuista.ops.joint import real_of

Parameters = dict[str, Array]
# Maps the name of a parameter to the layer's part of it.
Part = Callable[[str], Array]


class Step(NamedTuple):
    """The terms of z = start + α u, (batch, N), and the residual from which u is computed, (batch, M), if it is known.

    Backward passes use this class for the derivatives of the loss with respect to the three.
    """

    start: Array
    u: Array
    residual: Array | None = None


# Computes ∂L/∂state and the gradients of the parameters from the derivatives with respect to the step, and with respect
# to what the layer passes on besides x.
StepBackprop = Callable[[Step, State], tuple[State, Gradients]]


@dataclass
class Awaited:
    """∂L/∂x = start + product, not formed yet.

    Only the layer that x comes from knows which entries it needs: those that its thresholding did not turn off.

    Attributes
    ----------
    start
        (batch, N).
    product
        Returns a new array (batch, N), which is right where its argument, the thresholding's code, is not 0.
    """

    start: Array
    product: Callable[[Array], Array]

    def __add__(self, more: Array) -> Awaited:
        return Awaited(self.start + more, self.product)

    def where(self, code: Array) -> Array:
        """The derivative where `code`, (batch, N) int8, is not 0; the other entries have no meaning."""
        d_x = self.product(code)
        d_x += self.start
        return d_x


class Coupling(ABC):
    """A coupling for an operator A and its analytic weight W (M, N)."""

    def __init__(self, operator: Dense, W: Array) -> None:
        self.operator, self.ops, self.dtype = operator, operator.ops, operator.dtype

    def start(self, B: Array, stack: int) -> Parameters:
        """The learned matrices with which every layer takes the step x + B (y − A x), where B is (N, M).

        A matrix that each layer may have for itself is repeated `stack` times. The arrays may be read-only.
        """
        return {}

    @abstractmethod
    def begin(self, y: Any, parameters: Parameters) -> tuple[State, Backprop]:
        """The initial state for measurements y (batch, M), whose first part is x = 0, and its backward pass."""

    @abstractmethod
    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        """Layer t's step, what the layer passes on besides x, and the backward pass."""

    def zeros(self, y: Array) -> Array:
        """x_0 = 0, (batch, N)."""
        x: Array = self.ops.xp.zeros((y.shape[0], self.operator.N), self.dtype)
        return x


# Only one thread at a time packs a factor.
_packing = threading.Lock()


class Analytic(Coupling):
    """u = Wᴴ(y − A x) with the analytic weight W, which is not trained.

    Therefore Wᴴy is computed only once for all layers. Unless N is far larger than M, WᴴA is formed too. A layer then
    takes a single product with a sparse array, and so does its backward pass.
    """

    def __init__(self, operator: Dense, W: Array) -> None:
        super().__init__(operator, W)
        self.formed = operator.N <= 8 * operator.M
        self._conjugate = W.conj()
        # What turns y into the rows of Wᴴy, y W̄.
        self.W = self.ops.asarray(self._conjugate, self.dtype)
        self._factor: Array | None = self._form()
        self._adjoint: Array | None = None

    def begin(self, y: Array, parameters: Parameters) -> tuple[State, Backprop]:
        return (self.zeros(y), self.ops.matmul(y, self.W)), constant_start

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        x, Wy = state
        u = Wy
        if t > 0:  # x_0 = 0
            u = self.forward(x)
            u += Wy

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # start = x and u = Wᴴy − WᴴA x, so ∂L/∂x = ∂L/∂start − AᴴW ∂L/∂u. x_0 is a constant.
            d_x = d.start
            if t > 0:
                d_x += self.backward(d.u)
            return (d_x, None), {}

        return Step(x, u), (Wy,), back

    def _form(self) -> Array:
        if not self.formed:
            return self.ops.asarray(-self._conjugate, self.dtype)
        A, factor = self.operator.A, np.empty((self.operator.N, self.operator.N), self.dtype)
        product(A.T, self._conjugate, out=factor)  # computed in double precision, part by part
        return self.ops.asarray(np.negative(factor, out=factor), self.dtype)

    @property
    def factor(self) -> Array:
        """What turns x (or x Aᵀ, if WᴴA is not formed) into −x AᵀW̄."""
        if self._factor is None:
            self._factor = self._form()
        return self._factor

    @property
    def adjoint(self) -> Array:
        """The factor's conjugate transpose, for backward passes only."""
        if self._adjoint is None:
            self._adjoint = self.ops.asarray(self.factor.conj().T, self.dtype)
        return self._adjoint

    @property
    def packed(self) -> Array:
        """The factor −AᵀW̄ as `ops.analytic_layers` takes it, if it is formed.

        Where this is another array, it replaces the factor, which is formed again if layers are computed one by one.
        """

        def pack() -> Array:
            factor = self.factor
            packed = self.ops.pack(factor)
            self._factor = factor if packed is factor else None
            return packed

        with _packing:
            return self.ops.kept(self, "packed", pack)

    @property
    def packed_adjoint(self) -> Array:
        """The factor's conjugate transpose in the same form, which replaces it in the same way."""

        def pack() -> Array:
            factor, adjoint = self._factor, self.adjoint
            packed = self.ops.pack(adjoint)
            if packed is not adjoint:
                self._factor, self._adjoint = factor, None
            return packed

        return self.ops.kept(self, "packed_adjoint", pack)

    def forward(self, x: Array) -> Array:
        """−WᴴA x for the rows of x (batch, N)."""
        if self.formed:
            return self.ops.sparse_matmul(x, self.factor)
        return self.ops.matmul(self.operator.apply(x), self.factor)

    def backward(self, d_u: Array) -> Array:
        """The adjoint of `forward`, −AᴴW d."""
        back = self.ops.sparse_matmul(d_u, self.adjoint)
        return back if self.formed else self.operator.adjoint(back)


class MatrixFree(Coupling):
    """u = Wᴴ(y − A x) with the analytic weight W of any operator A, without a matrix: u = h⁻¹ ⊙ Aᴴ G⁻¹(y − A x).

    Here, G = A Aᴴ + λI, and h are the gains of the operator. Iterates are rows (batch, N) and measurements are (batch,
    M), whatever shapes the operator has. A layer applies A and Aᴴ once, and so does its backward pass.

    Parameters
    ----------
    operator
        The operator.
    ridge
        The ridge λ.
    """

    def __init__(self, operator: Operator, ridge: float = 0.0) -> None:
        self.map, self.ridge, self.ops, self.dtype = operator, ridge, operator.ops, operator.dtype

    @cached_property
    def gains(self) -> Array:
        """h, (N,)."""
        return self.ops.asarray(self.map.gains(self.ridge).reshape(-1), real_of(self.dtype))

    @cached_property
    def weights(self) -> Array:
        """What Aᴴ G⁻¹ r is multiplied by, h⁻¹ (N,). If G is the multiple of the identity, it is divided out here."""
        c = self.map.rows_norm_squared
        weights: Array = 1 / (self.gains if c is None else self.gains * self.gains.dtype.type(c + self.ridge))
        return weights

    def measure(self, x: Array) -> Array:
        """A x, (batch, M), for x (batch, N)."""
        return self.map.apply(x.reshape(-1, *self.map.shape[1])).reshape(len(x), -1)

    def solve(self, r: Array) -> Array:
        """G⁻¹ r for r (batch, M), or r itself if `weights` do it."""
        if self.map.rows_norm_squared is not None:
            return r
        return self.map.solve_gram(r.reshape(-1, *self.map.shape[0]), self.ridge).reshape(len(r), -1)

    def back(self, r: Array) -> Array:
        """Aᴴ r, (batch, N), for r (batch, M)."""
        return self.map.adjoint(r.reshape(-1, *self.map.shape[0])).reshape(len(r), -1)

    def error(self, step: Step) -> Array:
        """A⁺(y − A x) (batch, N), which is AᴴG⁻¹(y − A x) without a ridge, or h ⊙ u."""
        if self.ridge == 0:
            return self.gains * step.u
        assert step.residual is not None
        r = step.residual.reshape(-1, *self.map.shape[0])
        return self.map.adjoint(self.map.solve_gram(r)).reshape(step.u.shape)

    def zeros(self, y: Array) -> Array:
        x: Array = self.ops.xp.zeros((y.shape[0], self.map.N), self.dtype)
        return x

    def begin(self, y: Array, parameters: Parameters) -> tuple[State, Backprop]:
        return (self.zeros(y), y), constant_start

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        x, y = state
        r = y
        if t > 0:  # x_0 = 0
            r = self.measure(x)
            self.ops.xp.subtract(y, r, out=r)
        u = self.back(self.solve(r))
        u *= self.weights

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # r = y − A x and u = h⁻¹ ⊙ AᴴG⁻¹r. h is real and G⁻¹ is its own adjoint, so ∂L/∂r = G⁻¹A(h⁻¹ ⊙ ∂L/∂u), to
            # which the threshold may add, and ∂L/∂x = ∂L/∂start − Aᴴ ∂L/∂r. x_0 is a constant.
            d_x = d.start
            if t > 0:
                d_r = self.solve(self.measure(self.weights * d.u))
                if d.residual is not None:
                    d_r = d_r + d.residual
                d_x -= self.back(d_r)
            return (d_x, None), {}

        return Step(x, u, r), (y,), back


class Learned(Coupling):
    """u = W r with r = y − A x, where W (N, M) is learned as `weight`, unless `fixed` is given in its place."""

    fixed: Array | None = None

    def start(self, B: Array, stack: int) -> Parameters:
        return {"weight": _repeated(B, stack)} if self.fixed is None else {}

    def memory(self, x: Array) -> Array | None:
        """The factor κ (batch, 1) with which the previous layer's residual is added to the new one; None for 0."""
        return None

    def begin(self, y: Array, parameters: Parameters) -> tuple[State, Backprop]:
        return (self.zeros(y), None, y), constant_start

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        ops, (x, r_before, y) = self.ops, state
        W = part("weight") if self.fixed is None else self.fixed
        r, kept = y, None
        if t > 0:  # x_0 = 0
            r, kept = self.operator.apply(x), self.memory(x)
            r = ops.xp.subtract(y, r, out=r)
            if kept is not None:
                r += kept * r_before

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # r = y − A x + κ r₋ and u = r Wᵀ, where κ is treated as a constant. So ∂L/∂W = Σ ∂L/∂u ⊗ r̄. The threshold
            # and the next layer add their parts to ∂L/∂r = ∂L/∂u W̄. Then ∂L/∂x = ∂L/∂start − ∂L/∂r Ā and ∂L/∂r₋ = κ
            # ∂L/∂r.
            gradients: Gradients = {"weight": OuterSum(d.u, r.conj())} if self.fixed is None else {}
            if t == 0:
                return (d.start, None, None), gradients
            d_r = ops.sparse_matmul(d.u, W.conj())
            for more in (d.residual, d_carried[0]):
                if more is not None:
                    d_r += more
            d_x = Awaited(d.start, partial(self.operator.adjoint_where, -d_r))
            return (d_x, None if kept is None else kept * d_r, None), gradients

        return Step(x, ops.matmul(r, W.T), r), (r, y), back


class Onsager(Learned):
    """u = W r with the Onsager correction of approximate message passing, r = y − A x + (‖x‖₀ / M) r₋.

    Thanks to the correction, ‖r‖₂/√M estimates the standard deviation of the error in z. The derivative of ‖x‖₀ is 0.
    """

    def memory(self, x: Array) -> Array:
        present = self.ops.xp.count_nonzero(x, axis=1)[:, None].astype(real_of(x.dtype))
        kept: Array = present / present.dtype.type(self.operator.M)
        return kept


class FixedOnsager(Onsager):
    """The Onsager coupling with a fixed W, the conjugate transpose of the analytic weight."""

    def __init__(self, operator: Dense, W: Array) -> None:
        super().__init__(operator, W)
        self.fixed = self.ops.asarray(W.conj().T, self.dtype)


class Sensed(Coupling):
    """u = W (y − A x) with y = Φ f and A = Φ D, where W (N, M) is learned as `weight` and Φ (M, P) as `sensing`.

    The inputs are not y but f (batch, P), from which y is measured. Φ is used without the means of its rows, so that it
    does not see the mean of f.

    Parameters
    ----------
    Phi, dictionary
        The Φ (M, P) at the start, and D (P, N).
    """

    def __init__(self, operator: Dense, W: Array, Phi: Array, dictionary: Array) -> None:
        super().__init__(operator, W)
        self.Phi = Phi
        self.D, self.transposed = (self.ops.asarray(each, self.dtype) for each in (dictionary, dictionary.T))

    def start(self, B: Array, stack: int) -> Parameters:
        return {"weight": _repeated(B, stack), "sensing": self.Phi[None]}

    def begin(self, f: Array, parameters: Parameters) -> tuple[State, Backprop]:
        matmul, Phi = self.ops.matmul, without_means(parameters["sensing"][0])
        A, transposed = matmul(Phi, self.D), matmul(self.transposed, Phi.T)  # both contiguous, for faster products

        def backprop(d_state: State) -> tuple[State, Gradients]:
            # y = Φ f and A = Φ D, so ∂L/∂Φ = Σ ∂L/∂y ⊗ f + ∂L/∂A Dᵀ. Removing means is its own adjoint.
            d_y, d_A = d_state[1]
            d_Phi = matmul(d_y.T, f)
            if d_A is not None:
                d_Phi += matmul(d_A, self.transposed)
            return (), {"sensing": without_means(d_Phi)}

        return (self.zeros(f), None, matmul(f, Phi.T), A, transposed), backprop

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        ops, (x, _, y, A, transposed), W = self.ops, state, part("weight")
        r = y - ops.sparse_matmul(x, transposed) if t > 0 else y  # x_0 = 0

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # r = y − A x and u = r Wᵀ, so ∂L/∂W = Σ ∂L/∂u ⊗ r. With ∂L/∂r = ∂L/∂u W, ∂L/∂x = ∂L/∂start − ∂L/∂r A, and
            # the layer's parts of ∂L/∂y and ∂L/∂A are ∂L/∂r and −Σ ∂L/∂r ⊗ x.
            d_r = ops.sparse_matmul(d.u, W)
            d_y, d_A = d_carried[0] or (None, None)
            d_y = d_r if d_y is None else d_y + d_r
            d_x: Array | Awaited = d.start
            if t > 0:
                d_x = Awaited(d.start, partial(ops.matmul_where, -d_r, A, transposed))
                more = ops.matmul(d_r.T, x)
                d_A = -more if d_A is None else d_A - more
            return (d_x, (d_y, d_A), None, None, None), {"weight": OuterSum(d.u, r)}

        return Step(x, ops.matmul(r, W.T), r), (None, y, A, transposed), back


def without_means(Phi: Array) -> Array:
    """Φ (M, P) with the mean of each row removed."""
    centred: Array = Phi - Phi.mean(axis=1, keepdims=True)
    return centred


class Recurrent(Coupling):
    """z = B y + W x, where B (N, M) is learned as `input_weight`, which all layers share, and W (N, N) as `weight`."""

    def start(self, B: Array, stack: int) -> Parameters:
        W = np.eye(self.operator.N) - B @ self.operator.A
        return {"input_weight": B[None], "weight": _repeated(W, stack)}

    def begin(self, y: Array, parameters: Parameters) -> tuple[State, Backprop]:
        def backprop(d_state: State) -> tuple[State, Gradients]:
            # Every layer has added its ∂L/∂start to ∂L/∂(B y).
            return (), {"input_weight": OuterSum(d_state[1], y.conj())}

        return (self.zeros(y), self.ops.matmul(y, parameters["input_weight"][0].T)), backprop

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        ops, (x, By), W = self.ops, state, part("weight")
        Wx = ops.matmul(x, W.T) if t > 0 else x  # x_0 = 0

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # start = B y and u = x Wᵀ, so ∂L/∂W = Σ ∂L/∂u ⊗ x̄ and ∂L/∂x = ∂L/∂u W̄.
            d_By = d.start if d_carried[0] is None else d_carried[0] + d.start
            if t == 0:  # x_0 is a constant
                return (d.start, d_By), {}
            return (ops.sparse_matmul(d.u, W.conj()), d_By), {"weight": OuterSum(d.u, x.conj())}

        return Step(By, Wx), (By,), back


class Momentum(Coupling):
    """A coupling with momentum: β (x − x₋) is added to the start of its step, where β is learned as `momentum`."""

    def __init__(self, inner: Coupling) -> None:
        self.inner = inner

    def start(self, B: Array, stack: int) -> Parameters:
        return self.inner.start(B, stack)

    def begin(self, y: Array, parameters: Parameters) -> tuple[State, Backprop]:
        state, back = self.inner.begin(y, parameters)
        return (*state, state[0]), lambda d_state: back(d_state[:-1])  # x_{−1} = x_0 is a constant

    def __call__(self, t: int, state: State, part: Part) -> tuple[Step, State, StepBackprop]:
        x, x_before = state[0], state[-1]
        step, carried, inner_back = self.inner(t, state[:-1], part)
        beta, change = part("momentum").astype(real_of(x.dtype)), x - x_before

        def back(d: Step, d_carried: State) -> tuple[State, Gradients]:
            # start = … + β (x − x₋); x is also the x₋ of the next layer.
            d_change = beta * d.start
            d_beta = self.inner.ops.inner(in_double(d.start), change)
            (d_x, *others), gradients = inner_back(d, d_carried[:-1])
            d_x = d_x + d_change
            if d_carried[-1] is not None:
                d_x += d_carried[-1]
            return (d_x, *others, -d_change), {**gradients, "momentum": d_beta}

        return step._replace(start=step.start + beta * change), (*carried, x), back


def _repeated(matrix: Array, times: int) -> Array:
    """The matrix repeated along a new first axis, as a view, because a copy might be large."""
    return np.broadcast_to(matrix, (times, *matrix.shape))
