"""Denoising pictures as they come in files: several channels, pages and frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from cuista.data.form import Form
from cuista.data.pictures import Picture, Pictures, check_format, write_pictures
from cuista.tasks.denoising import Denoiser


def denoise_file(
    denoiser: Denoiser,
    pictures: Pictures,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda number: None,
    seen: Callable[[Picture, Picture], None] = lambda noisy, denoised: None,
) -> Form:
    """Denoise all pictures of a file, write them with the form that they have, and return that of the first.

    Parameters
    ----------
    denoiser
        The network.
    pictures
        The pictures.
    out
        The file to write. Its name's ending says in which format.
    overwrite
        Whether a file of this name is replaced.
    progress
        Called with the number of pictures done, from 0.
    seen
        Called with each picture, noisy and denoised.

    Raises
    ------
    FileError
        As `Pictures` and `write_pictures`; that the format does not suit is found before any work is done.
    InputError
        If a picture is smaller than a filter.
    """
    first = next(iter(pictures))
    check_format(out, first, pictures.count)

    def denoised() -> Iterator[Picture]:
        for number, picture in enumerate(pictures):
            progress(number)
            result = replace(picture, channels=np.stack([denoiser.denoise(channel) for channel in picture.channels]))
            seen(picture, result)
            yield result

    write_pictures(out, denoised(), overwrite=overwrite)
    return first.form
