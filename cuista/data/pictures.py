"""Reading and writing pictures in the usual formats, through Pillow (and pypng for 16-bit colour)."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array, as_real, check_finite, library
from cuista.errors import FileError, InputError

# The shares of red, green and blue in the luminance, by ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114])

FORMATS = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".webp": "WebP",
}
# A picture with more values than this, and with more of them for each byte of its file than a photograph can have, is
# taken for one that was made to fill the memory.
MANY, MANY_PER_BYTE = 1 << 25, 100
# The longest side in pixels, for formats that limit it or whose writer does.
LONGEST = {"JPEG": 65500, "WebP": 16383}


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes
    ----------
    channels
        Grey (1, H, W), or red, green and blue (3, H, W); float64 from 0 to 1.
    depth
        The number of bits that a channel has in the file, 8 or 16.
    alpha
        The opacity (H, W) from 0 to 1, or None if the picture is opaque.
    """

    channels: Array
    depth: int = 8
    alpha: Array | None = None

    def grey(self) -> Array:
        """The luminance (H, W) of the picture; where it is transparent, it is laid on white."""
        channels = self.channels
        grey: Array = channels[0] if len(channels) == 1 else np.tensordot(LUMINANCE, channels, 1)
        return grey if self.alpha is None else self.alpha * grey + (1 - self.alpha)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture, turned upright as its camera's metadata says. Of several pictures in a file the first is read.

    Palettes are replaced by their colours. The depth of 8 or 16 bits is kept; colour of 16 bits can be read from PNG
    only. The checksums of a PNG are checked; other formats have none.

    Raises
    ------
    FileError
        If the file is missing, damaged or not a picture, if its pixels do not fit into memory or are far too many for
        the size of the file, or if their kind is not supported.
    MissingLibraryError
        If Pillow is not installed, or pypng is not and the picture has 16-bit colour.
    """
    image_module = _pillow("Image")
    if Path(path).is_symlink() and not Path(path).exists():
        raise FileError(f"{path} is a link to nothing")
    storage.open_input(path).close()
    if storage.is_hdf5(path):
        raise FileError(f"{path} is an HDF5 file; expected a picture")
    with storage.complete(path):
        if _is_deep_colour_png(path):
            return _read_deep_colour(path)
        try:
            with _without_size_limit(image_module), image_module.open(path) as image:
                if image.format == "PNG":
                    image.verify()
        except image_module.UnidentifiedImageError:
            raise FileError(f"{path} is not a picture of a kind that Pillow reads, or is damaged") from None
        with _without_size_limit(image_module), image_module.open(path) as image, _quiet(image.format == "TIFF"):
            _check_size(path, image.width, image.height, len(image.getbands()))
            bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)
            if max(bits) > 8 and len(bits) > 1:
                raise FileError(f"{path} is a TIFF of {max(bits)}-bit colour, which cannot be read: convert it to PNG")
            return _from_pillow(_pillow("ImageOps").exif_transpose(image), path)


def write_picture(path: str | os.PathLike[str], picture: Picture, *, overwrite: bool = False) -> None:
    """Write a picture atomically, in the format that the file name's ending says and with the picture's depth.

    Raises
    ------
    FileError
        As `storage.replacing` and `check_format` do, and if the picture cannot be written for another reason.
    """
    image_module = _pillow("Image")
    kind, deep = check_format(path, picture), picture.depth == 16
    planes = [*picture.channels, *([] if picture.alpha is None else [picture.alpha])]
    pixels = to_integers(np.stack(planes, axis=-1), picture.depth)
    encoded = io.BytesIO()  # because Pillow does not notice it if only a part of a file is written
    if deep and len(planes) > 1:
        height, width, count = pixels.shape
        writer = _pypng().Writer(width, height, greyscale=count == 2, alpha=count in (2, 4), bitdepth=16)
        writer.write_packed(encoded, (row.astype(">u2").tobytes() for row in pixels))
    else:
        options = {"quality": 95} if kind in ("JPEG", "WebP") else {}
        try:
            image_module.fromarray(pixels[..., 0] if len(planes) == 1 else pixels).save(encoded, kind, **options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's writers refuse pictures with many kinds of exception
            raise FileError(f"cannot write {path} as {kind}: {' '.join(str(error).split())}") from error
    with storage.replacing(path, overwrite=overwrite) as file:
        storage.write_checked(file, encoded.getvalue())


def check_ending(path: str | os.PathLike[str]) -> str:
    """Pillow's name for the format of a file name's ending. Raises FileError if the ending is unknown."""
    try:
        return FORMATS[Path(path).suffix.lower()]
    except KeyError:
        raise FileError(f"{path} has no known ending; expected a name ending in {', '.join(FORMATS)}") from None


def check_format(path: str | os.PathLike[str], picture: Picture) -> str:
    """Pillow's name for the format of a file name's ending, after a check that it can hold the picture.

    Only the picture's shape, depth and transparency matter, not its values.

    Raises
    ------
    FileError
        If the ending is unknown, or the format does not support the picture's depth, transparency or size.
    """
    kind, (channels, height, width) = check_ending(path), picture.channels.shape
    if picture.depth == 16:
        plain = channels == 1 and picture.alpha is None
        able = {"PNG": ".png", "TIFF": ".tif"} if plain else {"PNG": ".png"}
        if kind not in able:
            pixels = f"{'grey' if channels == 1 else 'colour'}{'' if picture.alpha is None else ' with transparency'}"
            raise FileError(
                f"{path}: the picture is {pixels}, of 16 bits, which can be written as {' or '.join(able)} only; "
                f"end the name in {' or '.join(able.values())}"
            )
    if picture.alpha is not None and kind in ("JPEG", "BMP"):
        raise FileError(f"{path}: the picture has transparency, which {kind} does not support; end the name in .png")
    if max(height, width) > LONGEST.get(kind, np.inf):
        raise FileError(
            f"{path}: {kind} allows sides of at most {LONGEST[kind]} pixels, and the picture would have "
            f"{height}×{width}; end the name in .png"
        )
    return kind


def to_integers(values: Array, depth: int) -> Array:
    """Clip values to the range from 0 to 1 and scale them to unsigned integers of `depth` bits, 8 or 16."""
    largest = 2**depth - 1
    integers: Array = np.rint(np.clip(values, 0, 1) * largest).astype(np.uint16 if depth == 16 else np.uint8)
    return integers


def _from_pillow(image: Any, path: str | os.PathLike[str]) -> Picture:
    mode, transparent = image.mode, "transparency" in image.info
    if mode.startswith("I"):  # 16-bit grey, which some formats deliver as 32-bit integers
        pixels = np.asarray(image).astype(np.float64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise FileError(f"{path} has pixels from {pixels.min():g} to {pixels.max():g}; expected 8 or 16 bits")
        # A grey PNG may name a single value that is transparent.
        alpha = (pixels != image.info["transparency"]).astype(np.float64) if transparent else None
        return Picture(pixels[None] / 65535, 16, alpha)
    if mode == "F":
        raise FileError(f"{path} has floating-point pixels; expected 8 or 16 bits")
    grey = mode in ("1", "L", "LA", "La")
    opaque = mode not in ("LA", "La", "PA", "RGBA", "RGBa") and not transparent
    wanted = ("L" if opaque else "LA") if grey else ("RGB" if opaque else "RGBA")
    pixels = np.asarray(image.convert(wanted)).astype(np.float64) / 255
    planes = np.moveaxis(np.atleast_3d(pixels), 2, 0)
    return Picture(planes, 8) if opaque else Picture(planes[:-1], 8, planes[-1])


def _check_size(path: str | os.PathLike[str], width: int, height: int, channels: int) -> None:
    """Raise FileError if a picture has too many pixels for the size of its file, or for the memory."""
    values, stored = width * height * channels, os.path.getsize(path)
    if values > max(MANY, MANY_PER_BYTE * stored):
        raise FileError(
            f"{path} has {width}×{height} pixels in {stored} bytes, which looks like a file made to fill the memory; "
            "if it is a picture, save it without compression"
        )
    needed = 3 * 8 * values
    if hasattr(os, "sysconf") and needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise FileError(f"{path} is too large: its {width}×{height} pixels need {needed / 2**30:.0f} GiB of memory")


def _is_deep_colour_png(path: str | os.PathLike[str]) -> bool:
    """Whether this is a 16-bit PNG with more than one channel. Pillow would keep only 8 of its bits."""
    with open(path, "rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG") and len(head) == 26 and head[24] == 16 and head[25] in (2, 4, 6)


def _read_deep_colour(path: str | os.PathLike[str]) -> Picture:
    with open(path, "rb") as file:
        width, height, rows, info = _pypng().Reader(file=file).asDirect()
        _check_size(path, width, height, info["planes"])
        pixels = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, info["planes"]) / 65535
    planes = np.moveaxis(pixels, 2, 0)
    return Picture(planes[:-1], 16, planes[-1]) if info["alpha"] else Picture(planes, 16)


@contextlib.contextmanager
def _quiet(needed: bool) -> Iterator[None]:
    """Drop what C libraries print on stderr, as libtiff does about damaged files, if that is needed."""
    if not needed:
        yield
        return
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def _without_size_limit(image_module: Any) -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels. It guards against strangers' files, and these are the user's own."""
    limit = image_module.MAX_IMAGE_PIXELS
    image_module.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        image_module.MAX_IMAGE_PIXELS = limit


def _pillow(module: str) -> Any:
    return library(f"PIL.{module}", "images", "pictures are read and written with Pillow")


def _pypng() -> Any:
    return library("png", "images", "16-bit colour is read and written with pypng")


def check_grey(picture: Array, name: str) -> Array:
    """Check that an array is a grey picture (H, W) of finite numbers, and return it as float64.

    Raises
    ------
    InputError
        If the array is anything else; the message calls it `name`.
    """
    picture = as_real(picture, name)
    if picture.ndim != 2 or 0 in picture.shape:
        raise InputError(f"{name} has shape {picture.shape}; expected (H, W)")
    check_finite(picture, name)
    return picture.astype(np.float64)
