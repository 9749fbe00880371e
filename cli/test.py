"""cuista test"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from cuista.cli.common import (
    H5_FILE,
    INPUT_FILE,
    columns_option,
    device_option,
    engine_on,
    force_option,
    json_option,
    key_option,
    positive,
    print_json,
    refuse,
    say,
    seed_option,
    table,
)
from cuista.cli.spellings import Command
from cuista.cli.test_denoiser import test_denoiser
from cuista.cli.test_robust import test_encoder, test_robust

if TYPE_CHECKING:
    from cuista.metrics import Report


@click.command("test", cls=Command)
@click.argument("model_files", metavar="MODEL…", type=INPUT_FILE, nargs=-1, required=True)
@click.option(
    "--samples", type=click.IntRange(1), help="How many fresh signals [10000], or matrices for an encoder [10]."
)
@click.option("--x", "signals", type=INPUT_FILE, help="Take the signals from a file instead; they are measured here.")
@key_option
@columns_option
@click.option("--images", type=INPUT_FILE, help="A denoiser's test pictures: a file of prepare-images.")
@click.option(
    "--sigma",
    type=positive,
    metavar="FLOAT",
    help="Of a denoiser's noise, of 255, or an encoder's perturbations. [what it was trained for]",
)
@click.option(
    "--perturbed",
    type=INPUT_FILE,
    help="Recover by perturbed matrices instead, beside FISTA: a set of gen-problem --perturbed. Takes several models.",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Beside ISTA and FISTA, each with the λ that is best for it; a denoiser beside FISTA and non-local means.",
)
@seed_option
@device_option
@click.option("-o", "--out", type=H5_FILE, help="Write the report, per-sample counts included.")
@json_option
@force_option
def command(
    model_files: tuple[Path, ...],
    samples: int | None,
    signals: Path | None,
    key: str | None,
    columns: bool,
    images: Path | None,
    sigma: float | None,
    perturbed: Path | None,
    baselines: bool,
    seed: int,
    device: str,
    out: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Test a model on fresh signals, layer by layer.

    Or a denoiser on the test pictures of --images, an encoder on fresh matrices, and one or more models on the matrices
    of --perturbed.
    """
    from cuista import storage
    from cuista.checks import check_rows
    from cuista.counter import TEST, Key
    from cuista.metrics import evaluate, report_on
    from cuista.model import Model
    from cuista.solvers.classical import Fista, Ista

    of_signals: dict[str, object] = {"--samples": samples, "--x": signals, "--key": key, "--columns": columns or None}
    of_pictures = {"--images": images, "--baselines": baselines or None}
    if perturbed is not None:
        refuse({**of_signals, **of_pictures, "--sigma": sigma}, "--perturbed has matrices and signals of its own")
        test_robust(model_files, perturbed, device, out, as_json, force)
        return
    model_file, *others = model_files
    if others:
        raise click.UsageError("several models are tested on perturbed matrices only: give --perturbed, or one model")
    held = storage.kind_of(model_file)
    if held == "cuista-denoiser":
        refuse(of_signals, f"{model_file} is a denoiser")
        if images is None:
            raise click.UsageError(f"{model_file} is a denoiser: give pictures with --images, a file of prepare-images")
        test_denoiser(model_file, images, sigma, baselines, seed, device, out, as_json, force)
        return
    if held == "cuista-encoder":
        of_signals.pop("--samples")
        refuse({**of_signals, **of_pictures}, f"{model_file} is an encoder")
        test_encoder(model_file, sigma, samples, seed, device, out, as_json, force)
        return
    if held == "cuista-robust":
        raise click.UsageError(
            f"{model_file} is for perturbed matrices: give some with --perturbed (cuista gen-problem --perturbed)"
        )
    if images is not None or sigma is not None:
        raise click.UsageError(f"--images and --sigma are for denoisers, and {model_file} is none: leave them out")
    if signals is None and (key or columns):
        raise click.UsageError("--key and --columns are for the signals of --x, which is not given")
    if signals is not None and samples is not None:
        raise click.UsageError("--samples is of fresh signals, and --x gives a file of them: leave one of them out")
    if out:
        storage.check_writable(out, overwrite=force)
    model = Model.load(model_file, ops=engine_on(device))
    problem = model.problem
    if signals is None:
        x, y = problem.sample(samples or 10_000, stream=TEST, seed=seed)
    else:
        x = storage.load_array(signals, "x", key=key)
        x = check_rows(x.T if columns else x, problem.N, f"{signals}").astype(model.network.dtype)
        y = problem.measure(x, Key(seed, TEST))
    reports = {model.network.name: evaluate(model, x, y)}
    lambdas = {}
    if baselines:
        for kind in (Ista, Fista):
            solver = kind(problem, model.network.layers)
            lambdas[solver.name] = solver.tune()
            reports[solver.name] = report_on(solver.iterates, x, y)
    if out:
        reports[model.network.name].save(
            out, {"model": str(model_file), "samples": len(x), "seed": seed}, overwrite=force
        )
    if as_json:
        nets = {name: report.rows() for name, report in reports.items()}
        print_json({"samples": len(x), "snr_db": problem.snr_db, "lambda": lambdas, "layers": nets})
    else:
        click.echo(layer_table(reports))
        for name, lam in lambdas.items():
            say(f"{name.upper()} has λ = {lam:.3g}, the best of 24 for its last iterate's NMSE.")
    if out:
        say(f"Wrote {out}.")


def layer_table(reports: dict[str, Report]) -> str:
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
