"""Networks and classical solvers beside each other, on the same fresh signals."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.counter import TEST
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.metrics import report_on
from cuista.model import Model
from cuista.networks import NETWORKS
from cuista.ops import ReferenceOps
from cuista.parallel import blas_threads
from cuista.solvers.classical import SOLVERS, Solver
from cuista.training import PaperRecipe, Progress, Recipe, SearchRecipe, checkpoint_path, choose_ridge, identity, train
from cuista.weights import Weight, solve_exact

# Iterations of what has no iterates to show: it ends before.
TO_THE_END = 10_000
# Signals for the time that recovery takes.
TIMED_SAMPLES = 4096


@dataclass(frozen=True)
class Variant:
    """A network in one of its forms, as in `lista-cpss:untied:coord`."""

    net: str
    untied: bool = False
    per_coordinate: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant of this name.

        Raises
        ------
        InputError
            If there is no such network, or it has no such form.
        """
        net, *forms = text.lower().replace("_", "-").split(":")
        if net not in NETWORKS:
            raise InputError(f"{net!r} is not a network of cuista, which has: {', '.join(NETWORKS)}")
        kind = NETWORKS[net]
        possible = [*["untied"] * kind.can_untie, *["coord"] * kind.can_coordinate]
        for form in forms:
            if form not in possible:
                raise InputError(f"{text}: {kind.title} has no form {form!r}; it has: {', '.join(possible) or 'none'}")
        return cls(net, "untied" in forms, "coord" in forms)

    def __str__(self) -> str:
        return ":".join([self.net, *["untied"] * self.untied, *["coord"] * self.per_coordinate])


@dataclass(frozen=True)
class Result:
    """What a method reached.

    Attributes
    ----------
    method
        A variant's name, a solver's, or a model's file.
    snr_db
        Of the signals.
    nmse_db
        (T + 1,), of x_0, …, x_T.
    has_iterates
        Whether there are such; else there are 0 and the result.
    parameters
        How many numbers were learned or tuned.
    steps
        Of training.
    training_seconds, recovery_seconds
        Of training, and of recovery for each sample; NaN where unknown.
    """

    method: str
    snr_db: float
    nmse_db: Array
    has_iterates: bool
    parameters: int
    steps: int
    training_seconds: float
    recovery_seconds: float


@dataclass(frozen=True)
class Comparison:
    """The results, and what they were measured on."""

    results: tuple[Result, ...]
    about: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each result, for JSON: None where a number is not known or infinite."""

        def known(value: Any) -> Any:
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [
            {name: known(value) for name, value in asdict(result).items()}
            | {"nmse_db": [known(value) for value in result.nmse_db.tolist()]}
            for result in self.results
        ]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-comparison` file; the curves are `nmse_db/0`, `nmse_db/1`, … in the order of the results."""
        rows = [{name: value for name, value in asdict(result).items() if name != "nmse_db"} for result in self.results]
        record = storage.Record("cuista-comparison")
        record.arrays.update({f"nmse_db/{i}": result.nmse_db for i, result in enumerate(self.results)})
        record.attributes.update(results=json.dumps(rows), about=json.dumps(self.about))
        storage.write(path, record, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read a `cuista-comparison` file."""
        record = storage.read(path, "cuista-comparison")
        try:
            rows = json.loads(record.attributes["results"])
            results = [Result(**row, nmse_db=record.arrays[f"nmse_db/{i}"]) for i, row in enumerate(rows)]
            return cls(tuple(results), json.loads(record.attributes["about"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path} is damaged: {error}") from error


def compare(
    problem: Problem,
    variants: Sequence[Variant],
    models: Sequence[str | os.PathLike[str]] = (),
    solvers: Sequence[str] = (),
    snrs: Sequence[float] = (),
    *,
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    layers: int = 16,
    ridge: float | None = None,
    samples: int = 10_000,
    seed: int = 0,
    ops: ReferenceOps | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, Progress], None] | None = None,
) -> Iterator[Result]:
    """Train or load the networks, tune the solvers, and test all on the same signals, one after the other.

    Parameters
    ----------
    variants
        Networks to train.
    models
        Files of networks that are trained.
    solvers
        Names of classical solvers: those that have iterates make `layers` of them, the others go on to their end.
    snrs
        Signal-to-noise ratios in dB; the problem's own if empty.
    folder
        Where the trained networks and their weights are kept. What is there and complete is taken as it is, what is
        interrupted is continued: so an interrupted comparison goes on where it was.
    ridge
        Of the analytic weight; if None 0 without noise, and with noise what `choose_ridge` finds.
    overwrite
        Whether what is there and was trained otherwise is trained anew.
    say, progress
        Called with what is done, and as in `train` with the network's name.

    Raises
    ------
    InputError
        If a model is for another matrix.
    FileError
        If the folder has networks that were trained otherwise.
    MissingLibraryError
        If a solver's library is not installed.
    """
    loaded = {os.fspath(path): Model.load(path, ops=ops) for path in models}
    for path, model in loaded.items():
        if model.problem.sha256 != problem.sha256:
            raise InputError(f"{path} is for another matrix than the problem's: compare models of one matrix")
    for method in solvers:
        SOLVERS[method](problem, layers)  # says now if it cannot be
    for snr in snrs or (problem.snr_db,):
        noisy = replace(problem, snr_db=float(snr))
        x, y = noisy.sample(samples, stream=TEST, seed=seed)
        for variant in variants:
            options: dict[str, Any] = {"layers": layers, "untied": variant.untied, "ops": ops}
            if isinstance(recipe, PaperRecipe):
                options |= {"percent": 1.2, "max_percent": 13.0}
            uses_weight = not (isinstance(recipe, PaperRecipe) and NETWORKS[variant.net].matrices)
            strength = ridge if uses_weight else 0.0
            weight = _weight(noisy, variant, Path(folder), strength, seed, options, say)
            model = Model.new(noisy, weight, variant.net, per_coordinate=variant.per_coordinate, **options)
            name = f"{variant} at {snr:g} dB"
            out = Path(folder) / f"{str(variant).replace(':', '-')}-{snr:g}dB.h5"
            model = _trained(model, recipe, seed, out, name, overwrite, say, progress)
            yield _measured(str(variant), model, x, y, noisy.snr_db)
        for path, model in loaded.items():
            yield _measured(path, model, x, y, noisy.snr_db)
        for method in solvers:
            solver = SOLVERS[method](noisy, layers if SOLVERS[method].has_iterates else TO_THE_END, ops=ops)
            say(f"{method} at {snr:g} dB" + (f": λ = {solver.tune():.4g}" if solver.has_lam else ""))
            yield _measured(method, solver, x, y, noisy.snr_db)


def _weight(
    problem: Problem,
    variant: Variant,
    folder: Path,
    ridge: float | None,
    seed: int,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> Weight:
    """The weight kept in the folder, or a new one, which is kept there."""
    if ridge is None and problem.snr_db == np.inf:
        ridge = 0.0
    if ridge is None:  # what is found depends on all this
        numbers = (problem.snr_db, problem.sparsity, options.get("percent", 0), options["layers"], seed)
        chosen = f"auto-{variant}-{'-'.join(f'{number:g}' for number in numbers)}"
    else:
        chosen = f"{ridge:g}"
    path = folder / f"weight-ridge-{chosen}.h5".replace(":", "-")
    if path.exists():
        return Weight.load(path, problem.A)
    if ridge is None:
        say(f"{variant} at {problem.snr_db:g} dB: finding the ridge of its weight")
        weight = choose_ridge(problem, variant.net, seed=seed, **options)
    else:
        weight = solve_exact(problem.A, ridge=ridge)
    weight.save(path)
    return weight


def _trained(
    model: Model,
    recipe: Recipe | None,
    seed: int,
    out: Path,
    name: str,
    overwrite: bool,
    say: Callable[[str], None],
    progress: Callable[[str, Progress], None] | None,
) -> Model:
    """The model kept in the file, or trained now, which is kept there."""
    chosen: Recipe | SearchRecipe | None = recipe if model.network.has_gradients else SearchRecipe()
    if out.exists() and not checkpoint_path(out).exists():
        kept = Model.load(out, ops=model.network.ops)
        expected = identity(model, chosen, seed)
        differing = [key for key, value in expected.items() if kept.training.get(key) != value]
        if not differing:
            say(f"{name}: taken from {out}")
            return kept
        if not overwrite:
            key = differing[0]
            raise FileError(
                f"{out} was trained otherwise: {key} was {kept.training.get(key)}, and is {expected[key]} now. "
                "Train it anew with --force, or let --out be another file"
            )
    say(f"{name}: training")
    shown = (lambda at: progress(name, at)) if progress else None
    options: dict[str, Any] = {"seed": seed, "out": out, "overwrite": overwrite, "progress": shown}
    try:
        return train(model, chosen, resume=not out.exists() or checkpoint_path(out).exists(), **options)
    except FileError:
        if not (overwrite and checkpoint_path(out).exists()):
            raise
        return train(model, chosen, **options)  # the checkpoint is damaged, or of another run


def _measured(method: str, recoverer: Model | Solver, x: Array, y: Array, snr_db: float) -> Result:
    """The recoverer's result on the signals."""
    if isinstance(recoverer, Model):
        ops, learned = recoverer.network.ops, recoverer.network.parameters
        count, steps = sum(int(value.size) for value in learned.values()), recoverer.training.get("steps", 0)
        has_iterates = True
        iterates, seconds = recoverer.network.iterates, recoverer.training_seconds
    else:
        ops, iterates, has_iterates = recoverer.ops, recoverer.iterates, recoverer.has_iterates
        count, steps, seconds = int(recoverer.has_lam), 0, float("nan")
    nmse = report_on(iterates, x, y, ops).nmse_db

    def seconds_of(batch: Array) -> float:
        start = time.perf_counter()
        with blas_threads(0):  # a few samples are soon done, unless BLAS's threads get in each other's way
            recoverer.recover(batch)
        return (time.perf_counter() - start) / len(batch)

    timed = y[:TIMED_SAMPLES]
    seconds_of(timed[:64])  # what is compiled and allocated the first time
    if seconds_of(timed[:64]) * len(timed) > 3:  # slow enough for a few to tell
        timed = timed[:64]
    recovery = float(np.median([seconds_of(timed) for _ in range(3)]))
    return Result(method, snr_db, nmse, has_iterates, count, steps, seconds, recovery)
