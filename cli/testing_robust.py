"""cuista test --task robust"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.data.perturbed import PerturbedSet
from cuista.evaluation.robustness import FISTA_SIGNALS, MOST_ITERATIONS, Robustness, evaluate_robustness
from cuista.model import load
from cuista.tasks.robust import RobustModel
from cuista.tasks.sparse_coding import Model


@click.command("test", cls=Command, tests=True, prefix="robust_")
@click.argument("model_files", metavar="MODEL…", type=common.INPUT_FILE, nargs=-1, required=True)
@click.option("--perturbed", "set_file", type=common.INPUT_FILE, help="Test set of cuista gen-problem --task robust.")
@common.report_options
def command(model_files: tuple[Path, ...], set_file: Path | None, report: common.Report) -> None:
    """Test models beside FISTA on perturbed matrices.

    The NMSE at each level of perturbation is printed.
    """
    if set_file is None:
        raise click.UsageError(
            "give a test set with --perturbed: cuista gen-problem --perturbed makes one, and cuista convert reads the "
            "original's robust_test_A.npz"
        )
    ops = report.ops
    stems = [path.stem for path in model_files]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in model_files]
    models: dict[str, Any] = {
        name: load(path, Model, RobustModel, ops=ops) for name, path in zip(names, model_files, strict=True)
    }
    for path, each in zip(model_files, models.values(), strict=True):
        common.warn_untrained(each, path)
    perturbed = PerturbedSet.load(set_file)
    with common.ProgressLine() as line:
        results = tuple(
            evaluate_robustness(
                perturbed,
                models,
                ops=ops,
                say=common.say,
                progress=lambda method, fraction: line.show(fraction, method),
            )
        )
    count, samples = perturbed.matrices.shape[1], len(perturbed.x)
    about = {"set": str(set_file), "models": list(map(str, model_files)), "matrices": count, "samples": samples}
    about["fista_to_its_end_samples"] = min(samples, FISTA_SIGNALS)
    robustness = Robustness(perturbed.sigmas, results, about)
    report.write(lambda path, about, overwrite: robustness.save(path, overwrite=overwrite))
    if report.as_json:
        rows = [{**asdict(result), "nmse_db": result.mean_db.tolist()} for result in results]
        common.print_json({**about, "sigmas": perturbed.sigmas.tolist(), "results": rows})
    else:
        headers = ["NMSE dB at σ =", *(f"{sigma:g}" for sigma in perturbed.sigmas), "iterations", "ms per matrix"]
        common.out(common.table(headers, [_row(result) for result in results]))
        common.say(f"The NMSE is the mean over {count} matrices per level, with {samples} signals each.")
        for result in results:
            if np.isfinite(result.lam):
                common.say(
                    f"{result.method} uses λ = {result.lam:.3g}, the best on a separate matrix with separate signals."
                )
        end = f"until the NMSE of {FISTA_SIGNALS} signals stops improving, for at most {MOST_ITERATIONS} iterations"
        common.say(f"FISTA to its end runs {end}.")


def _row(result: Any) -> list[Any]:
    milliseconds = 1e3 * result.seconds_per_matrix
    seconds = f"{milliseconds:.1f}" if np.isfinite(milliseconds) else "–"
    return [result.method, *map(float, result.mean_db), f"{result.iterations:.0f}", seconds]
