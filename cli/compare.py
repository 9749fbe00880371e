"""cuista compare"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import load_problem
from cuista.cli.running import resume_option, show
from cuista.cli.spellings import Command

from cuista.errors import CuistaError
from cuista.evaluation.comparison import Comparison, Variant, compare, measured_on
from cuista.networks import NETWORKS
from cuista.ranks import ranks
from cuista.solvers import SOLVERS
from cuista.storage import complete, replacing
from cuista.training import FastRecipe, PaperRecipe
from cuista.training.checkpoint import check_same_run

_CLASSICAL = f"Run {', '.join(SOLVERS)} (repeatable)."


@click.command("compare", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.option(
    "--net",
    "nets",
    multiple=True,
    metavar="NAME[:untied][:coord]",
    shell_complete=lambda ctx, param, incomplete: [name for name in NETWORKS if name.startswith(incomplete)],
    help=f"Train this network (repeatable): {', '.join(NETWORKS)}.",
)
@click.option("--model", "models", multiple=True, type=common.INPUT_FILE, help="Test this model file (repeatable).")
@click.option("--classical", multiple=True, type=click.Choice(list(SOLVERS)), metavar="NAME", help=_CLASSICAL)
@click.option(
    "--snr",
    "snrs",
    multiple=True,
    type=common.decibels,
    metavar="dB|inf",
    help="Test at this SNR (repeatable). [the problem's]",
)
@click.option("-T", "--layers", type=common.AT_LEAST_1, default=16, metavar="N", help="Layers and iterations.")
@click.option("--recipe", type=click.Choice(["fast", "paper"]), default="fast", help="How to train.")
@click.option("--ridge", type=common.ridge, metavar="λ|auto", help="Ridge of the weight. [0, or auto with noise]")
@click.option("--samples", type=common.AT_LEAST_1, default=10_000, metavar="N", help="Number of test signals.")
@common.seed_option
@common.device_option
@click.option(
    "-o",
    "--out",
    type=common.output_file(".h5", ".json"),
    default="comparison.h5",
    help="Results as .h5 (for cuista plot) or .json.",
)
@common.json_option
@resume_option
@click.option("--force", is_flag=True, help="Start afresh and overwrite earlier results.")
def command(
    problem_file: Path,
    nets: tuple[str, ...],
    models: tuple[Path, ...],
    classical: tuple[str, ...],
    snrs: tuple[float, ...],
    recipe: str,
    device: str,
    out: Path,
    as_json: bool,
    resume: bool,
    force: bool,
    **how: Any,
) -> None:
    """Compare networks and classical solvers on equal terms.

    Networks are trained, each solver's λ is tuned, and all methods are tested on the same new signals of a PROBLEM
    file. Trained networks are kept in the folder OUT.models. With --resume, an interrupted comparison continues, and a
    network can be added without training the others again. In --net, :untied gives each layer a learned matrix of its
    own, and :coord each coordinate a threshold of its own.
    """
    if not (nets or models or classical):
        raise click.UsageError("nothing to compare: give --net, --model or --classical (each can be repeated)")
    variants = list(dict.fromkeys(Variant.parse(net) for net in nets))
    if resume and force:
        raise click.UsageError("--resume continues a comparison, and --force starts it afresh: give only one of them")
    common.claim(out, force or resume)
    problem = load_problem(problem_file)
    how["recipe"] = PaperRecipe() if recipe == "paper" else FastRecipe()
    about = measured_on(problem, how["recipe"], **{name: how[name] for name in ("samples", "seed", "layers")})
    if resume and out.exists():
        check_same(out, about)
    ops = common.engine_on(device)
    folder = Path(f"{out}.models")
    was_there = folder.exists()
    how |= {"folder": folder, "ops": ops, "resume": resume, "overwrite": force, "say": common.say}
    methods = variants, models, list(dict.fromkeys(classical)), list(dict.fromkeys(snrs))
    try:
        with common.ProgressLine() as line:
            how["progress"] = lambda name, at: show(line, at, f"{name}: ")
            found = compare(problem, *methods, **how)
    except CuistaError:
        if ranks().first and not was_there:
            with contextlib.suppress(OSError):  # it stays if there is anything in it
                folder.rmdir()
        raise
    except KeyboardInterrupt:
        if variants:
            common.say(
                f"\nThe networks trained so far are in {folder}: the same command with --resume (not --force) "
                "continues from there."
            )
        raise
    comparison = Comparison(found.results, {"problem": str(problem_file), **found.about})
    rows = comparison.rows()
    if out.suffix.lower() == ".h5":
        comparison.save(out, overwrite=force or resume)
    else:
        with replacing(out, overwrite=force or resume) as file:
            file.write((json.dumps({**comparison.about, "results": rows}, indent=2) + "\n").encode())
    if as_json:
        common.print_json({**comparison.about, "results": rows})
    else:
        common.out(layer_table(comparison))
        common.out()
        common.out(cost_table(comparison))
    common.say(f"Wrote {out}." + (f" Draw it with: cuista plot {out}" if out.suffix.lower() == ".h5" else ""))


def check_same(out: Path, about: dict[str, Any]) -> None:
    """Raise FileError unless a file has the results of a comparison on the same."""
    with complete(out):
        before = Comparison.load(out).about if out.suffix.lower() == ".h5" else dict(json.loads(out.read_text()))
    check_same_run(out, {name: before.get(name, value) for name, value in about.items()}, about)


def layer_table(comparison: Comparison) -> str:
    """A table of the NMSE by layer, with a column for each method and SNR."""
    results = comparison.results
    headers = ["layer", *(f"{result.method} {snr_text(result.snr_db)}" for result in results)]
    rows = [
        [t, *(float(r.nmse_db[t]) if r.has_iterates and t < len(r.nmse_db) else "" for r in results)]
        for t in range(max(len(result.nmse_db) for result in results))
    ]
    finals = ["last", *(float(result.nmse_db[-1]) for result in results)]
    return common.table(headers, [*rows, finals])


def cost_table(comparison: Comparison) -> str:
    """A table of what each method costs in parameters, training and time."""
    headers = ["method", "SNR", "NMSE dB", "parameters", "steps", "training s", "µs/sample"]
    rows = []
    for r in comparison.results:
        trained = "" if math.isnan(r.training_seconds) else r.training_seconds
        cost = [r.parameters, r.steps or "", trained, 1e6 * r.recovery_seconds]
        rows.append([r.method, snr_text(r.snr_db), float(r.nmse_db[-1]), *cost])
    return common.table(headers, rows, keys=2)


def snr_text(snr_db: float) -> str:
    """An SNR as a heading shows it."""
    return "no noise" if math.isinf(snr_db) else f"{snr_db:g} dB"
