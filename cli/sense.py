"""cuista sense"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.data.pictures import Pictures
from cuista.data.sensing import Measurements, Sensing
from cuista.summary import counted


@click.command("sense", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.argument("picture_file", metavar="PICTURE", type=common.INPUT_FILE)
@click.option("-o", "--out", type=common.H5_FILE, default="measurements.h5", help="Measurements file.")
@common.white_option
@common.force_option
def command(problem_file: Path, picture_file: Path, out: Path, white: float | None, force: bool) -> None:
    """Measure the blocks of a picture of any size, as an input for cuista reconstruct.

    PROBLEM is a file of gen-problem --task cs, or a model that was trained for one. The channels of a colour picture
    are measured one by one.
    """
    common.claim(out, force)
    sensing, pictures = Sensing.load(problem_file), Pictures(picture_file, white)
    picture = next(iter(pictures))
    common.say_notes(pictures.notes)
    if pictures.count > 1:
        common.say(f"Note: picture 1 of {pictures.count} in {picture_file} only is measured.")
    if picture.alpha is not None:
        common.say("Note: the picture has transparency, which is not measured.")
    _, height, width = picture.channels.shape
    y = np.stack([sensing.measure(channel) for channel in picture.channels])
    Measurements(y, (height, width), picture.form, sensing.measuring_sha256).save(out, overwrite=force)
    channels = "" if len(y) == 1 else f" in each of {len(y)} channels"
    common.say(f"Wrote {out}: {sensing.M} measurements of a block, {counted(y.shape[1], 'block')}{channels}.")
