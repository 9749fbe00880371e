"""cuista solve-w"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista import storage
from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.tasks.sparse_coding import choose_ridge
from cuista.weights import ConvWeight, Weight, solve_conv, solve_conv_pgd, solve_exact, solve_pgd

Found = TypeVar("Found")


@click.command("solve-w", cls=Command)
@click.argument("source", type=common.INPUT_FILE)
@click.option(
    "--method", type=click.Choice(["exact", "pgd"]), default="exact", help="Closed form, or the paper's iteration."
)
@click.option("--ridge", type=common.ridge, default=0.0, metavar="λ|auto", help="Ridge; auto finds a good one.")
@click.option("--conv", is_flag=True, help="SOURCE is a convolutional dictionary.")
@click.option("--stride", type=common.AT_LEAST_1, metavar="Q", help="With --conv: stride of the maps. [1]")
@common.convention_option
@common.key_option
@common.pairs_option
@common.device_option
@click.option("-o", "--out", type=common.CONVERTIBLE_FILE, default="weight.h5", help="Weight file.")
@common.json_option
@common.force_option
def command(
    source: Path,
    method: str,
    ridge: Any,
    conv: bool,
    stride: int | None,
    convention: Any,
    key: str | None,
    pairs: bool,
    device: str,
    out: Path,
    as_json: bool,
    force: bool,
) -> None:
    """Compute the analytic weight of a problem.

    SOURCE is a problem file or a matrix (.npy, .npz, .mat, .h5, .csv or .txt, key A or D). With --conv it is a
    dictionary file or an array of filters (s, s, F) (key D).

    A ridge makes the weight less sensitive to measurement noise; auto tries several on the SNR and sparsity of the
    problem. The weight itself is computed on the CPU in double precision; --device is for these trials. The objective,
    the mutual coherence of W and of A, the constraint's residual and the time taken are printed.
    """
    common.claim(out, force)
    if method == "pgd" and ridge != 0:
        raise click.UsageError(
            "--ridge needs --method exact, because the paper's iteration (pgd) has no ridge: leave one of them out"
        )
    if pairs and (conv or storage.is_cuista(source)):
        raise click.UsageError("--complex-pairs is for a matrix from other software: leave it out")
    if stride is not None and (not conv or method == "pgd"):
        raise click.UsageError("--stride is for --conv with --method exact: leave it out")
    if conv:
        weight: Any = solve_filters(source, method, ridge, stride or 1, convention, key)
    elif convention is not None:
        raise click.UsageError("--convention is for filters: give --conv too, or leave it out")
    else:
        weight = solve_matrix(source, method, ridge, key, pairs, device)
    weight.save(out, overwrite=force)
    print_report(asdict(weight.report), as_json)
    common.say(f"Wrote {out}.")


def solve_matrix(source: Path, method: str, ridge: Any, key: str | None, pairs: bool, device: str) -> Weight:
    """The weight of a problem's matrix, or of a matrix alone."""
    ops = common.engine_on(device) if ridge == "auto" or device != "auto" else None
    problem = Problem.load(source) if storage.is_cuista(source) else None
    if problem is not None:
        problem.need_matrix("a weight file")
    if problem is not None and problem.rescaled:
        common.say(f"Note: W is for the columns of unit norm, the A of {source}.")
    if problem is not None and key is not None:
        raise click.UsageError(f"--key is for a file from other software, and {source} is a cuista file: leave it out")
    if ridge == "auto":
        if problem is None:
            raise InputError(
                f"{source} is a matrix alone: a ridge is found for the SNR and sparsity of a problem file; give one"
            )
        return choose_ridge(problem, ops=ops, say=common.say)
    A = storage.load_array(source, "A", "D", key=key, pairs=pairs) if problem is None else problem.A
    weight = solve_exact(A, ridge=ridge) if method == "exact" else iterated(solve_pgd, A)
    if problem is None and not Problem(A, norms=1.0).normalized:
        common.say(f"Note: W is for the columns of {source} as they are; networks use columns of unit norm.")
    return weight


def solve_filters(source: Path, method: str, ridge: Any, stride: int, convention: Any, key: str | None) -> ConvWeight:
    """The weight of a convolutional dictionary."""
    dictionary = common.load_dictionary(source, convention, key)
    if ridge == "auto":
        raise click.UsageError(
            "--ridge auto: a ridge for a convolutional dictionary is found on pictures; give a number here, or let "
            "cuista train --dict compute the weight"
        )
    if method == "exact":
        return solve_conv(dictionary, ridge=ridge, stride=stride)
    return iterated(solve_conv_pgd, dictionary)


def iterated(solve: Callable[..., Found], source: Any) -> Found:
    """The weight that the paper's iteration finds; progress is shown."""
    with common.ProgressLine() as line:
        return solve(source, progress=lambda step, cap, f: line.show(step / cap, f"step {step}, objective {f:.6g}"))


def print_report(report: dict[str, Any], as_json: bool) -> None:
    """Print the report on a weight."""
    if as_json:
        common.print_json(report)
        return
    names = {"coherence": "mutual coherence W", "matrix_coherence": "mutual coherence A"}
    if "coherence" in report:  # of a matrix; that of filters sums over all pairs
        names["objective"] = "objective (i ≠ j)"
    for field, value in report.items():
        name = names.get(field, field)
        if value != "":
            common.out(
                f"{name.replace('_', ' '):>20}  {value:.8g}" if isinstance(value, float) else f"{name:>20}  {value}"
            )
