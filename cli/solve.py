"""cuista solve"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli.common import AT_LEAST_1, INPUT_FILE, positive, say
from cuista.cli.recover import Codes, codes_options
from cuista.cli.spellings import Command

from cuista.data.problem import Problem
from cuista.solvers import SOLVERS
from cuista.storage import is_cuista, load_array


@click.command("solve", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=INPUT_FILE)
@click.option("--method", type=click.Choice(list(SOLVERS)), default="fista", help="The solver.")
@click.option("--iterations", type=AT_LEAST_1, default=100, help="How many; for omp, the most entries it chooses.")
@click.option(
    "--lam",
    type=positive,
    metavar="λ",
    help="λ of ½‖y − A x‖² + λ‖x‖₁; for amp, the threshold in standard deviations. [the best for such signals]",
)
@codes_options
def command(problem_file: Path, method: str, iterations: int, lam: float | None, codes: Codes) -> None:
    """Recover the sparse codes of measurements by a classical solver, which needs no training.

    PROBLEM is a problem or model file, or a bare matrix (.npy, .npz, .mat, .h5; key A); Y is as in recover. omp and
    lasso are scikit-learn's (pip install 'cuista[sklearn]').
    """
    kind = SOLVERS[method]
    if codes.device.startswith("cuda") and not kind.has_iterates:
        raise click.UsageError(
            f"--device {codes.device}: {method} is scikit-learn's, which computes on the CPU; leave it out"
        )
    if is_cuista(problem_file):
        problem = Problem.load(problem_file)
    else:
        problem = Problem(load_array(problem_file, "A", "D"))
        if lam is None and kind.has_lam:
            law = f"pnz {problem.sparsity:g} and no noise"
            say(f"Note: a bare matrix says nothing of its signals. Without --lam, λ will be the best for {law}.")
    solver = kind(problem, iterations, lam=lam, ops=codes.ops)
    codes.write(solver)
    if kind.has_lam and lam is None:
        say(f"λ = {solver.tuned():.4g}, the best of 24 for {iterations} iterations on signals of this problem.")
