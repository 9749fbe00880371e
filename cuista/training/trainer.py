"""The training loop, shared by all tasks and recipes."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from cuista import storage
from cuista.counter import FITTING, TRAINING, VALIDATION, Key
from cuista.errors import DivergedError, FileError
from cuista.messages import LOG, showing, step_level, warn
from cuista.model import NUMBERS, Trained
from cuista.ops import FusedStep, Scalar
from cuista.parallel import one_blas_thread
from cuista.ranks import ranks
from cuista.training.adam import Rate
from cuista.training.checkpoint import (
    CHECKPOINT_ENDING,
    Parameters,
    TrainingState,
    check_replaceable,
    check_same_run,
    check_state,
    checkpoint_path,
    continued,
    load_checkpoint,
    replaced_by,
    save_checkpoint,
)
from cuista.training.fitting import fit_layer
from cuista.training.interruption import deferred_signals
from cuista.training.recipes import Progress, Recipe, Stage
from cuista.training.search import search
from cuista.training.task import AnyModel, Examples, Source, Task, uselessness

STEPS = LOG.getChild("training")
# The number of signals on which the density of the iterates is measured.
DENSITY_SIGNALS = 256
# Training has diverged if a validation is this many dB above the first one or above 0, whichever is higher.
DIVERGED_DB = 30.0
# After diverging more often than this in a stage, a run by the fast recipe ends.
MOST_SETBACKS = 3
# How many steps apart ranks with GPUs look whether one of them was interrupted.
LOOK = 10
# The number of signals on which a layer's parameters are fitted.
FITTING_BATCH = 512


def train(
    model: AnyModel,
    recipe: Recipe | None = None,
    *,
    task: Task[Any] | None = None,
    data: Any = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: Callable[[Progress], None] | bool | None = None,
) -> AnyModel:
    """Train a model's network in place, and keep the parameters with the best validation of the last stage.

    Parameters
    ----------
    model
        An untrained model, or a trained one for a task that continues from it.
    recipe
        How to train; the task's fast recipe if None.
    task
        The task to train for; the model's default if None. A denoiser has no default, because it needs pictures.
    data
        Signals of the user's own, to train on instead of new ones: sparse codes (samples, N), or a tuple of codes and
        measurements (samples, M), as arrays or paths of files; or a `SignalSet`. The law of the model's problem should
        be theirs: see `Problem.fitted`.
    seed
        The seed of all examples. The same seed gives the same bits on the same machine.
    out
        The file to which the model is written. Every `checkpoint_seconds`, and on an interruption, the state of the run
        is written to `OUT.ckpt`, which is removed once `OUT` is complete.
    resume
        Continue from that checkpoint if there is one. `out` may then exist: the interrupted run may overwrite it. If
        there is no checkpoint but `out`, its run must be this one, and the model becomes the trained one.
    overwrite
        Whether `out` may exist.
    progress
        Called with a `Progress` after every step. True shows one line with the time left, in a notebook or on stderr.

    Raises
    ------
    DivergedError
        If the loss is NaN or infinite, or a validation or the result is far too large. In the fast recipe, the loss and
        validations may be so three times in a stage: training then goes on from the best parameters with half the
        learning rate. If `out` was given, the last good parameters have been saved as `OUT.last-good.h5`.
    KeyboardInterrupt
        On SIGINT or SIGTERM, after the checkpoint has been written.
    FileError
        If `out` cannot be written, or it or its checkpoint belongs to another run.
    InputError
        If the recipe or the task is not one for this model, or the data are not acceptable.
    """
    task = task or model.task()
    task = task if data is None else task.on(data)
    recipe = recipe or task.recipe(model)
    run_identity = identity(model, recipe, seed, task)
    # Not what each rank has computed itself, on processors that may differ.
    given = {name: value for name, value in run_identity.items() if name not in ("weight", "unit", "device")}
    ranks().check_alike({**given, "out": out})
    with storage.claimed(out), showing(progress, lambda at: (at.fraction, str(at))) as shown:
        before = None if out is None else continued(out, resume, overwrite)
        if before is not None and before.suffix != CHECKPOINT_ENDING:
            return _finished(model, before, run_identity)
        if before is not None and not recipe.by_gradients:
            raise FileError(f"{before} is from another run, not from a search: start afresh", option="overwrite")
        replaces = None
        if out is not None:
            replaces = storage.identity_of(out) if before is None else replaced_by(before)
        with contextlib.closing(task.source(model, recipe)) as source, model.network.ops.computing():
            if recipe.by_gradients:
                run = _Run(model, recipe, task, source, seed, out, run_identity, replaces)
                run.begin(before)
                if before is None and out is not None:
                    storage.remove(checkpoint_path(out))  # an older run's, which this one overwrites
                run.train(checkpoint_seconds, shown)
                run.check_output()
            else:
                search(model, recipe, source, seed, run_identity, task.measure, shown)
            task.finish(model)
        if out is not None:
            model.save(out, overwrite=replaces is not None)
            storage.remove(checkpoint_path(out))
    return model


def identity(
    model: Trained, recipe: Recipe | None = None, seed: int = 0, task: Task[Any] | None = None
) -> dict[str, Any]:
    """The identity of a run of `train`: two runs that agree in it are the same. A trained model has it in `training`.

    Raises
    ------
    InputError
        If the recipe or the task is not one for this model.
    """
    task = task or model.task()
    recipe = recipe or task.recipe(model)
    task.check(model, recipe)
    task.prepare(model, recipe)
    network = model.network
    numbers = asdict(cast(Any, recipe))
    return {
        "net": network.name,
        "recipe": recipe.name,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in numbers.items()},
        "seed": seed,
        **{name: getattr(network, name) for name in NUMBERS},
        "dtype": network.dtype.name,
        "device": network.ops.name.partition(":")[0],
        **model.identity(),
        **task.identity(model, recipe),
    }


def _finished(model: AnyModel, path: Path, run: dict[str, Any]) -> AnyModel:
    """The model, with all that its finished run has found; `run` identifies the run."""
    where = {"ops": model.network.ops, "dtype": model.network.dtype, "operator": model.external}
    done = type(model).load(path, **where)
    check_same_run(path, {name: done.training.get(name) for name in run}, run)
    vars(model).update(vars(done))
    return model


class _Run:
    """A run of `train` by gradient descent.

    Attributes
    ----------
    model, network
        The model and its network.
    learning
        The network in training: the precursor in its stages, otherwise the model's network.
    """

    def __init__(
        self,
        model: Trained,
        recipe: Any,
        task: Task[Any],
        source: Source,
        seed: int,
        out: str | os.PathLike[str] | None,
        identity: dict[str, Any],
        replaces: list[int] | None,
    ) -> None:
        self.model, self.network, self.recipe, self.task, self.source = model, model.network, recipe, task, source
        self.seed, self.out, self.identity, self.replaces = seed, out, identity, replaces
        self.ranks, self.ops = ranks(), self.network.ops
        self.precursor = self.network.precursor() if recipe.analytic else None
        self.stages = recipe.stages(self.network.layers, bool(self.precursor or self.network.matrices))
        self.state = TrainingState(mean_loss=self.ops.asarray(0.0, np.float64))
        self.unscaled = self.ops.asarray(1.0, np.float64)
        self.began = time.monotonic()
        self.validation: Examples | None = None
        self.last_shown: float | None = None
        self.interrupted: Callable[[], bool] = lambda: False
        self.stopped = False

    def begin(self, checkpoint: Path | None) -> None:
        """Continue the interrupted run, or begin afresh."""
        if checkpoint is not None:
            self.state = load_checkpoint(checkpoint, self.network, self.precursor, self.identity)
        elif self.recipe.analytic:
            for network in filter(None, (self.network, self.precursor)):
                network.parameters = network.fast_start()
                self.source.adapt(network, self.seed)
        if checkpoint is not None:
            in_stage = self.stages[min(max(self.state.stage, 0), len(self.stages) - 1)]
            learning = self.precursor if in_stage.precursor and self.precursor else self.network
            check_state(checkpoint, self.state, learning, self.stages)
        self._prepare()
        self._compare_ranks()  # before one of them might replace the file that another still has to read
        self.last_good = self.state.best or _copy(self.learning.parameters)
        fitting = min(FITTING_BATCH, self.recipe.validation_batch)
        self.fitting = self._sample(fitting, FITTING)[:2] if any(stage.fit for stage in self.stages) else None
        sets = (self._validation(), self.fitting or self._validation())
        if not all(self.ops.to_numpy(x).any() for x, *_ in sets):
            raise self.source.blank()

    def _prepare(self) -> None:
        """Prepare what the current stage needs."""
        stage = self.stages[self.state.stage]
        first = self.precursor if stage.precursor else None
        self.learning = first or self.network
        self.fused = self.source.fuse(self.learning)
        if self.source.enter(stage, self.learning):
            self.validation = None
        factors = np.zeros(self.network.layers)
        factors[: stage.depth] = stage.factors
        self.factors = self.ops.asarray(factors, np.float64)
        self.active = slice(int(np.flatnonzero(factors)[0]), stage.depth)
        self._set_rates(stage)

    def _set_rates(self, stage: Stage) -> None:
        """Set Adam's learning rates, which may depend on the network's error at the beginning of the stage."""
        learning = self.learning
        begun = [error for number, step, error in self.state.history if number < self.state.stage or step == 0]

        def rate_of(name: str) -> Rate:
            if name in stage.rates or name not in learning.matrices:
                return stage.rates.get(name, stage.learning_rate)
            own = learning.rate_of(name, begun[-1] if begun else 0.0) if stage.relative else stage.learning_rate
            return _scaled(own, stage.matrix_rate)

        self.rates = {name: rate_of(name) for name in learning.parameters}

    def _next_stage(self) -> None:
        """Go to the next stage. The stage after a precursor's last one begins from its best parameters."""
        best, ended = self.state.best, self.stages[self.state.stage]
        self.state.next_stage(self.stages[self.state.stage + 1].keeps_moments)
        if ended.precursor and not self.stages[self.state.stage].precursor:
            self.learning.parameters = best
            if self.precursor:
                self.network.adopt(self.precursor)
        self._prepare()
        self.last_good = _copy(self.learning.parameters)

    def train(self, checkpoint_seconds: float, progress: Callable[[Progress], None] | None) -> None:
        """Run all stages, and leave the best parameters in the model."""
        state, stages = self.state, self.stages
        work = np.array([stage.steps * stage.depth for stage in stages])
        with deferred_signals() as self.interrupted, one_blas_thread():
            saved = time.monotonic()
            while True:
                stage = stages[state.stage]
                if state.step == 0:
                    self._begin(stage)
                if state.step >= stage.steps or self._out_of_patience(stage):
                    self._log(step_level(), f"ended with {self.task.shown} %.2f dB", state.best_error_db)
                    if state.stage == len(stages) - 1:
                        break
                    self._next_stage()
                    continue
                self._step(stage)
                if progress:
                    fraction = (work[: state.stage].sum() + state.step * stage.depth) / work.sum()
                    at = (stage.title, state.stage + 1, state.step, stage.steps)
                    progress(Progress(float(fraction), *at, self.last_shown, self.task.shown))
                # Several ranks stop together, at the end of the step in which all have learned of an interruption.
                stop = self.interrupted() if self.ranks.size == 1 else self.stopped
                if stop or time.monotonic() - saved > checkpoint_seconds:
                    self._save(fatal=stop)
                    saved = time.monotonic()
                if stop:
                    self.ranks.agreed(lambda: None)  # the first rank has saved the run
                    raise KeyboardInterrupt
        self._clock()
        if self.task.measure == "NMSE":
            useless = uselessness(self.network, self.source, self._validation(), state.best_error_db, self.task.shown)
            if useless and state.best_error_db > DIVERGED_DB:
                raise self._failed(useless, "Lower the learning rate, or use another recipe")
            if useless:
                warn(f"{useless}. {self.source.advice()}", stacklevel=3)
        if state.setbacks and not state.best_step:
            warn("no step of the last stage was better than what it began with. Lower the learning rate", stacklevel=3)
        self.network.parameters, self.model.training_seconds = state.best, state.seconds
        result = {f"validation_{self.task.measure.lower()}_db": state.best_error_db}
        self._describe(result | {f"validation_{self.task.shown.lower()}_db": self._displayed(state.best_error_db)})

    def check_output(self) -> None:
        """Raise FileError if a file has appeared where the model is to be written; the run is then saved."""
        if self.out is not None:
            try:
                check_replaceable(self.out, self.replaces)
            except FileError:
                self._save(fatal=False)
                raise

    def _describe(self, result: dict[str, Any]) -> None:
        """Record in the model how it was trained, and with which result."""
        self.model.history = self.state.history_arrays(self.task.measure)
        self.model.training = {**self.identity, **result, "steps": self.state.total_steps}

    def _save(self, fatal: bool) -> None:
        """Write the checkpoint. If that fails, the run ends only if this was the last chance (`fatal`)."""
        if self.out is None or not self.ranks.first:
            return
        self._clock()
        try:
            save_checkpoint(
                checkpoint_path(self.out), self.model, self.learning, self.state, self.identity, self.replaces
            )
        except FileError as error:
            if fatal:
                raise
            warn(f"the checkpoint could not be saved, training goes on: {error}", stacklevel=3)
            return
        LOG.debug("Saved the run in %s.", checkpoint_path(self.out))

    def _clock(self) -> None:
        """Add the time since the last call to the time of the run."""
        now = time.monotonic()
        self.state.seconds += now - self.began
        self.began = now

    def _begin(self, stage: Stage) -> None:
        """Fit the new layer if the stage asks for it; otherwise validate, so that the stage cannot end worse."""
        if stage.fit and self.fitting:
            fit_layer(self.learning, stage.depth - 1, *self.fitting)
        else:
            self._validate(stage)
            self._set_rates(stage)

    def _step(self, stage: Stage) -> None:
        """Make one step. Nothing is read back from the device, which may still be computing when this returns."""
        state, ops = self.state, self.ops
        loss, gradients = self._loss_and_gradients(stage)
        scale = ops.track_loss(loss, stage.batch, state.mean_loss)
        share = stage.rate_at(state.step) * 0.5**state.setbacks
        state.adam.step(
            ops,
            self.learning.parameters,
            gradients,
            {name: _scaled(rate, share) for name, rate in self.rates.items()},
            self.factors,
            self.active,
            scale if stage.relative else self.unscaled,
            logarithmic=self.learning.logarithmic if stage.relative else (),
            last=self.learning.last,
        )
        state.step += 1
        state.total_steps += 1
        if state.step % stage.validate_every == 0 or state.step == stage.steps:
            self._validate(stage)

    def _loss_and_gradients(self, stage: Stage) -> tuple[Scalar, dict[str, Any]]:
        """The loss and gradients on new examples, of which each rank computes its share."""
        network, density = self.learning, self.state.density
        fused = self.fused if self.fused and self.fused.suits(stage.batch, density) else None
        shard, examples = (fused or network).shard, self.source.examples(stage.batch)
        shards = -(-examples // shard)
        own = self.ranks.share(shards)
        if own:
            rows = slice(own.start * shard, min(own.stop * shard, examples))
            loss, gradients = self._on_rows(stage, rows, fused)
        else:  # there are more ranks than shards
            loss = self.ops.asarray(0.0, np.float64)
            gradients = {name: self.ops.xp.zeros_like(network.parameters[name]) for name in self._wanted}
        if self.ranks.size > 1:
            names = sorted(self._wanted)
            numbers = self.ops.empty((2,), np.float64)
            numbers[0], numbers[1] = loss, float(self.interrupted())
            self.ranks.sum([numbers, *(gradients[name] for name in names)], shards, self.ops.xp)
            loss = numbers[0]
            if shards < self.ranks.size:  # the sum has no flags of ranks without a share
                self.stopped = self.ranks.any(self.interrupted())
            elif self.ops.xp is np or self.state.step % LOOK == 0:  # reading it waits for a GPU
                self.stopped = bool(numbers[1])
        return loss, gradients

    @property
    def _wanted(self) -> list[str]:
        """The names of the parameters that are being learned."""
        return [name for name, rate in self.rates.items() if rate]

    def _on_rows(self, stage: Stage, rows: slice, fused: FusedStep | None) -> tuple[Scalar, dict[str, Any]]:
        """The loss and gradients on these rows of a batch, by the engine's fused kernel if it is given."""
        state, network, power = self.state, self.learning, self.source.weight_power
        if fused:
            key = Key(self.seed, TRAINING, state.total_steps)
            how = (stage.batch, stage.depth, stage.window, power, rows)
            return fused(network.parameters, network.support, key, *how)
        x, y, weights = self._sample(stage.batch, TRAINING, state.total_steps, rows=rows)
        if weights is not None:
            weights **= power
        formed = self.ranks.size > 1  # only what is formed can be summed over ranks
        arguments = (stage.depth, stage.window, weights, self._wanted, formed)
        found: tuple[Scalar, dict[str, Any]] = network.loss_and_gradients(y, x, *arguments)
        return found

    def _validate(self, stage: Stage) -> None:
        state = self.state
        if not np.isfinite(float(state.mean_loss)):
            return self._step_back(f"the loss became {float(state.mean_loss)}")
        validation = self._validation()
        result = self.source.error_db(self.learning, validation, stage.depth)
        self._compare_ranks()
        # In the paper recipe a new layer begins untrained and may be bad at first, so only this stage is compared.
        earlier = [error for number, _, error in state.history if self.recipe.analytic or number == state.stage]
        start = max(earlier[0], 0.0) if earlier else np.inf
        if not result < start + DIVERGED_DB:
            return self._step_back(f"the validation {self.task.measure} became {result:.4g} dB")
        fall = result - state.best_error_db
        if self.recipe.analytic and fall > self.source.fall_db and state.setbacks < MOST_SETBACKS:
            worse = f"the validation {self.task.shown} is worse than before by {fall:.2g} dB"
            return self._step_back(worse, event="fell back")
        self.last_shown = self._displayed(result)
        self._log(logging.DEBUG, f"{self.task.shown} %.2f dB", result)
        self.last_good = _copy(self.learning.parameters)
        if self.fused and not self.fused.suits(stage.batch, 1.0):  # otherwise the density would not matter
            state.density = self.learning.density(validation[1][:DENSITY_SIGNALS], stage.depth)
        state.history.append((state.stage, state.step, result))
        if result < state.best_error_db:
            state.best_error_db, state.best_step, state.best = result, state.step, self.last_good

    def _compare_ranks(self) -> None:
        """Raise NumericalError if the parameters of all ranks are not the same to the bit."""
        if self.ranks.size > 1:
            parameters = (self.ops.to_numpy(value) for _, value in sorted(self.learning.parameters.items()))
            where = f"{self.state.stage} {self.state.step}".encode()
            digest = hashlib.sha256(where + b"".join(value.tobytes() for value in parameters)).hexdigest()
            self.ranks.compare(digest, f"after step {self.state.total_steps}, the parameters")

    def _displayed(self, error_db: float) -> float:
        """What users are shown of an error on the examples for validation."""
        return self.source.displayed(self.learning, self._validation(), error_db)

    def _log(self, level: int, text: str, error_db: float) -> None:
        """Log where training stands; the text has a place for what users are shown of an error."""
        if STEPS.isEnabledFor(level):
            state, stage = self.state, self.stages[self.state.stage]
            where = (self.network.title, state.stage + 1, len(self.stages), stage.title, state.step)
            STEPS.log(level, f"%s: stage %d of %d (%s), step %d: {text}", *where, self._displayed(error_db))

    def _out_of_patience(self, stage: Stage) -> bool:
        due = self.state.step % (10 * stage.validate_every) == 0
        return stage.patience is not None and due and self.state.step - self.state.best_step > stage.patience

    def _step_back(self, what: str, event: str = "diverged") -> None:
        """Go on from the best parameters of the stage with half the learning rate, for training diverged or fell back.

        Raises DivergedError if there are none, if this happens too often, and in the paper's recipe.
        """
        state = self.state
        where = f"after step {state.step} of stage {state.stage + 1} ({self.stages[state.stage].title})"
        happened = f"training {event} {where}: {what}"
        if not self.recipe.analytic or not state.best or state.setbacks == MOST_SETBACKS:
            raise self._failed(happened, "Lower the learning rate")
        self.learning.parameters = _copy(state.best)
        state.step_back()
        LOG.log(step_level(), "%s. It goes on from the best parameters with half the learning rate.", happened)

    def _failed(self, what: str, advice: str) -> DivergedError:
        """The error for a run without a usable result. The last good parameters are saved if the run has an output."""
        message = f"{what}. {advice}"
        if self.out is not None:
            self.learning.parameters = self.last_good
            if self.precursor and self.learning is self.precursor:
                self.network.adopt(self.precursor)
            path = f"{os.fspath(self.out)}.last-good.h5"
            self._describe({"diverged": what})
            self.task.finish(self.model)
            self.ranks.agreed(lambda: self.model.save(path, overwrite=True))
            message += f"; the last good parameters are in {path}"
        return DivergedError(message, option="learning_rate")

    def _validation(self) -> Examples:
        """The examples for validation, which can change from stage to stage."""
        if self.validation is None:
            self.validation = self._sample(self.recipe.validation_batch, VALIDATION, validate=True)
        return self.validation

    def _sample(
        self, batch: int, stream: int, step: int = 0, validate: bool = False, rows: slice = slice(None)
    ) -> Examples:
        """Examples of the source: targets, inputs, and weights or None."""
        return self.source.sample(self.ops, self.network.dtype, batch, Key(self.seed, stream, step), validate, rows)


def _scaled(rate: Rate, factor: float) -> Rate:
    return tuple(factor * each for each in rate) if isinstance(rate, tuple) else factor * rate


def _copy(parameters: Parameters) -> Parameters:
    return {name: value.copy() for name, value in parameters.items()}
