"""cuista prepare-images"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import IN_PREPARATION, Command

from cuista.data.images import prepare_images
from cuista.summary import counted


def parse_split(value: str) -> tuple[int, ...]:
    """The option type of --split: three numbers separated by commas."""
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or min(numbers) < 0 or not any(numbers):
        raise click.BadParameter(
            f"{value!r} is not three numbers of pictures, for training, validation and test, like 400,50,50"
        )
    return numbers


@click.command("prepare-images", cls=Command, ignored=IN_PREPARATION)
@click.argument("folder", type=common.INPUT_FILE)
@click.option(
    "--split",
    type=parse_split,
    metavar="TRAIN,VALID,TEST",
    help="Numbers of pictures for each use, or their ratio if there are fewer. [80, 10 and 10 %]",
)
@click.option("--patches", type=common.AT_LEAST_2, metavar="PIXELS", help="Store random square patches of this side.")
@click.option("--per-image", type=common.AT_LEAST_1, metavar="N", help="Patches per picture. [10000]")
@common.white_option
@click.option("--strict", is_flag=True, help="Stop at an unreadable file; don't skip it.")
@common.seed_option
@click.option("-o", "--out", type=common.H5_FILE, default="images.h5", help="Picture file.")
@common.force_option
def command(
    folder: Path, out: Path, split: Any, patches: int | None, per_image: int | None, force: bool, **others: Any
) -> None:
    """Gather the pictures of a FOLDER into one file.

    The pictures are turned to grey, shuffled, and divided into training, validation and test pictures.
    """
    if per_image is not None and patches is None:
        raise click.UsageError(
            "--per-image is the number of patches, and there are none without --patches: give both, or neither"
        )
    with common.ProgressLine() as line:
        others["progress"] = lambda done, files, name: line.show(done / files, f"{done}/{files} {name}")
        others |= {"split": split, "patches": patches, "per_image": per_image or 10_000, "overwrite": force}
        prepared = prepare_images(folder, out, **others)
    for reason in prepared.skipped:
        common.say(f"Skipped: {reason}.")
    common.say_notes(prepared.notes)
    if not prepared.counts["validation"] and prepared.counts["train"]:
        common.say("Note: no picture is left for validation, which cuista train needs: add pictures or change --split.")
    if not prepared.counts["test"] and (split is None or split[2]):
        common.say("Note: no picture is left for cuista test: add pictures or change --split.")
    counts = ", ".join(f"{count} for {name}" for name, count in prepared.counts.items())
    each = counted(per_image or 10_000, "patch", "patches")
    what = f"{each} of {patches}×{patches} from each of the pictures" if patches else "pictures"
    common.say(f"Wrote {out}: {what}, {counts}.")
