"""Robustness of recovery: models and FISTA on measurements by perturbed matrices."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from cuista import storage
from cuista.checks import Array, in_double
from cuista.counter import TEST, TUNING, Key
from cuista.data.perturbed import PerturbedSet, perturb
from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.evaluation.results import load_results, save_results
from cuista.messages import say
from cuista.metrics import estimate_nmse_db
from cuista.networks import Encoder
from cuista.ops import ReferenceOps, engine
from cuista.parallel import one_blas_thread
from cuista.solvers.classical import Fista
from cuista.solvers.tuning import lambdas, tune
from cuista.tasks.encoder import EncoderModel
from cuista.tasks.robust import RobustModel
from cuista.tasks.sparse_coding import Model
from cuista.weights import solve_exact
from cuista.weights.dense import describe

# FISTA is tested with as many iterations as there are layers, and also until its NMSE no longer improves. The latter is
# checked every CHECK_EVERY iterations on FISTA_SIGNALS signals. FISTA's error ripples, and has plateaus where λ is
# small: so it ends only when it has not won IMPROVEMENT_DB for PATIENCE iterations, or after MOST_ITERATIONS.
CHECK_EVERY = 250
IMPROVEMENT_DB = 0.1
PATIENCE = 1500
FISTA_SIGNALS = 100
MOST_ITERATIONS = 10_000
# The values of λ that are tried when FISTA runs to its end, relative to the λ beyond which the solution is 0.
RELATIVE_LAMBDAS = np.geomspace(1e-6, 1e-1, 11)
# The number of matrices on which the time for a weight is measured.
TIMED_MATRICES = 5

Item = TypeVar("Item")
Found = TypeVar("Found")
# Maps a matrix (M, N) and measurements (samples, M) by it to estimates (samples, N) and the number of iterations that
# they took. With L snapshots, there is an axis of them in between.
Recover = Callable[[Array, Array], tuple[Array, int]]


@dataclass(frozen=True)
class RobustResult:
    """The result of one method on a set of perturbed matrices.

    Attributes
    ----------
    method
        The name of a model, followed by `+ exact W` if its weight is computed anew for each matrix; or FISTA's name.
    nmse_db
        The NMSE in dB for each matrix (S, count).
    iterations
        The number of layers, or FISTA's mean number of iterations.
    seconds_per_matrix
        The time to make the weight of a matrix; NaN for a method that makes none.
    lam
        FISTA's λ; NaN for other methods.
    """

    method: str
    nmse_db: Array
    iterations: float
    seconds_per_matrix: float = float("nan")
    lam: float = float("nan")

    @property
    def mean_db(self) -> Array:
        """The mean over the matrices of their NMSE in dB, for each level (S,)."""
        return np.asarray(self.nmse_db.mean(axis=1))


@dataclass(frozen=True)
class Robustness:
    """The results of all methods at the levels of perturbation `sigmas` (S,)."""

    sigmas: Array
    results: tuple[RobustResult, ...]
    about: dict[str, Any]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-robustness` file."""
        record = storage.Record("cuista-robustness", {"sigmas": self.sigmas})
        save_results(path, record, self.results, self.about, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Robustness:
        """Read a `cuista-robustness` file."""
        record = storage.read(path, "cuista-robustness")
        results, about = load_results(path, record, RobustResult)
        return cls(record.arrays["sigmas"], results, about)


def evaluate_robustness(
    perturbed: PerturbedSet,
    models: Mapping[str, Model | RobustModel],
    *,
    ops: ReferenceOps | None = None,
    say: Callable[[str], None] = say,
    progress: Callable[[str, float], None] = lambda method, fraction: None,
) -> Iterator[RobustResult]:
    """Test models and FISTA on the matrices of a set. The results come one method after the other.

    A `RobustModel` makes a weight for each matrix. A `Model` keeps using the matrix that it was trained for. To show
    what a perfect encoder could reach, every ALISTA is tested with the exact weight of each matrix too (`+ exact W`),
    except for one that was trained with the nominal weight on perturbed matrices. FISTA is given each matrix. It makes
    as many iterations as the models have layers, and in another test as many as improve the NMSE. Its λ is the one with
    the least NMSE on other signals, measured by another perturbed matrix.

    Parameters
    ----------
    perturbed
        The matrices and signals to test on.
    models
        The models, by the names that the results give them.
    ops
        The engine for FISTA and the exact weights; the CPU engine if None.
    say
        Called with a line of text about what is done.
    progress
        Called with a method's name and the share of its work that is done.

    Raises
    ------
    InputError
        If a model is for another matrix than the set.
    """
    for name, model in models.items():
        if model.problem.sha256 != perturbed.problem.sha256:
            raise InputError(f"{name} is for another matrix than the perturbed set: make a set for the model's problem")
    for name, model in models.items():
        yield _result(name, perturbed, partial(_recovered, model), model, ops, progress)
        exact = _with_exact_weights(model, ops)
        if isinstance(exact, str):
            say(f"{name} + exact W is left out: {exact}")
        elif exact is not None:
            yield _result(f"{name} + exact W", perturbed, partial(_recovered, exact), exact, ops, progress)
    layers = {model.network.layers for model in models.values()}
    for iterations in (*sorted(layers), None):
        method = f"fista {iterations}" if iterations else "fista, to its end"
        say(f"{method}: finding λ")
        lam = _tune_fista(perturbed, iterations, ops, partial(progress, f"{method}: λ"))
        signals = None if iterations else FISTA_SIGNALS
        recover = partial(_fista, perturbed.problem, perturbed.x[:signals], lam, iterations, ops)
        yield replace(_result(method, perturbed, recover, None, ops, progress, signals), lam=lam)


def _result(
    method: str,
    perturbed: PerturbedSet,
    recover: Recover,
    model: Model | RobustModel | None,
    ops: ReferenceOps | None,
    progress: Callable[[str, float], None],
    signals: int | None = None,
) -> RobustResult:
    """Test a method on every matrix of a set.

    `recover` is the method's recovery, and `model` the model that makes it, if there is one. The test uses the first
    `signals` signals, or all if that is None.
    """
    x = perturbed.x[:signals]
    levels, count = perturbed.matrices.shape[:2]

    def measure(A: Array) -> tuple[float, int]:
        estimate, iterations = recover(A, x @ A.T.astype(x.dtype))
        return estimate_nmse_db(estimate, x), iterations

    matrices = [A for _, level_matrices in perturbed for A in level_matrices]
    found = _on_each(matrices, measure, ops, partial(progress, method))
    nmse = np.array([error for error, _ in found]).reshape(levels, count)
    iterations = float(np.mean([taken for _, taken in found]))
    seconds = _seconds(model, perturbed) if isinstance(model, RobustModel) else float("nan")
    return RobustResult(method, nmse, iterations, seconds)


def _on_each(
    items: Sequence[Item], work: Callable[[Item], Found], ops: ReferenceOps | None, progress: Callable[[float], None]
) -> list[Found]:
    """The results of `work` on all items, in their order, computed on all processors."""
    done = 0

    def work_on(part: slice) -> Found:
        nonlocal done
        (item,) = items[part]
        found = work(item)
        done += 1
        progress(done / len(items))
        return found

    return (ops or engine("cpu")).in_batches((len(items), 1), work_on, 1)


def _recovered(model: Model | RobustModel, A: Array, y: Array) -> tuple[Array, int]:
    """Recovery with a model. One that makes no weights uses the matrix it was trained for, whatever A is."""
    used = model.model_for(A) if isinstance(model, RobustModel) else model
    return used.problem.to_unit(used.recover(y)), used.network.layers


def _with_exact_weights(model: Model | RobustModel, ops: ReferenceOps | None) -> RobustModel | str | None:
    """The model's decoder with the exact encoder; None where that would be the same method or would make no sense.

    If the decoder should have an exact encoder but cannot, the result is the reason.
    """
    if isinstance(model, RobustModel):
        if not isinstance(model.network.encoder, Encoder):
            return None
        model = model.with_weight(model.problem, solve_exact(model.problem.A).W)
    # A decoder with `psigma_max` was trained on perturbed matrices with the nominal weight, so its thresholds do not
    # suit the exact one.
    elif model.network.name != "alista" or "psigma_max" in model.training:
        return None
    try:
        return RobustModel.new(model, ops=ops)
    except InputError as error:
        return str(error)


def _seconds(encoder: RobustModel, perturbed: PerturbedSet) -> float:
    """The median time to make the weight of one matrix, with one BLAS thread."""
    matrices = perturbed.matrices.reshape(-1, *perturbed.matrices.shape[2:])
    encoder.weights(matrices[:1])  # the first call also compiles and allocates
    with one_blas_thread():
        return float(np.median([_timed(encoder.weights, A[None])[1] for A in matrices[:TIMED_MATRICES]]))


def _timed(work: Callable[[Array], Found], matrix: Array) -> tuple[Found, float]:
    """The result of `work` on a matrix, and the time in seconds that it took."""
    start = time.perf_counter()
    found = work(matrix)
    return found, time.perf_counter() - start


def _fista(
    problem: Problem, x: Array, lam: float, iterations: int | None, ops: ReferenceOps | None, A: Array, y: Array
) -> tuple[Array, int]:
    """FISTA's estimate and the number of iterations it took: `iterations`, or as many as improve the NMSE if None."""
    solver = Fista(replace(problem, A=A), iterations or MOST_ITERATIONS, lam=lam, ops=ops)
    if iterations:
        return solver.recover(y), iterations
    best, least, done = np.zeros_like(x), np.inf, 0
    for iteration, iterate in enumerate(solver.iterates(y), 1):
        if iteration % CHECK_EVERY:
            continue
        estimate = solver.ops.to_numpy(iterate)
        nmse = estimate_nmse_db(estimate, x)
        if nmse < least - IMPROVEMENT_DB:
            best, least, done = estimate.copy(), nmse, iteration
        elif iteration >= done + PATIENCE:
            break
    return best, done


def _tune_fista(
    perturbed: PerturbedSet, iterations: int | None, ops: ReferenceOps | None, progress: Callable[[float], None]
) -> float:
    """The λ with the least NMSE on a matrix perturbed at the middle level, with signals drawn for this purpose."""
    problem = perturbed.problem
    level = np.array([float(np.median(perturbed.sigmas))])
    A = perturb(problem.A, Key(perturbed.seed, TUNING), level, ReferenceOps())[0]
    x, _ = problem.sample(FISTA_SIGNALS, stream=TUNING, seed=perturbed.seed)
    y = x @ A.T.astype(x.dtype)

    def nmse(lam: float) -> float:
        return estimate_nmse_db(_fista(problem, x, lam, iterations, ops, A, y)[0], x)

    candidates = lambdas(A, y, RELATIVE_LAMBDAS if iterations is None else None, problem.joint)
    return tune(nmse, candidates, lambda error, values: _on_each(values, error, ops, progress))[0]


@dataclass(frozen=True)
class EncodedMatrix:
    """The comparison of an encoder's weight with the exact weight, for one perturbed matrix.

    Attributes
    ----------
    loss, exact_loss
        The encoder's loss at its own weight and at the exact weight.
    objective, exact_objective
        Σ_{i≠j} |w_iᴴã_j|², where the encoder's w_i are scaled to w_iᴴã_i = 1.
    coherence, exact_coherence
        max_{i≠j} |w_iᴴã_j|, with the same scaling.
    seconds, exact_seconds
        The time that each weight took.
    """

    loss: float
    exact_loss: float
    objective: float
    exact_objective: float
    coherence: float
    exact_coherence: float
    seconds: float
    exact_seconds: float


def evaluate_encoder(
    model: EncoderModel, sigma: float, count: int, seed: int = 0, progress: Callable[[float], None] | None = None
) -> Iterator[EncodedMatrix]:
    """Compare the encoder's weight with the exact weight on `count` matrices, each perturbed at level σ."""
    network, ops = model.network, model.network.ops
    model.weights(model.problem.A[None])  # the first calls also compile and allocate
    solve_exact(model.problem.A)
    for number in range(count):
        A = perturb(model.problem.A, Key(seed, TEST, number), np.array([sigma]), ReferenceOps())
        with one_blas_thread():
            found, seconds = _timed(model.weights, A)
            exact = solve_exact(A[0])
        W = in_double(found[0])
        matrix = ops.asarray(A, network.dtype)
        loss, exact_loss = (
            float(network.losses(matrix, ops.asarray(w[None], network.dtype))[0][0]) for w in (W, exact.W)
        )
        report = describe(W / np.einsum("mn,mn->n", A[0].conj(), W), A[0], method="atow")
        if progress:
            progress((number + 1) / count)
        objectives, coherences = (report.objective, exact.report.objective), (report.coherence, exact.report.coherence)
        yield EncodedMatrix(loss, exact_loss, *objectives, *coherences, seconds, exact.report.seconds)
