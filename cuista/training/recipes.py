"""What is trained when: a recipe is a list of stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from cuista.errors import InputError


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one loss, one optimiser state and one learning rate.

    Attributes
    ----------
    title
        Its name in progress messages.
    depth
        The number of layers after which the loss is taken.
    factors
        For each of these layers, the number by which its gradients are multiplied before Adam; 0 freezes a layer.
    steps
        The largest number of steps.
    batch
        The number of fresh signals in each step.
    learning_rate
        Adam's learning rate.
    matrix_rate
        The learning rate of learned matrices, as a factor of `learning_rate` or, where `relative`, of the network's
        own rate (`Network.matrix_rate`).
    validate_every
        The number of steps between validations.
    patience
        Every `10 · validate_every` steps, the stage ends if its best validation is older than this many steps. If
        None, it runs all its steps.
    cosine
        Whether the learning rate falls to 0 along half a cosine.
    relative
        Whether to descend on relative scales: see `FastRecipe`.
    window
        The `window` of `ReferenceOps.shrink_select_backward`.
    fit
        Whether the stage begins by fitting the last layer's two parameters without derivatives.
    precursor
        Whether the stage trains the network's precursor, if it has one.
    decay, decay_steps, staircase
        The learning rate is multiplied by `decay` every `decay_steps` steps: at once if `staircase`, else gradually.
    sigma
        The level σ at which the measurement matrix is perturbed: see `cuista.data.perturbed`.
    keeps_moments
        Whether Adam continues with its state from the previous stage.
    """

    title: str
    depth: int
    factors: tuple[float, ...]
    steps: int
    batch: int
    learning_rate: float
    matrix_rate: float
    validate_every: int
    patience: int | None = None
    cosine: bool = False
    relative: bool = False
    window: float = 0.0
    fit: bool = False
    precursor: bool = False
    decay: float = 1.0
    decay_steps: int = 1
    staircase: bool = False
    sigma: float = 0.0
    keeps_moments: bool = False

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, relative to the first."""
        if self.cosine:
            return float(0.5 * (1 + np.cos(np.pi * (step + 0.5) / self.steps)))
        periods = step / self.decay_steps
        return float(self.decay ** (math.floor(periods) if self.staircase else periods))


@dataclass(frozen=True)
class Progress:
    """How far training has come, as it is shown to the user.

    Attributes
    ----------
    fraction
        The share of the work that is done.
    title, stage_number
        The stage's name and number, from 1.
    step, steps
        The number of steps that the stage has made, and the largest number that it makes.
    error_db, measure
        The result of the last validation, None before the first, and what it measures: `NMSE` or `loss`.
    """

    fraction: float
    title: str
    stage_number: int
    step: int
    steps: int
    error_db: float | None
    measure: str


class Recipe(Protocol):
    """What is trained when.

    Attributes
    ----------
    name
        `fast` or `paper`, or `search` for networks that have no gradients.
    by_gradients
        Whether its stages are stretches of gradient descent; otherwise, the trainer searches
        (`cuista.training.search`).
    analytic
        Whether training begins at the network's `fast_start`, with its precursor; otherwise, where the network is.
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
        """The stages for a network of so many layers, which has `more` to learn than step sizes and thresholds or not.

        Raises
        ------
        InputError
            If the recipe's numbers are out of range.
        """


def check_positive(recipe: Recipe, *names: str) -> None:
    """Raise InputError unless these numbers of the recipe are finite and more than 0."""
    for name in names:
        values = getattr(recipe, name)
        for value in values if isinstance(values, tuple) else (values,):
            if not 0 < value < float("inf"):
                raise InputError(f"{name} is {value}; expected more than 0", option=name)


def perturbed_stage(recipe: Any, layers: int, title: str, sigma: float, **others: Any) -> Stage:
    """A stage on matrices perturbed at level σ, with the numbers of a fast or paper recipe and `others` of `Stage`."""
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
        decay=0.75,
        decay_steps=5000,
        sigma=sigma,
        **others,
    )


@dataclass(frozen=True)
class PaperRecipe:
    """The original's layer by layer training, to the letter.

    For each layer: Adam at `learning_rate` on its new parameters alone, then at `learning_rate` times each of
    `decays` on all so far, with the gradient of a parameter first trained j layers earlier multiplied by
    `factor`^j. A stage ends when the best validation NMSE is older than `better_wait` steps (looked at every 100),
    and at `max_steps`.
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
        """The support schedule, as `percent` and `max_percent`: the paper's, whatever the signals' sparsity."""
        return 1.2, 13.0

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """The 3·T stages (with two decays), whether or not there is `more` than step sizes and thresholds."""
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
    """Train 2T parameters as what they are: few.

    Layer after layer is added, its two parameters fitted without derivatives (Nelder-Mead on 512 fixed signals) and
    then all so far trained jointly for `layer_steps`; at last all of them for `max_steps`. What makes it fast and sure:

    - Relative scales. Thresholds are trained as logarithms. The loss L falls by seven orders of magnitude, so its
      gradient is divided by √(L·L̄), L̄ being L's running mean: half way between descending E[log L], which is fast
      but lets rare hard signals go, and log E[L], which the NMSE is and which they dominate.
    - The jump. An entry that may pass jumps from 0 to z at the threshold. The derivative that ignores this
      misleads the thresholds once few entries are shrunk; `window` takes the jump for a ramp.
    - Hard signals. Of 40,000 signals the ten densest can make up half of the squared error. A share `hard` of every
      batch is drawn denser and weighted (`Problem.sample_weighted`). With its weights as they are the expected loss
      would stay what it is, and so the validation NMSE is estimated; in training they are taken to the power
      `weight_power`, a little under 1, to guard against the one signal in 100,000 that would fail altogether. With
      measurement noise, whose error all signals share, they are left as they are.
    - The learning rate falls along half a cosine in each stage.

    Where `layerwise` is false all layers are trained from the start, with nothing fitted.

    Learned matrices start from the analytic weight. A network that contains ALISTA starts from one trained like this
    (others have their step sizes and thresholds trained like this first), and then everything is trained for
    `matrix_steps`, at `fine_rate`, and for the matrices at `matrix_rate` times the network's own rate
    (`Network.matrix_rate`). So it never ends worse.
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

    def schedule(self, sparsity: float) -> tuple[float, float]:
        """The support schedule for signals of this sparsity, as `percent` and `max_percent`: 1.7 and 17 at 0.1."""
        return round(17 * sparsity, 6), min(round(170 * sparsity, 6), 100.0)

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage a layer, one for all, and if there is `more` than step sizes and thresholds, one for everything."""
        check_positive(self, "learning_rate", "batch", "validation_batch", "matrix_rate", "fine_rate")
        steps = (self.layer_steps, self.max_steps, self.matrix_steps)
        if not (0 <= self.hard < 1 and min(steps) >= 0 and self.window >= 0):
            raise InputError(f"{self} cannot be: expected hard from 0 to under 1, and no negative steps or window")

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
        of_layers = [
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
        return (*of_layers, replace(first, title="all layers"), *([everything] if more else []))
