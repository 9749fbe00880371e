"""Sets of grey pictures, or of patches of them, in one HDF5 file, and random crops of the pictures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.counter import PLACES, PREPARING, Key
from cuista.data.pictures import Note, Picture, Pictures, to_integers
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps
from cuista.summary import Described, counted

# The order matters: pictures are dealt out to the splits in it.
SPLITS = ("train", "validation", "test")
# The side of an HDF5 chunk in pixels. A crop of 321×321 pixels touches 9 to 16 chunks.
CHUNK = 128
# How far rounding can bring a picture beyond white.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Prepared:
    """The outcome of `prepare_images`.

    Attributes
    ----------
    counts
        The number of pictures by split.
    skipped
        Why each file was skipped that was.
    notes
        What the user should know about files that were read.
    """

    counts: dict[str, int]
    skipped: list[str]
    notes: list[Note] = field(default_factory=list)


def prepare_images(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: Sequence[int] | None = None,
    patches: int | None = None,
    per_image: int = 10_000,
    white: float | None = None,
    strict: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Prepared:
    """Write the pictures of a folder and its sub-folders, converted to grey, to a `cuista-images` file.

    The files are shuffled, and their pictures are dealt out to the splits; the order depends on `seed` and on the
    files' names only. Pages of a TIFF and frames of an animation are pictures that stay in order, one after the other.
    No more pictures are read than the splits need. Each becomes an array (H, W) named like `train/00000`, with 8 bits,
    or with 16 if its file has more than 8, in chunks that suit the reading of crops, and with the attributes `name`,
    `sha256` (of its file) and `depth`. With `patches` the result is a `cuista-patches` file instead, which has an array
    of patches (n, s, s) for each picture.

    Parameters
    ----------
    folder
        The folder to search. Files and folders whose names begin with a dot are ignored.
    split
        The numbers of pictures for training, validation and test. If there are fewer pictures than their sum, the
        numbers are taken as shares, and every share above 0 gets at least one picture as far as there are enough.
        None stands for shares of 80, 10 and 10 %.
    patches
        The side s of the square patches in pixels; None for whole pictures.
    per_image
        The number n of random patches that are taken from each picture.
    white
        The number in the files that stands for white; see `cuista.data.pictures.Pictures`.
    strict
        Whether a file that cannot be read raises an error; if not, it is skipped.
    seed
        The seed of the shuffling and of the patches' places.
    progress
        Called with the number of pictures written, the largest number possible, and the name of the next file.

    Raises
    ------
    FileError
        If the folder is missing or has no picture, or if `out` cannot be written; with `strict`, if a file cannot be
        read.
    InputError
        If `split`, `patches` or `per_image` is out of range.
    """
    if split is not None and (len(split) != len(SPLITS) or min(split) < 0 or not any(split)):
        raise InputError(
            f"the split is {list(split)}; expected how many pictures go to training, validation and test, not all 0",
            option="split",
        )
    if patches is not None and (patches < 2 or per_image < 1):
        raise InputError(
            f"{per_image} patches of side {patches} were asked for; expected 1 or more, of side 2 or more",
            option=("patches", "per_image"),
        )
    files = files_in(Path(folder))
    order = np.argsort(CpuOps().random_words(Key(seed, PREPARING), PLACES)(len(files)), kind="stable")
    wanted = None if split is None else sum(split)
    most = len(files) if wanted is None else min(wanted, len(files))
    digests: list[str] = []
    skipped: list[str] = []
    notes: list[Note] = []
    left = 0
    storage.check_writable(out, overwrite=overwrite)

    def note(text: str, option: str = "") -> None:
        if Note(text, option) not in notes:
            notes.append(Note(text, option))

    def readable() -> Iterator[tuple[int, str, Array, str]]:
        """The number of each picture's patches, its name, its pixels, and the hash of its file."""
        nonlocal left
        for index in order:
            path, page = files[index], 0
            if progress:
                progress(len(digests), max(most, len(digests)), path.name)
            try:
                pictures = Pictures(path, white)
                name, digest = storage.printable(path.relative_to(folder).as_posix()), _digest(path)
                for one in pictures.notes:
                    note(*one)
                for page, picture in enumerate(pictures):
                    brightness, number = grey_of(picture, path), int(index) + page * len(files)
                    if brightness.min() < -ROUNDING or brightness.max() > 1 + ROUNDING:
                        note(f"parts of {path} are darker than black or brighter than white, and are clipped", "white")
                    grey = to_integers(brightness, 8 if picture.depth <= 8 else 16)
                    if patches and min(grey.shape) < patches:
                        raise FileError(f"{path} has {grey.shape[0]}×{grey.shape[1]} pixels, less than a patch")
                    left = pictures.count - page - 1
                    yield number, name if pictures.count == 1 else f"{name}, {page + 1}", grey, digest
            except FileError as error:
                if strict:
                    advice = "Remove it, or allow that such files are skipped"
                    raise FileError(f"{error}. {advice}", option=error.options) from error
                left = 0
                skipped.append(f"{error}; the pages before page {page + 1} are taken" if page else str(error))
                if "white" in error.options:
                    note("files are skipped because nothing says which of their numbers stands for white", "white")

    with storage.creating(out, "cuista-patches" if patches else "cuista-images", overwrite=overwrite) as file:
        file.attrs["seed"] = seed
        for name in SPLITS:
            file.create_group(name)
        for number, name, grey, digest in islice(readable(), wanted):
            pixels, chunks = grey, tuple(min(CHUNK, size) for size in grey.shape)
            if patches:
                pixels = _random_patches(grey, patches, per_image, Key(seed, PREPARING, number + 1))
                chunks = min(per_image, max(CHUNK**2 // patches**2, 1)), patches, patches
            # Only at the end is it known how many pictures can be dealt out. Until then all go to training.
            node = file.create_dataset(_numbered("train", len(digests)), data=pixels, chunks=chunks)
            digests.append(digest)
            node.attrs.update(name=name, sha256=digest, depth=8 * grey.dtype.itemsize)
        if left:
            note(f"the last {left} of the pages of {name.rpartition(', ')[0]} are left out, as the split needs no more")
        if not digests:
            reasons = f": {skipped[0]}" if skipped else ""
            raise FileError(f"{folder} has no picture that can be read{reasons}")
        counts = _deal(len(digests), split)
        first = counts["train"]
        for name in SPLITS[1:]:
            for number in range(counts[name]):
                file.move(_numbered("train", first + number), _numbered(name, number))
            first += counts[name]
        what = {"pictures": digests, "counts": counts, "patches": patches and [patches, per_image, seed]}
        file.attrs["sha256"] = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    return Prepared(counts, skipped, notes)


class ImageSet(Described):
    """The pictures of one split of a `cuista-images` file, which are read when they are needed.

    Parameters
    ----------
    path
        The `cuista-images` file.
    split
        `train`, `validation` or `test`.
    least
        The smallest side in pixels; pictures with a shorter side are left out.
    least_of
        What needs sides of `least` pixels, for the error message.
    multiple
        What the side of a crop is a multiple of.

    Attributes
    ----------
    keys
        The names of the pictures' arrays in the file.
    left_out
        The number of pictures that are too small.
    sha256
        The hash of the file's pictures and of how they are dealt out to the splits.

    Raises
    ------
    FileError
        If the file is damaged, or is not a `cuista-images` file.
    InputError
        If the split has no picture, or none that is large enough.
    """

    def __init__(
        self, path: str | os.PathLike[str], split: str, least: int = 1, least_of: str = "the crop", *, multiple: int = 1
    ) -> None:
        self.path, self.split, self.least, self.least_of = path, split, least, least_of
        with storage.opened(path, "cuista-images") as file:
            if split not in file or "sha256" not in file.attrs:
                raise FileError(f"{path} is damaged: its split {split!r} or its hash is missing")
            self.sha256 = str(file.attrs["sha256"])
            held = storage.datasets(file, path)
            shapes = {name: held[name].shape for name in sorted(held) if name.startswith(f"{split}/")}
        self.keys = [key for key, shape in shapes.items() if min(shape) >= least]
        if not shapes:
            raise InputError(
                f"{path} has no pictures for {split}: prepare the images again, with a split that gives it some",
                option="split",
            )
        if not self.keys:
            largest = max(min(shape) for shape in shapes.values())
            possible = largest // multiple * multiple
            is_crop = least_of == "the crop" and possible > 0
            advice = f"give a crop of {possible} or less" if is_crop else "prepare the images again with larger ones"
            raise InputError(
                f"no {split} picture of {path} is as large as {least_of} of {least}×{least}: "
                f"the largest has {largest} pixels on its shorter side; {advice}",
                option="crop" if is_crop else (),
            )
        self.left_out = len(shapes) - len(self.keys)

    def facts(self) -> dict[str, str]:
        too_small = f"{self.left_out} smaller than {self.least}×{self.least} left out" if self.left_out else ""
        return {"pictures": f"{counted(len(self), self.split + ' picture')} of {self.path}", "left out": too_small}

    def __len__(self) -> int:
        return len(self.keys)

    def pictures(self) -> Iterator[tuple[str, Array]]:
        """The name and the pixels (H, W), from 0 to 1, of each picture in turn."""
        return map(self.picture, range(len(self)))

    def picture(self, number: int) -> tuple[str, Array]:
        """The name and the pixels (H, W), from 0 to 1, of one picture."""
        with storage.opened(self.path, "cuista-images") as file:
            node = file[self.keys[number]]
            return str(node.attrs["name"]), node[()] / _largest(node)

    def crops(self, key: Key, batch: int, size: int, rows: slice = slice(None)) -> Array:
        """Random crops (rows, size, size) of random pictures, float32 from 0 to 1. They depend on the key only.

        `rows` are those of a batch that are read.
        """
        words = CpuOps().random_words(key, PLACES)(3 * batch).reshape(batch, 3)[rows]
        crops = np.empty((len(words), size, size), np.float32)
        with storage.opened(self.path, "cuista-images") as file:
            for crop, (which, row, column) in zip(crops, words, strict=True):
                node = file[self.keys[int(which) % len(self.keys)]]
                i, j = (int(w) % (length - size + 1) for w, length in zip((row, column), node.shape, strict=True))
                np.divide(node[i : i + size, j : j + size], _largest(node), out=crop, casting="unsafe")
        return crops


class PatchSet(Described):
    """The patches of one split of a `cuista-patches` file. They are read at once, and kept in memory as integers.

    Parameters
    ----------
    path
        The `cuista-patches` file.
    split
        `train`, `validation` or `test`.

    Attributes
    ----------
    shape
        The size (s, s) of a patch in pixels.
    sha256
        The hash of the file's pictures, and of how their patches were chosen and dealt out to the splits.

    Raises
    ------
    FileError
        If the file is damaged, or is not a `cuista-patches` file.
    InputError
        If the split has no patch.
    """

    def __init__(self, path: str | os.PathLike[str], split: str) -> None:
        self.path, self.split = path, split
        with storage.opened(path, "cuista-patches") as file:
            if split not in file or "sha256" not in file.attrs:
                raise FileError(f"{path} is damaged: its split {split!r} or its hash is missing")
            self.sha256 = str(file.attrs["sha256"])
            held = storage.datasets(file, path)
            nodes = [held[name] for name in sorted(held) if name.startswith(f"{split}/")]
            self._pictures = [(node[()], _largest(node)) for node in nodes]
        if not self._pictures:
            raise InputError(
                f"{path} has no patches for {split}: prepare the images again, with a split that gives it pictures",
                option="split",
            )
        self.shape: tuple[int, int] = self._pictures[0][0].shape[1:]
        self._ends = np.cumsum([len(patches) for patches, _ in self._pictures])

    def facts(self) -> dict[str, str]:
        patches, (rows, columns) = counted(len(self), f"{self.split} patch", f"{self.split} patches"), self.shape
        return {"patches": f"{patches} of {rows}×{columns} of {self.path}"}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, key: Key, batch: int, rows: slice = slice(None)) -> Array:
        """Random patches (rows, s²), float32 from 0 to 1, these rows of a batch. They depend on the key only."""
        numbers = (CpuOps().random_words(key, PLACES)(batch)[rows] % np.uint64(len(self))).astype(np.int64)
        drawn = np.empty((len(numbers), *self.shape), np.float32)
        for patch, number, which in zip(drawn, numbers, np.searchsorted(self._ends, numbers, "right"), strict=True):
            patches, largest = self._pictures[which]
            np.divide(patches[number - self._ends[which]], largest, out=patch, casting="unsafe")
        return drawn.reshape(len(numbers), -1)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def grey_of(picture: Picture, path: Path) -> Array:
    """The luminance (H, W) of a picture. Raises FileError, which names the file, as `Picture.grey` does."""
    try:
        return picture.grey()
    except FileError as error:
        raise FileError(f"{path} {error}") from None


def _numbered(split: str, number: int) -> str:
    """The name of a picture's array in the file."""
    return f"{split}/{number:05d}"


def _largest(node: Any) -> float:
    """The value that stands for white."""
    return float(np.iinfo(node.dtype).max)


def files_in(folder: Path) -> list[Path]:
    """The visible files in a folder and below, in order. Raises FileError if there are none, or it is no folder."""
    if not folder.is_dir():
        raise FileError(f"{folder} is not a folder; expected a folder of pictures")
    # A broken link counts as a file, so that it is reported like a file that cannot be read.
    files = (path for path in folder.rglob("*") if path.is_file() or not path.exists())
    visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not visible:
        raise FileError(f"{folder} is empty; expected a folder of pictures")
    return sorted(visible)


def _deal(count: int, split: Sequence[int] | None) -> dict[str, int]:
    """The number of pictures that each split gets when `count` are dealt out; see `prepare_images`.

    A share above 0 that rounds to no picture gets one from the largest split, as long as that has more than one.
    """
    wanted = np.array(split if split is not None else (80, 10, 10), np.float64)
    if split is None or wanted.sum() > count:
        ends = np.rint(np.cumsum(wanted) / wanted.sum() * count)
        shares, wanted = wanted, np.diff(ends, prepend=0)
        for empty in np.flatnonzero((wanted == 0) & (shares > 0)):
            if wanted.max() > 1:
                wanted[np.argmax(wanted)] -= 1
                wanted[empty] = 1
    return dict(zip(SPLITS, map(int, wanted), strict=True))


def _random_patches(grey: Array, size: int, count: int, key: Key) -> Array:
    """Random patches (count, size, size) of a picture, in its integer type."""
    words = CpuOps().random_words(key, PLACES)(2 * count).reshape(count, 2)
    rows, columns = (words[:, axis] % np.uint64(grey.shape[axis] - size + 1) for axis in (0, 1))
    windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))
    return np.ascontiguousarray(windows[rows.astype(np.int64), columns.astype(np.int64)])
