"""The base class of convolutional networks: x_{t+1} = η(x_t + α_t W_t ⋆ (f − Σ_m d_m ⋆ x_{t,m}); θ_t, k_t).

Liu, Chen, Wang, Yin, ICLR 2019, section 4.2. A noisy picture f with mean 0 is denoised as the synthesis Σ_m d_m ⋆ x_m
of sparse maps x_m with a convolutional dictionary D. All products are valid correlations. The residual r is padded by
reflection before its analysis W_t ⋆ r. A layer is one primitive, `ReferenceOps.conv_steps`.

With a stride q, maps have entries in every q-th row and column only. The atoms of a picture are then much less alike,
so that sparse codes tell pictures from noise better (Simon, Elad, NeurIPS 2019).

A network can also recover a picture f of whose blocks only measurements with a matrix Φ are known. Its input is then
y = G f, where G = Φ⁺Φ is applied to each block, and the residual is y − G(Σ_m d_m ⋆ x_{t,m}). This is the gradient step
of ISTA-Net (Zhang, Ghanem, CVPR 2018) with Φ⁺ in place of Φᵀ. What the network returns agrees with the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from cuista.checks import Array
from cuista.errors import InputError
from cuista.networks.base import Backprop, Gradients, State, Unrolled, constant_start, rows_of, support_schedule
from cuista.operators import Convolution
from cuista.operators.blocks import BlockProjection
from cuista.ops.borders import map_shape

# The publication's initial λ, and the factor by which it scales the rotated dictionary.
LAM, SCALE = 0.1, 0.1


class ConvNetwork(Unrolled):
    """An unrolled network for a convolutional dictionary.

    Parameters
    ----------
    operator
        The operator of the dictionary (s₁, s₂, F). Its engine, precision and stride are those of the network.
    W
        The analytic weight (s₁, s₂, F) of the dictionary, in the dictionary's orientation.
    per_filter
        Whether each layer has a threshold and a step size for each filter, instead of a single one.
    noise
        The lowest and the highest standard deviation σ of the noise, of values from 0 to 1. The network then knows σ:
        its inputs are tuples of pictures (batch, H, W) and of σ (batch,), and a threshold θ is learned as θ₀ + θ₁ σ, by
        `threshold` θ₀ and `slope` θ₁ (Janjušević, Khalilian-Gourtani, Wang, IEEE Open J. Signal Processing 2022). If
        None, inputs are pictures, and all have noise of the same σ.
    sensing
        The projection G if only measurements of a picture's blocks are known. The inputs are then pictures G f.
    layers, options
        As in `Unrolled`. The percentages refer to all entries of a picture's maps.

    Attributes
    ----------
    filters, filter_shape
        The number F of filters, and their shape (s₁, s₂).
    stride
        The stride q of the maps.
    recipe
        The numbers of the fast recipe that suit the network, where they are not those of its class.
    usual_stride
        The stride where none is chosen.
    reach
        The numbers of rows and of columns over which a pixel of the input can influence pixels of the output.
    """

    selects = False
    can_coordinate = False
    recipe: ClassVar[Mapping[str, Any]] = {}
    usual_stride: ClassVar[int] = 1
    # The larger the sum of the filters, the smaller the step sizes; their scale therefore varies.
    logarithmic = ("threshold", "slope", "step_size")

    def __init__(
        self,
        operator: Convolution,
        W: Array,
        *,
        layers: int = 5,
        per_filter: bool = False,
        noise: tuple[float, float] | None = None,
        sensing: BlockProjection | None = None,
        **options: Any,
    ) -> None:
        self.operator, self.W, self.per_filter = operator, W, per_filter
        self.noise, self.sensing = noise, sensing
        self.filter_shape = rows, columns = operator.filter_shape
        self.filters, self.stride = operator.D.shape[2], operator.stride
        self.rotated = operator.ops.asarray(W[::-1, ::-1], operator.dtype)
        # In each layer, an entry of the maps depends on pixels of the residual up to s − 1 away to one side, and a
        # pixel of the picture on entries up to s − 1 away to the other.
        self.reach = layers * (rows - 1), layers * (columns - 1)
        super().__init__(layers=layers, ops=operator.ops, dtype=operator.dtype, **options)

    def full(self, value: float, layers: int | None = None) -> Array:
        """A parameter that is this number in each of all layers or so many, and for each filter if it is to differ."""
        return np.full((layers or self.layers, *[self.filters] * self.per_filter), value)

    def thresholds(self, theta: float) -> dict[str, Array]:
        """The parameters for thresholds θ, which are in proportion to σ but for a tenth, and θ in the middle."""
        if self.noise is None:
            return {"threshold": self.full(theta)}
        return {"threshold": self.full(0.1 * theta), "slope": self.full(0.9 * theta / (sum(self.noise) / 2))}

    def published_start(self) -> dict[str, Array]:
        """The weight is the scaled rotated dictionary, step sizes are 1, and thresholds are scaled like the weight."""
        start = self.thresholds(LAM * SCALE)
        if self.step_sizes:
            start["step_size"] = self.full(1.0)
        if "weight" in self.matrices:
            start["weight"] = np.tile(SCALE * self.operator.D[::-1, ::-1], (self.stack, 1, 1, 1))
        return start

    def begin(self, y: Any) -> tuple[State, Backprop]:
        """The initial state: pictures (batch, H, W), their maps (None for 0), y (batch, H, W), σ or None, and G f̂.

        The residual is y − G f̂, where f̂ are the pictures that the maps stand for. Without Φ, G f̂ is f̂.
        """
        y, levels = y if isinstance(y, tuple) else (y, None)
        if (levels is None) != (self.noise is None):
            raise ValueError(f"the inputs of {self.title} are pictures{' and σ' if self.noise else ', without σ'}")
        if any(size < s for size, s in zip(y.shape[1:], self.filter_shape, strict=True)):
            raise InputError(
                f"a picture of {y.shape[1]}×{y.shape[2]} pixels is smaller than the filters of "
                f"{self.filter_shape[0]}×{self.filter_shape[1]}"
            )
        zeros = self.ops.xp.zeros_like(y)
        return (zeros, None, y, levels, zeros), constant_start

    def selected(self, t: int, picture: Array) -> int:
        """How many entries of a picture's maps may pass unshrunk in layer t."""
        if not self.selects:
            return 0
        rows, columns = map_shape((picture.shape[0], picture.shape[1]), self.filter_shape, self.stride)
        return support_schedule(self.filters * rows * columns, self.layers, self.percent, self.max_percent)[t]

    def synthesis(self, t: int) -> str:
        """The name of the learned parameter with whose filters layer t synthesises its picture; empty if it is D."""
        return ""

    def layer(self, t: int, state: State, window: float = 0.0) -> tuple[State, Backprop]:
        ops, (_, maps, y, levels, seen), synthesis = self.ops, state, self.synthesis(t)
        W = self.parameter("weight", t) if "weight" in self.matrices else self.rotated
        D = self.parameter(synthesis, t) if synthesis else self.operator.filters
        alpha, analysis = self.step_size(t), W
        if alpha.ndim:  # one for each filter: the products are with the filters α_m w_m
            analysis, alpha = W * alpha.astype(W.dtype), self.one
        wants_weight = "weight" in self.matrices or analysis is not W
        theta = self.parameter("threshold", t)[None]
        if levels is not None:  # θ = θ₀ + θ₁ σ
            level = levels.reshape(-1, *[1] * (theta.ndim - 1))
            theta = theta + self.parameter("slope", t)[None] * level
        maps, found, record = ops.conv_steps(
            maps, y, seen, analysis, D, alpha, theta, self.selected(t, y[0]), self.stride
        )
        pictures, seen = self._compared(found, y)

        def backprop(d_state: State) -> tuple[State, Gradients]:
            d_pictures, d_maps, _, _, d_seen = d_state
            d_maps, d_seen, d_alpha, d_theta, d_weight, d_synthesis = ops.conv_steps_backward(
                d_maps, self._d_found(d_pictures, d_seen), record, wants_weight, bool(synthesis)
            )
            d: dict[str, Any] = {"step_size": d_alpha, "threshold": d_theta.sum(axis=0)}
            d |= {"weight": d_weight, synthesis: d_synthesis}
            if levels is not None:
                d["slope"] = (level * d_theta).sum(axis=0)
            if d_weight is not None and analysis is not W:
                d["step_size"] = (d_weight.astype(np.float64) * W).sum(axis=(0, 1))
                d["weight"] = d_weight * self.step_size(t).astype(W.dtype)
            gradients: Gradients = {name: value for name, value in d.items() if name in self.shapes}
            return (None, d_maps, None, None, d_seen), gradients

        return (pictures, maps, y, levels, seen), backprop

    def _compared(self, found: Array, y: Array) -> tuple[Array, Array]:
        """The pictures that layers return for the f̂ that they found, and what is compared with y: both f̂ without Φ.

        With Φ, it is G f̂, and the pictures are f̂ + y − G f̂, which agree with the measurements.
        """
        if self.sensing is None:
            return found, found
        seen = self.sensing(found)
        return found + (y - seen), seen

    def _d_found(self, d_pictures: Array | None, d_seen: Array | None) -> Array:
        """∂L/∂f̂ from the derivatives with respect to the two results of `_compared`, of which one can be None for 0.

        With Φ, as G is its own adjoint, ∂L/∂f̂ = ∂L/∂pictures + G(∂L/∂seen − ∂L/∂pictures). Only the last layer's
        pictures are in the loss, and it has no following layer that compares.
        """
        if d_pictures is None:
            assert d_seen is not None
            return d_seen if self.sensing is None else self.sensing(d_seen)
        assert d_seen is None
        return d_pictures if self.sensing is None else d_pictures - self.sensing(d_pictures)

    def output(self, y: Any, depth: int | None = None) -> Array:
        """The pictures (batch, H, W) that are found after all layers, or after `depth`, for pictures y with mean 0."""
        shape = (y[0] if isinstance(y, tuple) else y).shape
        rows, columns = map_shape((shape[1], shape[2]), self.filter_shape, self.stride)
        at_once = min(self.shard, self.ops.rows_at_a_time((shape[0], self.filters, rows, columns)))
        parts = self.ops.in_batches(shape, lambda part: Unrolled.output(self, rows_of(y, part), depth), at_once)
        denoised: Array = self.ops.xp.concatenate(parts)
        return denoised

    @property
    def shard(self) -> int:
        """One picture, or 8 on a GPU."""
        return self.ops.pictures
