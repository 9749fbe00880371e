"""cuista denoise"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.checks import Array, as_real
from cuista.data.camera import CameraNoise
from cuista.data.folders import Job, jobs_for
from cuista.data.images import grey_of
from cuista.data.pictures import (
    Note,
    Picture,
    Pictures,
    check_ending,
    check_format,
    is_named_like_a_picture,
    left_out,
    read_picture,
    write_pictures,
)
from cuista.errors import CuistaError, FileError
from cuista.evaluation.figures import in_a_row
from cuista.ranks import ranks
from cuista.storage import load_array
from cuista.summary import counted, span
from cuista.tasks.denoising import Denoiser, grid_places
from cuista.tasks.photographs import denoise_file
from cuista.training.interruption import deferred_signals

# The captions of the pictures of --compare.
CAPTIONS = ("input", "output", "4 times the difference")
# How many names are listed in a message.
LISTED = 5


def number_or_file(value: str | float | Path) -> float | Path:
    """The option type of a level of noise: a number, or a file with one for each pixel."""
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return Path(value)
    return value if isinstance(value, Path) else common.positive(value)


class Noise:
    """What the user says about the noise.

    Attributes
    ----------
    arguments
        The arguments `sigma` and `camera` of `denoise_file`.
    """

    def __init__(
        self, sigma: float | Path | None, gain: float | None, read_noise: float | None, offset: float | None
    ) -> None:
        if gain is None and (read_noise, offset) != (None, None):
            raise click.UsageError("--read-noise and --offset describe a camera: give its --gain, too")
        if gain is not None and sigma is not None:
            raise click.UsageError("--sigma is a level of noise, and --gain describes a camera's: give one of them")
        self.sigma = _map(sigma) if isinstance(sigma, Path) else sigma
        self.camera = None if gain is None else CameraNoise(gain, read_noise or 0.0, offset or 0.0)
        self.arguments: dict[str, Any] = {"sigma": self.sigma, "camera": self.camera}

    @property
    def is_estimated(self) -> bool:
        """Whether the level of noise is estimated for each picture."""
        return self.sigma is None and self.camera is None

    def is_for(self, denoiser: Denoiser, sigmas: Sequence[float] = ()) -> bool:
        """Whether the noise is known to be what the network was trained for, or is a camera's, which is brought to it.

        `sigmas` are the levels of noise that were found.
        """
        known = sigmas or ([self.sigma] if isinstance(self.sigma, float) else [])
        return self.camera is not None or (bool(known) and all(map(denoiser.covers, known)))

    def found(self, sigmas: Sequence[float]) -> str:
        """The level of noise of the channels of some pictures, in words."""
        return f"noise of σ = {span(sigmas, '.3g')}{' (estimated)' if self.is_estimated else ''}"


def _map(path: Path) -> Array:
    """The level of noise of each pixel, of 255, in the file of an array, or as the numbers of a grey picture."""
    if not is_named_like_a_picture(path):
        return as_real(load_array(path, "sigma"), f"the array in {path}")
    return 255 * grey_of(read_picture(path, 255), path)


finite = common.number("a finite number", math.isfinite)
noise_options = common.bundled(
    "noise",
    Noise,
    click.option(
        "--sigma", type=number_or_file, metavar="σ|FILE", help="Noise std. deviation, of 255, or a map. [estimated]"
    ),
    click.option("--gain", type=common.positive, metavar="G", help="Camera: electrons per number (e⁻/ADU)."),
    click.option("--read-noise", type=common.not_negative, metavar="E", help="Camera: read noise in electrons. [0]"),
    click.option("--offset", type=finite, metavar="N", help="Camera: number of a pixel without light. [0]"),
)


@click.command("denoise", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.argument("sources", metavar="PICTURE…", type=common.INPUT_FILE, nargs=-1, required=True)
@click.option("-o", "--out", type=common.INPUT_FILE, required=True, help="Output picture (.png, .tif, …), or folder.")
@noise_options
@click.option("--compare", type=common.INPUT_FILE, help="Also write input, output and difference in a row.")
@common.shifts_option
@common.white_option
@common.device_option
@click.option("--resume", is_flag=True, help="Folder: leave out pictures whose output exists.")
@common.force_option
def command(
    model_file: Path,
    sources: tuple[Path, ...],
    out: Path,
    noise: Noise,
    compare: Path | None,
    shifts: int | None,
    white: float | None,
    device: str,
    resume: bool,
    force: bool,
) -> None:
    """Denoise a picture of any size, or all pages of a TIFF, or all frames of an animation, or a folder of these.

    MODEL is a denoiser that cuista train has written. The kind of number and the bit depth are kept, and so are
    transparency, colour profile and resolution. The level of the noise is estimated unless it is given. With --gain,
    the noise is that of a camera: it grows with the light.

    Of a folder, all pictures are denoised, also those in its sub-folders. With a folder or several pictures, --out is a
    folder, in which each result has the name and the place of its picture.
    """
    if len(sources) > 1 or sources[0].is_dir() or out.is_dir():
        if compare is not None:
            raise click.UsageError("--compare is for a single picture: leave it out, or give one picture")
        if resume and force:
            raise click.UsageError("--resume keeps the outputs that exist, and --force replaces them: give one of them")
        jobs, passed_over = jobs_for(sources, out)
        if passed_over:
            are = "is" if len(passed_over) == 1 else "are"
            what = counted(len(passed_over), "file")
            common.say(f"Note: {what} without a picture's ending {are} left out: {_listed(passed_over)}.")
        left = ranks().agreed(lambda: _left(jobs, out, resume, force))
        jobs = [jobs[number] for number in left]
        if jobs:
            denoiser = _loaded(model_file, device, shifts)
            if not noise.is_for(denoiser):
                common.say(
                    f"{model_file} was trained for σ = {denoiser.levels}: pictures with other noise are scaled to it."
                )
            _denoise_folder(denoiser, jobs, out, noise, shifts, white, force)
        return
    if resume:
        raise click.UsageError("--resume is for folders: leave it out")
    _denoise_one(model_file, sources[0], out, noise, compare, shifts, white, device, force)


def _loaded(model_file: Path, device: str, shifts: int | None) -> Denoiser:
    denoiser = Denoiser.load(model_file, ops=common.engine_on(device))
    grid_places(denoiser.network.stride, shifts)  # raises an error before any work is done
    common.warn_untrained(denoiser, model_file)
    return denoiser


# -- one picture -------------------------------------------------------------------------------------------------------


def _denoise_one(
    model_file: Path,
    source: Path,
    out: Path,
    noise: Noise,
    compare: Path | None,
    shifts: int | None,
    white: float | None,
    device: str,
    force: bool,
) -> None:
    for target in filter(None, (out, compare)):
        check_ending(target)
        common.claim(target, force)
    if compare is not None and compare.absolute() == out.absolute():
        raise click.UsageError("--compare and --out name the same file: give two different names")
    denoiser = _loaded(model_file, device, shifts)
    pictures = Pictures(source, white)
    common.say_notes(pictures.notes)
    # Both formats are checked before any work is done; blank pictures stand in for the results.
    first = next(iter(pictures))
    check_format(out, first, pictures.count)
    comparisons: list[Picture] = []
    if compare is not None:
        check_format(compare, _beside(first, first), pictures.count)
    _note_tiles(denoiser, first)

    def seen(noisy: Picture, denoised: Picture) -> None:
        if compare is not None:
            comparisons.append(_beside(noisy, denoised))

    with common.ProgressLine() as line:

        def progress(number: int) -> None:
            line.show(number / pictures.count, f"picture {number + 1} of {pictures.count}")

        how: dict[str, Any] = {"overwrite": force, "progress": progress, "seen": seen}
        found = denoise_file(denoiser, pictures, out, **noise.arguments, shifts=shifts, **how)
    is_for = noise.is_for(denoiser, found.sigmas)
    if noise.is_estimated or not is_for:
        trained = f"; {model_file} was trained for σ = {denoiser.levels}, to which the picture was scaled"
        common.say(f"{source}: {noise.found(found.sigmas)}{'' if is_for else trained}.")
    common.say(f"Wrote {out}{f', with {pictures.count} pictures' if pictures.count > 1 else ''}.")
    common.say_left_out(out, first.form, pictures.count)
    if compare is not None:
        write_pictures(compare, comparisons, overwrite=force)
        common.say(f"Wrote {compare}: input, output, and four times their difference on grey, with captions.")


def _note_tiles(denoiser: Denoiser, picture: Picture) -> None:
    """Say so if the network makes seams in a picture of this size."""
    if denoiser.network.selects and len(denoiser.tiles(picture.channels[0].shape)) > 1:
        title = denoiser.network.title
        common.say(
            f"Note: the picture is processed in tiles, and {title} selects entries in each one: seams may be visible."
        )


def _beside(noisy: Picture, denoised: Picture) -> Picture:
    """A picture with noise, what is left of it without, and their difference, side by side under captions."""
    # The difference is centred on grey and amplified four times, because noise is faint.
    channels = noisy.channels, denoised.channels, 0.5 + 4 * (noisy.channels - denoised.channels)
    form = replace(noisy.form, depth=8 if noisy.depth <= 8 else 16, numbers="unsigned", white=None, tags=())
    return Picture(in_a_row(dict(zip(CAPTIONS, channels, strict=True))), form)


# -- many pictures -----------------------------------------------------------------------------------------------------


def _listed(paths: Sequence[Path]) -> str:
    """The names of some files, but not of too many."""
    names = ", ".join(map(str, paths[:LISTED]))
    return names if len(paths) <= LISTED else f"{names} and {len(paths) - LISTED} more"


def _left(jobs: list[Job], out: Path, resume: bool, force: bool) -> list[int]:
    """The numbers of the pictures that are left to be denoised: with --resume, those without an output."""
    there = [job for job in jobs if job.target.exists()]
    if out.exists() and not out.is_dir():
        raise FileError(f"{out} is a file; expected a folder for {counted(len(jobs), 'picture')}", option="out")
    if there and not (resume or force):
        exist = "exists" if len(there) == 1 else "exist"
        raise FileError(
            f"{_listed([job.target for job in there])} {exist} already: choose another folder, leave these pictures "
            "out, or overwrite them",
            option=("resume", "overwrite"),
        )
    if resume:
        common.say(f"{len(there)} of {counted(len(jobs), 'picture')} have an output already, and are left out.")
        return [number for number, job in enumerate(jobs) if job not in there]
    return list(range(len(jobs)))


def _denoise_folder(
    denoiser: Denoiser, jobs: list[Job], out: Path, noise: Noise, shifts: int | None, white: float | None, force: bool
) -> None:
    """Denoise pictures into a folder, and go on after those that cannot be denoised. Ranks share the pictures out."""
    here, sizes = ranks(), [max(job.size, 1) for job in jobs]
    with common.ProgressLine() as line, deferred_signals() as interrupted:

        def denoise(number: int) -> dict[str, Any]:
            """What is to be said of a picture that has been denoised, or why it has not."""
            job = jobs[number]
            if interrupted():
                done = counted(len(jobs), "picture")
                common.say(f"{number // here.size} of {done} are done; --resume does the others.")
                raise KeyboardInterrupt

            def progress(page: int) -> None:
                done = sum(sizes[:number]) + sizes[number] * page / pictures.count
                line.show(done / sum(sizes), f"{number + 1} of {len(jobs)}: {job.source}")

            try:
                pictures = Pictures(job.source, white)
                _make(job.target.parent)
                how: dict[str, Any] = {"shifts": shifts, "overwrite": force, "progress": progress}
                found = denoise_file(denoiser, pictures, job.target, **noise.arguments, **how)
            except (CuistaError, MemoryError) as error:
                reason = str(error) or "there is not enough memory"
                told: dict[str, Any] = {"failed": reason if str(job.source) in reason else f"{job.source}: {reason}"}
            else:
                level = f"{job.source}: {noise.found(found.sigmas)}." if noise.is_estimated else ""
                told = {"level": level, "lost": left_out(job.target, found.form, pictures.count)}
                told["notes"] = pictures.notes
            tell(told)
            return told

        def tell(told: dict[str, Any]) -> None:
            if told.get("failed"):
                common.LOG.error(told["failed"])
            elif told["level"]:
                common.say(told["level"])

        found = here.spread([partial(denoise, number) for number in range(len(jobs))])
        for number, told in enumerate(found):
            if number % here.size != here.rank:  # its own rank has told only itself
                tell(told)
    notes = [Note(*note) for told in found for note in told.get("notes", ())]
    common.say_notes(list(dict.fromkeys(notes)))
    for what in dict.fromkeys(told["lost"] for told in found if told.get("lost")):
        common.say(f"Note: outputs do not keep the {what}.")
    failed = [job.source for job, told in zip(jobs, found, strict=True) if "failed" in told]
    written = len(jobs) - len(failed)
    if written:
        common.say(f"Wrote {counted(written, 'file')} to {out}.")
    if failed:
        raise FileError(f"{len(failed)} of {counted(len(jobs), 'file')} could not be denoised: {_listed(failed)}")


def _make(folder: Path) -> None:
    """Make sure that a folder exists."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}") from error
