"""cuista solve"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.problems import load_problem, matrix_in, note_norms, warn_of_twins
from cuista.cli.recover import Codes, codes_options
from cuista.cli.spellings import Command

from cuista.data.problem import Problem
from cuista.solvers import SOLVERS
from cuista.storage import is_cuista

_SOLVERS = f"Solver: {', '.join(SOLVERS)}."


@click.command("solve", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.option("--method", type=click.Choice(list(SOLVERS)), default="fista", metavar="NAME", help=_SOLVERS)
@click.option(
    "--iterations", type=common.AT_LEAST_1, default=100, metavar="N", help="Iterations; for omp, most non-zeros."
)
@click.option("--lam", type=common.positive, metavar="λ", help="Regularization weight. [the best for such signals]")
@codes_options
def command(problem_file: Path, method: str, iterations: int, lam: float | None, codes: Codes) -> None:
    """Recover sparse codes with a classical solver.

    No training is needed. The solvers minimize ½‖y − A x‖² + λ‖x‖₁, except that for amp λ is a threshold in standard
    deviations, and omp picks a number of non-zeros. PROBLEM is a problem or model file, or a matrix (.npy, .npz, .mat
    or .h5, key A). Y is a file of measurements as for cuista recover. omp and lasso come from scikit-learn (pip install
    'cuista[sklearn]').
    """
    kind = SOLVERS[method]
    if codes.device.startswith("cuda") and not kind.has_iterates:
        raise click.UsageError(
            f"--device {codes.device}: {method} is from scikit-learn, which runs on the CPU; leave --device out"
        )
    if is_cuista(problem_file):
        problem = load_problem(problem_file)
    else:
        problem = Problem(matrix_in(problem_file))
        note_norms(problem, problem_file)
        if lam is None and kind.has_lam:
            law = f"pnz {problem.sparsity:g} and no noise"
            common.say(
                f"Note: {problem_file} is a matrix alone. Without --lam, λ will be the best for signals with {law}."
            )
    warn_of_twins(problem)
    solver = kind(problem, iterations, lam=lam, ops=codes.ops)
    codes.write(solver)
    if kind.has_lam and lam is None:
        common.say(
            f"λ = {solver.tuned():.4g}, the best of 24 values for {iterations} iterations on signals of this problem."
        )
