"""Networks whose layers are proximal steps: x_{t+1} = η(start + α_t u; τ_t, k_t).

A coupling computes start and u from the iterate and the measurements, with or without momentum
(`cuista.networks.couplings`). A shrinkage computes the threshold τ_t and applies η (`cuista.networks.shrinkages`). The
class of a network names its coupling and its shrinkage.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.networks.base import Backprop, Gradients, Proposal, State, Unrolled, rms_of
from cuista.networks.couplings import Analytic, Awaited, Coupling, Learned, MatrixFree, Momentum, Sensed, Step
from cuista.networks.groups import Groups
from cuista.networks.shrinkages import Soft
from cuista.operators import Dense, Operator
from cuista.ops import OuterSum, Scalar
from cuista.ops.joint import ALONE, Joint, real_of

Kind = TypeVar("Kind", bound="Network")
# How many numbers of an iterate are computed at a time without a matrix: so few that they stay in a CPU's cache, or
# enough for a GPU.
AT_A_TIME, ENTRIES = 2**16, 2**22


class Proximal(Unrolled):
    """An unrolled network that consists of a coupling `couple` and a shrinkage `shrink`."""

    couple: Coupling
    shrink: Soft
    # The groups that share a step size (of coordinates) and a threshold (of entries); None for one of each in a layer.
    shared: tuple[Groups, Groups] | None = None

    @property
    def positive(self) -> bool:
        """Whether thresholding is one-sided, so that no entry of an iterate is negative."""
        return self.shrink.positive

    def begin(self, y: Any) -> tuple[State, Backprop]:
        return self.couple.begin(y, self.parameters)

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, x, part = self.ops, state[0], partial(self.parameter, t=t)
        alpha, theta = self.step_size(t), self.parameter("threshold", t)
        step, carried, back_to_state = self.couple(t, state, part)
        u, steps = step.u, None
        if self.shared is not None:
            theta = self.shared[1].spread(theta.astype(real_of(u.dtype)))
            if self.step_sizes:
                steps, alpha = self.shared[0].spread(alpha.astype(real_of(u.dtype))), self.one
        tau, back_to_theta = self.shrink.threshold(theta, x, step)
        if steps is not None:
            step = step._replace(u=steps * u)
        x_next, code = self.shrink(step, alpha, tau, self.support[t], window)

        def backprop(d_state: State) -> tuple[State, Gradients]:
            # z = start + α u, so ∂L/∂start = dz and ∂L/∂u = α dz. Apart from what τ adds, they are sparse like x_next.
            d_x = d_state[0]
            joint = self.shrink.joint
            if isinstance(d_x, Awaited):
                delta = d_x.where(joint.spread(ops.xp, code, step.u))
            else:
                delta = d_x.reshape(step.u.shape)
            form = (alpha, tau, window, joint)
            dz, d_alpha, d_tau = ops.shrink_select_backward(delta, code, step.start, step.u, *form)
            d_theta, more_d_x, more_d_u, d_residual = back_to_theta(d_tau)
            d_u = alpha.astype(real_of(dz.dtype)) * dz if self.step_sizes else dz
            if self.shared is not None:
                # Each coordinate and each entry had a value of its own, which is that of its group.
                d_theta = self.shared[1].sum(d_theta)
            if self.shared is not None and steps is not None:
                products = dz * u if dz.dtype.kind != "c" else dz.real * u.real + dz.imag * u.imag
                d_alpha = self.shared[0].sum(products.sum(axis=0, dtype=np.float64))
                d_u = steps * dz
            if more_d_u is not None:
                d_u = d_u + more_d_u
            (d_x, *others), gradients = back_to_state(Step(dz, d_u, d_residual), d_state[1:])
            if more_d_x is not None and t > 0:  # x_0 is a constant
                d_x += more_d_x
            gradients["threshold"] = d_theta
            if self.step_sizes:
                gradients["step_size"] = d_alpha
            return (d_x, *others), gradients

        return (x_next.reshape(x.shape), *carried), backprop

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        x = state[0]
        step, _, _ = self.couple(t, state, partial(self.parameter, t=t))

        def proposal(alpha: float, theta: float) -> Array:
            return self.shrink(step, alpha, self.shrink.threshold(theta, x, step)[0], self.support[t])[0]

        unit = self.ops.asarray(self.shrink.threshold(1.0, x, step)[0], np.float64)
        return proposal, float(self.ops.xp.mean(unit))

    @property
    def threshold_shape(self) -> tuple[int, ...]:
        if self.shared is not None:
            return self.layers, self.shared[1].count
        return (self.layers, self.entries) if self.per_coordinate else (self.layers,)

    @property
    def step_shape(self) -> tuple[int, ...]:
        """The shape of the step sizes."""
        return (self.layers,) if self.shared is None else (self.layers, self.shared[0].count)


class Network(Proximal):
    """An unrolled network for a measurement matrix, or for any other operator.

    Parameters
    ----------
    operator
        The operator of the measurement matrix (M, N), or any operator. Its engine and precision are those of the
        network. Measurements are (batch, M) and signals (batch, N), also where the operator has more axes.
    W
        The analytic weight (M, N) of the matrix. If None, the network uses the operator alone, and not a matrix: see
        `MatrixFree`. Only networks without learned matrices can do so.
    layers, options
        As in `Unrolled`.
    positive
        Whether thresholding is one-sided, so that no entry of an iterate is negative.
    dictionary
        A dictionary D (P, N). If it is given, the network returns f = D x instead of x, and is trained to do so. In
        networks with learned matrices, D is learned for the last layer, as `dictionary` (1, P, N).
    penalty
        The factor μ of Σ|x| in the loss of a network with a dictionary, ½ Σ_i ‖D x_i − f_i‖² + μ Σ_i ‖x_i‖₁.
    sensing
        A matrix Φ (M, P). If it is given, with a dictionary, the matrix is A = Φ D, the network's inputs are f instead
        of y = Φ f, and Φ is learned too, as `sensing` (1, M, P). Only networks that `can_learn_sensing` accept it.
    joint
        Which numbers are thresholded together. With L > 1 snapshots, measurements are (batch, L, M) and signals are
        (batch, L, N).
    ridge
        The ridge λ of the analytic weight, without a matrix.
    groups
        The number of each coordinate's group, (N,), from 0. Each group has a threshold and a step size of its own, so
        that both are (T, K) with K groups. Coordinates that are thresholded together are in one group. None for one of
        each in a layer.

    Raises
    ------
    InputError
        If the network does not have the variant, or cannot do without a matrix, or the groups are not as described.

    Attributes
    ----------
    coupling, shrinkage, momentum
        The classes of the coupling and of the shrinkage, and whether there is momentum.
    """

    coupling: ClassVar[type[Coupling]]
    shrinkage: ClassVar[type[Soft]]
    momentum: ClassVar[bool] = False

    def __init__(
        self,
        operator: Operator,
        W: Array | None = None,
        *,
        layers: int = 16,
        positive: bool = False,
        dictionary: Array | None = None,
        penalty: float = 0.0,
        sensing: Array | None = None,
        joint: Joint = ALONE,
        ridge: float = 0.0,
        groups: ArrayLike | None = None,
        **options: Any,
    ) -> None:
        self.operator, self.M, self.N, self.ridge = operator, operator.M, operator.N, ridge
        self.W: Any = W
        self.dictionary, self.penalty = dictionary, penalty
        if dictionary is not None:
            self._rates: dict[str, float] = {}
            self._transposed = operator.ops.asarray(dictionary.T, operator.dtype)
            if self.matrices:
                self.last = ("dictionary",)
                self.matrices = (*self.matrices, *self.last)
        if sensing is not None and dictionary is not None and not self.can_learn_sensing():
            raise InputError(f"{self.title} cannot learn Φ: name another network", option="net")
        coupling: Coupling
        if W is None:
            if self.coupling is not Analytic:
                raise InputError(
                    f"{self.title} learns matrices, which is not possible without one: name another network",
                    option="net",
                )
            coupling = MatrixFree(operator, ridge)
        elif sensing is not None and dictionary is not None:
            self.matrices = (*self.matrices, "sensing")
            coupling = Sensed(self._matrix, W, sensing, dictionary)
        else:
            coupling = self.coupling(self._matrix, W)
        self.couple = Momentum(coupling) if self.momentum else coupling
        self.joint, self.shrink = joint, self.shrinkage(operator.ops, positive, joint)
        self.groups = None if groups is None else np.asarray(groups)
        if groups is not None:
            self.shared = self._shared(Groups(groups, operator.ops), options)
        super().__init__(layers=layers, ops=operator.ops, dtype=operator.dtype, **options)

    def _shared(self, groups: Groups, options: dict[str, Any]) -> tuple[Groups, Groups]:
        """The groups of coordinates and of entries, after a check of the variant."""
        if not self.can_group or self.matrices:
            raise InputError(f"{self.title} has no threshold for each group: leave the groups out", option="groups")
        if options.get("per_coordinate"):
            raise InputError(
                "there are thresholds for each coordinate, and for each group: leave out one", option="per_coordinate"
            )
        entries = groups.numbers.reshape(-1, self.joint.group)
        if groups.numbers.shape != (self.N,) or (entries != entries[:, :1]).any():
            raise InputError(
                f"the groups have shape {groups.numbers.shape}; expected one number for each of {self.N} coordinates, "
                "the same for coordinates that are thresholded together",
                option="groups",
            )
        return groups, groups if self.joint.group == 1 else Groups(entries[:, 0], groups.ops)

    @property
    def _matrix(self) -> Dense:
        """The operator of a network that has a matrix."""
        if not isinstance(self.operator, Dense):
            raise InputError("a weight belongs to a measurement matrix: leave it out for an operator that is no matrix")
        return self.operator

    @property
    def A(self) -> Array:
        """The matrix (M, N) of a network that has one."""
        return self._matrix.A

    @property
    def input_dtype(self) -> np.dtype[Any]:
        return self.operator.measured_dtype

    @classmethod
    def can_learn_sensing(cls) -> bool:
        """Whether the network can learn Φ: its layers must be steps x + α W (y − A x) with a learned W."""
        return cls.coupling is Learned and not cls.momentum

    def advance(self, state: State, layers: range) -> State:
        couple, own_layer, rows = self.couple, type(self).layer is not Proximal.layer, self.at_a_time
        if rows is not None and len(state[0]) > rows:
            # The layers of a few samples at a time stay in the cache, and take little memory.
            work = partial(self._advance_rows, state, layers)
            parts = self.ops.in_batches(state[0].shape, work, rows)
            return tuple(self.ops.xp.concatenate(each) for each in zip(*parts, strict=True))
        plain = type(couple) is Analytic and couple.formed and type(self.shrink) is Soft and self.shared is None
        if own_layer or not plain:
            return super().advance(state, layers)  # only the layers of ALISTA are computed several at once
        assert isinstance(couple, Analytic)
        x, Wy = state
        part, parameters = slice(layers.start, layers.stop), self.parameters
        alpha = parameters["step_size"][part] if self.step_sizes else self.ops.xp.ones(len(layers))
        x = self.ops.analytic_layers(
            x if layers.start else None,  # x_0 = 0
            Wy,
            couple.packed,
            alpha,
            parameters["threshold"][part],
            self.support[part],
            self.positive,
            self.joint,
        )
        return x, Wy

    def _advance_rows(self, state: State, layers: range, rows: slice) -> State:
        """The state of some rows after these layers."""
        return self.advance(tuple(None if part is None else part[rows] for part in state), layers)

    # -- without a matrix -------------------------------------------------------------------------------------------

    @property
    def at_a_time(self) -> int | None:
        """How many rows of a state are computed at a time; None for all. With a matrix, the caller decides."""
        if self.W is not None:
            return None
        numbers = AT_A_TIME if self.ops.xp is np else ENTRIES
        return max(numbers // (self.N * self.joint.snapshots), 1) * self.joint.snapshots

    @property
    def samples_at_a_time(self) -> int | None:
        return None if self.at_a_time is None else self.at_a_time // self.joint.snapshots

    # -- several snapshots ------------------------------------------------------------------------------------------

    def begin(self, y: Any) -> tuple[State, Backprop]:
        """The start for measurements (batch, M) or (batch, L, M), all snapshots of which are rows of the state."""
        return super().begin(y.reshape(-1, y.shape[-1]))

    def by_row(self, target: Array, weights: Array | None) -> tuple[Array, Array | None]:
        """Targets (batch, L, N) and the weights of samples (batch,) for the rows of a state."""
        if self.joint.snapshots == 1:
            return target, weights
        rows = target.reshape(-1, target.shape[-1])
        return rows, None if weights is None else self.ops.xp.repeat(weights, self.joint.snapshots)

    # -- the output -------------------------------------------------------------------------------------------------

    def _learns_output(self, depth: int) -> bool:
        """Whether the D of the output after `depth` layers is learned: that of the last layer only."""
        return bool(self.last) and depth == self.layers

    def _output_matrix(self, depth: int) -> Array:
        """Dᵀ (N, P) for the output after `depth` layers."""
        return self.parameters["dictionary"][0].T if self._learns_output(depth) else self._transposed

    def read(self, x: Array, depth: int) -> Array:
        """D x, or x without a dictionary."""
        return x if self.dictionary is None else self.ops.sparse_matmul(x, self._output_matrix(depth))

    def loss(self, state: State, target: Array, weights: Array | None, depth: int) -> tuple[Scalar, State, Gradients]:
        target, weights = self.by_row(target, weights)
        if self.dictionary is None:
            return super().loss(state, target, weights, depth)
        x, *others = state
        ops, xp = self.ops, self.ops.xp
        loss, delta = ops.half_squared_error(self.read(x, depth), target, weights)
        # f = D x, so ∂L/∂x = ∂L/∂f D + μ sign x and ∂L/∂D = Σ ∂L/∂f ⊗ x.
        d_x = ops.matmul(delta, self._output_matrix(depth).T)
        if self.penalty:
            loss = loss + self.penalty * xp.abs(x).sum(dtype=np.float64)
            d_x += x.dtype.type(self.penalty) * xp.sign(x)
        gradients: Gradients = {"dictionary": OuterSum(delta, x)} if self._learns_output(depth) else {}
        return loss, (d_x, *[None] * len(others)), gradients

    # -- what is learned --------------------------------------------------------------------------------------------

    def _start(self, B: Any) -> dict[str, Array]:
        """The parameters with which learned matrices make each layer the step x + B (y − A x), with step sizes of 1."""
        theta = np.full(self.threshold_shape, self.shrink.start(1.001 * self.operator.norm_squared))
        start = {**self.couple.start(B, self.stack), "threshold": theta}
        if self.step_sizes:
            start["step_size"] = np.ones(self.step_shape)
        if self.momentum:
            start["momentum"] = np.zeros(self.layers)
        if self.dictionary is not None and self.last:
            start["dictionary"] = self.dictionary[None]
        return start

    def published_start(self) -> dict[str, Array]:
        """ISTA: B = Aᴴ/scale and, for soft thresholding, θ = λ/scale, with scale = 1.001‖A‖₂² and λ = 0.4."""
        return self._start(None if self.W is None else self.A.conj().T / (1.001 * self.operator.norm_squared))

    def fast_start(self) -> dict[str, Array]:
        """As in `published_start`, except that B = Wᴴ."""
        return self._start(None if self.W is None else self.W.conj().T)

    def rate_of(self, name: str, nmse_db: float) -> float | tuple[float, ...]:
        """With a dictionary, a hundredth of the root mean square of the matrix's entries at the start."""
        if self.dictionary is None:
            return super().rate_of(name, nmse_db)
        if name not in self._rates:
            self._rates = {each: 0.01 * rms_of(value) for each, value in self.fast_start().items()}
        return self._rates[name]

    def contained(self, kind: type[Kind]) -> Kind:
        """A network of another kind with this one's matrix, weight, dictionary, layers, schedule and thresholding."""
        names = ("layers", "percent", "max_percent", "per_coordinate", "positive", "dictionary", "penalty", "joint")
        form = {name: getattr(self, name) for name in (*names, "ridge", "groups")}
        network = kind(self.operator, self.W, **form)
        network.unit = self.unit
        return network

    def adopt(self, precursor: Unrolled) -> None:
        """Reproduce a network with the analytic weight: W_t = α_t Wᴴ if untied; otherwise Wᴴ, and its α_t are 1."""
        weight = self.W.conj().T[None]
        if self.untied:
            weight = self.ops.to_numpy(precursor.parameters["step_size"])[:, None, None] * weight
        self.parameters = {**self.parameters, "weight": weight, "threshold": precursor.parameters["threshold"]}
