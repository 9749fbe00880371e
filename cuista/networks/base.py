"""What all unrolled networks share: a chain of layers that know their backward passes, and a support schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.ops import CpuOps, FusedStep, ReferenceOps, Scalar, Signals

# What goes from layer to layer: the iterate x first, then whatever else the network carries along.
State = tuple[Any, ...]


class OuterSum(NamedTuple):
    """Σ_i a_i ⊗ b_i = aᵀ b over a batch, a (batch, P), b (batch, Q): the gradient of a matrix, still to be formed."""

    a: Array
    b: Array


class Split(NamedTuple):
    """How a batch is split: its shape, how many rows are taken at a time, and the inputs and targets of some rows.

    `at_a_time` None leaves it to the engine.
    """

    shape: tuple[int, ...]
    at_a_time: int | None
    part: Callable[[slice], tuple[Any, Array]]


Gradients = dict[str, "Scalar | Array | OuterSum"]
# From ∂L/∂state after a layer (None where a part of it has none) to that before it, and the gradients of parameters.
Backprop = Callable[[State], tuple[State, Gradients]]
# The next iterate as a function of a layer's step size and threshold.
Proposal = Callable[[float, float], Array]


def support_schedule(N: int, layers: int, percent: float, max_percent: float) -> tuple[int, ...]:
    """How many entries may pass unshrunk in each layer: k_t = round((N − 1)·min((t + 1)·p, p_max) / 100).

    Halves are rounded to even, and k_t is kept within 0 … N − 1.
    """
    shares = np.minimum(np.arange(1, layers + 1) * percent, max_percent)
    return tuple(int(k) for k in np.clip(np.rint((N - 1) * shares / 100), 0, N - 1))


def constant_start(d_state: State) -> tuple[State, Gradients]:
    """The backward pass of a start that depends on no parameter."""
    return (), {}


class Unrolled(ABC):
    """An unrolled network: a chain of layers that each know their own backward pass.

    Parameters
    ----------
    layers
        How many layers there are, T.
    percent, max_percent
        The support schedule: min((t + 1)·p, p_max) percent of the entries may pass unshrunk in layer t. Networks
        without support selection ignore it. The defaults are the publications'.
    per_coordinate
        Whether each coordinate has a threshold of its own, instead of one for the whole layer.
    untied
        Whether each layer has a learned matrix of its own, instead of one for all.
    parameters
        What is learned. None means the parameters that the publications start from.
    ops, dtype
        The engine, and the precision it computes in.

    Attributes
    ----------
    name
        What the network is called on the command line and in files.
    title
        What it is called in text.
    selects
        Whether it has support selection.
    step_sizes
        Whether step sizes are learned, as `step_size`; else they are 1.
    can_untie, can_coordinate
        Whether it has these variants.
    starts_relative
        Whether its published start depends on the measurements: see `calibrate`.
    has_gradients
        Whether it is trained by gradients.
    logarithmic
        The names of the parameters whose logarithms the fast recipe trains.
    matrices
        The names of the parameters that are matrices, kept in the precision of the iterates; all others are float64.
    product_operations
        How many operations the largest matrix product of a step has for each example.
    N
        The number of entries of a signal; 0 where it depends on the input.
    support
        k_t for each layer; empty where it depends on the input.

    Raises
    ------
    InputError
        If the schedule is out of range, or the network has no such variant.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    selects: ClassVar[bool] = True
    step_sizes: ClassVar[bool] = True
    can_untie: ClassVar[bool] = False
    can_coordinate: ClassVar[bool] = True
    starts_relative: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = True
    matrices: tuple[str, ...] = ()
    logarithmic: tuple[str, ...] = ("threshold",)
    product_operations: float = 0.0
    N: int = 0

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
            raise InputError(f"the number of layers is {layers}; expected 1 or more")
        if untied and not self.can_untie:
            raise InputError(f"{self.title} has no matrix for each layer: leave out untied")
        if per_coordinate and not self.can_coordinate:
            raise InputError(f"{self.title} has no threshold per coordinate: leave that out")
        self.ops, self.dtype = ops or CpuOps(), np.dtype(dtype)
        self.layers, self.per_coordinate, self.untied = layers, per_coordinate, untied
        self.one: Scalar = self.ops.asarray(1.0, np.float64)
        self.reschedule(percent, max_percent)
        self.parameters = self.published_start() if parameters is None else parameters

    def reschedule(self, percent: float, max_percent: float) -> None:
        """Set the support schedule, as long as the network is not trained."""
        if not (percent >= 0 and 0 <= max_percent <= 100):
            raise InputError(
                f"the support schedule has {percent} % a layer up to {max_percent} %; "
                "expected 0 or more, and at most 100"
            )
        self.percent, self.max_percent = (percent, max_percent) if self.selects else (0.0, 0.0)
        self.support = support_schedule(self.N, self.layers, self.percent, self.max_percent) if self.N else ()

    # -- what is learned --------------------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters' shapes. The first axis is the layers', of length 1 for what they share."""
        return {name: value.shape for name, value in self.published_start().items()}

    @abstractmethod
    def published_start(self) -> dict[str, Array]:
        """The parameters that the publications start from."""

    def fast_start(self) -> dict[str, Array]:
        """The parameters that the fast recipe starts from: with the analytic weight for a learned one."""
        return self.published_start()

    def calibrate(self, y: Array) -> None:
        """Adjust the published start to the measurements y (batch, M) of the problem, where it `starts_relative`."""
        raise NotImplementedError

    @property
    def parameters(self) -> dict[str, Array]:
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: dict[str, Array]) -> None:
        # Copied, for training changes them in place.
        with self.ops.computing():
            self._parameters = {
                name: self.ops.asarray(value, self.dtype if name in self.matrices else np.float64).copy()
                for name, value in parameters.items()
            }

    def parameter(self, name: str, t: int) -> Array:
        """Layer t's part of a parameter, or the part that all share."""
        stack = self.parameters[name]
        part: Array = stack[t if len(stack) > 1 else 0]
        return part

    def step_size(self, t: int) -> Scalar:
        """α_t, or 1 where no step sizes are learned."""
        return self.parameter("step_size", t) if self.step_sizes else self.one

    @property
    def stack(self) -> int:
        """How many of each learned matrix there are."""
        return self.layers if self.untied else 1

    # -- forward ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, y: Any) -> tuple[State, Backprop]:
        """The state before the first layer for a batch of inputs, and its backward pass."""

    @abstractmethod
    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        """The state after layer t, and the backward pass.

        `window` is that of `ReferenceOps.shrink_select_backward`.
        """

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        """Layer t's iterate as a function of its step size and threshold, and what a threshold of 1 is in x's units.

        For fitting the two without derivatives: all that does not depend on them is computed once.
        """
        raise NotImplementedError

    def iterates(self, y: Any) -> Iterator[Array]:
        """x_1, …, x_T, one at a time, for inputs y: an array, or a tuple of arrays that belong together."""
        inputs = [self.ops.asarray(array, self.dtype) for array in (y if isinstance(y, tuple) else (y,))]
        state, _ = self.begin(tuple(inputs) if isinstance(y, tuple) else inputs[0])
        for t in range(self.layers):
            state, _ = self.layer(t, state)
            yield state[0]

    def output(self, y: Any, depth: int | None = None) -> Array:
        """The last iterate, or x_depth, for inputs y."""
        return deque(islice(self.iterates(y), depth), maxlen=1).pop()

    def density(self, y: Any, depth: int) -> float:
        """The mean share of entries of x_1, …, x_depth that are not zero, for inputs y."""
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
    ) -> tuple[Scalar, dict[str, Array]]:
        """The loss after `depth` layers, ½ Σ_i w_i ‖x_depth − x*_i‖² over the batch, and its gradients.

        Parameters
        ----------
        y
            The inputs: what `begin` takes.
        target
            x*.
        depth
            How many layers to run.
        weights
            w, one for each example; 1 throughout if None.
        wanted
            The parameters whose gradients are computed; all if None.

        Returns
        -------
        loss
        gradients
            Shaped as the parameters; zero for the layers beyond.

        Raises
        ------
        ValueError
            If `wanted`, or what a layer returns, names a parameter that the network does not have.
        """
        self._check_names(wanted or ())

        def of(y: Any, target: Array) -> tuple[Scalar, dict[str, Array]]:
            state, backprop = self.begin(y)
            backward = [backprop]
            for t in range(depth):
                state, backprop = self.layer(t, state, window)
                backward.append(backprop)
            loss, d_state = self.loss(state, target, weights)
            gradients = {
                name: self.ops.empty(value.shape, value.dtype)
                for name, value in self.parameters.items()
                if wanted is None or name in wanted
            }
            for gradient in gradients.values():
                gradient[depth if len(gradient) > 1 else 0 :] = 0
            for t in reversed(range(-1, depth)):  # -1 is the beginning, on which only shared parameters have a part
                d_state, d_layer = backward.pop()(d_state)
                self._check_names(d_layer)
                for name, gradient in gradients.items():
                    value, shared = d_layer.get(name), len(gradient) == 1
                    if value is None:
                        if t >= 0 and not shared:
                            gradient[t] = 0
                    elif shared:  # the sum over the layers
                        gradient[0] += self.ops.matmul(value.a.T, value.b) if isinstance(value, OuterSum) else value
                    elif isinstance(value, OuterSum):
                        self.ops.matmul(value.a.T, value.b, out=gradient[t])
                    else:
                        gradient[t] = value
            return loss, gradients

        split = self.split(y, target)
        if split is None:
            return of(y, target)
        shape, at_a_time, part = split
        (loss, gradients), *others = self.ops.in_batches(shape, lambda rows: of(*part(rows)), at_a_time)
        for more, d_more in others:
            loss = loss + more
            for name, gradient in gradients.items():
                gradient += d_more[name]
        return loss, gradients

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.parameters:
                raise ValueError(f"{self.title} has no parameter {name!r}; it has: {', '.join(self.parameters)}")

    def split(self, y: Any, target: Array) -> Split | None:
        """How a batch is split whose layers would take too much memory together; None if it is not."""
        return None

    def loss(self, state: State, target: Array, weights: Array | None) -> tuple[Scalar, State]:
        """½ Σ_i w_i ‖x − x*‖² of the last state, and its derivative."""
        loss, delta = self.ops.half_squared_error(state[0], target, weights)
        return loss, (delta, *[None] * (len(state) - 1))

    def precursor(self) -> Unrolled | None:
        """A network with fewer parameters that this one contains: the fast recipe trains it first."""
        return None

    def adopt(self, precursor: Unrolled) -> None:
        """Take such parameters that this network does what the precursor does."""
        raise NotImplementedError

    def matrix_rate(self, nmse_db: float) -> float | tuple[float, ...]:
        """Adam's learning rate for the learned matrices in the fast recipes, where the NMSE is this at first.

        One for all, or one for each.
        """
        return 3e-5

    def fuse(self, signals: Signals) -> FusedStep | None:
        """The engine's kernel for a whole training step of this network on such signals, if there is one."""
        return None
