"""cuista solve-w"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    CONVERTIBLE_FILE,
    INPUT_FILE,
    ProgressLine,
    convention_option,
    device_option,
    engine_on,
    force_option,
    json_option,
    key_option,
    load_dictionary,
    print_json,
    ridge,
    say,
)
from cuista.cli.spellings import Command

from cuista import storage
from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.tasks import choose_ridge
from cuista.weights import ConvWeight, Weight, solve_conv, solve_conv_pgd, solve_exact, solve_pgd


@click.command("solve-w", cls=Command)
@click.argument("source", type=INPUT_FILE)
@click.option(
    "--method",
    type=click.Choice(["exact", "pgd"]),
    default="exact",
    help="Closed form, or the paper's projected gradient.",
)
@click.option(
    "--ridge",
    "strength",
    type=ridge,
    default=0.0,
    metavar="λ|auto",
    help="Noise-aware weight; auto finds λ for the problem's SNR and sparsity.",
)
@click.option("--conv", is_flag=True, help="SOURCE is a convolutional dictionary, or filters (s, s, F) (key D).")
@convention_option
@key_option
@device_option
@click.option("-o", "--out", type=CONVERTIBLE_FILE, default="weight.h5", help="The weight file.")
@json_option
@force_option
def command(
    source: Path,
    method: str,
    strength: Any,
    conv: bool,
    convention: Any,
    key: str | None,
    device: str,
    out: Path,
    as_json: bool,
    force: bool,
) -> None:
    """Solve the analytic weight of a problem.

    SOURCE is a problem file or a bare matrix (.npy, .npz, .mat, .h5), or with --conv a dictionary.
    Prints the weight's objective, the mutual coherence of W and of A, how well it meets its constraint, and the time
    taken. The solution itself is computed on the CPU, in double precision; --device is for the fits of --ridge auto.
    """
    storage.check_writable(out, overwrite=force)
    if method == "pgd" and strength != 0:
        raise click.UsageError("--ridge needs --method exact: the paper's iteration has no ridge")
    if conv:
        weight: Any = solve_filters(source, method, strength, convention, key)
    elif convention is not None:
        raise click.UsageError("--convention is of filters: give --conv too")
    else:
        weight = solve_matrix(source, method, strength, key, device)
    weight.save(out, overwrite=force)
    print_report(asdict(weight.report), as_json)
    say(f"Wrote {out}.")


def solve_matrix(source: Path, method: str, strength: Any, key: str | None, device: str) -> Weight:
    """The weight of a problem's matrix, or of a bare one."""
    ops = engine_on(device) if strength == "auto" or device != "auto" else None
    problem = Problem.load(source) if storage.is_cuista(source) else None
    if problem is not None and key is not None:
        raise click.UsageError(f"--key names an array in a file of several, and {source} is a problem file")
    if strength == "auto":
        if problem is None:
            raise InputError(
                f"{source} is a bare matrix: give a problem file, for whose SNR and sparsity a ridge is found"
            )
        return choose_ridge(problem, ops=ops, say=say)
    A = storage.load_array(source, "A", "D", key=key) if problem is None else problem.A
    if method == "exact":
        return solve_exact(A, ridge=strength)
    with ProgressLine() as line:
        return solve_pgd(A, progress=lambda step, cap, f: line.show(step / cap, f"step {step}, objective {f:.6g}"))


def solve_filters(source: Path, method: str, strength: Any, convention: Any, key: str | None) -> ConvWeight:
    """The weight of a convolutional dictionary."""
    dictionary = load_dictionary(source, convention, key)
    if strength == "auto":
        raise click.UsageError(
            "--ridge auto needs a problem file, or pictures: give a number for a convolutional dictionary, or leave "
            "its weight to cuista train --dict"
        )
    if method == "exact":
        return solve_conv(dictionary, ridge=strength)
    with ProgressLine() as line:
        return solve_conv_pgd(
            dictionary, progress=lambda step, cap, f: line.show(step / cap, f"step {step}, objective {f:.6g}")
        )


def print_report(report: dict[str, Any], as_json: bool) -> None:
    """Print what is known of a weight."""
    if as_json:
        print_json(report)
        return
    names = {"coherence": "mutual coherence W", "matrix_coherence": "mutual coherence A"}
    for field, value in report.items():
        name = names.get(field, field)
        if value != "":
            click.echo(
                f"{name.replace('_', ' '):>20}  {value:.8g}" if isinstance(value, float) else f"{name:>20}  {value}"
            )
