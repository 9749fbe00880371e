"""The state of a training run, in memory and on disk.

A checkpoint is a model file plus the state of the optimizer and the stage. Training batches are a pure function of
(seed, step), so no random generator has a state to save: a run that is resumed on the same engine gives the same bits
as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import FileError
from cuista.messages import warn
from cuista.model import AnyTrained, Trained, group
from cuista.networks.base import Unrolled
from cuista.ranks import ranks
from cuista.training.adam import Adam

Parameters = dict[str, Array]

# The kind of a checkpoint file, and what is added to the name of a run's output.
CHECKPOINT, CHECKPOINT_ENDING = "cuista-checkpoint", ".ckpt"

# The fields of the state that are plain numbers, not arrays of an engine.
_SCALARS = ("stage", "step", "total_steps", "seconds", "density", "best_error_db", "best_step")


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes
    ----------
    stage, step
        The index of the stage, and the number of steps done in it.
    total_steps
        The number of steps done in all stages, which is also the number of the next training batch.
    seconds
        The training time so far.
    adam
        The optimizer of the stage.
    mean_loss
        The running mean of the loss per sample in the stage, an array of the engine; 0 before the first step.
    density
        The share of the iterates' entries that were non-zero at the last check.
    setbacks
        How often training has diverged or fallen back in the stage, and gone on from the best parameters with half the
        learning rate.
    best_error_db, best_step, best
        The best validation of the stage, its step, and the parameters it was made with.
    history
        The stage, step and error_db of each validation.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    adam: Adam = field(default_factory=Adam)
    mean_loss: Array = field(default_factory=lambda: np.zeros(()))
    density: float = 1.0
    setbacks: int = 0
    best_error_db: float = float("inf")
    best_step: int = 0
    best: Parameters = field(default_factory=dict)
    history: list[tuple[int, int, float]] = field(default_factory=list)

    def next_stage(self, keeps_moments: bool) -> None:
        """Go to the next stage, and reset all that belongs to this one: Adam's moments too, unless they are kept."""
        self.stage, self.step = self.stage + 1, 0
        if not keeps_moments:
            self.adam = Adam()
        self.mean_loss[...] = 0
        self.setbacks = 0
        self.best_error_db, self.best_step, self.best = float("inf"), 0, {}

    def step_back(self) -> None:
        """Forget the moments and the running mean of the loss, for the rest of the stage has half the learning rate."""
        self.setbacks += 1
        self.adam = Adam()
        self.mean_loss[...] = 0

    def history_arrays(self, measure: str) -> dict[str, Array]:
        """The history with one array per column; the last column is named after the measure."""
        columns = np.array(self.history, dtype=np.float64).reshape(-1, 3).T
        return {
            "stage": columns[0].astype(np.int64),
            "step": columns[1].astype(np.int64),
            f"{measure.lower()}_db": columns[2],
        }


def checkpoint_path(out: str | os.PathLike[str]) -> Path:
    """The path of the checkpoint of a run that writes to `out`."""
    return Path(f"{os.fspath(out)}{CHECKPOINT_ENDING}")


def continued(out: str | os.PathLike[str], resume: bool, overwrite: bool) -> Path | None:
    """The file from which a run that writes to `out` continues: its checkpoint, or `out` itself if that is complete.

    None means that the run starts afresh. Of several ranks, the first one looks for all.

    Raises
    ------
    FileError
        If a run has been interrupted that is neither to be continued nor overwritten, or `out` cannot be written.
    """
    found = ranks().agreed(lambda: _continued(Path(out), resume, overwrite))
    return None if found is None else Path(found)


def _continued(out: Path, resume: bool, overwrite: bool) -> str | None:
    """The path that `continued` returns."""
    checkpoint = checkpoint_path(out)
    if checkpoint.exists() and not (resume or overwrite):
        raise FileError(
            f"{checkpoint} holds an unfinished run: continue it, or start afresh", option=("resume", "overwrite")
        )
    if resume and out.is_file() and not checkpoint.exists():
        return str(out)
    begun = resume and checkpoint.exists()
    if begun:
        check_replaceable(out, replaced_by(checkpoint))
    storage.check_writable(out, overwrite=overwrite or begun)
    return str(checkpoint) if begun else None


def replaced_by(checkpoint: Path) -> list[int] | None:
    """The identity of the file that the run of a checkpoint was allowed to overwrite, or None."""
    attributes, _ = storage.contents(checkpoint)
    with storage.complete(checkpoint, "start afresh", "overwrite"):
        found: list[int] | None = json.loads(attributes["replaces"])
    return found


def check_replaceable(out: str | os.PathLike[str], replaces: list[int] | None) -> None:
    """Raise FileError if `out` exists, and is not the file that a run was allowed to overwrite when it began."""
    now = storage.identity_of(out)
    if ranks().first and now is not None and now != replaces:
        raise FileError(
            f"{out} has been written since the run began: move it away to continue the run, or start afresh",
            option="overwrite",
        )


def load_continued(kind: type[AnyTrained], path: Path | None) -> AnyTrained | None:
    """The model in the file that `continued` has found."""
    if path is None:
        return None
    return kind.load(path, kind=CHECKPOINT if path.suffix == CHECKPOINT_ENDING else None)


def check_same_run(path: str | os.PathLike[str], then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise FileError, which names the differences, unless a file's run is this one."""
    differing = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    if differing:
        listed = ", ".join(f"{name} (then {_short(then.get(name))}, now {_short(now.get(name))})" for name in differing)
        raise FileError(
            f"{path} is from another run, which differs in {listed}. Give its options, or start afresh",
            option="overwrite",
        )


def _short(value: Any) -> str:
    """A value as text; of a hash, which has 64 digits, the first twelve."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def save_checkpoint(
    path: str | os.PathLike[str],
    model: Trained,
    learning: Unrolled,
    state: TrainingState,
    run: dict[str, Any],
    replaces: list[int] | None,
) -> None:
    """Write the state atomically in place of the previous one.

    `learning` is the network in training, either the model's or a precursor; `run` identifies the run. `replaces` is
    the identity of the file that it may overwrite.
    """
    record = model.record(CHECKPOINT)
    record.arrays["state/history"] = np.array(state.history, np.float64).reshape(-1, 3)
    groups = {"mean": state.adam.mean, "square": state.adam.square, "best": state.best}
    if learning is not model.network:
        groups["precursor"] = learning.parameters
    for name_of_group, arrays in groups.items():
        record.arrays.update(
            {f"state/{name_of_group}/{name}": learning.ops.to_numpy(value) for name, value in arrays.items()}
        )
    record.attributes["state"] = json.dumps(
        {
            "updates": state.adam.updates,
            "mean_loss": float(state.mean_loss),
            "setbacks": state.setbacks,
            **{name: getattr(state, name) for name in _SCALARS},
        }
    )
    record.attributes |= {"run": json.dumps(run), "replaces": json.dumps(replaces), "engine": learning.ops.engine}
    storage.write(path, record, overwrite=True)


def load_checkpoint(
    path: str | os.PathLike[str], network: Unrolled, precursor: Unrolled | None, run: dict[str, Any]
) -> TrainingState:
    """Read a state, and put its parameters into the network, and into its precursor if that was in training.

    Raises
    ------
    FileError
        If the checkpoint is damaged, or belongs to another run (the message names the differences).

    Warns
    -----
    UserWarning
        If the checkpoint was written with another engine of the same device.
    """
    record, ops = storage.read(path, CHECKPOINT), network.ops
    with storage.complete(path, "start afresh", "overwrite"):
        check_same_run(path, json.loads(record.attributes["run"]), run)
        engine = record.attributes.get("engine", ops.engine)
        if engine != ops.engine:
            warn(
                f"{path} was written with the {engine} engine, and the run goes on with the {ops.engine} engine. The "
                "results agree up to rounding, but not to the bit (see CUISTA_ENGINE)",
                stacklevel=4,
            )
        numbers = json.loads(record.attributes["state"])
        parameters, precursor_parameters, mean, square, best = (
            {name: ops.asarray(value, value.dtype) for name, value in group(record, prefix).items()}
            for prefix in ("parameters/", "state/precursor/", "state/mean/", "state/square/", "state/best/")
        )
        state = TrainingState(
            **{name: numbers[name] for name in _SCALARS},
            adam=Adam(mean, square, numbers["updates"]),
            mean_loss=ops.asarray(numbers["mean_loss"], np.float64),
            setbacks=numbers.get("setbacks", 0),
            best=best,
            history=[(int(stage), int(step), error) for stage, step, error in record.arrays["state/history"].tolist()],
        )
        network.parameters = parameters
        if precursor and precursor_parameters:
            precursor.parameters = precursor_parameters
    return state


def check_state(path: str | os.PathLike[str], state: TrainingState, learning: Unrolled, stages: Sequence[Any]) -> None:
    """Raise FileError unless the state in a checkpoint is whole and fits the network in training and the stages."""
    shapes = {name: value.shape for name, value in learning.parameters.items()}
    mean, square, best = (
        {name: value.shape for name, value in group.items()}
        for group in (state.adam.mean, state.adam.square, state.best)
    )
    errors = [error for stage, _, error in state.history if stage == state.stage]
    fits = (
        0 <= state.stage < len(stages)
        and 0 <= state.step <= stages[state.stage].steps
        and state.step <= state.total_steps
        and mean == square
        and mean.items() <= shapes.items()
        and bool(mean) == (state.adam.updates > 0)
        and best == (shapes if errors else {})
        and state.best_error_db == min(errors, default=float("inf"))
    )
    if not fits:
        raise FileError(f"{path} is damaged: its parts do not fit together; start afresh", option="overwrite")
