"""cuista test --task sc"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli.common import (
    AT_LEAST_1,
    INPUT_FILE,
    Report,
    columns_option,
    key_option,
    print_json,
    report_options,
    say,
    seed_option,
    table,
)
from cuista.cli.problems import law_options, with_law
from cuista.cli.spellings import Command

from cuista import metrics
from cuista.checks import check_rows
from cuista.counter import TEST, Key
from cuista.metrics import report_on
from cuista.solvers import SOLVERS
from cuista.storage import load_array
from cuista.tasks import Model, evaluate


@click.command("test", cls=Command)
@click.argument("model_file", metavar="MODEL", type=INPUT_FILE)
@click.option("--samples", type=AT_LEAST_1, metavar="N", help="How many fresh signals. [10000]")
@law_options
@click.option("--x", "signals", type=INPUT_FILE, help="Take the signals from a file instead; they are measured here.")
@key_option
@columns_option
@click.option("--baselines", is_flag=True, help="Beside ISTA and FISTA, each with the λ that is best for it.")
@seed_option
@report_options
def command(
    model_file: Path,
    samples: int | None,
    snr: float | None,
    pnz: str | None,
    signals: Path | None,
    key: str | None,
    columns: bool,
    baselines: bool,
    seed: int,
    report: Report,
) -> None:
    """Test a network on fresh signals, layer by layer: NMSE in dB, support sizes, false positives and negatives."""
    if signals is None and (columns or key is not None):
        raise click.UsageError("--key and --columns are of the file of --x, which is not given")
    if signals is not None and (samples, pnz) != (None, None):
        raise click.UsageError("--samples and --pnz are of fresh signals, and --x gives a file of them: leave them out")
    model = Model.load(model_file, ops=report.ops)
    problem = with_law(model.problem, snr, pnz)
    if signals is None:
        x, y = problem.sample(samples or 10_000, stream=TEST, seed=seed)
    else:
        x = load_array(signals, "x", key=key)
        x = check_rows(x.T if columns else x, problem.N, f"{signals}").astype(model.network.dtype)
        y = problem.measure(x, Key(seed, TEST))
    reports = {model.network.name: evaluate(model, x, y)}
    lambdas = {}
    for name in ("ista", "fista") if baselines else ():
        solver = SOLVERS[name](problem, model.network.layers)
        lambdas[name] = solver.tune()
        reports[name] = report_on(solver.iterates, x, y)
    if report.as_json:
        nets = {name: found.rows() for name, found in reports.items()}
        print_json({"samples": len(x), "snr_db": problem.snr_db, "lambda": lambdas, "layers": nets})
    else:
        click.echo(layer_table(reports))
        for name, lam in lambdas.items():
            say(f"{name.upper()} has λ = {lam:.3g}, the best of 24 for its last iterate's NMSE.")
    report.write(reports[model.network.name].save, model=str(model_file), samples=len(x), seed=seed)


def layer_table(reports: dict[str, metrics.Report]) -> str:
    """NMSE by layer of each method, and the supports of the first."""
    (first, report), *others = reports.items()
    headers = [
        "layer",
        f"{first.upper()} dB",
        *(f"{name.upper()} dB" for name, _ in others),
        "support",
        "false +",
        "false −",
    ]
    rows = [
        [
            row["layer"],
            row["nmse_db"],
            *(float(other.nmse_db[row["layer"]]) for _, other in others),
            row["support_size"],
            row["false_positives"],
            row["false_negatives"],
        ]
        for row in report.rows()
    ]
    return table(headers, rows)
