"""cuista test --task cs"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.data.images import PatchSet
from cuista.data.sensing import Sensing
from cuista.errors import InputError
from cuista.model import load
from cuista.tasks.denoising import Denoiser
from cuista.tasks.plug_and_play import PlugAndPlay
from cuista.tasks.sensing import Reconstructor, evaluate_reconstructors
from cuista.tasks.whole_pictures import PictureReconstructor


@click.command("test", cls=Command, tests=True)
@click.argument("model_files", metavar="MODEL…", type=common.INPUT_FILE, nargs=-1, required=True)
@click.option("--images", type=common.INPUT_FILE, required=True, help="Picture file of cuista prepare-images.")
@click.option(
    "--baselines", metavar="PATCHES", type=common.INPUT_FILE, help="Also test FISTA, tuned on these validation patches."
)
@click.option("--problem", type=common.INPUT_FILE, help="For denoisers: file of Φ. [that of the other models]")
@common.seed_option
@common.report_options
def command(
    model_files: tuple[Path, ...],
    images: Path,
    baselines: Path | None,
    problem: Path | None,
    seed: int,
    report: common.Report,
) -> None:
    """Test compressive sensing on the test pictures of a file.

    The PSNR and SSIM of each picture and their means are printed, beside those of the least-norm solution, which for a
    Φ with orthonormal rows is the adjoint. Several models for the same Φ are compared. Denoisers, which recover
    pictures from any Φ, can be among them.
    """
    if len(set(model_files)) < len(model_files):
        raise click.UsageError("a model is named twice: name each once")
    kinds = Reconstructor, PictureReconstructor, Denoiser
    models: dict[Path, Any] = {file: load(file, *kinds, ops=report.ops) for file in model_files}
    for file, model in models.items():
        common.warn_untrained(model, file)
    denoisers = [file for file, model in models.items() if isinstance(model, Denoiser)]
    known = [model.sensing for file, model in models.items() if file not in denoisers]
    if problem is not None:
        if not denoisers:
            raise click.UsageError("--problem is for denoisers: these models contain their Φ, so leave it out")
        known = [Sensing.load(problem)]
    elif not known:
        raise InputError("denoisers do not know Φ: name a file of cuista gen-problem --task cs", option="problem")
    for file in denoisers:
        common.note_one_level(models[file], file)
        models[file] = PlugAndPlay(models[file], known[0])
    stems = [file.stem for file in models]
    names = stems if len(set(stems)) == len(stems) else list(map(str, models))
    named = dict(
        zip(names if len(models) > 1 else [each.network.name for each in models.values()], models.values(), strict=True)
    )
    patches = None if baselines is None else PatchSet(baselines, "validation")
    with common.ProgressLine() as line:
        how: dict[str, Any] = {"baselines": patches, "seed": seed, "say": common.say, "progress": line.show}
        found = evaluate_reconstructors(named, images, **how)
    report.show_pictures(found, model=" ".join(map(str, model_files)), seed=seed)
