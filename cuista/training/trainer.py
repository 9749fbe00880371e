"""The training loop: one for all recipes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.counter import FITTING, TRAINING, VALIDATION, Key
from cuista.data.images import NoisyCrops
from cuista.denoiser import Denoiser
from cuista.errors import DivergedError, FileError, InputError
from cuista.model import Model
from cuista.networks import Unrolled
from cuista.ops import Scalar
from cuista.parallel import blas_threads
from cuista.robust import EncoderModel, RobustModel
from cuista.stored import parameters_sha256
from cuista.training.adam import Rate
from cuista.training.checkpoint import Parameters, TrainingState, load_checkpoint, save_checkpoint
from cuista.training.perturbed import AugmentedSource, MatrixSource, PairSource
from cuista.training.recipes import EncoderRecipe, FastRecipe, PaperRecipe, Progress, Recipe, RobustRecipe, Stage
from cuista.training.search import SearchRecipe, search
from cuista.training.signals import Examples, SignalSource, Source

# On how many signals it is looked at how sparse the iterates are.
DENSITY_SIGNALS = 256
# A validation NMSE this many dB above the first one, or above 0, is no network any more.
DIVERGED_DB = 30.0
# What `fit_layer` fits, and on how many signals.
FITTING_BATCH = 512
FITTED = ("step_size", "threshold")

AnyModel = Model | Denoiser | EncoderModel | RobustModel
Trained = TypeVar("Trained", bound=AnyModel)


def train(
    model: Trained,
    recipe: Recipe | SearchRecipe | None = None,
    *,
    crops: NoisyCrops | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model's network, in place, and keep the best parameters by validation of the last stage.

    Parameters
    ----------
    model
        From the `new` of `Model`, `Denoiser`, `EncoderModel` or `RobustModel`.
    recipe
        `FastRecipe()` if None, or `SearchRecipe()` for a network without gradients. Those for a denoiser are
        `FastRecipe.for_pictures()` (if None) and `PaperRecipe.for_pictures()`; that for an encoder is `EncoderRecipe()`
        or its `paper()`, and that for a robust model `RobustRecipe()` or its `paper()`. A `Model` trained by the latter
        is a decoder trained on measurements of perturbed matrices, which it is not told.
    crops
        The examples of a denoiser. A model draws its own.
    seed
        Of the training, validation and fitting signals. The same seed gives the same bits on the same machine.
    out
        Where to write the model. Every `checkpoint_seconds`, and when interrupted, the run's state is written to
        `OUT.ckpt`, which is removed when `OUT` is complete.
    resume
        Continue from that checkpoint, if there is one; `out` may then exist, for the run had been allowed to write it.
    overwrite
        Whether `out` may exist.
    progress
        Called after every step.

    Raises
    ------
    DivergedError
        If the loss or a validation is NaN, infinite or beyond all bounds. The last good parameters have then been
        saved, if `out` was given, beside it as `OUT.last-good.h5`.
    KeyboardInterrupt
        On SIGINT or SIGTERM, after the checkpoint was written.
    FileError
        If `out` cannot be written, or the checkpoint belongs to another run.
    InputError
        If the recipe is not one for this network.
    """
    recipe = recipe or default_recipe(model)
    if isinstance(model, Denoiser) != (crops is not None):
        raise InputError("crops are what a denoiser is trained on: give them with one, and only with one")
    _check_suits(model, recipe)
    if not isinstance(recipe, SearchRecipe):
        with model.network.ops.computing():
            _Run(model, crops, recipe, seed, out, resume, overwrite, checkpoint_seconds, progress).train()
        return model
    assert isinstance(model, Model)  # only for one are there networks without gradients
    if out is not None:
        storage.check_writable(out, overwrite=overwrite)
    search(model, recipe, seed, identity(model, recipe, seed), progress)
    if out is not None:
        model.save(out, overwrite=overwrite)
    return model


def default_recipe(model: AnyModel) -> Recipe | SearchRecipe:
    """The recipe of a model for which none is given."""
    if isinstance(model, EncoderModel):
        return EncoderRecipe()
    if isinstance(model, RobustModel):
        return RobustRecipe()
    if isinstance(model, Denoiser):
        return FastRecipe.for_pictures()
    return FastRecipe() if model.network.has_gradients else SearchRecipe()


def _check_suits(model: AnyModel, recipe: Recipe | SearchRecipe) -> None:
    """Raise InputError if the recipe is not one for the model."""
    kinds: tuple[type, ...] = (FastRecipe, PaperRecipe)
    if isinstance(model, EncoderModel):
        kinds = (EncoderRecipe,)
    elif isinstance(model, RobustModel):
        kinds = (RobustRecipe,)
    elif not model.network.has_gradients:
        kinds = (SearchRecipe,)
    elif isinstance(model, Model):
        kinds = (*kinds, RobustRecipe)
    if not isinstance(recipe, kinds):
        suiting = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"a {type(recipe).__name__} is not for {model.network.title}: expected the {suiting}")


def _source(model: AnyModel, recipe: Recipe, crops: NoisyCrops | None) -> Source:
    """Where the examples come from."""
    if isinstance(model, Denoiser):
        assert crops is not None  # `train` has seen to it
        return crops
    if isinstance(model, EncoderModel):
        return MatrixSource(model.problem)
    if isinstance(recipe, RobustRecipe):
        return (PairSource if isinstance(model, RobustModel) else AugmentedSource)(model.problem, recipe)
    assert isinstance(recipe, FastRecipe | PaperRecipe)  # `train` has seen to it
    return SignalSource(model.problem, recipe)


def identity(
    model: AnyModel,
    recipe: Recipe | SearchRecipe | None = None,
    seed: int = 0,
    crops: NoisyCrops | None = None,
) -> dict[str, Any]:
    """What makes two runs of `train` the same, as it is found in the `training` of a trained model."""
    recipe, network = recipe or default_recipe(model), model.network
    return {
        "net": network.name,
        "recipe": recipe.name,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in asdict(recipe).items()},
        "seed": seed,
        "layers": network.layers,
        "percent": network.percent,
        "max_percent": network.max_percent,
        "untied": network.untied,
        "dtype": network.dtype.name,
        "device": network.ops.name.partition(":")[0],
        **model.identity(),
        **(crops.identity() if crops else {}),
        # A decoder's training goes on from where it is.
        **({"began_with": parameters_sha256(network.parameters, network.ops)} if _goes_on(model, recipe) else {}),
    }


def _goes_on(model: AnyModel, recipe: Recipe | SearchRecipe) -> bool:
    """Whether this is training of a decoder that was trained before."""
    return isinstance(model, Model) and isinstance(recipe, RobustRecipe)


def checkpoint_path(out: str | os.PathLike[str]) -> Path:
    """Where a run that writes to `out` keeps its checkpoint."""
    return Path(f"{os.fspath(out)}.ckpt")


class _Run:
    """A run of `train`.

    Attributes
    ----------
    model, network
        What is to be trained.
    source
        Where the examples come from.
    learning
        What is trained now: the network, or in the stages of a precursor that.
    """

    def __init__(
        self,
        model: AnyModel,
        crops: NoisyCrops | None,
        recipe: Recipe,
        seed: int,
        out: str | os.PathLike[str] | None,
        resume: bool,
        overwrite: bool,
        checkpoint_seconds: float,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.network, self.recipe, self.seed = model, model.network, recipe, seed
        self.ops = ops = self.network.ops
        self.source = _source(model, recipe, crops)
        self.identity = identity(model, recipe, seed, crops)
        resume = resume and out is not None and checkpoint_path(out).exists()
        self.out, self.overwrite = out, overwrite or resume
        self.checkpoint_seconds, self.progress = checkpoint_seconds, progress
        self.precursor = self.network.precursor() if recipe.analytic else None
        self.stages = recipe.stages(self.network.layers, bool(self.precursor or self.network.matrices))
        self.state = TrainingState(mean_loss=ops.asarray(0.0, np.float64))
        if out is not None:
            storage.check_writable(out, overwrite=self.overwrite)
            if resume:
                self.state = load_checkpoint(checkpoint_path(out), self.network, self.precursor, self.identity)
        if recipe.analytic and not resume:
            for network in filter(None, (self.network, self.precursor)):
                network.parameters = network.fast_start()
        self.began = time.monotonic()
        self.unscaled = ops.asarray(1.0, np.float64)
        self.validation: Examples | None = None
        self._prepare()
        self.last_good = self.state.best or _copy(self.learning.parameters)
        self.last_nmse: float | None = None
        self.fitting = self._sample(FITTING_BATCH, FITTING)[:2] if any(stage.fit for stage in self.stages) else None
        if not (self._validation()[0].any() and (self.fitting is None or self.fitting[0].any())):
            raise InputError(self.source.blank())

    def _prepare(self) -> None:
        """Have at hand what the stage needs."""
        stage = self.stages[self.state.stage]
        first = self.precursor if stage.precursor else None
        self.learning = first or self.network
        self.fused = self.source.fuse(self.learning)
        if self.source.enter(stage):
            self.validation = None
        factors = np.zeros(self.network.layers)
        factors[: stage.depth] = stage.factors
        self.factors = self.ops.asarray(factors, np.float64)
        self.active = slice(int(np.flatnonzero(factors)[0]), stage.depth)
        self._set_rates(stage)

    def _set_rates(self, stage: Stage) -> None:
        """Adam's learning rates, which may depend on how good the network is at the beginning of the stage."""
        of_matrices: Rate = stage.learning_rate
        if stage.relative:
            begun = [nmse for number, step, nmse in self.state.history if number < self.state.stage or step == 0]
            of_matrices = self.learning.matrix_rate(begun[-1] if begun else 0.0)
        self.rates = {
            name: _scaled(of_matrices, stage.matrix_rate) if name in self.learning.matrices else stage.learning_rate
            for name in self.learning.parameters
        }

    def _next_stage(self) -> None:
        """Go on to the next stage, from the best of this one if that was to find where the rest begins."""
        best, ended = self.state.best, self.stages[self.state.stage]
        self.state.next_stage(self.stages[self.state.stage + 1].keeps_moments)
        if ended.precursor and not self.stages[self.state.stage].precursor:
            self.learning.parameters = best
            if self.precursor:
                self.network.adopt(self.precursor)
        self._prepare()
        self.last_good = _copy(self.learning.parameters)

    def train(self) -> None:
        state = self.state
        work = np.array([stage.steps * stage.depth for stage in self.stages])
        with deferred_signals() as interrupted, blas_threads(self.recipe.batch * self.network.product_operations):
            saved = time.monotonic()
            while state.stage < len(self.stages):
                stage = self.stages[state.stage]
                if state.step == 0:
                    self._begin(stage)
                if state.step >= stage.steps or self._out_of_patience(stage):
                    if state.stage == len(self.stages) - 1:
                        break
                    self._next_stage()
                    continue
                self._step(stage)
                if self.progress:
                    fraction = (work[: state.stage].sum() + state.step * stage.depth) / work.sum()
                    at = (stage.title, state.stage + 1, state.step, stage.steps)
                    self.progress(Progress(float(fraction), *at, self.last_nmse))
                if interrupted() or time.monotonic() - saved > self.checkpoint_seconds:
                    self._save(fatal=interrupted())
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
        self._finish()

    def _save(self, fatal: bool) -> None:
        """Write the checkpoint. A full disk ends a run only when there is no later chance."""
        if self.out is None:
            return
        self._clock()
        try:
            save_checkpoint(checkpoint_path(self.out), self.model, self.learning, self.state, self.identity)
        except FileError as error:
            if fatal:
                raise
            warnings.warn(f"the checkpoint could not be saved, training goes on: {error}", stacklevel=3)

    def _clock(self) -> None:
        """Add the time since this was last called to the run's."""
        now = time.monotonic()
        self.state.seconds += now - self.began
        self.began = now

    def _begin(self, stage: Stage) -> None:
        """Fit the new layer if the stage wants it; else make a first validation, for the stage must not end worse."""
        if stage.fit and self.fitting:
            fit_layer(self.learning, stage.depth - 1, *self.fitting)
        else:
            self._validate(stage)
            self._set_rates(stage)

    def _step(self, stage: Stage) -> None:
        """One step, of which nothing is read back: an engine may still be at it when this returns."""
        state, ops = self.state, self.ops
        loss, gradients = self._loss_and_gradients(stage)
        scale = ops.track_loss(loss, stage.batch, state.mean_loss)
        share = stage.rate_at(state.step)
        state.adam.step(
            ops,
            self.learning.parameters,
            gradients,
            {name: _scaled(rate, share) for name, rate in self.rates.items()},
            self.factors,
            self.active,
            scale if stage.relative else self.unscaled,
            logarithmic=self.learning.logarithmic if stage.relative else (),
        )
        state.step += 1
        state.total_steps += 1
        if state.step % stage.validate_every == 0 or state.step == stage.steps:
            self._validate(stage)

    def _loss_and_gradients(self, stage: Stage) -> tuple[Scalar, dict[str, Array]]:
        """Those of the step's fresh signals, at once if the engine can and it is worth it."""
        state, network = self.state, self.learning
        if self.fused and self.fused.suits(stage.batch, state.density):
            key = Key(self.seed, TRAINING, state.total_steps)
            arguments = (stage.batch, stage.depth, stage.window, self.source.weight_power)
            return self.fused(network.parameters, network.support, key, *arguments)
        x, y, weights = self._sample(stage.batch, TRAINING, state.total_steps)
        if weights is not None:
            weights **= self.source.weight_power
        wanted = [name for name, rate in self.rates.items() if rate]
        return network.loss_and_gradients(y, x, stage.depth, stage.window, weights, wanted)

    def _validate(self, stage: Stage) -> None:
        state = self.state
        if not np.isfinite(float(state.mean_loss)):
            raise self._diverged(f"the loss became {float(state.mean_loss)}")
        validation = self._validation()
        result = self.source.nmse_db(self.learning, validation, stage.depth)
        # The paper recipe's new layers begin untrained, and may begin badly.
        earlier = [nmse for number, _, nmse in state.history if self.recipe.analytic or number == state.stage]
        start = max(earlier[0], 0.0) if earlier else np.inf
        if not result < start + DIVERGED_DB:
            raise self._diverged(f"the validation {self.source.measure} became {result:.4g} dB")
        self.last_nmse = result
        self.last_good = _copy(self.learning.parameters)
        if self.fused and not self.fused.suits(stage.batch, 1.0):  # else it makes no difference
            state.density = self.learning.density(validation[1][:DENSITY_SIGNALS], stage.depth)
        state.history.append((state.stage, state.step, result))
        if result < state.best_nmse_db:
            state.best_nmse_db, state.best_step, state.best = result, state.step, self.last_good

    def _out_of_patience(self, stage: Stage) -> bool:
        due = self.state.step % (10 * stage.validate_every) == 0
        return stage.patience is not None and due and self.state.step - self.state.best_step > stage.patience

    def _finish(self) -> None:
        state = self.state
        self._clock()
        self.network.parameters, self.model.training_seconds = state.best, state.seconds
        self.model.history = state.history_arrays()
        self.model.training = {
            **self.identity,
            "validation_nmse_db": state.best_nmse_db,
            "steps": state.total_steps,
        }
        if self.out is not None:
            self.model.save(self.out, overwrite=self.overwrite)
            checkpoint_path(self.out).unlink(missing_ok=True)

    def _diverged(self, what: str) -> DivergedError:
        state = self.state
        where = f"after step {state.step} of stage {state.stage + 1} ({self.stages[state.stage].title})"
        message = f"training diverged {where}: {what}. Lower the learning rate"
        if self.out is not None:
            self.learning.parameters = self.last_good
            if self.precursor and self.learning is self.precursor:
                self.network.adopt(self.precursor)
            path = f"{os.fspath(self.out)}.last-good.h5"
            self.model.history = state.history_arrays()
            self.model.training = {**self.identity, "steps": state.total_steps, "diverged": what}
            self.model.save(path, overwrite=True)
            message += f"; the last good parameters are in {path}"
        return DivergedError(message)

    def _validation(self) -> Examples:
        """The examples for validation, which may be others in another stage."""
        if self.validation is None:
            self.validation = self._sample(self.recipe.validation_batch, VALIDATION, validate=True)
        return self.validation

    def _sample(self, batch: int, stream: int, step: int = 0, validate: bool = False) -> Examples:
        """Targets, inputs, and the examples' weights if they have some."""
        return self.source.sample(self.ops, self.network.dtype, batch, Key(self.seed, stream, step), validate)


def fit_layer(network: Unrolled, t: int, x: Array, y: Array) -> None:
    """Set layer t's step size and threshold to those that give the least error on signals x (batch, N), y (batch, M).

    Nelder-Mead on (α, log θ), or log θ alone, from the layer before and from two guesses made of the error so far.
    """
    from scipy.optimize import minimize

    ops = network.ops
    state, _ = network.begin(y)
    for layer in range(t):
        state, _ = network.layer(layer, state)
    propose, unit = network.propose(t, state)
    zero = ops.xp.zeros_like(x)
    energy = 2 * float(ops.half_squared_error(zero, x)[0])
    tiny = float(np.finfo(float).tiny)
    steps = "step_size" in network.shapes

    def error(point: Array) -> float:
        after = propose(point[0] if steps else 1.0, np.exp(point[-1]))
        return float(np.log(float(ops.half_squared_error(after, x)[0]) / energy + tiny))

    spread = 0.5 * np.log(max(2 * float(ops.half_squared_error(state[0], x)[0]) / x.size, tiny)) - np.log(unit)
    starts = [(1.0, spread + np.log(0.6)), (1.0, spread + np.log(0.2))]
    if t > 0:
        alpha, theta = (
            float(network.parameter(name, t - 1).mean()) if name in network.shapes else 1.0 for name in FITTED
        )
        starts.append((alpha, np.log(max(theta, tiny))))
    fits = []
    for alpha, log_theta in starts:
        simplex = np.array([(alpha, log_theta), (alpha + 0.1, log_theta), (alpha, log_theta + 0.3)])
        simplex = simplex if steps else simplex[::2, 1:]
        fits.append(
            minimize(error, simplex[0], method="Nelder-Mead", options={"maxfev": 60, "initial_simplex": simplex})
        )
    best = min(fits, key=lambda fit: float(fit.fun)).x
    if steps:
        network.parameters["step_size"][t] = best[0]
    network.parameters["threshold"][t] = np.exp(best[-1])


def _scaled(rate: Rate, factor: float) -> Rate:
    return tuple(factor * each for each in rate) if isinstance(rate, tuple) else factor * rate


def _copy(parameters: Parameters) -> Parameters:
    return {name: value.copy() for name, value in parameters.items()}


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait until the loop asks, so that neither ever meets a half-made step."""
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:  # a second one means now
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {
        number: signal.signal(number, receive)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # as for a job in the background
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
