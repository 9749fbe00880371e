"""cuista test --task denoise"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.tasks.denoising import Denoiser, evaluate_denoisers, test_pictures


@click.command("test", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--images", type=common.INPUT_FILE, required=True, help="Picture file of cuista prepare-images.")
@click.option("--sigma", type=common.positive, metavar="σ", help="Noise std. deviation, of 255. [as in training]")
@click.option("--baselines", is_flag=True, help="Also test tuned FISTA and non-local means.")
@common.seed_option
@common.report_options
def command(
    model_file: Path, images: Path, sigma: float | None, baselines: bool, seed: int, report: common.Report
) -> None:
    """Test a denoiser on the test pictures of a file.

    The PSNR and SSIM of each picture and their means are printed.
    """
    denoiser = Denoiser.load(model_file, ops=report.ops)
    if sigma not in (None, denoiser.sigma):
        common.say(f"Note: {model_file} was trained for σ = {denoiser.sigma:g}, and is tested with σ = {sigma:g}.")
    common.note_left_out(test_pictures(images))
    with common.ProgressLine() as line:
        how: dict[str, Any] = {"sigma": sigma, "baselines": baselines, "seed": seed, "say": common.say}
        how["progress"] = line.show
        found = evaluate_denoisers({denoiser.network.name: denoiser}, images, **how)
    rows = [*zip(found.pictures, found.psnr_db.tolist(), found.ssim.tolist(), strict=True)]
    means = found.psnr_db.mean(axis=0).tolist(), found.ssim.mean(axis=0).tolist()
    if report.as_json:
        pairs = zip(found.methods, *means, strict=True)
        pictures = [
            {
                "name": name,
                "shape": shape,
                "psnr_db": dict(zip(found.methods, psnr, strict=True)),
                "ssim": dict(zip(found.methods, ssim, strict=True)),
            }
            for (name, psnr, ssim), shape in zip(rows, found.shapes, strict=True)
        ]
        mean = {method: {"psnr_db": psnr, "ssim": ssim} for method, psnr, ssim in pairs}
        common.print_json({"sigma": found.sigma, "lambda": found.lambdas, "mean": mean, "pictures": pictures})
    else:
        headers = ["picture", *(f"{name} dB" for name in found.methods), *(f"{name} SSIM" for name in found.methods)]
        click.echo(common.table(headers, [[name, *psnr, *ssim] for name, psnr, ssim in [*rows, ("mean", *means)]]))
        for name, lam in found.lambdas.items():
            common.say(f"{name} uses λ = {lam:.3g}, the best of 16 values on validation pictures.")
    report.write(found.save, model=str(model_file), seed=seed)
