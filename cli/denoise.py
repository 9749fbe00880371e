"""cuista denoise"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.data.pictures import Picture, check_ending, check_format, read_picture, write_picture
from cuista.tasks.denoising import Denoiser


@click.command("denoise", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.argument("picture_file", metavar="PICTURE", type=common.INPUT_FILE)
@click.option("-o", "--out", type=common.INPUT_FILE, required=True, help="Output picture (.png, .tif, .jpg, …).")
@click.option("--compare", type=common.INPUT_FILE, help="Also write input, output and difference in a row.")
@common.device_option
@common.force_option
def command(model_file: Path, picture_file: Path, out: Path, compare: Path | None, device: str, force: bool) -> None:
    """Denoise a picture of any size.

    MODEL is a denoiser that cuista train has written. The channels of a colour picture are denoised one by one. The bit
    depth (8 or 16) is kept, and so is transparency.
    """
    for target in filter(None, (out, compare)):
        check_ending(target)
        common.claim(target, force)
    if compare is not None and compare.absolute() == out.absolute():
        raise click.UsageError("--compare and --out name the same file: give two different names")
    denoiser = Denoiser.load(model_file, ops=common.engine_on(device))
    common.warn_untrained(denoiser, model_file)
    picture = read_picture(picture_file)
    # Both formats are checked before any work is done; a blank picture of triple width stands in for the comparison.
    channels, height, width = picture.channels.shape
    check_format(out, picture)
    if compare is not None:
        check_format(compare, Picture(np.broadcast_to(0.0, (channels, height, 3 * width)), picture.depth))
    if denoiser.network.selects and len(denoiser.tiles(picture.channels[0].shape)) > 1:
        title = denoiser.network.title
        common.say(
            f"Note: the picture is processed in tiles, and {title} selects entries in each one: seams may be visible."
        )
    denoised = np.stack([denoiser.denoise(channel) for channel in picture.channels])
    write_picture(out, Picture(denoised, picture.depth, picture.alpha), overwrite=force)
    common.say(f"Wrote {out}.")
    if compare is not None:
        # The difference is centred on grey and amplified four times, because noise is faint.
        difference = 0.5 + 4 * (picture.channels - denoised)
        beside = np.concatenate([picture.channels, denoised, difference], axis=2)
        write_picture(compare, Picture(beside, picture.depth), overwrite=force)
        common.say(f"Wrote {compare}: input, output, and four times their difference on grey, side by side.")
