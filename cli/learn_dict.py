"""cuista learn-dict"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.running import check_resume, resumable, resume_option
from cuista.cli.spellings import Command

from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet, PatchSet
from cuista.storage import kind_of
from cuista.summary import counted
from cuista.training import AtomRecipe, LearningRecipe, learn_atoms, learn_dictionary

# What is learned from patches, and from whole pictures: options that only this has.
ONLY = {"cuista-images": ("size", "filters", "stride", "crop"), "cuista-patches": ("atoms", "constant")}


@click.command("learn-dict", cls=Command)
@click.argument("images_file", metavar="IMAGES", type=common.INPUT_FILE)
@click.option("--size", type=common.filter_size, metavar="S|SxS", help="Size of the filters, like 7 or 7x5. [7]")
@click.option("--filters", type=common.AT_LEAST_1, metavar="N", help="Number of filters. [64]")
@click.option("--stride", type=common.AT_LEAST_1, metavar="Q", help="Stride of the maps. [1]")
@click.option("--crop", type=common.AT_LEAST_1, metavar="PIXELS", help="Side of the crops. [96]")
@click.option("--atoms", type=common.AT_LEAST_1, metavar="N", help="Patches: number of atoms. [512]")
@click.option("--constant", is_flag=True, default=None, help="Patches: make one atom constant, for --task denoise.")
@common.bundled(
    "recipe",
    dict,
    click.option("--lam", type=common.positive, metavar="λ", help="Sparsity of the codes. [0.05; patches: 0.1]"),
    click.option("--steps", type=common.AT_LEAST_1, metavar="N", help="Number of steps. [300; patches: 400]"),
    click.option("--batch", type=common.AT_LEAST_1, metavar="N", help="Crops per step. [4; patches: 256]"),
)
@common.seed_option
@common.workers_option
@click.option("-o", "--out", type=common.CONVERTIBLE_FILE, default="dictionary.h5", help="Dictionary file.")
@resume_option
@common.force_option
def command(
    images_file: Path, recipe: dict[str, Any], seed: int, out: Path, resume: bool, force: bool, **form: Any
) -> None:
    """Learn a dictionary from pictures or patches.

    IMAGES is a file that cuista prepare-images has written, whose training pictures are used. From whole pictures, the
    filters of a convolutional dictionary are learned (for --task denoise); from patches (prepare-images --patches), the
    atoms of a dictionary for patches of this size (for --task cs, or with --constant and a stride for denoising).
    """
    is_complete = check_resume(out, resume, force) == out
    numbers = {name: value for name, value in recipe.items() if value is not None}
    kind = kind_of(images_file, *ONLY)
    for other, names in ONLY.items():
        for name in names:
            if other != kind and form[name] is not None:
                holds = "patches" if kind == "cuista-patches" else "whole pictures"
                raise click.UsageError(f"--{name}: {images_file} has {holds}, for which there is no such option")
    learn: Callable[..., Dictionary]
    if kind == "cuista-patches":
        patches = PatchSet(images_file, "train")
        atoms, constant = form["atoms"] or 512, bool(form["constant"])
        learn, what = partial(learn_atoms, patches, atoms, AtomRecipe(**numbers), constant=constant), "atom"
    else:
        own = LearningRecipe(**numbers, **({} if form["crop"] is None else {"crop": form["crop"]}))
        images = ImageSet(images_file, "train", own.crop)
        common.note_left_out(images)
        shape, filters = form["size"] or (7, 7), form["filters"] or 64
        learn, what = partial(learn_dictionary, images, shape, filters, own, stride=form["stride"] or 1), "filter"
    how: dict[str, Any] = {"seed": seed, "out": out, "resume": resume, "overwrite": force}
    with common.ProgressLine() as line, resumable(out):
        how["progress"] = lambda step, last, value: line.show(step / last, f"step {step}/{last}, objective {value:.4g}")
        learned = learn(**how)
    if is_complete:
        common.say(f"{out} is complete: nothing to resume.")
        return
    common.say(f"Wrote {out}: {counted(learned.filters, what)} of {learned.shape[0]}×{learned.shape[1]}.")
