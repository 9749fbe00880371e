"""cuista reconstruct"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.checks import as_real, check_layout, check_rows, in_columns
from cuista.data.form import Form
from cuista.data.pictures import Picture, check_ending, check_format, write_picture
from cuista.data.sensing import Measurements, Sensing
from cuista.errors import InputError
from cuista.model import load
from cuista.storage import is_cuista, load_array
from cuista.tasks.denoising import Denoiser
from cuista.tasks.plug_and_play import PlugAndPlay
from cuista.tasks.sensing import Reconstructor
from cuista.tasks.whole_pictures import PictureReconstructor

# If more than this share of pixels is outside the range from 0 to 1 by more than this, the units are probably others.
SHARE, BEYOND = 0.01, 0.05
# A picture is nearly black if no pixel is brighter than this.
DARK = 0.1


def picture_shape(value: str | tuple[int, int]) -> tuple[int, int]:
    """The option type of a picture's shape, such as 480x640."""
    if isinstance(value, tuple):
        return value
    try:
        height, width = (int(part) for part in value.lower().replace("×", "x").split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise click.BadParameter(f"{value!r} is not the height and width of a picture; expected a value like 480x640")
    return height, width


@click.command("reconstruct", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.argument("measurements_file", metavar="MEASUREMENTS", type=common.INPUT_FILE)
@click.option("-o", "--out", type=common.INPUT_FILE, required=True, help="Output picture (.png, .tif, .jpg, …).")
@click.option("--problem", type=common.INPUT_FILE, help="For a denoiser: file of Φ, of gen-problem --task cs.")
@click.option("--shape", type=picture_shape, metavar="HxW", help="Picture of measurements from elsewhere.")
@click.option("--white", type=common.positive, metavar="V", help="Its value of white, such as 255. [1]")
@common.key_option
@common.columns_option
@common.device_option
@common.force_option
def command(
    model_file: Path,
    measurements_file: Path,
    out: Path,
    problem: Path | None,
    shape: tuple[int, int] | None,
    white: float | None,
    key: str | None,
    columns: bool,
    device: str,
    force: bool,
) -> None:
    """Reconstruct a picture from the measurements of its blocks.

    MODEL was trained with --task cs, or is a denoiser, which recovers pictures from any Φ. MEASUREMENTS is a file of
    cuista sense. It can also be a .npy, .npz, .mat, .h5, .csv or .txt file (key y) with the measurements of one block
    per row, blocks row by row, of a grey picture. This needs --shape.
    """
    check_ending(out)
    common.claim(out, force)
    model: Any = load(model_file, Reconstructor, PictureReconstructor, Denoiser, ops=common.engine_on(device))
    common.warn_untrained(model, model_file)
    if isinstance(model, Denoiser):
        if problem is None:
            raise click.UsageError(
                f"{model_file} is a denoiser, which does not know Φ: give --problem, the file of cuista gen-problem "
                "--task cs with which the picture was measured"
            )
        common.note_one_level(model, model_file)
        model = PlugAndPlay(model, Sensing.load(problem))
    elif problem is not None:
        raise click.UsageError(f"--problem is for a denoiser: {model_file} contains its Φ, so leave it out")
    if is_cuista(measurements_file):
        given = {"--shape": shape, "--white": white, "--key": key, "--columns": columns or None}
        for option, value in given.items():
            if value is not None:
                raise click.UsageError(f"{option} is for measurements from elsewhere: {measurements_file} needs none")
        measured = Measurements.load(measurements_file, model.sensing)
    else:
        measured = _from_elsewhere(measurements_file, model.sensing, shape, white, key, columns)
    height, width = measured.shape
    check_format(out, Picture(np.broadcast_to(0.0, (len(measured.y), height, width)), measured.form))
    with common.ProgressLine() as line:
        how = {"progress": line.show} if isinstance(model, PlugAndPlay) else {}
        channels = model.reconstruct(measured.y, measured.shape, **how)
    low, high = measured.form.span
    outside = float(((channels < low - BEYOND) | (channels > high + BEYOND)).mean())
    if outside > SHARE:
        advice = "" if is_cuista(measurements_file) else " If the measurements are in other units, give --white."
        common.say(f"Note: {outside:.0%} of the pixels are clearly beyond black or white, and are clipped.{advice}")
    elif not is_cuista(measurements_file) and channels.max() < DARK:
        common.say("Note: the picture is nearly black. If the measurements are in other units, give --white.")
    write_picture(out, Picture(channels, measured.form), overwrite=force)
    common.say_left_out(out, measured.form)
    common.say(f"Wrote {out}.")


def _from_elsewhere(
    path: Path, sensing: Sensing, shape: tuple[int, int] | None, white: float | None, key: str | None, columns: bool
) -> Measurements:
    """The measurements in a bare array, in units in which white is 1."""
    y = as_real(load_array(path, "y", key=key), f"the array in {path}")
    columns = in_columns(y.shape, sensing.M, columns)
    check_layout(y.shape, sensing.M, f"the array in {path}", columns=columns)
    y = check_rows(y.T if columns else y, sensing.M, f"the array in {path}")
    if shape is None:
        raise InputError(f"{path} has {len(y)} blocks, but not the shape of the picture: give it", option="shape")
    return Measurements(y[None] / (white or 1.0), shape, Form(), sensing.measuring_sha256)
