"""cuista learn-dict"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.running import check_resume, resumable, resume_option
from cuista.cli.spellings import Command

from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet
from cuista.training import LearningRecipe, learn_dictionary


@click.command("learn-dict", cls=Command)
@click.argument("images_file", metavar="IMAGES", type=common.INPUT_FILE)
@click.option(
    "--size",
    type=common.filter_size,
    metavar="S|SxS",
    default="7",
    help="Size of the filters in pixels, like 7 or 7x5.",
)
@click.option("--filters", type=common.AT_LEAST_1, default=64, metavar="N", help="Number of filters.")
@common.bundled(
    "recipe",
    LearningRecipe,
    click.option("--lam", type=common.positive, default=0.05, metavar="λ", help="Larger values give sparser codes."),
    click.option("--steps", type=common.AT_LEAST_1, default=300, metavar="N", help="Number of steps."),
    click.option("--batch", type=common.AT_LEAST_1, default=4, metavar="N", help="Random crops per step."),
    click.option("--crop", type=common.AT_LEAST_1, default=96, metavar="PIXELS", help="Side of the crops."),
)
@common.seed_option
@click.option("-o", "--out", type=common.CONVERTIBLE_FILE, default="dictionary.h5", help="Dictionary file.")
@resume_option
@common.force_option
def command(
    images_file: Path,
    size: tuple[int, int],
    filters: int,
    recipe: LearningRecipe,
    seed: int,
    out: Path,
    resume: bool,
    force: bool,
) -> None:
    """Learn a convolutional dictionary from pictures.

    IMAGES is a file that cuista prepare-images has written; its training pictures are used.
    """
    if check_resume(out, resume, force) == out:
        Dictionary.load(out)
        common.say(f"{out} is complete: nothing to resume.")
        return
    images = ImageSet(images_file, "train", recipe.crop)
    common.note_left_out(images)
    how: dict[str, Any] = {"seed": seed, "out": out, "resume": resume, "overwrite": force}
    with common.ProgressLine() as line, resumable(out):
        how["progress"] = lambda step, last, value: line.show(step / last, f"step {step}/{last}, objective {value:.4g}")
        learned = learn_dictionary(images, size, filters, recipe, **how)
    common.say(f"Wrote {out}: {common.counted(learned.filters, 'filter')} of {learned.shape[0]}×{learned.shape[1]}.")
