"""What the convolutional networks share: x_{t+1} = η(x_t + α_t W_t ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t).

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2. A noisy picture f, of mean 0, is denoised as the synthesis Σ_m d_m ⋆ x_m
of sparse maps by a convolutional dictionary D. All products are valid correlations (`ReferenceOps.conv_layer`); the
residual is reflected at its borders before its analysis W_t ⋆ r. Pictures of a batch are taken one by one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Container
from typing import Any, ClassVar

import numpy as np

from cuista.checks import Array
from cuista.errors import InputError
from cuista.networks.base import Backprop, Gradients, State, Unrolled, constant_start, support_schedule
from cuista.ops import Scalar
from cuista.ops.borders import fold_reflected, pad_reflected

# λ, and by how much the rotated dictionary is scaled, where the publication starts.
LAM, SCALE = 0.1, 0.1


class ConvNetwork(Unrolled):
    """An unrolled network for a convolutional dictionary.

    Parameters
    ----------
    D, W
        Dictionary and its analytic weight, (s₁, s₂, F), of one orientation.
    layers, percent, max_percent
        As in `Unrolled`; the percents are of all entries of a picture's maps.
    options
        The others of `Unrolled`.

    Attributes
    ----------
    reach
        How many rows and columns away a pixel of the input can make a difference to one of the output.
    """

    selects: ClassVar[bool] = False
    can_coordinate: ClassVar[bool] = False
    # A step size is as small as the sum of the filters is large.
    logarithmic: ClassVar[tuple[str, ...]] = ("threshold", "step_size")

    def __init__(
        self, D: Array, W: Array, *, layers: int = 5, percent: float = 1.2, max_percent: float = 13.0, **options: Any
    ) -> None:
        self.sources = D, W
        rows, columns, self.filters = D.shape
        self.filter_shape = rows, columns
        # An entry of the maps sees s − 1 pixels of the residual to one side, and a pixel as many entries to the other.
        self.reach = layers * (rows - 1), layers * (columns - 1)
        super().__init__(layers=layers, percent=percent, max_percent=max_percent, **options)

    def _prepare(self) -> None:
        self.D = self.ops.asarray(self.sources[0], self.dtype)

    @abstractmethod
    def weight(self, t: int) -> Array:
        """W_t (s₁, s₂, F), the filters that the residual is correlated with."""

    def step_size(self, t: int) -> Scalar:
        """α_t: 1 for a network without."""
        return self.one

    def first_step(self) -> float:
        """1/L, with L the largest |Σ_m ŵ_m* d̂_m| over the frequencies.

        These are the eigenvalues of x ↦ W ⋆ (Σ_m d_m ⋆ x_m) but for the borders, W being the rotated analytic weight.
        """
        period = [max(8 * size, 64) for size in self.filter_shape]
        D, W = (np.fft.rfft2(filters, period, axes=(0, 1)) for filters in self.sources)
        return 1 / float(np.abs((W.conj() * D).sum(axis=2)).max())

    def analytic_weights(self, step_sizes: Array) -> Array:
        """The rotated analytic weight times each of these, (T or 1, s₁, s₂, F)."""
        rotated = self.sources[1][::-1, ::-1]
        return np.asarray(self.ops.to_numpy(step_sizes)[:, None, None, None] * rotated)

    def begin(self, y: Array) -> tuple[State, Backprop]:
        """The state before the first layer: pictures, the maps of each (None for 0), and y, all of (batch, H, W)."""
        if any(size < s for size, s in zip(y.shape[1:], self.filter_shape, strict=True)):
            raise InputError(
                f"a picture of {y.shape[1]}×{y.shape[2]} pixels is smaller than the filters of "
                f"{self.filter_shape[0]}×{self.filter_shape[1]}"
            )
        return (self.ops.xp.zeros_like(y), [None] * len(y), y), constant_start

    def selected(self, t: int, picture: Array) -> int:
        """How many entries of a picture's maps may pass unshrunk in layer t."""
        if not self.selects:
            return 0
        rows, columns = (size + s - 1 for size, s in zip(picture.shape, self.filter_shape, strict=True))
        return support_schedule(self.filters * rows * columns, self.layers, self.percent, self.max_percent)[t]

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, xp, (pictures, maps, y) = self.ops, self.ops.xp, state
        W, alpha, theta = self.weight(t), self.step_size(t), self.parameter("threshold", t)
        after = [
            ops.conv_layer(
                x, pad_reflected(xp, f - picture, self.filter_shape), W, self.D, alpha, theta, self.selected(t, picture)
            )
            for picture, x, f in zip(pictures, maps, y, strict=True)
        ]

        def backprop(of_state: State) -> tuple[State, Gradients]:
            # r = f − picture, reflected: ∂L/∂picture is minus what comes back through the folded borders.
            of_pictures, of_maps, _ = of_state
            back = [
                ops.conv_layer_backward(of_x, of_picture, record, "weight" in self.parameters)
                for of_x, of_picture, (_, _, record) in zip(of_maps or [None] * len(y), of_pictures, after, strict=True)
            ]
            gradients: Gradients = {
                name: sum(parts[1:], start=parts[0])
                for name, parts in (
                    ("step_size", [one[2] for one in back]),
                    ("threshold", [one[3] for one in back]),
                    ("weight", [one[4] for one in back]),
                )
                if parts[0] is not None
            }
            before = [-fold_reflected(one[1], self.filter_shape) for one in back]
            return (before, [one[0] for one in back], None), gradients

        return (xp.stack([one[1] for one in after]), [one[0] for one in after], y), backprop

    def output(self, y: Array, depth: int | None = None) -> Array:
        """The denoised pictures (batch, H, W) after all layers or `depth`, of pictures of mean 0."""
        parts = self.ops.in_batches(y.shape, lambda part: Unrolled.output(self, y[part], depth), 1)
        denoised: Array = self.ops.xp.concatenate(parts)
        return denoised

    def loss_and_gradients(
        self,
        y: Array,
        target: Array,
        depth: int,
        window: float = 0.0,
        weights: Array | None = None,
        wanted: Container[str] | None = None,
    ) -> tuple[Scalar, dict[str, Array]]:
        """The loss ½ Σ ‖picture_depth − target‖² over a batch of pictures (batch, H, W), and its gradients.

        Picture by picture, so that no more maps are in memory than those of the pictures in work.
        """
        return self.sum_over_parts(
            y.shape,
            lambda part: Unrolled.loss_and_gradients(self, y[part], target[part], depth, window, None, wanted),
        )
