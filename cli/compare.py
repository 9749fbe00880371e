"""cuista compare"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
from cuista.cli.common import (
    INPUT_FILE,
    ProgressLine,
    decibels,
    describe,
    device_option,
    engine_on,
    force_option,
    json_option,
    output_file,
    print_json,
    say,
    seed_option,
    table,
)
from cuista.cli.solve import METHODS
from cuista.cli.solve_w import parse_ridge
from cuista.cli.spellings import Command

from cuista.errors import FileError

if TYPE_CHECKING:
    from cuista.evaluation.comparison import Comparison


@click.command("compare", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=INPUT_FILE)
@click.option("--net", "nets", multiple=True, metavar="NAME[:untied][:coord]", help="A network to train. Repeatable.")
@click.option("--model", "models", multiple=True, type=INPUT_FILE, help="A trained network's file. Repeatable.")
@click.option("--classical", multiple=True, type=click.Choice(METHODS), help="A classical solver. Repeatable.")
@click.option("--snr", "snrs", multiple=True, type=decibels, help="An SNR in dB, or inf. Repeatable. [the problem's]")
@click.option(
    "-T", "--layers", type=click.IntRange(1), default=16, show_default=True, help="Number of layers, and of iterations."
)
@click.option("--recipe", type=click.Choice(["fast", "paper"]), default="fast", show_default=True, help="How to train.")
@click.option("--ridge", metavar="λ|auto", help="Ridge of the weight. [0; auto where there is noise]")
@click.option("--samples", type=click.IntRange(1), default=10_000, show_default=True, help="How many fresh signals.")
@seed_option
@device_option
@click.option(
    "-o",
    "--out",
    type=output_file(".h5", ".json"),
    default="comparison.h5",
    show_default=True,
    help="The results, .h5 (for cuista plot) or .json; beside it a folder keeps the trained networks.",
)
@json_option
@force_option
def command(
    problem_file: Path,
    nets: tuple[str, ...],
    models: tuple[Path, ...],
    classical: tuple[str, ...],
    snrs: tuple[float, ...],
    layers: int,
    recipe: str,
    ridge: str | None,
    samples: int,
    seed: int,
    device: str,
    out: Path,
    as_json: bool,
    force: bool,
) -> None:
    """Train networks, tune classical solvers, and test all on the same fresh signals.

    What is trained is kept in the folder OUT.models: an interrupted comparison, given again, goes on where it was, and
    another network is added without training the others anew.
    """
    import json

    from cuista.data.problem import Problem
    from cuista.evaluation.comparison import Comparison, Variant, compare
    from cuista.storage import check_writable, replacing
    from cuista.training import FastRecipe, PaperRecipe

    if not (nets or models or classical):
        raise click.UsageError("nothing to compare: give --net, --model or --classical, each as often as you like")
    strength = None if ridge is None else parse_ridge(ridge)
    variants = list(dict.fromkeys(Variant.parse(net) for net in nets))
    check_writable(out, overwrite=force)
    problem = Problem.load(problem_file)
    ops = engine_on(device)
    folder = Path(f"{out}.models")
    if variants:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the folder {folder}: {error.strerror}") from error
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
                overwrite=force,
                say=say,
                progress=lambda name, at: line.show(at.fraction, f"{name}: {describe(at)[1]}"),
            ):
                results.append(result)
    except KeyboardInterrupt:
        if variants:
            say(f"\nWhat is trained is kept in {folder}: the same command goes on from there.")
        raise
    about = {"problem": str(problem_file), "samples": samples, "seed": seed, "layers": layers, "recipe": recipe}
    comparison = Comparison(tuple(results), {**about, "device": ops.name})
    rows = comparison.rows()
    if out.suffix.lower() == ".h5":
        comparison.save(out, overwrite=force)
    else:
        with replacing(out, overwrite=force) as temporary:
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
