"""The state of a training run, in memory and on disk.

A checkpoint is a model file plus the optimiser's and the stage's state. Training batches are a pure function of
(seed, step), so that no state of a random generator is needed: a resumed run gives the bits of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import FileError
from cuista.model import Model
from cuista.training.adam import Adam

Parameters = dict[str, Array]


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes
    ----------
    stage, step
        The stage, and the steps done in it.
    total_steps
        Steps done in all; the number of the next training batch.
    adam
        The stage's optimiser.
    mean_loss
        The stage's running mean of the loss per sample; 0 before the first step.
    best_nmse_db, best_step, best
        The stage's best validation, the step it was made at, and the parameters.
    history
        Of every validation: stage, step, nmse_db.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    adam: Adam = field(default_factory=Adam)
    mean_loss: float = 0.0
    best_nmse_db: float = float("inf")
    best_step: int = 0
    best: Parameters = field(default_factory=dict)
    history: list[tuple[int, int, float]] = field(default_factory=list)

    def next_stage(self) -> None:
        """Forget all that belongs to the stage, and go to the next."""
        self.stage, self.step = self.stage + 1, 0
        self.adam, self.mean_loss = Adam(), 0.0
        self.best_nmse_db, self.best_step, self.best = float("inf"), 0, {}

    def history_arrays(self) -> dict[str, Array]:
        """The history as one array a column."""
        columns = np.array(self.history, dtype=np.float64).reshape(-1, 3).T
        return {
            "stage": columns[0].astype(np.int64),
            "step": columns[1].astype(np.int64),
            "nmse_db": columns[2],
        }


def save_checkpoint(path: str | os.PathLike[str], model: Model, state: TrainingState, run: dict[str, Any]) -> None:
    """Write the state atomically, over the last one. `run` says which run it belongs to."""
    record = model.record("cuista-checkpoint")
    record.arrays.update({f"history/{name}": value for name, value in state.history_arrays().items()})
    for group, arrays in (("mean", state.adam.mean), ("square", state.adam.square), ("best", state.best)):
        record.arrays.update({f"state/{group}/{name}": value for name, value in arrays.items()})
    scalars = ("stage", "step", "total_steps", "mean_loss", "best_nmse_db", "best_step")
    record.attributes["state"] = json.dumps(
        {"updates": state.adam.updates, **{name: getattr(state, name) for name in scalars}}
    )
    record.attributes["run"] = json.dumps(run)
    storage.write(path, record, overwrite=True)


def load_checkpoint(path: str | os.PathLike[str], model: Model, run: dict[str, Any]) -> TrainingState:
    """Read a state, and put its parameters into the model's network.

    Raises
    ------
    FileError
        If the checkpoint is damaged, or belongs to another run (the message says in what they differ).
    """
    record = storage.read(path, "cuista-checkpoint")
    try:
        then = json.loads(record.attributes["run"])
        differing = [name for name in sorted({*then, *run}) if then.get(name) != run.get(name)]
        if differing:
            listed = ", ".join(f"{name} (then {then.get(name)}, now {run.get(name)})" for name in differing)
            raise FileError(
                f"{path} is the checkpoint of another run; it differs in {listed}. Give the options of then, "
                "or start afresh with --force"
            )
        scalars = json.loads(record.attributes["state"])
        adam = Adam(_group(record, "state/mean/"), _group(record, "state/square/"), scalars.pop("updates"))
        history = [record.arrays[f"history/{name}"].tolist() for name in ("stage", "step", "nmse_db")]
        state = TrainingState(**scalars, adam=adam, best=_group(record, "state/best/"))
        state.history = [(int(stage), int(step), float(nmse)) for stage, step, nmse in zip(*history, strict=True)]
        model.network.parameters = {name: record.arrays[f"parameters/{name}"] for name in model.network.parameters}
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}; start afresh with --force") from error
    return state


def _group(record: storage.Record, prefix: str) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in record.arrays.items() if name.startswith(prefix)}
