"""cuista test --task cs"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.data.images import PatchSet
from cuista.tasks.sensing import Reconstructor, evaluate_reconstructors


@click.command("test", cls=Command, tests=True)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--images", type=common.INPUT_FILE, required=True, help="Picture file of cuista prepare-images.")
@click.option(
    "--baselines", metavar="PATCHES", type=common.INPUT_FILE, help="Also test FISTA, tuned on these validation patches."
)
@common.seed_option
@common.report_options
def command(model_file: Path, images: Path, baselines: Path | None, seed: int, report: common.Report) -> None:
    """Test compressive sensing on the test pictures of a file.

    The PSNR and SSIM of each picture and their means are printed, beside those of the least-norm solution, which for a
    Φ with orthonormal rows is the adjoint.
    """
    reconstructor = Reconstructor.load(model_file, ops=report.ops)
    patches = None if baselines is None else PatchSet(baselines, "validation")
    with common.ProgressLine() as line:
        how: dict[str, Any] = {"baselines": patches, "seed": seed, "say": common.say, "progress": line.show}
        found = evaluate_reconstructors({reconstructor.network.name: reconstructor}, images, **how)
    report.show_pictures(found, model=str(model_file), seed=seed)
