"""What cuista test does with a denoiser."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from cuista.cli.common import ProgressLine, engine_on, note_left_out, print_json, say, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from cuista.checks import Array

# FISTA is shown after as many iterations as the network has layers, and after so many.
ITERATIONS = 100


def test_denoiser(
    model_file: Path,
    images: Path,
    sigma: float | None,
    baselines: bool,
    seed: int,
    device: str,
    out: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Report PSNR and SSIM of each test picture, and their means."""
    from cuista import storage
    from cuista.data.images import ImageSet, tuning_pairs
    from cuista.denoiser import Denoiser
    from cuista.metrics import SSIM_WINDOW, evaluate_denoising
    from cuista.solvers.conv import ConvFista, non_local_means

    if out:
        storage.check_writable(out, overwrite=force)
    denoiser = Denoiser.load(model_file, ops=engine_on(device))
    sigma = denoiser.sigma if sigma is None else sigma
    if sigma != denoiser.sigma:
        say(f"Note: {model_file} was trained for σ = {denoiser.sigma:g}, and is tested with {sigma:g}.")
    network = denoiser.network
    pictures = ImageSet(images, "test", SSIM_WINDOW, "SSIM's window")
    note_left_out(pictures)
    methods: dict[str, Callable[[Array], Array]] = {}
    lambdas = {}
    if baselines:
        pairs = tuning_pairs(images, sigma, seed=seed)
        for iterations in (network.layers, ITERATIONS):
            solver = ConvFista(denoiser.weight.dictionary, iterations, ops=network.ops)
            name = f"fista {iterations}"
            say(f"Finding the best λ for {name}.")
            lambdas[name] = solver.tune(pairs)
            methods[name] = solver.denoise
        means = non_local_means(sigma / 255)
        if means is None:
            say("Non-local means are left out: they are scikit-image's, and that is not installed.")
        else:
            methods["nl-means"] = means
    methods[network.name] = lambda noisy: denoiser.denoise(noisy, mean=0.0)
    results = []
    with ProgressLine() as line:
        for result in evaluate_denoising(methods, pictures.pictures(), sigma, seed):
            results.append(result)
            line.show(len(results) / len(pictures), f"{len(results)}/{len(pictures)} {result.name}")
    names = list(results[0].psnr_db)
    psnr = np.array([[result.psnr_db[name] for name in names] for result in results])
    ssim = np.array([[result.ssim[name] for name in names] for result in results])
    if out:
        attributes = {"model": str(model_file), "sigma": sigma, "seed": seed, "methods": names}
        record = storage.Record("cuista-report", {"psnr_db": psnr, "ssim": ssim}, attributes)
        record.attributes["pictures"] = [result.name for result in results]
        storage.write(out, record, overwrite=force)
    if as_json:
        mean = {
            name: {"psnr_db": float(psnr[:, i].mean()), "ssim": float(ssim[:, i].mean())}
            for i, name in enumerate(names)
        }
        print_json({"sigma": sigma, "lambda": lambdas, "mean": mean, "pictures": [asdict(r) for r in results]})
    else:
        headers = ["picture", *(f"{name} dB" for name in names), *(f"{name} SSIM" for name in names)]
        rows = [[r.name, *map(float, p), *map(float, s)] for r, p, s in zip(results, psnr, ssim, strict=True)]
        rows.append(["mean", *map(float, psnr.mean(axis=0)), *map(float, ssim.mean(axis=0))])
        click.echo(table(headers, rows))
        for name, lam in lambdas.items():
            say(f"{name} has λ = {lam:.3g}, the best of 16 for validation pictures.")
    if out:
        say(f"Wrote {out}.")
