"""cuista denoise"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.checks import Array
from cuista.data.pictures import Picture, Pictures, check_ending, check_format, write_pictures
from cuista.evaluation.figures import in_a_row
from cuista.tasks.denoising import Denoiser

# The captions of the pictures of --compare.
CAPTIONS = ("input", "output", "4 times the difference")


@click.command("denoise", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.argument("picture_file", metavar="PICTURE", type=common.INPUT_FILE)
@click.option("-o", "--out", type=common.INPUT_FILE, required=True, help="Output picture (.png, .tif, .jpg, …).")
@click.option("--compare", type=common.INPUT_FILE, help="Also write input, output and difference in a row.")
@common.white_option
@common.device_option
@common.force_option
def command(
    model_file: Path, picture_file: Path, out: Path, compare: Path | None, white: float | None, device: str, force: bool
) -> None:
    """Denoise a picture of any size, or all pages of a TIFF, or all frames of an animation.

    MODEL is a denoiser that cuista train has written. The channels of a colour picture are denoised one by one. The
    kind of number and the bit depth are kept, and so are transparency, colour profile and resolution.
    """
    for target in filter(None, (out, compare)):
        check_ending(target)
        common.claim(target, force)
    if compare is not None and compare.absolute() == out.absolute():
        raise click.UsageError("--compare and --out name the same file: give two different names")
    denoiser = Denoiser.load(model_file, ops=common.engine_on(device))
    common.warn_untrained(denoiser, model_file)
    pictures = Pictures(picture_file, white)
    common.say_notes(pictures.notes)
    # Both formats are checked before any work is done; blank pictures stand in for the results.
    first = next(iter(pictures))
    check_format(out, first, pictures.count)
    if compare is not None:
        check_format(compare, _beside(first, first.channels), pictures.count)
    if denoiser.network.selects and len(denoiser.tiles(first.channels[0].shape)) > 1:
        title = denoiser.network.title
        common.say(
            f"Note: the picture is processed in tiles, and {title} selects entries in each one: seams may be visible."
        )
    comparisons: list[Picture] = []

    def denoised() -> Iterator[Picture]:
        with common.ProgressLine() as line:
            for number, picture in enumerate(pictures):
                line.show(number / pictures.count, f"picture {number + 1} of {pictures.count}")
                channels = np.stack([denoiser.denoise(channel) for channel in picture.channels])
                if compare is not None:
                    comparisons.append(_beside(picture, channels))
                yield replace(picture, channels=channels)

    write_pictures(out, denoised(), overwrite=force)
    common.say(f"Wrote {out}{f', with {pictures.count} pictures' if pictures.count > 1 else ''}.")
    common.say_left_out(out, first.form, pictures.count)
    if compare is not None:
        write_pictures(compare, comparisons, overwrite=force)
        common.say(f"Wrote {compare}: input, output, and four times their difference on grey, with captions.")


def _beside(picture: Picture, denoised: Array) -> Picture:
    """The picture, what is left of it without noise, and their difference, side by side under captions."""
    # The difference is centred on grey and amplified four times, because noise is faint.
    difference = 0.5 + 4 * (picture.channels - denoised)
    form = replace(picture.form, depth=8 if picture.depth <= 8 else 16, numbers="unsigned", white=None, tags=())
    return Picture(in_a_row(dict(zip(CAPTIONS, (picture.channels, denoised, difference), strict=True))), form)
