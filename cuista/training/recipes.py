"""Recipes, which say what is trained when: each is a list of stages."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from cuista.errors import InputError


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one loss, one optimizer state and one learning rate.

    Attributes
    ----------
    title
        The name that progress shows.
    depth
        The number of layers after which the loss is taken.
    factors
        The factor of each of these layers by which its gradients are multiplied before Adam; 0 freezes a layer.
    steps
        The largest number of steps.
    batch
        The number of new signals in each step.
    learning_rate
        Adam's learning rate.
    matrix_rate
        The rate of learned matrices, as a factor of `learning_rate` or, if `relative`, of the network's own rate.
    rates
        Adam's learning rates for the parameters with these names, instead of the two above.
    validate_every
        The number of steps between validations.
    patience
        The stage ends when its best validation is more than this many steps old, which is checked every
        `10 · validate_every` steps. If None, all steps are made.
    cosine
        Whether the learning rate falls to 0 along half a cosine.
    relative
        Whether gradient descent uses relative scales: see `FastRecipe`.
    window
        The argument `window` of `ReferenceOps.shrink_select_backward`.
    fit
        Whether the stage begins by fitting the two parameters of its last layer without derivatives.
    precursor
        Whether the stage trains the network's precursor instead, if it has one.
    decay, decay_steps
        The learning rate is multiplied by `decay` every `decay_steps` steps.
    sigma
        The level at which the measurement matrix is perturbed: see `cuista.data.perturbed`.
    keeps_moments
        Whether Adam continues with the moments of the previous stage.
    """

    title: str
    depth: int
    factors: tuple[float, ...]
    steps: int
    batch: int
    learning_rate: float
    matrix_rate: float
    validate_every: int
    rates: Mapping[str, float] = field(default_factory=dict)
    patience: int | None = None
    cosine: bool = False
    relative: bool = False
    window: float = 0.0
    fit: bool = False
    precursor: bool = False
    decay: float = 1.0
    decay_steps: int = 1
    sigma: float = 0.0
    keeps_moments: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, relative to the rate of the stage."""
        if self.cosine:
            return float(0.5 * (1 + np.cos(np.pi * (step + 0.5) / self.steps)))
        return float(self.decay ** (step // self.decay_steps))


@dataclass(frozen=True)
class Progress:
    """The progress of training, for display.

    Attributes
    ----------
    fraction
        The share of the work that is done.
    title, stage_number
        The title of the stage, and its number from 1 on.
    step, steps
        The number of steps done in the stage, and its largest number of steps.
    error_db, measure
        The last validation in dB (None before the first), and what it measures: `NMSE`, `loss`, or `PSNR`, of which
        more is better.
    """

    fraction: float
    title: str
    stage_number: int
    step: int
    steps: int
    error_db: float | None
    measure: str

    def __str__(self) -> str:
        error = "" if self.error_db is None else f", {self.measure} {self.error_db:.2f} dB"
        return f"{self.title}, step {self.step}/{self.steps}{error}"


class Recipe(Protocol):
    """A recipe says what is trained when.

    Attributes
    ----------
    name
        `fast` or `paper`, or `search` for networks without gradients.
    by_gradients
        Whether its stages use gradient descent. If not, the parameters are searched for (see `cuista.training.search`).
    analytic
        Whether training begins at the network's `fast_start` and with its precursor, or else at its current parameters.
    validation_batch
        The number of examples for validation.
    """

    @property
    def name(self) -> str: ...
    @property
    def by_gradients(self) -> bool: ...
    @property
    def analytic(self) -> bool: ...
    @property
    def validation_batch(self) -> int: ...

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """The stages for a network with `layers` layers; `more` says if it learns more than step sizes and thresholds.

        Raises
        ------
        InputError
            If a number of the recipe is out of range.
        """


def check_positive(recipe: Recipe, *names: str) -> None:
    """Raise InputError unless the recipe's numbers with these names are finite and greater than 0."""
    for name in names:
        values = getattr(recipe, name)
        for value in values if isinstance(values, tuple) else (values,):
            if not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; expected a finite number greater than 0", option=name)


def perturbed_stage(recipe: Any, layers: int, title: str, sigma: float, **others: Any) -> Stage:
    """A stage with matrices perturbed at level σ. It follows the recipe; `others` are further fields of `Stage`."""
    paper = recipe.name == "paper"
    return Stage(
        title=title,
        depth=layers,
        factors=(1.0,) * layers,
        steps=recipe.max_steps,
        learning_rate=recipe.learning_rate,
        validate_every=100 if paper else 50,
        cosine=not paper,
        relative=not paper,
        sigma=sigma,
        **others,
    )


@dataclass(frozen=True)
class PaperRecipe:
    """The original's layer-by-layer training, reproduced exactly.

    For each layer, Adam first trains the new parameters alone at `learning_rate`. Then, for each of `decays`, it trains
    all parameters so far at `learning_rate` times that decay, where the gradient of a parameter that was added j layers
    earlier is multiplied by `factor`^j. A stage ends when its best validation is more than `better_wait` steps old
    (checked every 100 steps), or after `max_steps`.
    """

    name: ClassVar[str] = "paper"
    by_gradients: ClassVar[bool] = True
    hard: ClassVar[float] = 0.0
    weight_power: ClassVar[float] = 1.0
    analytic: ClassVar[bool] = False
    learning_rate: float = 5e-4
    decays: tuple[float, ...] = (0.2, 0.02)
    factor: float = 0.3
    batch: int = 64
    validation_batch: int = 1000
    better_wait: int = 4000
    max_steps: int = 200_000

    def schedule(self, sparsity: float) -> tuple[float, float]:
        """The support schedule (`percent`, `max_percent`) of the paper, which does not depend on the sparsity."""
        return 1.2, 13.0

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """The stages: with two decays, three for each layer. They are the same with and without `more` to learn."""
        names = ("learning_rate", "batch", "validation_batch", "better_wait", "max_steps", "factor", "decays")
        check_positive(self, *names)
        stages = []
        for t in range(layers):
            joint = tuple(self.factor ** (t - layer) for layer in range(t + 1))
            phases = [(1.0, (0.0,) * t + (1.0,)), *((decay, joint) for decay in self.decays)]
            stages += [
                Stage(
                    title=f"layer {t + 1}/{layers}, lr {self.learning_rate * decay:g}",
                    depth=t + 1,
                    factors=factors,
                    steps=self.max_steps,
                    batch=self.batch,
                    learning_rate=self.learning_rate * decay,
                    matrix_rate=1.0,
                    validate_every=10,
                    patience=self.better_wait,
                )
                for decay, factors in phases
            ]
        return tuple(stages)


@dataclass(frozen=True)
class FastRecipe:
    """Fast training, which exploits that a network like ALISTA has only 2T parameters.

    Layers are added one by one. The two parameters of a new layer are fitted without derivatives (Nelder-Mead on 512
    fixed signals), and then all layers so far are trained jointly for `layer_steps`. At the end, all layers are trained
    for `max_steps`. Four things make this fast and reliable:

    - Relative scales. Thresholds are trained as logarithms. The loss L falls by seven orders of magnitude, so its
      gradient is divided by √(L·L̄), where L̄ is the running mean of L. This is halfway between descending E[log L],
      which is fast but gives up rare hard signals, and log E[L], which is the NMSE and which those signals dominate.
    - The jump. An entry that support selection leaves unshrunk jumps from 0 to z at the threshold. A derivative that
      ignores the jump misleads the thresholds once few entries are shrunk; `window` treats the jump as a ramp.
    - Hard signals. Among 40,000 signals, the ten densest can cause half of the squared error. A share `hard` of every
      batch is therefore drawn denser and weighted (`Problem.sample_weighted`). With these weights the expected loss
      stays the same, and the validation NMSE is estimated in this way. In training, the weights are raised to the power
      `weight_power`, slightly below 1, to guard against the one signal in 100,000 that would fail completely. With
      measurement noise, which causes errors in all signals, the weights are used unchanged.
    - The learning rate falls along half a cosine in each stage.

    If `layerwise` is false, all layers are trained from the start, and nothing is fitted.

    Learned matrices start from the analytic weight. A network that contains ALISTA starts from an ALISTA trained in
    this way; in other networks, step sizes and thresholds are trained in this way first. Then everything is trained for
    `matrix_steps` at `fine_rate`, with the matrices at `matrix_rate` times the network's own rate
    (`Network.matrix_rate`). The result is therefore never worse.
    """

    name: ClassVar[str] = "fast"
    by_gradients: ClassVar[bool] = True
    analytic: ClassVar[bool] = True
    learning_rate: float = 0.03
    batch: int = 128
    validation_batch: int = 4000
    layer_steps: int = 40
    max_steps: int = 1200
    layerwise: bool = True
    window: float = 0.3
    hard: float = 0.5
    weight_power: float = 0.8
    matrix_steps: int = 600
    matrix_rate: float = 1.0
    fine_rate: float = 3e-3

    def sized(self, N: int, kept: Container[str] = ()) -> FastRecipe:
        """The recipe for an operator and signals of N entries, with fewer signals and steps, except for what is kept.

        A batch has at most 2¹⁹ numbers and those for validation 2²³, but at least 2 and 8 signals. Each entry of a
        signal tells something of the same few parameters, so that fewer signals and steps suffice.
        """
        most: dict[str, Any] = {"batch": max(2**19 // N, 2), "validation_batch": max(2**23 // N, 8)}
        if N > 2**13:
            most |= {"layer_steps": 10, "max_steps": 200, "hard": 0.0}
        return replace(self, **{n: min(getattr(self, n), value) for n, value in most.items() if n not in kept})

    def schedule(self, sparsity: float) -> tuple[float, float]:
        """The support schedule (`percent`, `max_percent`) for signals of this sparsity, (1.7, 17) at 0.1."""
        return round(17 * sparsity, 6), min(round(170 * sparsity, 6), 100.0)

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage for each layer, one for all layers, and one for everything if there is `more` to learn."""
        check_positive(self, "learning_rate", "batch", "validation_batch", "matrix_rate", "fine_rate")
        steps = (self.layer_steps, self.max_steps, self.matrix_steps)
        if not (0 <= self.hard < 1 and min(steps) >= 0 and self.window >= 0):
            raise InputError(f"{self} is out of range; expected 0 ≤ hard < 1, and no negative steps or window")

        first = Stage(
            title="",
            depth=layers,
            factors=(1.0,) * layers,
            steps=self.max_steps,
            batch=self.batch,
            learning_rate=self.learning_rate,
            matrix_rate=0.0,
            validate_every=50,
            cosine=True,
            relative=True,
            window=self.window,
            precursor=True,
        )
        layer_stages = [
            replace(
                first,
                title=f"layer {t}/{layers}",
                depth=t,
                factors=(1.0,) * t,
                steps=self.layer_steps,
                validate_every=max(self.layer_steps, 1),
                fit=True,
            )
            for t in range(1, layers + 1)
            if self.layerwise
        ]
        everything = replace(
            first,
            title="everything",
            steps=self.matrix_steps,
            learning_rate=self.fine_rate,
            matrix_rate=self.matrix_rate,
            precursor=False,
        )
        return (*layer_stages, replace(first, title="all layers"), *([everything] if more else []))
