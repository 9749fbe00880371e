"""cuista solve"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.problems import load_problem, matrix_in, note_norms, warn_of_twins
from cuista.cli.recover import Codes, codes_options
from cuista.cli.spellings import Command

from cuista.checks import Array
from cuista.data.problem import Problem
from cuista.quality import Quality
from cuista.ranks import ranks
from cuista.solvers import SOLVERS, Solver
from cuista.solvers.tuning import keep, kept, kept_in
from cuista.storage import is_cuista
from cuista.summary import counted

# Codes with at least this share of M non-zeros fit almost any measurements.
FULL = 0.9
_SOLVERS = f"Solver: {', '.join(SOLVERS)}."


share = common.number("a number greater than 0, or a percentage like 5%", lambda value: 0 < value < math.inf)


def weight(value: str) -> float | str:
    """The option type of λ: a number greater than 0, or a percentage as text."""
    number: float = share(value.removesuffix("%"))
    return value if value.endswith("%") else number


@click.command("solve", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.option("--method", type=click.Choice(list(SOLVERS)), default="fista", metavar="NAME", help=_SOLVERS)
@click.option(
    "--iterations", type=common.AT_LEAST_1, metavar="N", help="Iterations; for omp, most non-zeros. [converge]"
)
@click.option("--lam", type=weight, metavar="λ|%", help="Weight, or % of ‖Aᵀy‖_∞. [the best for such signals]")
@click.option("--noise-level", type=common.positive, metavar="σ", help="Stop at ‖y − A x‖ = σ√M instead.")
@click.option("--positive", is_flag=True, help="Require x ≥ 0, as for a problem that is positive.")
@codes_options
def command(problem_file: Path, method: str, positive: bool, codes: Codes, **how: Any) -> None:
    """Recover sparse codes with a classical solver.

    No training is needed. ista, fista and lasso minimize ½‖y − A x‖² + λ‖x‖₁ for y and A as you give them, or ‖x‖₁
    subject to ‖y − A x‖ ≤ σ√M; lasso is exact. For amp, λ is a threshold in standard deviations. omp picks entries
    until the residual is as small as the noise. PROBLEM is a problem or model file, or a matrix (.npy, .npz, .mat, .h5,
    .csv or .txt, key A). Y is a file of measurements as for cuista recover.
    """
    kind = SOLVERS[method]
    if how["lam"] is not None and how["noise_level"] is not None:
        raise click.UsageError("--lam and --noise-level: either one decides the other; leave one out")
    if codes.device.startswith("cuda") and not kind.has_iterates:
        raise click.UsageError(f"--device {codes.device}: {method} runs on the CPU; leave --device out")
    if is_cuista(problem_file):
        problem = load_problem(problem_file)
    else:
        problem = Problem(matrix_in(problem_file, codes.take_key_of_matrix()))
        note_norms(problem, problem_file)
    if positive:
        problem = replace(problem, positive=True)
    if codes.is_complex and not problem.measures_complex:
        common.say(f"Note: {codes.measurements} is complex, and so are the codes, although the matrix is real.")
        if codes.pairs and not is_cuista(problem_file):
            common.say(
                f"Note: --complex-pairs is about {codes.measurements}. If {problem_file} has pairs of columns, too, "
                "make a problem of it with cuista gen-problem --load-a and --complex-pairs."
            )
        problem = problem.in_complex()
    warn_of_twins(problem)
    solver = kind(problem, ops=codes.ops, **how)
    if solver.tunes:
        if not is_cuista(problem_file):
            law = f"pnz {problem.sparsity:g} and no noise"
            common.say(
                f"Note: {problem_file} is a matrix alone, so that λ will be the best for signals with {law}. If yours "
                "differ, give --noise-level or --lam."
            )
        codes.check(problem)
        find_lam(solver)
    elif method == "omp" and how["noise_level"] is None and how["iterations"] is None and not is_cuista(problem_file):
        common.say(
            f"Note: {problem_file} is a matrix alone, so that omp goes on as if there were no noise. If there is, give "
            "--noise-level, or --iterations for a number of non-zeros."
        )
    report(solver, codes.write(Watched(solver)))


def find_lam(solver: Solver) -> None:
    """Give a solver the λ that an earlier run kept, or else tune it and keep it."""
    tuned_for = solver.tuned_for
    path = kept_in(tuned_for)
    solver.lam = ranks().agreed(lambda: kept(path, tuned_for))
    if solver.lam is not None:
        common.say(f"λ = {solver.lam:.4g}, found earlier for this problem and kept in {path}.")
        return
    common.say("Finding the λ that is best for signals of this problem.")
    with common.ProgressLine() as line:
        lam = solver.tune(lambda done, total: line.show(done / total, f"finding λ: {done} of {total}"))
    where = f" (kept in {path} for the next time)" if ranks().first and keep(path, tuned_for, lam) else ""
    common.say(f"λ = {lam:.4g}, the best of 24 values for signals of this problem{where}.")


class Watched:
    """A solver whose quality tells how well its solutions have converged, too."""

    def __init__(self, solver: Solver) -> None:
        self.solver, self.problem, self.rows, self.recover = solver, solver.problem, solver.rows, solver.recover

    def quality(self, y: Array, x: Array) -> Quality:
        """How good the codes x (samples, N) are that `recover` has just returned."""
        solution = self.solver.solution
        assert solution is not None
        more = {"converged": solution.converged, **({"gap": solution.gap} if self.solver.has_gap else {})}
        return replace(self.solver.quality(y, x), more=more)


def report(solver: Solver, quality: Quality) -> None:
    """Say how well the solutions have converged, and warn if some have not."""
    zero = int(np.count_nonzero((quality.support_size == 0) & (quality.relative_residual > 0)))
    if zero:
        cause = "λ" if solver.noise_level is None else "the noise level"
        common.warn(f"all codes of {counted(zero, 'sample')} are zero: {cause} is too large for anything else")
    M, N, count = solver.problem.M, solver.problem.N, len(quality.statistics)
    samples = counted(count, "sample")
    full = int(np.count_nonzero(quality.support_size * solver.problem.group >= FULL * M))
    if N > M and full > count / 2:
        lam = " or a larger λ" if solver.has_lam else ""
        advice = f" If there is noise, give --noise-level{lam}." if solver.noise_level is None else ""
        layout = " If the samples are columns, give --columns." if count == M else ""
        common.warn(
            f"{full} of {count} codes have about as many non-zeros as there are measurements, {M}: such codes fit any "
            f"measurements, and determine nothing.{advice}{layout}"
        )
    unfinished = int(np.count_nonzero(~quality.more.get("converged", np.ones(0, bool))))
    if unfinished:
        common.warn(f"{unfinished} of {samples} have not converged: they ended with {solver.unfinished}")
