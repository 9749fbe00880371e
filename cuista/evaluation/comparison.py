"""Comparison of networks and classical solvers on the same fresh signals."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.counter import TEST
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.evaluation.results import load_results, save_results
from cuista.messages import say
from cuista.metrics import report_on
from cuista.networks import NETWORKS
from cuista.ops import ReferenceOps, engine
from cuista.parallel import one_blas_thread
from cuista.ranks import ranks
from cuista.solvers.classical import SOLVERS, Solver
from cuista.tasks.sparse_coding import Model, SparseCoding, analytic_weight
from cuista.training import FastRecipe, Progress, checkpoint_path, train
from cuista.training.checkpoint import continued
from cuista.weights import Weight

# The number of signals on which the time of recovery is measured.
TIMED_SAMPLES = 4096


@dataclass(frozen=True)
class Variant:
    """A network in one of its forms, written as in `lista-cpss:untied:coord`."""

    net: str
    untied: bool = False
    per_coordinate: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant:
        """The variant that a name stands for.

        Raises
        ------
        InputError
            If there is no such network, or if it does not have such a form.
        """
        net, *forms = text.lower().replace("_", "-").split(":")
        if net not in NETWORKS:
            raise InputError(f"there is no network {net!r}; expected one of {', '.join(NETWORKS)}", option="net")
        kind = NETWORKS[net]
        possible = [*["untied"] * kind.can_untie, *["coord"] * kind.can_coordinate]
        for form in forms:
            if form not in possible:
                raise InputError(
                    f"{text}: {kind.title} has no form {form!r}; it has {', '.join(possible) or 'none'}", option="net"
                )
        return cls(net, "untied" in forms, "coord" in forms)

    def __str__(self) -> str:
        return ":".join([self.net, *["untied"] * self.untied, *["coord"] * self.per_coordinate])


@dataclass(frozen=True)
class Result:
    """The result of one method at one signal-to-noise ratio.

    Attributes
    ----------
    method
        The name of a variant or a solver, or the file of a model.
    snr_db
        The signal-to-noise ratio of the measurements in dB; `inf` means no noise.
    nmse_db
        The NMSE in dB of x_0, …, x_T (T + 1,). Where there are no iterates, that of x_0 = 0 and of the result.
    has_iterates
        Whether the method has iterates.
    parameters
        The number of parameters that were learned or tuned.
    steps
        The number of training steps; 0 for a solver.
    training_seconds
        The time that training took; NaN if it is not known.
    recovery_seconds
        The time that recovery takes for each sample.
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
    """The results of a comparison, and a description of what they were measured on."""

    results: tuple[Result, ...]
    about: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """The results as dictionaries for JSON. Numbers that are unknown or infinite become None."""

        def known(value: Any) -> Any:
            return None if isinstance(value, float) and not np.isfinite(value) else value

        return [
            {name: known(value) for name, value in asdict(result).items()}
            | {"nmse_db": [known(value) for value in result.nmse_db.tolist()]}
            for result in self.results
        ]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-comparison` file."""
        save_results(path, storage.Record("cuista-comparison"), self.results, self.about, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read a `cuista-comparison` file."""
        return cls(*load_results(path, storage.read(path, "cuista-comparison"), Result))


def compare(
    problem: Problem,
    variants: Sequence[Variant | str] = (),
    models: Sequence[str | os.PathLike[str]] = (),
    solvers: Sequence[str] = (),
    snrs: Sequence[float] = (),
    *,
    folder: str | os.PathLike[str] = "comparison.models",
    recipe: Any = None,
    layers: int = 16,
    ridge: float | Literal["auto"] | None = None,
    samples: int = 10_000,
    seed: int = 0,
    ops: ReferenceOps | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = say,
    progress: Callable[[str, Progress], None] | None = None,
) -> Comparison:
    """Train or load networks, tune solvers, and test them all on the same signals.

    Parameters
    ----------
    problem
        The problem; all methods recover its signals.
    variants
        The networks to train, by names such as `alista` or `lista-cpss:untied`.
    models
        The files of networks that are trained already.
    solvers
        The names of classical solvers. Those that have iterates make `layers` iterations; the others run to their end.
    snrs
        The signal-to-noise ratios in dB; the problem's own if empty.
    folder
        The folder in which the trained networks and their weights are kept. It is made if it is missing.
    recipe
        The recipe for networks that are trained by gradients; `FastRecipe()` if None.
    layers
        The number of layers of the networks to train.
    ridge
        The ridge of the analytic weights; if None, `analytic_weight` decides.
    samples
        The number of test signals.
    seed
        The seed of training and of the test signals.
    ops
        The engine; the CPU engine if None.
    resume
        Whether to use the complete networks in the folder as they are and to continue interrupted ones. So an
        interrupted comparison goes on where it stopped, and a network can be added without training the others again.
    overwrite
        Whether networks in the folder may be trained afresh.
    say
        Called with a line of text about each thing that is done.
    progress
        Called during training with the network's name and the progress that `train` reports.

    Returns
    -------
    The results by SNR and, for each, in the order of variants, models and solvers.

    Raises
    ------
    InputError
        If there is nothing to compare, if there is no such network or solver, or if a model is for another matrix.
    FileError
        If the folder has networks of these names and neither `resume` nor `overwrite` is given, or if they were trained
        in another way.
    MissingLibraryError
        If a solver's library is not installed.
    """
    if not (variants or models or solvers):
        raise InputError("there is nothing to compare; expected networks, models or solvers", option="variants")
    nets = [Variant.parse(variant) if isinstance(variant, str) else variant for variant in variants]
    for method in solvers:
        if method not in SOLVERS:
            raise InputError(f"there is no solver {method!r}; expected one of {', '.join(SOLVERS)}", option="solvers")
    loaded = {os.fspath(path): Model.load(path, ops=ops) for path in models}
    for path, model in loaded.items():
        if model.problem.sha256 != problem.sha256:
            raise InputError(f"{path} is for another matrix than the problem's: compare models for the same matrix")
    for method in solvers:
        SOLVERS[method](problem, layers)  # raises now, not after the training, if its library is missing
    noisy = {float(snr): replace(problem, snr_db=float(snr)) for snr in snrs or (problem.snr_db,)}
    recipe = recipe or FastRecipe()
    kept = _Kept(Path(folder), recipe, layers, ridge, seed, ops, resume, overwrite, say, progress)
    kept.prepare([(variant, snr) for snr in noisy for variant in nets])

    def solver_of(method: str, noisy_problem: Problem) -> Solver:
        solver = SOLVERS[method](noisy_problem.standard, layers if SOLVERS[method].has_iterates else None, ops=ops)
        say(f"{method} at {noisy_problem.snr_db:g} dB" + (f": λ = {solver.tune():.4g}" if solver.has_lam else ""))
        return solver

    def measured(name: str, made: Callable[[], Model | Solver], noisy_problem: Problem) -> dict[str, Any]:
        x, y = noisy_problem.standard.sample(samples, stream=TEST, seed=seed)
        result = asdict(_measured(name, made(), x, y, noisy_problem.snr_db))
        return result | {"nmse_db": result["nmse_db"].tolist()}

    # Each run is done by one rank, and so is each weight before them, which several runs may need.
    jobs: list[Callable[[], dict[str, Any]]] = []
    for noisy_problem in noisy.values():
        made: list[tuple[str, Callable[[], Model | Solver]]] = [
            *((str(variant), partial(kept.trained, variant, noisy_problem)) for variant in nets),
            *((path, partial(loaded.__getitem__, path)) for path in loaded),
            *((method, partial(solver_of, method, noisy_problem)) for method in solvers),
        ]
        jobs += [partial(measured, name, make, noisy_problem) for name, make in made]
    kept.make_weights([(variant, noisy_problem) for noisy_problem in noisy.values() for variant in nets])
    found = ranks().spread(jobs)
    results = [Result(**{**result, "nmse_db": np.array(result["nmse_db"])}) for result in found]
    about = measured_on(problem, recipe, samples=samples, seed=seed, layers=layers)
    return Comparison(tuple(results), {**about, "device": (ops or engine("cpu")).name})


def measured_on(problem: Problem, recipe: Any, *, samples: int, seed: int, layers: int) -> dict[str, Any]:
    """What the results of a comparison are measured on, as its file describes it."""
    about = {"matrix": problem.sha256, "pnz": problem.sparsity, "magnitude": problem.law}
    return {**about, "recipe": recipe.name, "samples": samples, "seed": seed, "layers": layers}


@dataclass(frozen=True)
class _Kept:
    """The folder that keeps a comparison's networks and weights, and how they are trained. See `compare`."""

    folder: Path
    recipe: Any
    layers: int
    ridge: float | Literal["auto"] | None
    seed: int
    ops: ReferenceOps | None
    resume: bool
    overwrite: bool
    say: Callable[[str], None]
    progress: Callable[[str, Progress], None] | None
    made: set[Path] = field(default_factory=set)

    def prepare(self, networks: Sequence[tuple[Variant, float]]) -> None:
        """Make the folder, and raise FileError if networks in it would have to be overwritten without leave."""
        if not networks:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        present = [out for out in (self.file(*network) for network in networks) if self.begun(out)]
        if present and not (self.resume or self.overwrite):
            raise FileError(
                f"{present[0]} was trained, or begun, in an earlier comparison: continue that, or start afresh",
                option=("resume", "overwrite"),
            )

    def file(self, variant: Variant, snr_db: float) -> Path:
        """The file in which a network is kept."""
        return self.folder / f"{str(variant).replace(':', '-')}-{snr_db:g}dB.h5"

    def begun(self, out: Path) -> bool:
        """Whether a network was trained there, to the end or not."""
        return out.exists() or checkpoint_path(out).exists()

    def trained(self, variant: Variant, problem: Problem) -> Model:
        """The network from its file if it is complete and `resume` is set; otherwise it is trained and kept there."""
        task, out, name = SparseCoding(), self.file(variant, problem.snr_db), f"{variant} at {problem.snr_db:g} dB"
        options: dict[str, Any] = {"layers": self.layers, "untied": variant.untied, "ops": self.ops}
        weight = self.weight(variant, problem, options)
        model = Model.new(problem, weight, variant.net, per_coordinate=variant.per_coordinate, **options)
        recipe = self.recipe if model.network.has_gradients else task.recipe(model)
        done = continued(out, self.resume, self.overwrite) == out
        self.say(f"{name}: {f'taken from {out}' if done else 'training'}")
        shown = None if self.progress is None else partial(self.progress, name)
        again: dict[str, Any] = {"resume": self.resume, "overwrite": self.overwrite}
        return train(model, recipe, task=task, seed=self.seed, out=out, progress=shown, **again)

    def make_weights(self, networks: Sequence[tuple[Variant, Problem]]) -> None:
        """Compute the weights that are not in the folder, each once."""
        needed = {self.weight_file(*network): network for network in networks if network[1].has_matrix}

        def make(variant: Variant, problem: Problem) -> None:
            self.weight(variant, problem, {"layers": self.layers, "untied": variant.untied, "ops": self.ops})

        ranks().spread([partial(make, *network) for network in needed.values()])
        self.made.update(needed)

    def ridge_for(self, problem: Problem) -> float | Literal["auto"] | None:
        """The ridge of weights for a problem, or None if `analytic_weight` decides."""
        return 0.0 if self.ridge is None and problem.snr_db == np.inf else self.ridge

    def weight_file(self, variant: Variant, problem: Problem) -> Path:
        """The file in which a weight is kept."""
        ridge = self.ridge_for(problem)
        # The result of a search for the ridge depends on all these numbers, so the file's name has them.
        numbers = "-".join(f"{number:g}" for number in (problem.snr_db, problem.sparsity, self.layers))
        chosen = f"auto-{variant}-{self.recipe.name}-{numbers}" if ridge in (None, "auto") else f"{ridge:g}"
        return self.folder / f"weight-ridge-{chosen}.h5".replace(":", "-")

    def weight(self, variant: Variant, problem: Problem, options: dict[str, Any]) -> Weight:
        """The weight from the folder if it is there, from this comparison or with `resume`; otherwise computed now."""
        ridge, path = self.ridge_for(problem), self.weight_file(variant, problem)
        if path in self.made or (self.resume and problem.has_matrix and path.exists()):
            return Weight.load(path, problem.A)
        how: dict[str, Any] = {
            "ridge": ridge,
            "recipe": self.recipe,
            "say": lambda text: self.say(f"{variant}: {text}"),
        }
        weight = analytic_weight(problem, variant.net, **how, **options)
        if problem.has_matrix:  # that of an operator is not formed
            weight.save(path, overwrite=True)
        return weight


def _measured(method: str, recoverer: Model | Solver, x: Array, y: Array, snr_db: float) -> Result:
    """Measure the NMSE of a model or solver on signals x (samples, N) with measurements y, and time it."""
    if isinstance(recoverer, Model):
        ops, learned = recoverer.network.ops, recoverer.network.parameters
        count, steps = sum(int(value.size) for value in learned.values()), recoverer.training.get("steps", 0)
        has_iterates = True
        iterates, seconds = recoverer.network.iterates, recoverer.training_seconds
    else:
        ops, iterates, has_iterates = recoverer.ops, recoverer.iterates, recoverer.has_iterates
        count, steps, seconds = int(recoverer.has_lam), 0, float("nan")
    nmse = report_on(iterates, x, y, ops, recoverer.problem.group).nmse_db

    def seconds_of(batch: Array) -> float:
        start = time.perf_counter()
        with one_blas_thread():  # BLAS's threads get in each other's way on a few samples
            recoverer.recover(batch)
        return (time.perf_counter() - start) / len(batch)

    timed = y[:TIMED_SAMPLES]
    seconds_of(timed[:64])  # the first call also compiles and allocates
    if seconds_of(timed[:64]) * len(timed) > 3:  # so slow that 64 samples suffice
        timed = timed[:64]
    recovery = float(np.median([seconds_of(timed) for _ in range(3)]))
    return Result(method, snr_db, nmse, has_iterates, count, steps, seconds, recovery)
