"""Adam (Kingma and Ba, ICLR 2015) in the form of TensorFlow 1, with which the paper's results were obtained."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.kernels.constants import BETA1, BETA2
from cuista.ops import OuterSums, ReferenceOps, Scalar
from cuista.ops.joint import as_pairs
from cuista.ops.reference import Descent

# One learning rate for a whole parameter, or one for each of its matrices.
Rate = float | tuple[float, ...]


@dataclass
class Adam:
    """The state of the optimizer: the moments of each parameter's gradient, and the number of updates so far."""

    mean: dict[str, Array] = field(default_factory=dict)
    square: dict[str, Array] = field(default_factory=dict)
    updates: int = 0

    def step(
        self,
        ops: ReferenceOps,
        parameters: dict[str, Array],
        gradients: Mapping[str, Array | OuterSums],
        rates: Mapping[str, Rate],
        factors: Array,
        layers: slice = slice(None),
        scale: Scalar = 1.0,
        logarithmic: Container[str] = (),
        last: Container[str] = (),
    ) -> None:
        """Subtract lr·√(1 − β2^t)/(1 − β1^t) · m/(√v + ε) from each parameter, in place.

        ε is added to the uncorrected √v, and therefore dampens small gradients more than in the paper on Adam. A
        parameter whose gradient has always been 0 does not move. The real and the imaginary parts of complex parameters
        are updated on their own.

        Parameters
        ----------
        ops
            The engine to which all these arrays belong.
        gradients
            As `Unrolled.loss_and_gradients` returns them, formed or not.
        rates
            The learning rate of each parameter or of each of its matrices. With a rate of 0 or none it stays as it is.
        layers
            The layers with factors other than 0. A parameter that all layers share belongs to the first one.
        factors, scale, logarithmic
            As in `ReferenceOps.adam`, except that `logarithmic` names the parameters whose logarithms are updated.
        last
            The names of shared parameters that belong to the last of these layers instead.
        """
        self.updates += 1
        correction = float(np.sqrt(1 - BETA2**self.updates)) / (1 - BETA1**self.updates)
        for name, rate in rates.items():
            if not rate:
                continue
            gradient = gradients[name]
            if name not in self.mean:
                self.mean[name], self.square[name] = (ops.xp.zeros_like(parameters[name]) for _ in range(2))
            span, own = (slice(1), factors[layers][-1:]) if name in last else (layers, factors[layers])
            arrays: list[Any] = [
                each[span] for each in (parameters[name], gradient, self.mean[name], self.square[name])
            ]
            if not len(arrays[0]):
                continue
            update: Callable[..., None] = ops.adam_outer if isinstance(gradient, list) else ops.adam
            axes = 2  # of a matrix
            if not isinstance(gradient, list):
                arrays, axes = [as_pairs(each) for each in arrays], 3 if parameters[name].dtype.kind == "c" else 2
            is_logarithmic = name in logarithmic
            if not isinstance(rate, tuple):
                update(*arrays, Descent(float(rate * correction), own, scale, is_logarithmic))
                continue
            shape = arrays[0].shape[-axes:]
            matrices = [each if isinstance(each, list) else each.reshape(-1, *shape) for each in arrays]
            for i, matrix_rate in enumerate(rate):
                descent = Descent(float(matrix_rate * correction), factors[:1], scale, is_logarithmic)
                update(*(each[i : i + 1] for each in matrices), descent)
