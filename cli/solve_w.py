"""cuista solve-w"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from cuista.cli.common import (
    CONVERTIBLE_FILE,
    INPUT_FILE,
    ProgressLine,
    convention_option,
    counted,
    device_option,
    engine_on,
    force_option,
    json_option,
    key_option,
    load_dictionary,
    print_json,
    say,
)
from cuista.cli.spellings import Command

from cuista.errors import InputError

if TYPE_CHECKING:
    from cuista.data.problem import Problem
    from cuista.weights import ConvWeight, Weight

AnyWeight = TypeVar("AnyWeight", "Weight", "ConvWeight")


@click.command("solve-w", cls=Command)
@click.argument("source", type=INPUT_FILE)
@click.option(
    "--method",
    type=click.Choice(["exact", "pgd"]),
    default="exact",
    show_default=True,
    help="Closed form, or the paper's projected gradient.",
)
@click.option(
    "--ridge",
    default="0",
    show_default=True,
    metavar="λ|auto",
    help="Noise-aware weight; auto finds λ for the problem's SNR and sparsity.",
)
@click.option("--conv", is_flag=True, help="SOURCE is a convolutional dictionary, or filters (s, s, F) (key D).")
@convention_option
@key_option
@device_option
@click.option("-o", "--out", type=CONVERTIBLE_FILE, default="weight.h5", show_default=True, help="The weight file.")
@json_option
@force_option
def command(
    source: Path,
    method: str,
    ridge: str,
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
    from cuista import storage
    from cuista.data.problem import Problem
    from cuista.weights import solve_exact, solve_pgd

    storage.check_writable(out, overwrite=force)
    if conv:
        conv_weight = solve_filters(source, method, ridge, convention, key)
        conv_weight.save(out, overwrite=force)
        print_report(asdict(conv_weight.report), as_json)
        rows, columns = conv_weight.dictionary.shape
        say(f"Wrote {out}: the weight of {counted(conv_weight.dictionary.filters, 'filter')} of {rows}×{columns}.")
        return
    if convention is not None:
        raise click.UsageError("--convention is of filters: give --conv too")
    problem = None
    if storage.is_cuista(source):
        if key is not None:
            raise click.UsageError(f"--key names an array in a file of several, and {source} is a problem file")
        problem = Problem.load(source)
        A = problem.A
    else:
        A = storage.load_array(source, "A", "D", key=key)
    strength = parse_ridge(ridge)
    ops = engine_on(device) if strength is None or device != "auto" else None
    with ProgressLine() as line:
        if method == "pgd":
            if strength != 0:
                raise click.UsageError("--ridge needs --method exact: the paper's iteration has no ridge")
            weight = solve_pgd(
                A, progress=lambda step, cap, f: line.show(step / cap, f"step {step}, objective {f:.6g}")
            )
        elif strength is None:
            if problem is None:
                raise InputError(
                    f"--ridge auto needs a problem file, for its SNR and sparsity; {source} is a bare matrix"
                )
            weight = find_ridge(problem, ops=ops)
        else:
            weight = solve_exact(A, ridge=strength)
    weight.save(out, overwrite=force)
    print_report(asdict(weight.report), as_json)
    say(f"Wrote {out}.")


def solve_filters(source: Path, method: str, ridge: str, convention: Any, key: str | None) -> ConvWeight:
    """The weight of a convolutional dictionary."""
    from cuista.weights import solve_conv, solve_conv_pgd

    dictionary = load_dictionary(source, convention, key)
    strength = parse_ridge(ridge)
    if strength is None:
        raise click.UsageError(
            "--ridge auto needs a problem file, or pictures: give a number for a convolutional dictionary, or leave "
            "its weight to cuista train --dict"
        )
    if method == "exact":
        return solve_conv(dictionary, ridge=strength)
    if strength:
        raise click.UsageError("--ridge needs --method exact: the paper's iteration has no ridge")
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


def parse_ridge(text: str) -> float | None:
    """The value of --ridge; None for auto."""
    if text == "auto":
        return None
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength < float("inf"):
        raise click.BadParameter(f"{text!r} is neither a number of 0 or more nor auto", param_hint="--ridge")
    return strength


def find_ridge(problem: Problem, **options: Any) -> Weight:
    """The weight of --ridge auto, telling what was tried."""
    from cuista.training import choose_ridge

    return told(choose_ridge(problem, progress=tell_ridge, **options))


def tell_ridge(ridge: float, nmse_db: float) -> None:
    """Say what was tried."""
    say(f"  ridge {ridge:g}: {nmse_db:.2f} dB")


def told(weight: AnyWeight) -> AnyWeight:
    """The weight found; and say which ridge it has."""
    say(f"Ridge {weight.report.ridge:g} is best.")
    return weight
