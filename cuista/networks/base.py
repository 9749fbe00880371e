"""The base class of unrolled networks, whose layers know their own backward passes, and the support schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cuista import parallel
from cuista.checks import Array, in_double
from cuista.errors import InputError
from cuista.ops import FusedStep, OuterSum, OuterSums, ReferenceOps, Scalar, Signals, engine
from cuista.ops.joint import ALONE, Joint, squares

# What one layer passes to the next: first the iterate x, then whatever else the network carries along.
State = tuple[Any, ...]


class Split(NamedTuple):
    """How a batch is split into shards: how many examples it has, and inputs, targets and weights of some of them."""

    examples: int
    part: Callable[[slice], tuple[Any, Array, Array | None]]


Gradients = dict[str, "Scalar | Array | OuterSum"]
# Maps ∂L/∂state after a layer to ∂L/∂state before it and the gradients of the parameters. A part of the state that has
# no derivative is None.
Backprop = Callable[[State], tuple[State, Gradients]]
# The next iterate as a function of a layer's step size and threshold.
Proposal = Callable[[float, float], Array]


def support_schedule(N: int, layers: int, percent: float, max_percent: float) -> tuple[int, ...]:
    """How many entries may pass unshrunk in each layer: k_t = round((N − 1)·min((t + 1)·p, p_max) / 100).

    Halves are rounded to even, and k_t is clipped to 0 … N − 1.
    """
    shares = np.minimum(np.arange(1, layers + 1) * percent, max_percent)
    return tuple(int(k) for k in np.clip(np.rint((N - 1) * shares / 100), 0, N - 1))


def rms_of(matrix: Array) -> float:
    """The root mean square of a matrix's entries."""
    return float(np.sqrt(squares(np, in_double(matrix)).mean()))


def add(a: tuple[Scalar, dict[str, Any]], b: tuple[Scalar, dict[str, Any]]) -> tuple[Scalar, dict[str, Any]]:
    """The sum of two losses with their gradients, in the place of the first ones."""
    loss, gradients = a
    for name, gradient in gradients.items():
        gradient += b[1][name]
    return loss + b[0], gradients


def rows_of(y: Any, rows: slice) -> Any:
    """These rows of inputs, which are an array or a tuple of arrays that belong together."""
    return tuple(each[rows] for each in y) if isinstance(y, tuple) else y[rows]


def constant_start(d_state: State) -> tuple[State, Gradients]:
    """The backward pass of a start that depends on no parameter."""
    return (), {}


class Unrolled(ABC):
    """An unrolled network, a chain of layers that each know their own backward pass.

    Parameters
    ----------
    layers
        The number of layers T.
    percent, max_percent
        The support schedule: min((t + 1)·p, p_max) percent of the entries may pass unshrunk in layer t. Networks
        without support selection ignore it. The defaults are those of the publications.
    per_coordinate
        Whether each layer has a threshold for each coordinate, instead of a single one.
    untied
        Whether each layer has a learned matrix of its own, instead of sharing one with all others.
    parameters
        The learned parameters; if None, those that the publications start from.
    ops, dtype
        The engine (the CPU engine if None), and the precision in which it computes.

    Attributes
    ----------
    name
        The network's name on the command line and in files.
    title
        The network's name in messages and figures.
    selects
        Whether the network has support selection.
    step_sizes
        Whether step sizes are learned, as `step_size`; if not, they are 1.
    can_untie, can_coordinate, can_group
        Whether the network has the variants `untied` and `per_coordinate`, and those with `groups`.
    starts_relative
        Whether the published start depends on the measurements (see `calibrate`).
    has_gradients
        Whether the network is trained by gradient descent. If not, its parameters are searched for.
    grid
        For this search, the values at which each parameter is tried first.
    logarithmic
        The names of the parameters whose logarithms the fast recipe trains.
    matrices
        The names of the parameters that are matrices. These have the precision of the iterates; all others are float64.
    last
        The names of shared parameters that belong to the last layer. All other shared parameters belong to the first.
    N
        The number of coordinates of a signal; 0 if it depends on the input.
    joint
        Which numbers of a signal are thresholded together: see `cuista.ops.joint`.
    support
        k_t for each layer; empty if it depends on the input.
    unit
        The norm to which each sample's measurements are scaled. The result is scaled back, so that it is in the user's
        units: x̂(c y) = c x̂(y). With 0, the network computes on measurements as they are.

    Raises
    ------
    InputError
        If the number of layers or the schedule is out of range, or if the network does not have the variant.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    selects: ClassVar[bool] = True
    step_sizes: ClassVar[bool] = True
    can_untie: ClassVar[bool] = False
    can_coordinate: ClassVar[bool] = True
    can_group: ClassVar[bool] = True
    starts_relative: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = True
    grid: ClassVar[Mapping[str, Array]] = {}
    matrices: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    logarithmic: tuple[str, ...] = ("threshold",)
    N: int = 0
    unit: float = 0.0
    joint: Joint = ALONE

    def __init__(
        self,
        *,
        layers: int,
        percent: float = 1.2,
        max_percent: float = 13.0,
        per_coordinate: bool = False,
        untied: bool = False,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if layers < 1:
            raise InputError(f"the number of layers is {layers}; expected 1 or more", option="layers")
        if untied and not self.can_untie:
            raise InputError(f"{self.title} has no matrix for each layer: leave that out", option="untied")
        if per_coordinate and not self.can_coordinate:
            raise InputError(f"{self.title} has no threshold per coordinate: leave that out", option="per_coordinate")
        self.ops, self.dtype = ops or engine("cpu"), np.dtype(dtype)
        self.layers, self.per_coordinate, self.untied = layers, per_coordinate, untied
        self.one: Scalar = self.ops.asarray(1.0, np.float64)
        self.reschedule(percent, max_percent)
        self.parameters = self.published_start() if parameters is None else parameters

    def reschedule(self, percent: float, max_percent: float) -> None:
        """Set the support schedule of a network that is not trained yet."""
        if not (percent >= 0 and 0 <= max_percent <= 100):
            raise InputError(
                f"the support schedule has {percent} % per layer up to {max_percent} %; expected 0 or more, and at "
                "most 100",
                option=("percent", "max_percent"),
            )
        self.percent, self.max_percent = (percent, max_percent) if self.selects else (0.0, 0.0)
        schedule = (self.layers, self.percent, self.max_percent)
        self.support = support_schedule(self.entries, *schedule) if self.N else ()

    @property
    def entries(self) -> int:
        """The number of entries of a signal that are thresholded, N/G for groups of G coordinates."""
        return self.N // self.joint.group

    # -- what is learned --------------------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters. The first axis is for the layers; it has length 1 for a shared parameter."""
        return {name: value.shape for name, value in self.published_start().items()}

    @abstractmethod
    def published_start(self) -> dict[str, Array]:
        """The parameters that the publications start from."""

    def fast_start(self) -> dict[str, Array]:
        """The parameters that the fast recipe starts from; by default, those that the publications start from."""
        return self.published_start()

    def calibrate(self, y: Array) -> None:
        """Adjust the published start to measurements y (batch, M) of the problem, if the network `starts_relative`."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, Array]:
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: dict[str, Array]) -> None:
        # The values are copied because training changes them in place.
        with self.ops.computing():
            self._parameters = {
                name: self.ops.asarray(value, self.dtype if name in self.matrices else np.float64).copy()
                for name, value in parameters.items()
            }

    def parameter(self, name: str, t: int) -> Array:
        """Layer t's part of a parameter, or the part that all layers share."""
        stack = self.parameters[name]
        part: Array = stack[t if len(stack) > 1 else 0]
        return part

    def step_size(self, t: int) -> Scalar:
        """α_t, or 1 if no step sizes are learned."""
        return self.parameter("step_size", t) if self.step_sizes else self.one

    @property
    def stack(self) -> int:
        """The length of the first axis of a matrix that each layer may have for itself: T if untied, otherwise 1."""
        return self.layers if self.untied else 1

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The dtype of inputs, which may be complex where iterates are real."""
        return self.dtype

    @property
    def samples_at_a_time(self) -> int | None:
        """How many samples are computed at a time; None for as many as suit the engine."""
        return None

    @property
    def shard(self) -> int:
        """How many examples of a batch are a shard, whose loss and gradients are computed at once.

        Shards are summed along a binary tree (`parallel.summed`). They are the same whoever computes them, so that the
        bits of a training run do not depend on the numbers of threads and of ranks.
        """
        return self.samples_at_a_time or max(self.ops.shard // self.joint.snapshots, 1)

    # -- forward ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, y: Any) -> tuple[State, Backprop]:
        """The state before the first layer for a batch of inputs, and its backward pass."""

    @abstractmethod
    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        """The state after layer t, and the layer's backward pass.

        For `window`, see `ReferenceOps.shrink_select_backward`.
        """

    def advance(self, state: State, layers: range) -> State:
        """The state after these layers, for which there will be no backward pass."""
        for t in layers:
            state, _ = self.layer(t, state)
        return state

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        """Layer t's iterate as a function of its step size and threshold, and what a threshold of 1 is in units of x.

        It is used to fit the two without derivatives. Everything that does not depend on them is computed only once.
        """
        raise NotImplementedError

    def in_units(self, y: Any) -> tuple[Any, Array | None]:
        """Inputs with measurements scaled to the network's unit, and the factors (…, 1), or None without a unit.

        All snapshots of a sample are scaled by one factor.
        """
        if not self.unit:
            return y, None
        *others, measured = y if isinstance(y, tuple) else (y,)
        if self.joint.snapshots > 1:  # (…, L, M)
            scaled, factors = self.ops.in_units(measured.reshape(*measured.shape[:-2], -1), self.unit)
            scaled, factors = scaled.reshape(measured.shape), factors[..., None]
        else:
            scaled, factors = self.ops.in_units(measured, self.unit)
        return ((*others, scaled) if others else scaled), factors

    def targets_in_units(
        self, target: Array, weights: Array | None, factors: Array | None
    ) -> tuple[Array, Array | None]:
        """Targets and weights for which the loss of results that are not scaled back is that of scaled ones.

        The factors s of `in_units` depend on no parameter, and w ‖s x − x*‖² = w s² ‖x − x*/s‖².
        """
        if factors is None:
            return target, weights
        squares = self.ops.xp.square(factors[..., 0])
        squares = squares[..., 0] if self.joint.snapshots > 1 else squares
        return target / factors, squares if weights is None else weights * squares

    def _begin(self, y: Any) -> tuple[State, Array | None]:
        """The state before the first layer for inputs y in the network's unit, and the factors of `in_units`."""
        inputs = [self.ops.asarray(array, self.input_dtype) for array in (y if isinstance(y, tuple) else (y,))]
        scaled, factors = self.in_units(tuple(inputs) if isinstance(y, tuple) else inputs[0])
        return self.begin(scaled)[0], factors

    def iterates(self, y: Any) -> Iterator[Array]:
        """Yield x_1, …, x_T for inputs y, which are an array or a tuple of arrays that belong together."""
        state, factors = self._begin(y)
        for t in range(self.layers):
            state = self.advance(state, range(t, t + 1))
            x = self.by_sample(state[0])
            yield x if factors is None else x * factors

    def output(self, y: Any, depth: int | None = None) -> Array:
        """What the network returns for inputs y, after all layers or after `depth`: see `read`."""
        depth = depth or self.layers
        state, factors = self._begin(y)
        found = self.by_sample(self.read(self.advance(state, range(depth))[0], depth))
        return found if factors is None else found * factors

    def by_sample(self, x: Array) -> Array:
        """The rows (batch·L, N) of a state as the iterates of samples, (batch, L, N), if there are L > 1 snapshots."""
        return x if self.joint.snapshots == 1 else x.reshape(-1, self.joint.snapshots, x.shape[-1])

    def by_row(self, target: Array, weights: Array | None) -> tuple[Array, Array | None]:
        """Targets and weights for the rows of a state, which has several for a sample of several snapshots."""
        return target, weights

    def read(self, x: Array, depth: int) -> Array:
        """What the network returns, given the iterate after `depth` layers: the iterate, unless it has a dictionary."""
        return x

    def density(self, y: Any, depth: int) -> float:
        """The share of non-zero entries among all entries of x_1, …, x_depth for inputs y."""
        present, size = 0, 0
        for x in islice(self.iterates(y), depth):
            present, size = present + self.ops.xp.count_nonzero(x), size + x.size
        return float(present) / float(size)

    # -- training ---------------------------------------------------------------------------------------------------

    def loss_and_gradients(
        self,
        y: Any,
        target: Array,
        depth: int,
        window: float = 0.0,
        weights: Array | None = None,
        wanted: Collection[str] | None = None,
        formed: bool = True,
    ) -> tuple[Scalar, dict[str, Any]]:
        """The loss after `depth` layers, by default ½ Σ_i w_i ‖x_depth − x*_i‖² over the batch, and its gradients.

        Parameters
        ----------
        y
            The inputs, in the form that `begin` takes.
        target
            The targets x*.
        depth
            The number of layers to run.
        window
            As in `layer`.
        weights
            The weights w, one for each example; all 1 if None.
        wanted
            The names of the parameters whose gradients are computed; all if None.
        formed
            Whether all gradients are formed. If not, those of learned matrices may be `OuterSums`, as
            `ReferenceOps.adam_outer` takes them.

        Returns
        -------
        loss
        gradients
            The gradients by name, in the shapes of the parameters; zero for layers beyond `depth`.

        Raises
        ------
        ValueError
            If `wanted`, or the gradients that a layer returns, name a parameter that the network does not have.
        """
        self._check_names(wanted or ())

        def on_part(y: Any, target: Array, weights: Array | None) -> tuple[Scalar, dict[str, Any]]:
            y, factors = self.in_units(y)
            target, own_weights = self.targets_in_units(target, weights, factors)
            state, backprop = self.begin(y)
            backward = [backprop]
            for t in range(depth):
                state, backprop = self.layer(t, state, window)
                backward.append(backprop)
            loss, d_state, d_output = self.loss(state, target, own_weights, depth)
            learned = {name: value for name, value in self.parameters.items() if wanted is None or name in wanted}
            sums: dict[str, OuterSums] = {name: [[] for _ in range(len(value))] for name, value in learned.items()}
            gradients: dict[str, Any] = {}  # formed; one that stays a sum has no array, which might be large
            # `depth` stands for the output and −1 for `begin`, which depend on shared parameters only.
            for t in reversed(range(-1, depth + 1)):
                d_layer = d_output
                if t < depth:
                    d_state, d_layer = backward.pop()(d_state)
                self._check_names(d_layer)
                for name, terms in sums.items():
                    value, shared = d_layer.get(name), len(terms) == 1
                    if isinstance(value, OuterSum):
                        terms[0 if shared else t].append(value)
                    elif value is not None:
                        if name not in gradients:
                            gradients[name] = self.ops.xp.zeros_like(learned[name])
                        if shared:  # the sum over the layers
                            gradients[name][0] += value
                        else:
                            gradients[name][t] = value
            for name, value in learned.items():
                if any(terms := sums[name]):
                    assert name not in gradients, name  # no gradient consists of both
                    if formed:
                        gradients[name] = self.ops.form_outer(terms, self.ops.empty(value.shape, value.dtype))
                    else:
                        gradients[name] = terms
                elif name not in gradients:
                    gradients[name] = self.ops.xp.zeros_like(value)
            return loss, {name: gradients[name] for name in learned}

        count, part = self.split(y, target, weights)
        formed = formed or count > self.shard  # only what is formed can be summed
        return parallel.summed(self.ops.in_batches((count,), lambda rows: on_part(*part(rows)), self.shard), add)

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.parameters:
                raise ValueError(f"{self.title} has no parameter {name!r}; it has: {', '.join(self.parameters)}")

    def split(self, y: Any, target: Array, weights: Array | None) -> Split:
        """How a batch is split into shards: by default, into samples."""

        def part(rows: slice) -> tuple[Any, Array, Array | None]:
            return rows_of(y, rows), target[rows], None if weights is None else weights[rows]

        return Split(len(target), part)

    def loss(self, state: State, target: Array, weights: Array | None, depth: int) -> tuple[Scalar, State, Gradients]:
        """½ Σ_i w_i ‖x_i − x*_i‖² of the last state, and its derivatives.

        They are those with respect to the state, and to the parameters of the network's output, if it has any.
        """
        loss, delta = self.ops.half_squared_error(state[0], target, weights)
        return loss, (delta, *[None] * (len(state) - 1)), {}

    def precursor(self) -> Unrolled | None:
        """A network with fewer parameters that this one contains, or None. The fast recipe trains it first."""
        return None

    def adopt(self, precursor: Unrolled) -> None:
        """Set the parameters so that this network computes what the precursor computes."""
        raise NotImplementedError

    def matrix_rate(self, nmse_db: float) -> float | tuple[float, ...]:
        """Adam's learning rate for the learned matrices in the fast recipes: one rate for all, or one for each.

        `nmse_db` is the NMSE at the beginning of the stage.
        """
        return 3e-5

    def rate_of(self, name: str, nmse_db: float) -> float | tuple[float, ...]:
        """`matrix_rate` for the learned matrix with this name."""
        return self.matrix_rate(nmse_db)

    def fuse(self, signals: Signals) -> FusedStep | None:
        """The engine's kernel for a whole training step of this network on such signals; None if there is none."""
        return None
