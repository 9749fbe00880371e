"""cuista test --task denoise"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import IN_DENOISING, Command

from cuista.tasks.denoising import Denoiser, evaluate_denoisers, test_pictures


@click.command("test", cls=Command, tests=True, renamed=IN_DENOISING)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--images", type=common.INPUT_FILE, required=True, help="Picture file of cuista prepare-images.")
@click.option("--sigma", type=common.positive, metavar="σ", help="Noise std. deviation, of 255. [as in training]")
@common.shifts_option
@click.option("--baselines", is_flag=True, help="Also test tuned FISTA, non-local means, BM3D.")
@common.seed_option
@common.report_options
def command(
    model_file: Path,
    images: Path,
    sigma: float | None,
    shifts: int | None,
    baselines: bool,
    seed: int,
    report: common.Report,
) -> None:
    """Test a denoiser on the test pictures of a file.

    The PSNR of each picture, also after clipping to black and white, its SSIM, and the means are printed.
    """
    denoiser = Denoiser.load(model_file, ops=report.ops)
    common.warn_untrained(denoiser, model_file)
    if sigma is not None and not denoiser.covers(sigma):
        trained = f"{model_file} was trained for σ = {denoiser.levels}, and is tested with σ = {sigma:g}"
        common.say(f"Note: {trained}: pictures are scaled so that their noise has the level of training.")
    common.note_left_out(test_pictures(images))
    with common.ProgressLine() as line:
        how: dict[str, Any] = {"sigma": sigma, "shifts": shifts, "baselines": baselines, "seed": seed}
        how |= {"say": common.say, "progress": line.show}
        found = evaluate_denoisers({denoiser.network.name: denoiser}, images, **how)
    report.show_pictures(found, model=str(model_file), seed=seed)
