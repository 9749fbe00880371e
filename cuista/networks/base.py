"""What the unrolled networks share: their shape, support schedules, and the chain of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Iterator
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.ops import CpuOps, FusedStep, ReferenceOps, Scalar, Signals

# λ of the ISTA that the publications start from.
LAM = 0.4

# What goes from layer to layer: x (batch, N) first, then whatever else the network carries along.
State = tuple[Any, ...]


class OuterSum(NamedTuple):
    """Σ_i a_i ⊗ b_i = aᵀ b over a batch, a (batch, P), b (batch, Q): the gradient of a matrix, still to be formed."""

    a: Array
    b: Array


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


class Unrolled(ABC):
    """An unrolled network: a chain of layers that each know their own backward pass.

    Parameters
    ----------
    layers
        T.
    percent, max_percent
        The support schedule: min((t + 1)·p, p_max) percent of the entries may pass unshrunk in layer t. Ignored by
        networks without support selection.
    per_coordinate
        One threshold per coordinate instead of one per layer.
    untied
        A learned matrix for each layer instead of one for all.
    parameters
        What is learned; where the publications start if None.
    ops, dtype
        The engine, and the precision it computes in.

    Attributes
    ----------
    name
        What it is called on the command line and in files.
    selects
        Whether it has support selection.
    can_untie, can_coordinate
        Whether it has these variants.
    starts_relative, has_gradients
        Whether its published start depends on the measurements, and whether it is trained by gradients.
    logarithmic
        The names of the parameters whose logarithms the fast recipe trains.
    matrices
        The names of those parameters that are matrices, kept in the precision of the iterates; all else is float64.
    product_operations
        Of the largest matrix product in a step, for each of a batch: how many operations.

    Raises
    ------
    InputError
        If the schedule is out of range, or the network has no such variant.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    selects: ClassVar[bool] = True
    matrices: ClassVar[tuple[str, ...]] = ()
    logarithmic: ClassVar[tuple[str, ...]] = ("threshold",)
    can_untie: ClassVar[bool] = False
    can_coordinate: ClassVar[bool] = True
    starts_relative: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = True
    product_operations: float = 0.0
    support: tuple[int, ...] = ()

    def __init__(
        self,
        *,
        layers: int,
        percent: float,
        max_percent: float,
        per_coordinate: bool = False,
        untied: bool = False,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        _check_schedule(layers, percent, max_percent)
        if untied and not self.can_untie:
            raise InputError(f"{self.title} has no matrix for each layer: leave out untied")
        if per_coordinate and not self.can_coordinate:
            raise InputError(f"{self.title} has no threshold per coordinate: leave that out")
        self.ops = ops or CpuOps()
        self.dtype = np.dtype(dtype)
        self.layers, self.per_coordinate, self.untied = layers, per_coordinate, untied
        self.percent, self.max_percent = (percent, max_percent) if self.selects else (0.0, 0.0)
        self.one: Scalar = self.ops.asarray(1.0, np.float64)
        with self.ops.computing():
            self._prepare()
        self.parameters = self.published_start() if parameters is None else parameters

    @abstractmethod
    def _prepare(self) -> None:
        """Put what is fixed where it is computed with."""

    # -- what is learned ----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters. The first axis is the layers', of length 1 for what they share."""

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

    def of_layers(self, value: float) -> Array:
        """A parameter with one number for each layer."""
        return np.full(self.layers, value)

    @property
    def stack(self) -> int:
        """How many of each learned matrix there are."""
        return self.layers if self.untied else 1

    # -- forward ------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, y: Array) -> tuple[State, Backprop]:
        """The state before the first layer, and its backward pass."""

    @abstractmethod
    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        """Layer t: the next state, and the backward pass.

        `window` is that of `ReferenceOps.shrink_select_backward`.
        """

    def propose(self, t: int, state: State) -> tuple[Proposal, float]:
        """Layer t's iterate as a function of its step size and threshold, and what a threshold of 1 is in x's units.

        For fitting the two without derivatives: all that does not depend on them is computed once.
        """
        raise NotImplementedError

    def iterates(self, y: Array) -> Iterator[Array]:
        """x_1, …, x_T for measurements y (batch, M), one at a time."""
        state, _ = self.begin(self.ops.asarray(y, self.dtype))
        for t in range(self.layers):
            state, _ = self.layer(t, state)
            yield state[0]

    def output(self, y: Array, depth: int | None = None) -> Array:
        """The last iterate, or x_depth, for measurements y (batch, M)."""
        return deque(islice(self.iterates(y), depth), maxlen=1).pop()

    def density(self, y: Array, depth: int) -> float:
        """Mean share of entries of x_1, …, x_depth that are not zero, for measurements y (batch, M)."""
        present, size = 0, 0
        for x in islice(self.iterates(y), depth):
            present, size = present + self.ops.xp.count_nonzero(x), size + x.size
        return float(present) / float(size)

    # -- training -----------------------------------------------------------------------------------------------

    def loss_and_gradients(
        self,
        y: Array,
        target: Array,
        depth: int,
        window: float = 0.0,
        weights: Array | None = None,
        wanted: Container[str] | None = None,
    ) -> tuple[Scalar, dict[str, Array]]:
        """The loss ½ Σ_i w_i ‖x_depth − x*‖² over the batch, and its gradients.

        Parameters
        ----------
        y
            (batch, M).
        target
            x*, (batch, N).
        depth
            How many layers to run.
        weights
            (batch,); 1 throughout if None.
        wanted
            Of which parameters; all if None.

        Returns
        -------
        loss
        gradients
            Shaped as the parameters; zero for the layers beyond.
        """
        state, backprop = self.begin(y)
        backward = [backprop]
        for t in range(depth):
            state, backprop = self.layer(t, state, window)
            backward.append(backprop)
        loss, of_state = self.loss(state, target, weights)
        gradients = {
            name: self.ops.empty(value.shape, value.dtype)
            for name, value in self.parameters.items()
            if wanted is None or name in wanted
        }
        for gradient in gradients.values():
            gradient[depth if len(gradient) > 1 else 0 :] = 0
        for t in reversed(range(-1, depth)):  # -1 is the beginning, on which only shared parameters have a part
            of_state, of_layer = backward.pop()(of_state)
            for name, gradient in gradients.items():
                value, shared = of_layer.get(name), len(gradient) == 1
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

    def loss(self, state: State, target: Array, weights: Array | None) -> tuple[Scalar, State]:
        """½ Σ_i w_i ‖x − x*‖² of the last state, and its derivative."""
        loss, delta = self.ops.half_squared_error(state[0], target, weights)
        return loss, (delta, *[None] * (len(state) - 1))

    def sum_over_parts(
        self,
        shape: tuple[int, ...],
        work: Callable[[slice], tuple[Scalar, dict[str, Array]]],
        at_a_time: int | None = 1,
    ) -> tuple[Scalar, dict[str, Array]]:
        """The sums of losses and gradients that `work` gives for parts of a batch of pictures or matrices."""

        def one(part: slice) -> tuple[Scalar, dict[str, Array]]:
            loss, gradients = work(part)
            return loss, {name: gradient.copy() for name, gradient in gradients.items()}  # the arrays are used again

        (loss, gradients), *others = self.ops.in_batches(shape, one, at_a_time)
        for more, of_more in others:
            loss = loss + more
            for name, gradient in gradients.items():
                gradient += of_more[name]
        return loss, gradients

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


class Network(Unrolled):
    """An unrolled network for a measurement matrix.

    Parameters
    ----------
    A, W
        Measurement matrix and its analytic weight, (M, N).
    layers, percent, max_percent
        As in `Unrolled`; by default the publications'.
    options
        The others of `Unrolled`.

    Attributes
    ----------
    support
        k_t for each layer.
    """

    def __init__(
        self,
        A: Array,
        W: Array,
        *,
        layers: int = 16,
        percent: float = 1.2,
        max_percent: float = 13.0,
        **options: Any,
    ) -> None:
        self.M, self.N = A.shape
        self.sources = A, W
        self.product_operations = 2.0 * self.N**2
        super().__init__(layers=layers, percent=percent, max_percent=max_percent, **options)
        self.support = support_schedule(self.N, layers, self.percent, self.max_percent)

    def _prepare(self) -> None:
        A, _ = self.sources
        self.A, self.A_transposed = (self.ops.asarray(matrix, self.dtype) for matrix in (A, A.T))

    def begin(self, y: Array) -> tuple[State, Backprop]:
        """The state before the first layer, x = 0, for measurements y (batch, M), and its backward pass."""
        return (self.zeros(y), y), constant_start

    def zeros(self, y: Array) -> Array:
        """x_0 = 0, (batch, N)."""
        x: Array = self.ops.xp.zeros((y.shape[0], self.N), self.dtype)
        return x

    def ista_start(self) -> tuple[Array, float]:
        """Aᵀ/scale and λ/scale with λ = 0.4, the matrix and the threshold of ISTA."""
        A = self.sources[0]
        scale = scale_of(A)
        return A.T / scale, LAM / scale

    def analytic_weights(self, step_sizes: Array | None = None) -> Array:
        """Wᵀ, or α_t Wᵀ for each layer, as a learned matrix: (T or 1, N, M)."""
        weights: Array = np.tile(self.sources[1].T, (self.stack, 1, 1))
        return weights if step_sizes is None else self.ops.to_numpy(step_sizes)[:, None, None] * weights

    def thresholds(self, value: float) -> Array:
        """Thresholds for each layer, and coordinate if there is one for each."""
        return np.full(self.threshold_shape, value)

    @property
    def threshold_shape(self) -> tuple[int, ...]:
        return (self.layers, self.N) if self.per_coordinate else (self.layers,)


def scale_of(A: Array) -> float:
    """1.001·‖A‖₂², by which ISTA's step size and the networks' first thresholds are divided. A is (M, N)."""
    gram = A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A
    return 1.001 * float(np.linalg.eigvalsh(gram)[-1])


def constant_start(of_state: State) -> tuple[State, Gradients]:
    """The backward pass of a start that depends on no parameter."""
    return (), {}


def _check_schedule(layers: int, percent: float, max_percent: float) -> None:
    if layers < 1:
        raise InputError(f"the number of layers is {layers}; expected 1 or more")
    if not (percent >= 0 and 0 <= max_percent <= 100):
        raise InputError(
            f"the support schedule has {percent} % a layer up to {max_percent} %; expected 0 or more, and at most 100"
        )
