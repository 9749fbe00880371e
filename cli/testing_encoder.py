"""cuista test --task encoder"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista import storage
from cuista.evaluation.robustness import EncodedMatrix, evaluate_encoder
from cuista.tasks.encoder import EncoderModel


@click.command("test", cls=Command, tests=True)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--samples", "count", type=common.AT_LEAST_1, default=10, metavar="N", help="Number of matrices.")
@click.option("--sigma", type=common.positive, metavar="σ", help="Level of perturbation. [as in training]")
@common.seed_option
@common.report_options
def command(model_file: Path, count: int, sigma: float | None, seed: int, report: common.Report) -> None:
    """Test an encoder on newly perturbed matrices.

    For each matrix the encoder's weight is compared with the exact one of the closed form.
    """
    model = EncoderModel.load(model_file, ops=report.ops)
    common.warn_untrained(model, model_file)
    sigma = model.training.get("sigma", 1e-2) if sigma is None else sigma
    with common.ProgressLine() as line:
        results = list(
            evaluate_encoder(model, sigma, count, seed, lambda fraction: line.show(fraction, f"σ = {sigma:g}"))
        )
    names = list(EncodedMatrix.__dataclass_fields__)
    columns = {name: np.array([getattr(result, name) for result in results]) for name in names}
    report.write(partial(save_columns, columns), model=str(model_file), sigma=sigma, seed=seed)
    if report.as_json:
        mean = {name: float(values.mean()) for name, values in columns.items()}
        common.print_json({"sigma": sigma, "mean": mean, "matrices": [asdict(result) for result in results]})
    else:
        common.out(matrix_table(model.network.loss_name, results, columns))


def save_columns(columns: dict[str, Any], path: Path, attributes: dict[str, Any], overwrite: bool) -> None:
    """Write a `cuista-report` file."""
    storage.write(path, storage.Record("cuista-report", columns, attributes), overwrite=overwrite)


def matrix_table(loss: str, results: Sequence[EncodedMatrix], columns: dict[str, Any]) -> str:
    """A table with a row for each matrix and one for the means."""
    headers = ["matrix", f"{loss} loss", "exact", "Σ off-diagonal²", "exact"]
    headers += ["coherence", "exact", "ms", "exact"]
    scale = np.array([1e3 if "seconds" in name else 1.0 for name in columns])
    rows: list[list[Any]] = [
        [i, *map(float, scale * list(asdict(result).values()))] for i, result in enumerate(results)
    ]
    rows.append(["mean", *map(float, scale * [values.mean() for values in columns.values()])])
    return common.table(headers, rows)
