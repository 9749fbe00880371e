"""What is trained when: a recipe is a list of stages."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from cuista.errors import InputError


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one loss, one optimiser state and one learning rate.

    Attributes
    ----------
    title
        For progress.
    depth
        The loss is taken after this many layers.
    factors
        By what each of these layers' gradients are multiplied before Adam; 0 freezes a layer.
    steps
        How many steps at most.
    batch
        Fresh signals in each step.
    learning_rate
        Of Adam.
    matrix_rate
        The same for learned matrices, as a factor of `learning_rate` or, where `relative`, of the network's own.
    validate_every
        Steps between validations.
    patience
        Every `10 · validate_every` steps the stage ends if its best validation NMSE is older than this many
        steps. None: it runs all its steps.
    cosine
        Whether the learning rate falls to 0 along half a cosine.
    relative
        Whether to descend on relative scales: see `FastRecipe`.
    window
        That of `ReferenceOps.shrink_select_backward`.
    fit
        Whether to begin by fitting the last layer's two parameters without derivatives.
    precursor
        Whether this is training of the network's precursor, if it has one.
    decay, decay_steps, staircase
        The learning rate is multiplied by `decay` over so many steps, at once at their end if `staircase`.
    sigma
        How much the measurement matrix is perturbed: see `cuista.data.perturbed`.
    keeps_moments
        Whether Adam goes on with the state of the stage before.
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
    """Where training stands, for showing.

    Attributes
    ----------
    fraction
        Share of the work that is done.
    title, stage_number
        The stage.
    step, steps
        How many steps it has made, and makes at most.
    nmse_db
        The last validation.
    """

    fraction: float
    title: str
    stage_number: int
    step: int
    steps: int
    nmse_db: float | None


@dataclass(frozen=True)
class PaperRecipe:
    """The original's layer by layer training, to the letter.

    For each layer: Adam at `learning_rate` on its new parameters alone, then at `learning_rate` times each of
    `decays` on all so far, with the gradient of a parameter first trained j layers earlier multiplied by
    `factor`^j. A stage ends when the best validation NMSE is older than `better_wait` steps (looked at every 100),
    and at `max_steps`.
    """

    name: ClassVar[str] = "paper"
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

    @classmethod
    def for_pictures(cls, **options: Any) -> PaperRecipe:
        """The original's for denoising: 4 crops a step, 16 for validation."""
        return cls(**{"batch": 4, "validation_batch": 16, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """The 3·T stages (with two decays), whether or not there is `more` than step sizes and thresholds."""
        names = ("learning_rate", "batch", "validation_batch", "better_wait", "max_steps", "factor")
        _check_positive(self, *names, *self.decays)
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

    @classmethod
    def for_pictures(cls, **options: Any) -> FastRecipe:
        """The recipe for denoising. A crop has ten thousand pixels, so that few of them and few steps do.

        Without support selection no entry jumps, and no crop is rare enough to rule the error. Trained layer by layer
        the first layers would do all they can alone, and the last ones nothing: 0.3 dB were lost. The first layer's
        step size may end at several times its start, so that the learning rate is twice as large as elsewhere.
        """
        sizes = {"batch": 4, "validation_batch": 16, "max_steps": 300, "matrix_steps": 300, "learning_rate": 0.06}
        return cls(**{**sizes, "layerwise": False, "window": 0.0, "hard": 0.0, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage a layer, one for all, and if there is `more` than step sizes and thresholds, one for everything."""
        _check_positive(self, "learning_rate", "batch", "validation_batch", "matrix_rate", "fine_rate")
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


@dataclass(frozen=True)
class EncoderRecipe:
    """How an encoder is trained: on its own loss, with fresh perturbed matrices in each step.

    By default in a few hundred steps of a learning rate that is relative to the step matrices' size, and falls along
    half a cosine: the analytic start (see `Encoder`) is near the end already. `paper()` is the original's: to 200,000
    steps with a learning rate that falls by a quarter every 5000.

    Attributes
    ----------
    sigma
        Standard deviation of what is added to the entries of the matrix.
    batch, validation_batch
        Matrices.
    better_wait
        As in `PaperRecipe`; None to make all steps.
    """

    hard: ClassVar[float] = 0.0
    analytic: ClassVar[bool] = False
    name: str = "fast"
    sigma: float = 1e-2
    learning_rate: float = 1e-3
    batch: int = 8
    validation_batch: int = 16
    max_steps: int = 300
    better_wait: int | None = None

    @classmethod
    def paper(cls, **options: Any) -> EncoderRecipe:
        """The original's."""
        sizes = {"learning_rate": 1e-4, "batch": 16, "max_steps": 200_000, "better_wait": 4000}
        return cls(**{"name": "paper", **sizes, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage."""
        _check_positive(self, "learning_rate", "batch", "validation_batch", "sigma")
        paper = self.name == "paper"
        return (
            Stage(
                title="encoder",
                depth=layers,
                factors=(1.0,) * layers,
                steps=self.max_steps,
                batch=self.batch,
                learning_rate=self.learning_rate,
                matrix_rate=1.0 if paper else self.learning_rate,
                validate_every=100 if paper else 50,
                patience=self.better_wait,
                cosine=not paper,
                relative=not paper,
                decay=0.75,
                decay_steps=5000,
                staircase=True,
                sigma=self.sigma,
            ),
        )


@dataclass(frozen=True)
class RobustRecipe:
    """Training under perturbation, of an encoder and a decoder together or of a decoder alone.

    A curriculum: a stage for each σ of linspace(0, psigma_max, psteps) but the first. In each step some matrices, each
    perturbed at a level of its own, uniform from 0 to σ, measure the same signals. The loss is that after the last
    layer, and Adam's state goes on from stage to stage.

    By default on relative scales, with the jump at the threshold and hard signals as in `FastRecipe`, and a learning
    rate that falls along half a cosine in each stage. `paper()` is the original's: 50,000 steps a stage, the learning
    rates falling continuously, by a quarter every 5000 steps of a stage.

    Attributes
    ----------
    psigma_max, psteps
        The last level, and how many there are with 0.
    matrices, batch
        Of a step: matrices, and the signals that each of them measures.
    validation_matrices, validation_batch
        The same for validation, at levels up to the stage's.
    msigma
        Standard deviation of noise in the measurements, beside that of the problem's SNR.
    learning_rate
        Of step sizes, thresholds and a ridge.
    matrix_rate
        Of learned matrices, the encoder's or the decoder's, as a factor of the network's own (`matrix_rate`).
    encoder_rate
        The same of `paper()`, as it is.
    """

    analytic: ClassVar[bool] = False
    name: str = "fast"
    psigma_max: float = 2e-2
    psteps: int = 5
    max_steps: int = 150
    matrices: int = 4
    batch: int = 16
    validation_matrices: int = 32
    validation_batch: int = 64
    msigma: float = 0.0
    learning_rate: float = 3e-3
    matrix_rate: float = 1.0
    encoder_rate: float = 1e-9
    window: float = 0.3
    hard: float = 0.5
    weight_power: float = 0.8

    @classmethod
    def paper(cls, **options: Any) -> RobustRecipe:
        """The original's."""
        plain = {"learning_rate": 1e-4, "window": 0.0, "hard": 0.0, "weight_power": 1.0}
        return cls(**{"name": "paper", "max_steps": 50_000, **plain, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage for each level but 0."""
        names = ("psigma_max", "matrices", "batch", "validation_matrices", "validation_batch", "learning_rate")
        _check_positive(self, *names, "matrix_rate", "encoder_rate")
        if self.psteps < 2:
            raise InputError(f"psteps is {self.psteps}; expected 2 or more, for the first level is 0 and left out")
        if not 0 <= self.msigma < float("inf"):
            raise InputError(f"msigma is {self.msigma}; expected a number of 0 or more")
        paper = self.name == "paper"
        return tuple(
            Stage(
                title=f"σ = {sigma:g}",
                depth=layers,
                factors=(1.0,) * layers,
                steps=self.max_steps,
                batch=self.matrices * self.batch,
                learning_rate=self.learning_rate,
                matrix_rate=self.encoder_rate / self.learning_rate if paper else self.matrix_rate,
                validate_every=100 if paper else 50,
                cosine=not paper,
                relative=not paper,
                window=self.window,
                decay=0.75,
                decay_steps=5000,
                sigma=float(sigma),
                keeps_moments=True,
            )
            for sigma in np.linspace(0, self.psigma_max, self.psteps)[1:]
        )


Recipe = PaperRecipe | FastRecipe | EncoderRecipe | RobustRecipe


def _check_positive(recipe: Recipe, *names: str | float) -> None:
    for name in names:
        value = getattr(recipe, name) if isinstance(name, str) else name
        if not 0 < value < float("inf"):
            raise InputError(f"{name if isinstance(name, str) else 'a decay'} is {value}; expected more than 0")
