"""cuista test --task sc"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.problems import law_options, load_codes, load_samples, note_other_law, with_law
from cuista.cli.spellings import Command

from cuista import metrics
from cuista.counter import TEST, Key
from cuista.metrics import report_on
from cuista.solvers import SOLVERS
from cuista.tasks.sparse_coding import Model, evaluate

# With an operator, signals have no more numbers than this together unless --samples is given.
LARGE = 2**26


@click.command("test", cls=Command, tests=True)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--samples", type=common.AT_LEAST_1, metavar="N", help="Number of new signals. [10000]")
@law_options
@click.option("--x", "signals", type=common.INPUT_FILE, help="Signals to measure, from a file. [new ones]")
@click.option("--y", "measured", type=common.INPUT_FILE, help="Their measurements, from a file. [computed]")
@common.keys_option
@common.columns_option
@common.pairs_option
@click.option("--baselines", is_flag=True, help="Also test ISTA and FISTA, each with its best λ.")
@common.seed_option
@common.report_options
def command(
    model_file: Path,
    samples: int | None,
    snr: float | None,
    pnz: str | None,
    signals: Path | None,
    measured: Path | None,
    key: str | None,
    columns: bool,
    pairs: bool,
    baselines: bool,
    seed: int,
    report: common.Report,
) -> None:
    """Test a network on new signals, layer by layer.

    For each layer the NMSE in dB, the size of the support, and its false positives and negatives are printed.
    """
    if signals is None and (columns or pairs or key is not None):
        raise click.UsageError(
            "--key, --columns and --complex-pairs are for the file of --x: give that file, or leave them out"
        )
    if signals is None and measured is not None:
        raise click.UsageError("--y is for the measurements of the signals of --x: give those too")
    if measured is not None and snr is not None:
        raise click.UsageError("--snr is for measurements computed here, and --y gives some: leave one of them out")
    if signals is not None and (samples, pnz) != (None, None):
        raise click.UsageError(
            "--samples and --pnz are for new signals, and --x reads signals from a file: leave them out"
        )
    model = Model.load(model_file, ops=report.ops)
    common.warn_untrained(model, model_file)
    problem = with_law(model.problem, snr, pnz)
    note_other_law(model, problem, model_file)
    if signals is None:
        if "trained_on" in model.training:
            common.say(
                f"Note: the model was trained on the signals of {model.training['trained_on']['name']}, and is tested "
                "on new ones of a law estimated from them. --x tests it on signals of yours."
            )
        count = samples or problem.few(10_000, LARGE)
        if samples is None and count < 10_000:
            common.say(f"Note: the test is on {count} signals, because they are large; --samples gives another number.")
        x, y = problem.sample(count, stream=TEST, seed=seed)
    else:
        keys = common.keys_of(key, measured is not None)
        x = load_codes(signals, problem, keys[0], columns, pairs).astype(model.network.dtype)
        if measured is None:
            y = problem.measure(x, Key(seed, TEST))
        else:
            y = load_samples(measured, "y", problem, keys[1], columns, pairs)
            if len(x) == len(y):
                problem.check_pairs(x, y, f"{signals} and {measured}")
    reports = {model.network.name: evaluate(model, x, y)}
    lambdas = {}
    for name in ("ista", "fista") if baselines else ():
        solver = SOLVERS[name](problem.standard, model.network.layers)
        lambdas[name] = solver.tune()
        reports[name] = report_on(solver.iterates, problem.to_unit(x), y, group=problem.group)
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
