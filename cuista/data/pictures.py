"""Pictures: files of any usual kind as numbers and back, through Pillow (and pypng, for 16-bit colour)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import FileError, InputError, MissingLibraryError

# ITU-R 601: how much red, green and blue make of grey.
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
# Pixels along a side at most, where a format or what writes it has such a limit.
LONGEST = {"JPEG": 65500, "WebP": 16383}


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes
    ----------
    channels
        (1, H, W) grey or (3, H, W) red, green and blue; from 0 to 1, float64.
    depth
        Bits of a channel in its file, 8 or 16.
    alpha
        (H, W), from 0 to 1, or None if it is opaque.
    """

    channels: Array
    depth: int = 8
    alpha: Array | None = None

    def grey(self) -> Array:
        """Its luminance (H, W), on white where it is transparent."""
        channels = self.channels
        grey: Array = channels[0] if len(channels) == 1 else np.tensordot(LUMINANCE, channels, 1)
        return grey if self.alpha is None else self.alpha * grey + (1 - self.alpha)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture, upright as its camera meant it; of several in a file the first.

    Palettes become colours. 8 and 16 bits are kept: 16-bit colour is read from PNG. However large, it is read.

    Raises
    ------
    FileError
        If the file is missing, no picture, damaged, larger than memory, or has a kind of pixel that is not read.
    MissingLibraryError
        If Pillow is not installed, or pypng for a 16-bit colour picture.
    """
    image_module, operations = _pillow()
    if not Path(path).is_file():
        missing = "is a link to nothing" if Path(path).is_symlink() else "does not exist"
        raise FileError(f"{path} {'is a folder' if Path(path).is_dir() else missing}")
    try:
        if _is_deep_colour_png(path):
            return _read_deep_colour(path)
        with _of_any_size(image_module), image_module.open(path) as image:
            bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)
            if max(bits) > 8 and len(bits) > 1:
                raise FileError(f"{path} is a TIFF of {max(bits)} bits a colour, which is not read: convert it to PNG")
            return _from_pillow(operations.exif_transpose(image), path)
    except (FileError, MissingLibraryError):
        raise
    except image_module.UnidentifiedImageError:
        raise FileError(f"{path} is not a picture of a kind that Pillow reads, or is damaged") from None
    except MemoryError as error:
        raise FileError(f"{path} is too large: there is not enough memory for its pixels") from error
    except Exception as error:  # what a damaged file makes of Pillow's readers can be nearly any
        raise FileError(f"{path} is damaged: {error}") from error


def write_picture(path: str | os.PathLike[str], picture: Picture, *, overwrite: bool = False) -> None:
    """Write a picture, in the format of the name's ending and with its own depth, atomically.

    Raises
    ------
    FileError
        As `storage.replacing` and `check_format`; or if the picture cannot be written for any other reason.
    """
    image_module, _ = _pillow()
    kind, deep = check_format(path, picture), picture.depth == 16
    planes = [*picture.channels, *([] if picture.alpha is None else [picture.alpha])]
    pixels = to_integers(np.stack(planes, axis=-1), picture.depth)
    with storage.replacing(path, overwrite=overwrite) as temporary:
        if deep and len(planes) > 1:
            height, width, count = pixels.shape
            writer = _pypng().Writer(width, height, greyscale=count == 2, alpha=count in (2, 4), bitdepth=16)
            with open(temporary, "wb") as file:
                writer.write_packed(file, (row.astype(">u2").tobytes() for row in pixels))
            return
        options = {"quality": 95} if kind in ("JPEG", "WebP") else {}
        try:
            image_module.fromarray(pixels[..., 0] if len(planes) == 1 else pixels).save(temporary, kind, **options)
        except Exception as error:  # what Pillow's writers refuse they say in many ways
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
                raise
            raise FileError(f"cannot write {path} as {kind}: {' '.join(str(error).split())}") from error


def check_ending(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that the ending says; FileError if there is none."""
    try:
        return FORMATS[Path(path).suffix.lower()]
    except KeyError:
        raise FileError(
            f"cannot tell what to write to {path}: expected a name ending in {', '.join(FORMATS)}"
        ) from None


def check_format(path: str | os.PathLike[str], picture: Picture) -> str:
    """Pillow's name of the format that the ending says, which can hold such a picture; its values do not matter.

    Raises
    ------
    FileError
        If the ending is unknown, or the format has not such a depth, transparency or size.
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
        raise FileError(f"{path}: {kind} has no transparency, and the picture has; end the name in .png")
    if max(height, width) > LONGEST.get(kind, np.inf):
        raise FileError(
            f"{path}: {kind} has sides of {LONGEST[kind]} pixels at most, and the picture would have "
            f"{height}×{width}; end the name in .png"
        )
    return kind


def to_integers(values: Array, depth: int) -> Array:
    """Values from 0 to 1, clipped, as integers of so many bits."""
    largest = 2**depth - 1
    integers: Array = np.rint(np.clip(values, 0, 1) * largest).astype(np.uint16 if depth == 16 else np.uint8)
    return integers


def _from_pillow(image: Any, path: str | os.PathLike[str]) -> Picture:
    mode, transparent = image.mode, "transparency" in image.info
    if mode.startswith("I"):  # 16-bit grey, which some formats deliver as 32-bit integers
        pixels = np.asarray(image).astype(np.float64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise FileError(f"{path} has pixels from {pixels.min():g} to {pixels.max():g}; expected 8 or 16 bits")
        # A grey PNG names the one value that is transparent.
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


def _is_deep_colour_png(path: str | os.PathLike[str]) -> bool:
    """Whether this is a PNG of 16 bits and more than one channel, of which Pillow keeps 8."""
    with open(path, "rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG") and len(head) == 26 and head[24] == 16 and head[25] in (2, 4, 6)


def _read_deep_colour(path: str | os.PathLike[str]) -> Picture:
    with open(path, "rb") as file:
        width, height, rows, info = _pypng().Reader(file=file).asDirect()
        pixels = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, info["planes"]) / 65535
    planes = np.moveaxis(pixels, 2, 0)
    return Picture(planes[:-1], 16, planes[-1]) if info["alpha"] else Picture(planes, 16)


@contextlib.contextmanager
def _of_any_size(image_module: Any) -> Iterator[None]:
    """Without Pillow's limit of pixels, which is against strangers' files: these are the user's own."""
    limit = image_module.MAX_IMAGE_PIXELS
    image_module.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        image_module.MAX_IMAGE_PIXELS = limit


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingLibraryError(
            "pictures are read with Pillow, and that is not installed: pip install 'cuista[images]'"
        ) from None
    return Image, ImageOps


def _pypng() -> Any:
    try:
        import png
    except ImportError:
        raise MissingLibraryError(
            "16 bits a colour are read and written with pypng, and that is not installed: pip install 'cuista[images]'"
        ) from None
    return png


def check_grey(picture: Array, name: str) -> Array:
    """The array as float64, if it is a finite grey picture (H, W).

    Raises
    ------
    InputError
        If it is not.
    """
    from cuista.checks import as_real, check_finite

    picture = as_real(picture, name)
    if picture.ndim != 2 or 0 in picture.shape:
        raise InputError(f"{name} has shape {picture.shape}; expected (H, W)")
    check_finite(picture, name)
    return picture.astype(np.float64)
