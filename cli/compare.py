"""cuista compare"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    AT_LEAST_1,
    INPUT_FILE,
    ProgressLine,
    decibels,
    device_option,
    engine_on,
    json_option,
    output_file,
    print_json,
    ridge,
    say,
    seed_option,
    table,
)
from cuista.cli.running import resume_option, show
from cuista.cli.spellings import Command

from cuista.data.problem import Problem
from cuista.evaluation.comparison import Comparison, Variant, compare
from cuista.solvers import SOLVERS
from cuista.storage import check_writable, replacing
from cuista.training import FastRecipe, PaperRecipe


@click.command("compare", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=INPUT_FILE)
@click.option("--net", "nets", multiple=True, metavar="NAME[:untied][:coord]", help="A network to train. Repeatable.")
@click.option("--model", "models", multiple=True, type=INPUT_FILE, help="A trained network's file. Repeatable.")
@click.option("--classical", multiple=True, type=click.Choice(list(SOLVERS)), help="A classical solver. Repeatable.")
@click.option("--snr", "snrs", multiple=True, type=decibels, help="An SNR in dB, or inf. Repeatable. [the problem's]")
@click.option("-T", "--layers", type=AT_LEAST_1, default=16, help="Number of layers, and of iterations.")
@click.option("--recipe", type=click.Choice(["fast", "paper"]), default="fast", help="How to train.")
@click.option("--ridge", "strength", type=ridge, metavar="λ|auto", help="Ridge of the weight. [0; auto with noise]")
@click.option("--samples", type=AT_LEAST_1, default=10_000, help="How many fresh signals.")
@seed_option
@device_option
@click.option(
    "-o",
    "--out",
    type=output_file(".h5", ".json"),
    default="comparison.h5",
    help="The results, .h5 (for cuista plot) or .json; beside it a folder keeps the trained networks.",
)
@json_option
@resume_option
@click.option("--force", is_flag=True, help="Start afresh, and overwrite the output.")
def command(
    problem_file: Path,
    nets: tuple[str, ...],
    models: tuple[Path, ...],
    classical: tuple[str, ...],
    snrs: tuple[float, ...],
    layers: int,
    recipe: str,
    strength: Any,
    samples: int,
    seed: int,
    device: str,
    out: Path,
    as_json: bool,
    resume: bool,
    force: bool,
) -> None:
    """Train networks, tune classical solvers, and test all on the same fresh signals.

    What is trained is kept in the folder OUT.models: with --resume an interrupted comparison goes on where it was, and
    another network is added without training the others again.
    """
    if not (nets or models or classical):
        raise click.UsageError("nothing to compare: give --net, --model or --classical, each as often as you like")
    variants = list(dict.fromkeys(Variant.parse(net) for net in nets))
    if resume and force:
        raise click.UsageError("--resume continues a comparison and --force starts it afresh: give one of them")
    check_writable(out, overwrite=force or resume)
    problem = Problem.load(problem_file)
    ops = engine_on(device)
    folder = Path(f"{out}.models")
    results = []
    try:
        with ProgressLine() as line:
            for result in compare(
                problem,
                variants,
                models,
                list(dict.fromkeys(classical)),
                list(dict.fromkeys(snrs)),
                folder=folder,
                recipe=PaperRecipe() if recipe == "paper" else FastRecipe(),
                layers=layers,
                ridge=strength,
                samples=samples,
                seed=seed,
                ops=ops,
                resume=resume,
                overwrite=force,
                say=say,
                progress=lambda name, at: show(line, at, f"{name}: "),
            ):
                results.append(result)
    except KeyboardInterrupt:
        if variants:
            say(f"\nWhat is trained is kept in {folder}: the same command with --resume goes on from there.")
        raise
    about = {"problem": str(problem_file), "samples": samples, "seed": seed, "layers": layers, "recipe": recipe}
    comparison = Comparison(tuple(results), {**about, "device": ops.name})
    rows = comparison.rows()
    if out.suffix.lower() == ".h5":
        comparison.save(out, overwrite=force or resume)
    else:
        with replacing(out, overwrite=force or resume) as temporary:
            temporary.write_text(json.dumps({**comparison.about, "results": rows}, indent=2) + "\n")
    if as_json:
        print_json({**comparison.about, "results": rows})
    else:
        click.echo(layer_table(comparison))
        click.echo()
        click.echo(cost_table(comparison))
    say(f"Wrote {out}." + (" Draw it with cuista plot." if out.suffix.lower() == ".h5" else ""))


def layer_table(comparison: Comparison) -> str:
    """NMSE by layer, a column for each method and SNR."""
    results = comparison.results
    headers = ["layer", *(f"{result.method} {snr_text(result.snr_db)}" for result in results)]
    longest = max(len(result.nmse_db) for result in results)
    rows = []
    for t in range(longest):
        cells = [float(r.nmse_db[t]) if r.has_iterates and t < len(r.nmse_db) else "" for r in results]
        rows.append([t, *cells])
    finals = ["last", *(float(result.nmse_db[-1]) for result in results)]
    return table(headers, [*rows, finals])


def cost_table(comparison: Comparison) -> str:
    """What each method took."""
    headers = ["method", "SNR", "NMSE dB", "parameters", "steps", "training s", "recovery µs/sample"]
    rows = []
    for r in comparison.results:
        trained = "" if math.isnan(r.training_seconds) else r.training_seconds
        cost = [r.parameters, r.steps or "", trained, 1e6 * r.recovery_seconds]
        rows.append([r.method, snr_text(r.snr_db), float(r.nmse_db[-1]), *cost])
    return table(headers, rows)


def snr_text(snr_db: float) -> str:
    """An SNR as in a heading."""
    return "no noise" if math.isinf(snr_db) else f"{snr_db:g} dB"
