"""What cuista test does with encoders, and with sets of perturbed matrices."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from cuista.cli.common import ProgressLine, engine_on, print_json, say, table

if TYPE_CHECKING:
    from cuista.model import Model
    from cuista.robust import RobustModel

# Matrices that an encoder is tested on, if not said otherwise.
MATRICES = 10


def test_robust(
    model_files: tuple[Path, ...], set_file: Path, device: str, out: Path | None, as_json: bool, force: bool
) -> None:
    """Report the NMSE of models and FISTA at each level of perturbation, averaged over the matrices."""
    from cuista import storage
    from cuista.data.perturbed import PerturbedSet
    from cuista.evaluation.robustness import FISTA_SIGNALS, MOST_ITERATIONS, Robustness, evaluate_robustness
    from cuista.model import Model
    from cuista.robust import RobustModel

    if out:
        storage.check_writable(out, overwrite=force)
    ops = engine_on(device)
    kinds: dict[str, Any] = {"cuista-model": Model, "cuista-robust": RobustModel}
    stems = [path.stem for path in model_files]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in model_files]
    models: dict[str, Model | RobustModel] = {}
    for name, path in zip(names, model_files, strict=True):
        kind = storage.read(path, *kinds).kind
        models[name] = kinds[kind].load(path, ops=ops)
    perturbed = PerturbedSet.load(set_file)
    with ProgressLine() as line:
        results = tuple(
            evaluate_robustness(
                perturbed, models, ops=ops, say=say, progress=lambda method, fraction: line.show(fraction, method)
            )
        )
    count, samples = perturbed.matrices.shape[1], len(perturbed.x)
    about = {"set": str(set_file), "models": list(map(str, model_files)), "matrices": count, "samples": samples}
    about["fista_to_its_end_samples"] = min(samples, FISTA_SIGNALS)
    robustness = Robustness(perturbed.sigmas, results, about)
    if out:
        robustness.save(out, overwrite=force)
    if as_json:
        rows = [{**asdict(result), "nmse_db": result.mean_db.tolist()} for result in results]
        print_json({**about, "sigmas": perturbed.sigmas.tolist(), "results": rows})
    else:
        headers = ["NMSE dB at σ =", *(f"{sigma:g}" for sigma in perturbed.sigmas), "iterations", "ms a matrix"]
        click.echo(table(headers, [_row(result) for result in results]))
        say(f"Means over {count} matrices a level, of {samples} signals each.")
        for result in results:
            if np.isfinite(result.lam):
                say(f"{result.method} has λ = {result.lam:.3g}, the best on a matrix and signals of its own.")
        end = f"until the NMSE of {FISTA_SIGNALS} signals no longer improves, in {MOST_ITERATIONS} iterations at most"
        say(f"FISTA to its end: {end}.")
    if out:
        say(f"Wrote {out}.")


def _row(result: Any) -> list[Any]:
    milliseconds = 1e3 * result.seconds_per_matrix
    seconds = f"{milliseconds:.1f}" if np.isfinite(milliseconds) else "–"
    return [result.method, *map(float, result.mean_db), f"{result.iterations:.0f}", seconds]


def test_encoder(
    model_file: Path,
    sigma: float | None,
    count: int | None,
    seed: int,
    device: str,
    out: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Report an encoder's objective beside the exact closed-form weight's, matrix by matrix."""
    from cuista import storage
    from cuista.evaluation.robustness import EncodedMatrix, evaluate_encoder
    from cuista.robust import EncoderModel

    if out:
        storage.check_writable(out, overwrite=force)
    model = EncoderModel.load(model_file, ops=engine_on(device))
    sigma = model.training.get("sigma", 1e-2) if sigma is None else sigma
    with ProgressLine() as line:
        count = count or MATRICES
        results = list(
            evaluate_encoder(model, sigma, count, seed, lambda fraction: line.show(fraction, f"σ = {sigma:g}"))
        )
    names = list(EncodedMatrix.__dataclass_fields__)
    columns = {name: np.array([getattr(result, name) for result in results]) for name in names}
    if out:
        attributes = {"model": str(model_file), "sigma": sigma, "seed": seed}
        storage.write(out, storage.Record("cuista-report", columns, attributes), overwrite=force)
    if as_json:
        mean = {name: float(values.mean()) for name, values in columns.items()}
        print_json({"sigma": sigma, "mean": mean, "matrices": [asdict(result) for result in results]})
        return
    headers = ["matrix", f"{model.network.loss_name} loss", "exact", "Σ off-diagonal²", "exact"]
    headers += ["coherence", "exact", "ms", "exact"]
    scale = np.array([1e3 if "seconds" in name else 1.0 for name in names])
    rows: list[list[Any]] = [
        [i, *map(float, scale * list(asdict(result).values()))] for i, result in enumerate(results)
    ]
    rows.append(["mean", *map(float, scale * [values.mean() for values in columns.values()])])
    click.echo(table(headers, rows))
    if out:
        say(f"Wrote {out}.")
