"""Many pictures at once: which files are pictures, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cuista.data.images import files_in
from cuista.data.pictures import FORMATS, is_named_like_a_picture
from cuista.errors import FileError

# The endings of formats with animations, which PNG holds too; results of others that are not written become TIFF.
ANIMATED = (".gif", ".avif", ".avifs", ".apng")


class Job(NamedTuple):
    """A file of pictures, the file that its results are written to, and its size in bytes."""

    source: Path
    target: Path
    size: int


def jobs_for(sources: Sequence[Path], out: Path) -> tuple[list[Job], list[Path]]:
    """What is read and written when files, and folders with their sub-folders, are processed into a folder.

    Files keep their names, and those of a folder their place in it. Results of a format that is not written become
    TIFF, or PNG for one with animations. What lies in `out` itself is no source.

    Returns
    -------
    jobs
        One for each picture. Files that are given themselves are taken for pictures whatever their names are.
    passed_over
        Files in the folders whose names do not end like those of pictures.

    Raises
    ------
    FileError
        If there is no picture, if a result would replace a source, or if two results would have the same name.
    MissingLibraryError
        If Pillow is not installed.
    """
    found: list[tuple[Path, Path]] = []
    passed_over: list[Path] = []
    results = Path(os.path.realpath(out))
    for source in sources:
        if not source.is_dir():
            found.append((source, Path(source.name)))
            continue
        if os.path.realpath(source) == str(results):
            raise FileError(f"the results would replace the pictures in {source}: give another folder", option="out")
        for path in files_in(source):
            if results in Path(os.path.realpath(path)).parents:
                continue
            if is_named_like_a_picture(path):
                found.append((path, path.relative_to(source)))
            else:
                passed_over.append(path)
    if not found:
        raise FileError(f"there is no picture in {', '.join(map(str, sources))}; expected files such as .png or .tif")
    jobs: dict[Path, Job] = {}
    for source, name in found:
        ending = name.suffix.lower()
        target = out / (name if ending in FORMATS else name.with_suffix(".png" if ending in ANIMATED else ".tif"))
        if target in jobs:
            raise FileError(
                f"{source} and {jobs[target].source} would both be written to {target}: give them one "
                "after the other, with different folders"
            )
        if os.path.realpath(target) == os.path.realpath(source):
            raise FileError(f"the result would replace {source} itself: give another folder", option="out")
        jobs[target] = Job(source, target, source.stat().st_size if source.exists() else 0)
    return list(jobs.values()), passed_over
