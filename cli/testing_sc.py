"""cuista test --task sc"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.problems import law_options, note_other_law, with_law
from cuista.cli.spellings import Command

from cuista import metrics
from cuista.checks import check_rows
from cuista.counter import TEST, Key
from cuista.metrics import report_on
from cuista.solvers import SOLVERS
from cuista.storage import load_array
from cuista.tasks.sparse_coding import Model, evaluate


@click.command("test", cls=Command, tests=True)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--samples", type=common.AT_LEAST_1, metavar="N", help="Number of new signals. [10000]")
@law_options
@click.option("--x", "signals", type=common.INPUT_FILE, help="Signals to measure, from a file. [new ones]")
@common.key_option
@common.columns_option
@click.option("--baselines", is_flag=True, help="Also test ISTA and FISTA, each with its best λ.")
@common.seed_option
@common.report_options
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
    report: common.Report,
) -> None:
    """Test a network on new signals, layer by layer.

    For each layer the NMSE in dB, the size of the support, and its false positives and negatives are printed.
    """
    if signals is None and (columns or key is not None):
        raise click.UsageError("--key and --columns are for the file of --x: give that file, or leave them out")
    if signals is not None and (samples, pnz) != (None, None):
        raise click.UsageError(
            "--samples and --pnz are for new signals, and --x reads signals from a file: leave them out"
        )
    model = Model.load(model_file, ops=report.ops)
    common.warn_untrained(model, model_file)
    problem = with_law(model.problem, snr, pnz)
    note_other_law(model, problem, model_file)
    if signals is None:
        x, y = problem.sample(samples or 10_000, stream=TEST, seed=seed)
    else:
        x = load_array(signals, "x", key=key)
        x = check_rows(x.T if columns else x, problem.N, f"{signals}").astype(model.network.dtype)
        y = problem.measure(x, Key(seed, TEST))
    reports = {model.network.name: evaluate(model, x, y)}
    lambdas = {}
    for name in ("ista", "fista") if baselines else ():
        solver = SOLVERS[name](problem.standard, model.network.layers)
        lambdas[name] = solver.tune()
        reports[name] = report_on(solver.iterates, problem.to_unit(x), y)
    report.write(reports[model.network.name].save, model=str(model_file), samples=len(x), seed=seed)
    if report.as_json:
        nets = {name: found.rows() for name, found in reports.items()}
        common.print_json({"samples": len(x), "snr_db": problem.snr_db, "lambda": lambdas, "layers": nets})
    else:
        common.out(layer_table(reports))
        for name, lam in lambdas.items():
            common.say(f"{name.upper()} uses λ = {lam:.3g}, the best of 24 values for the NMSE of its last iterate.")


def layer_table(reports: dict[str, metrics.Report]) -> str:
    """A table of the NMSE of each method by layer, with the supports of the first method."""
    counts = ("support_size", "false_positives", "false_negatives")
    first, *_ = reports.values()
    headers = ["layer", *(f"{name.upper()} dB" for name in reports), "support", "false +", "false −"]
    rows = [
        [t, *(float(report.nmse_db[t]) for report in reports.values()), *(row[name] for name in counts)]
        for t, row in enumerate(first.rows())
    ]
    return common.table(headers, rows)
