"""What the unrolled networks share: support schedules, and the chain of layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.ops import CpuOps, FusedStep, ReferenceOps, Scalar, Signals

Gradients = dict[str, "Scalar | Array"]
Backprop = Callable[[Array], "tuple[Array, Gradients]"]


def support_schedule(N: int, layers: int, percent: float, max_percent: float) -> tuple[int, ...]:
    """How many entries may pass unshrunk in each layer: k_t = round((N − 1)·min((t + 1)·p, p_max) / 100).

    Halves are rounded to even, and k_t is kept within 0 … N − 1.
    """
    shares = np.minimum(np.arange(1, layers + 1) * percent, max_percent)
    return tuple(int(k) for k in np.clip(np.rint((N - 1) * shares / 100), 0, N - 1))


class Network(ABC):
    """An unrolled network: a chain of layers that each know their own backward pass.

    Attributes
    ----------
    parameters
        What is learned, by name, stacked over layers (first axis T), float64 arrays of the engine.
    layers
        T.
    support
        k_t for each layer.
    """

    name: ClassVar[str]
    support: tuple[int, ...]

    def __init__(self, *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32) -> None:
        self.ops = ops or CpuOps()
        self.dtype = np.dtype(dtype)

    @property
    def parameters(self) -> dict[str, Array]:
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: dict[str, Array]) -> None:
        # Copied, for training changes them in place.
        self._parameters = {name: self.ops.asarray(value, np.float64).copy() for name, value in parameters.items()}

    @property
    def layers(self) -> int:
        """T."""
        return len(self.support)

    def observe(self, y: Array) -> Array:
        """What all layers need of the measurements y (batch, M), computed once: y itself, or a product with it."""
        return y

    @abstractmethod
    def layer(self, t: int, x: Array, seen: Array, window: float = 0.0) -> tuple[Array, Backprop]:
        """Layer t: from the iterate x (batch, N) and what `observe` saw of y to the next iterate.

        Returns it and its backward pass, which takes ∂L/∂x_next to ∂L/∂x and the gradients of layer t's
        parameters by name. `window` is that of `ReferenceOps.shrink_select_backward`.
        """

    def start(self, batch: int) -> Array:
        """x_0 = 0, (batch, N)."""
        x: Array = self.ops.xp.zeros((batch, self.size), self.dtype)
        return x

    @property
    @abstractmethod
    def size(self) -> int:
        """N, the length of a sparse code."""

    def iterates(self, y: Array) -> Iterator[Array]:
        """x_1, …, x_T for measurements y (batch, M), one at a time."""
        seen = self.observe(self.ops.asarray(y, self.dtype))
        x = self.start(y.shape[0])
        for t in range(self.layers):
            x, _ = self.layer(t, x, seen)
            yield x

    def output(self, y: Array, depth: int | None = None) -> Array:
        """The last iterate, or x_depth, for measurements y (batch, M)."""
        return deque(islice(self.iterates(y), depth), maxlen=1).pop()

    def loss_and_gradients(
        self, y: Array, target: Array, depth: int, window: float = 0.0, weights: Array | None = None
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

        Returns
        -------
        loss
        gradients
            Shaped as the parameters; zero for the layers beyond.
        """
        seen = self.observe(y)
        x = self.start(y.shape[0])
        backward = []
        for t in range(depth):
            x, backprop = self.layer(t, x, seen, window)
            backward.append(backprop)
        loss, delta = self.ops.half_squared_error(x, target, weights)
        gradients = {name: self.ops.xp.zeros_like(value) for name, value in self.parameters.items()}
        for t in reversed(range(depth)):
            delta, of_layer = backward.pop()(delta)
            for name, value in of_layer.items():
                gradients[name][t] = value
        return loss, gradients

    def fuse(self, signals: Signals) -> FusedStep | None:
        """The engine's kernel for a whole training step of this network on such signals, if there is one."""
        return None

    def density(self, y: Array, depth: int) -> float:
        """Mean share of entries of x_1, …, x_depth that are not zero, for measurements y (batch, M)."""
        present = sum(self.ops.xp.count_nonzero(x) for x in islice(self.iterates(y), depth))
        return float(present) / (depth * int(y.shape[0]) * self.size)


def scale_of(A: Array) -> float:
    """1.001·‖A‖₂², by which ISTA's step size and the networks' first thresholds are divided. A is (M, N)."""
    gram = A @ A.T if A.shape[0] <= A.shape[1] else A.T @ A
    return 1.001 * float(np.linalg.eigvalsh(gram)[-1])


def check_schedule(layers: int, percent: float, max_percent: float) -> None:
    """Raise InputError unless these make a support schedule."""
    if layers < 1:
        raise InputError(f"the number of layers is {layers}; expected 1 or more")
    if not (percent >= 0 and 0 <= max_percent <= 100):
        raise InputError(
            f"the support schedule has {percent} % a layer up to {max_percent} %; expected 0 or more, and at most 100"
        )
