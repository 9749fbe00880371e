"""Reading and writing pictures in the usual formats, through Pillow, tifffile, and pypng for 16-bit colour."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cuista import storage
from cuista.checks import Array, as_real, check_finite, library
from cuista.data import tiff
from cuista.data.form import CENTIMETRE, INCH, NO_UNIT, Form, Numbers
from cuista.errors import CuistaError, FileError, InputError

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
# The EXIF tag that says which way up a picture is.
ORIENTATION = 0x0112
# Pillow's names of formats in which several pictures are frames of an animation, or pages.
SEVERAL = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
# A picture with more values than this, and with more of them for each byte of its file than a photograph can have, is
# taken for one that was made to fill the memory.
MANY, MANY_PER_BYTE = 1 << 25, 100
# The longest side in pixels, for formats that limit it or whose writer does.
LONGEST = {"JPEG": 65500, "WebP": 16383}
# Pillow's names of formats that it knows, but that are drawings, films or arrays.
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# The depths that cameras have, and a share of the largest number: if none is above it, the data may have such a depth.
DEPTHS, DIM = (8, 10, 12, 14, 16, 24), 0.25
# The chunks of a PNG that define its colours, beside the profile.
COLOUR_CHUNKS = ("cICP", "sRGB", "gAMA", "cHRM")
METRE = 0.0254


class Note(NamedTuple):
    """Something that the user should know about a file, and the Python parameter that changes it, if there is one."""

    text: str
    option: str = ""


class Stored(NamedTuple):
    """The numbers (C, H, W) of a picture as they are in its file, its opacity (H, W) from 0 to 1, and its form."""

    numbers: Array
    alpha: Array | None
    form: Form


@dataclass(frozen=True)
class Picture:
    """A picture in memory.

    Attributes
    ----------
    channels
        Grey (1, H, W), or red, green and blue (3, H, W), or the channels of a TIFF (C, H, W), as float64. 0 is black
        and 1 is white; TIFF with signed or floating-point numbers may have values beyond.
    form
        How the picture is stored: its depth, kind of number, colour profile and resolution.
    alpha
        The opacity (H, W) from 0 to 1, or None if the picture is opaque.
    """

    channels: Array
    form: Form = field(default_factory=Form)
    alpha: Array | None = None

    @property
    def depth(self) -> int:
        """The number of bits that a channel has in the file."""
        return self.form.depth

    def grey(self) -> Array:
        """The luminance (H, W) of the picture; where it is transparent, it is laid on white.

        Raises
        ------
        FileError
            If the picture has several channels that are not red, green and blue.
        """
        channels, colour = self.channels, self.form.colour
        if len(channels) > 1 and not (colour or (colour is None and len(channels) == 3)):
            raise FileError(f"has {len(channels)} channels that are not red, green and blue; expected one or these")
        grey: Array = channels[0] if len(channels) == 1 else np.tensordot(LUMINANCE, channels[:3], 1)
        return grey if self.alpha is None else self.alpha * grey + (1 - self.alpha)

    def stored(self, form: Form) -> Stored:
        """The picture's numbers in a file of this form."""
        alpha = None if self.alpha is None else replace(form, white=None).stored(self.alpha)
        return Stored(form.stored(self.channels), alpha, form)


class Pictures:
    """The pictures in a file, which are read when they are iterated over: one, the pages of a TIFF, or animated frames.

    Pictures are upright, as the camera's metadata says. Palettes are replaced by their colours. What the numbers stand
    for is taken from the file: their depth and sign, and whether 0 is white. The checksums of a PNG are checked; other
    formats have none.

    Parameters
    ----------
    path
        The file.
    white
        The number in the file that stands for white. None stands for the largest integer of the file's depth. In
        floating point it stands for 1 if all numbers are from 0 to 1.

    Attributes
    ----------
    count
        The number of pictures that are read.
    notes
        What is left out, and whether the picture is so dark that white is probably another number.

    Raises
    ------
    FileError
        If the file is missing, damaged or not a picture, if its pixels do not fit into memory or are far too many for
        the size of the file, if their kind is not supported, or if `white` is needed.
    MissingLibraryError
        If Pillow is not installed, or the library that the kind of picture needs.
    """

    def __init__(self, path: str | os.PathLike[str], white: float | None = None) -> None:
        self.path, self.count = path, 1
        self.notes: list[Note] = []
        self._only: Stored | None = None
        self._white: dict[tuple[Numbers, int], float | None] = {}
        _pillow("Image")
        if Path(path).is_symlink() and not Path(path).exists():
            raise FileError(f"{path} is a link to nothing")
        with storage.open_input(path) as file:
            self._is_tiff = file.read(4) in tiff.SIGNATURES
        if storage.is_hdf5(path):
            raise FileError(f"{path} is an HDF5 file; expected a picture")
        with storage.complete(path):
            plain = self._survey()
            if self.count == 1:
                self._only = next(self._read())
            if not plain or white is not None:
                self._find_white(white)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Picture]:
        with storage.complete(self.path):
            for numbers, alpha, form in [self._only] if self._only else self._read():
                form = replace(form, white=self._white.get((form.numbers, form.depth)))
                yield Picture(form.brightness(numbers), form, alpha)

    def _note(self, text: str, option: str = "") -> None:
        if Note(text, option) not in self.notes:
            self.notes.append(Note(text, option))

    # -- what is in the file ------------------------------------------------------------------------------------------

    def _survey(self) -> bool:
        """Count the pictures and check their sizes. Return whether all of them have 8 bits, which need no look."""
        if self._is_tiff:
            with tiff.opened(self.path) as (pages, notes):
                self.count = len(pages)
                for note in notes:
                    self._note(note)
                for found in pages:
                    page = found.page
                    _check_size(self.path, page.imagewidth, page.imagelength, page.samplesperpixel * page.imagedepth)
                return all(found.is_for_pillow for found in pages)
        image_module = _pillow("Image")
        try:
            with _without_size_limit(image_module), image_module.open(self.path) as image:
                _check_raw(self.path, image)
                _check_size(self.path, image.width, image.height, len(image.getbands()))
                frames, kind = int(getattr(image, "n_frames", 1)), image.format
                deep = image.mode.startswith("I") or image.mode == "F"
                if kind == "PNG":
                    image.verify()
        except image_module.UnidentifiedImageError:
            raise FileError(f"{self.path} is not a picture of a kind that Pillow reads, or is damaged") from None
        deep = deep or _is_deep_colour_png(self.path)
        if kind in SEVERAL and not deep:
            self.count = frames
        elif frames > 1:
            self._note(f"picture 1 of {frames} in {self.path} only")
        lost = _lost_depth(self.path, kind)
        if lost:
            self._note(f"{self.path} has {lost} bits a channel, of which 8 are read: better convert it to TIFF")
        return not deep

    def _find_white(self, white: float | None) -> None:
        """Find out which number stands for white, for each kind of number in the file."""
        ranges: dict[tuple[Numbers, int], tuple[float, float, Form]] = {}
        for numbers, _, form in [self._only] if self._only else self._read():
            kind = form.numbers, form.depth
            if form.numbers == "float" and not np.isfinite(numbers).all():
                wrong = numbers.size - np.isfinite(numbers).sum()
                raise FileError(f"{self.path} has {wrong} NaN or infinite numbers; expected finite ones")
            low, high, _ = ranges.get(kind, (np.inf, -np.inf, form))
            ranges[kind] = min(low, float(numbers.min())), max(high, float(numbers.max())), form
        for kind, (low, high, form) in ranges.items():
            self._white[kind] = white
            if white is None:
                self._look_at(low, high, form)
            elif white > form.limits[1]:
                raise FileError(
                    f"the numbers in {self.path} have {form.depth} bits and end at {form.limits[1]:g}, and {white:g} "
                    "was given as white; give a smaller number",
                    option="white",
                )

    def _look_at(self, low: float, high: float, form: Form) -> None:
        """Note it, or raise FileError, if white is probably another number than the form says."""
        largest, dim = max(high, -low), max(high, -low) <= DIM * form.brightest
        if form.numbers == "float":
            if low < 0 or high > 1:
                raise FileError(
                    f"{self.path} has floating-point numbers from {low:g} to {high:g}, and nothing says which of them "
                    f"is white; expected 0 to 1. Give the number that stands for white: {_likely_white(largest):g}?",
                    option="white",
                )
            if dim and high > 0:
                self._note(f"no number in {self.path} is above {high:g}: if 1 is not white, say what is", "white")
        elif dim and largest > 0 and form.depth > 8:
            likely = _likely_white(largest)
            what = f"no number in {self.path} is above {largest:.0f}, of {form.limits[1]:.0f}"
            data = f"if these are {int(likely).bit_length()}-bit data, white is {likely:.0f}"
            if form.depth > 16:
                raise FileError(f"{what}: say which of them stands for white; {data}", option="white")
            self._note(f"{what}: {data}", "white")

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> Iterator[Stored]:
        if self._is_tiff:
            with tiff.opened(self.path) as (pages, _):
                by_pillow = [found.index for found in pages if found.is_for_pillow]
                with contextlib.closing(self._frames(by_pillow)) as frames:
                    for found in pages:
                        if found.is_for_pillow:
                            numbers, alpha, form = next(frames)
                            yield self._with_right_profile(Stored(numbers, alpha, _merged(found, form)))
                        else:
                            yield self._with_right_profile(Stored(*tiff.read_page(self.path, found)))
        elif _is_deep_colour_png(self.path):
            yield self._with_right_profile(self._deep_colour())
        else:
            for stored in self._frames(range(self.count)):
                yield self._with_right_profile(stored)

    def _frames(self, which: Iterable[int]) -> Generator[Stored, None, None]:
        """The pictures with these numbers, as Pillow reads them."""
        image_module, upright = _pillow("Image"), _pillow("ImageOps").exif_transpose
        with contextlib.ExitStack() as stack:
            image = None
            for index in which:
                with _without_size_limit(image_module), _quiet(self._is_tiff):
                    if image is None:
                        # Not by its name: Pillow 13 maps some files then, and does not turn their pixels upright.
                        file = stack.enter_context(open(self.path, "rb"))
                        image = stack.enter_context(image_module.open(file))
                    if index:
                        image.seek(index)
                    if image.mode == "CMYK":
                        self._note(f"{self.path} is converted from CMYK to red, green and blue")
                    numbers, alpha, form = _from_pillow(upright(image), self.path)
                    about = {} if self._is_tiff else _meaning(image, self.path, self.count)
                    if "milliseconds" in about and alpha is not None and alpha.min() == 1:
                        alpha = None  # Pillow gives each frame of some formats an opacity
                yield Stored(numbers, alpha, replace(form, **about))

    def _deep_colour(self) -> Stored:
        """A PNG of 16-bit colour, of which Pillow would keep 8 bits."""
        with _pillow("Image").open(self.path) as image:
            orientation, about = _orientation(image), _meaning(image, self.path, 1)
        with open(self.path, "rb") as file:
            width, height, rows, info = _pypng().Reader(file=file).asDirect()
            _check_size(self.path, width, height, info["planes"])
            pixels = np.vstack([np.asarray(row, np.uint16) for row in rows]).reshape(height, width, info["planes"])
        planes = tiff.upright(np.moveaxis(pixels, 2, 0), orientation)
        form = Form(16, **about)
        return Stored(planes[:-1], form.brightness(planes[-1]), form) if info["alpha"] else Stored(planes, None, form)

    def _with_right_profile(self, stored: Stored) -> Stored:
        """The picture without its colour profile if that is for another kind of colour than it was converted to."""
        space, channels = stored.form.profile[16:20], len(stored.numbers)
        # A profile for colours also gives greys their meaning.
        if space in (b"", b"RGB ") or channels not in (1, 3) or (space == b"GRAY" and channels == 1):
            return stored
        kind = space.decode("ascii", "replace").strip()
        self._note(f"the colour profile of {self.path} is for {kind}, which its pixels are not any more, and left out")
        return stored._replace(form=replace(stored.form, profile=b""))


def read_picture(path: str | os.PathLike[str], white: float | None = None) -> Picture:
    """Read a picture, or the first of several in a file. The parameters and errors are those of `Pictures`."""
    return next(iter(Pictures(path, white)))


def write_picture(path: str | os.PathLike[str], picture: Picture, *, overwrite: bool = False) -> None:
    """Write a picture as `write_pictures` does."""
    write_pictures(path, [picture], overwrite=overwrite)


def write_pictures(path: str | os.PathLike[str], pictures: Iterable[Picture], *, overwrite: bool = False) -> None:
    """Write pictures atomically, in the format that the file name's ending says and with the form of each.

    TIFF holds any number of pictures; PNG and WebP hold one, or the frames of an animation; others hold one.

    Raises
    ------
    FileError
        As `storage.replacing` and `check_format` do, and if the pictures cannot be written for another reason.
    """
    kind, stored = check_ending(path), []
    for count, picture in enumerate(pictures, 1):
        check_format(path, picture, count)
        stored.append(picture.stored(_form_in(kind, picture.form)))
    try:
        encoded = tiff.encoded(stored) if kind == "TIFF" else _encoded(kind, stored)
    except (MemoryError, CuistaError):
        raise
    except Exception as error:  # Pillow's writers refuse pictures with many kinds of exception
        raise FileError(f"cannot write {path} as {kind}: {' '.join(str(error).split())}") from error
    with storage.replacing(path, overwrite=overwrite) as file:
        storage.write_checked(file, encoded)


def check_ending(path: str | os.PathLike[str]) -> str:
    """Pillow's name for the format of a file name's ending. Raises FileError if the ending is unknown."""
    ending = Path(path).suffix.lower()
    if ending == ".gif":
        raise FileError(f"{path}: GIF has 256 colours only, and is not written; end the name in .png, or .webp")
    try:
        return FORMATS[ending]
    except KeyError:
        raise FileError(f"{path} has no known ending; expected a name ending in {', '.join(FORMATS)}") from None


def is_named_like_a_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file name ends like those of pictures that are read. Raises MissingLibraryError as `Pictures` does."""
    image_module = _pillow("Image")
    kind = image_module.registered_extensions().get(Path(path).suffix.lower())
    return kind in image_module.OPEN and kind not in NO_PICTURES


def check_format(path: str | os.PathLike[str], picture: Picture, count: int = 1) -> str:
    """Pillow's name for the format of a file name's ending, after a check that it can hold `count` such pictures.

    Only the picture's shape, form and transparency matter, not its values.

    Raises
    ------
    FileError
        If the ending is unknown, or the format does not support the picture's numbers, transparency, size or count.
    """
    kind, form, (channels, height, width) = check_ending(path), picture.form, picture.channels.shape
    what = "grey" if channels == 1 else "colour" if channels == 3 else f"of {channels} channels"
    what += "" if picture.alpha is None else " with transparency"
    able = ["PNG", "TIFF"]
    if form.numbers != "unsigned" or form.depth > 16 or channels not in (1, 3):
        able, numbers = ["TIFF"], {"signed": "signed ", "float": "floating-point "}.get(form.numbers, "")
        what += f", of {numbers}numbers of {form.depth} bits"
    elif form.depth > 8:
        what += f", of {form.depth} bits"
    if kind not in able and (form.depth > 8 or able == ["TIFF"]):
        endings = " or ".join(ending for ending, name in FORMATS.items() if name in able and ending != ".tiff")
        formats = " or ".join(able)
        raise FileError(
            f"{path}: the picture is {what}, which can be written as {formats} only; end the name in {endings}"
        )
    if picture.alpha is not None and kind in ("JPEG", "BMP"):
        raise FileError(f"{path}: the picture has transparency, which {kind} does not support; end the name in .png")
    animated = form.milliseconds is not None and form.depth == 8
    if count > 1 and kind != "TIFF" and not (animated and kind in ("PNG", "WebP")):
        instead = ".png, .webp or .tif" if animated else ".tif"
        raise FileError(f"{path}: {kind} holds only one of the pictures, and there are more; end the name in {instead}")
    if max(height, width) > LONGEST.get(kind, np.inf):
        raise FileError(
            f"{path}: {kind} allows sides of at most {LONGEST[kind]} pixels, and the picture would have "
            f"{height}×{width}; end the name in .png"
        )
    return kind


def left_out(path: str | os.PathLike[str], form: Form, count: int = 1) -> str:
    """What a file with this name does not keep of a picture's form, as a list in words; empty if it keeps all."""
    kind, lost = check_ending(path), []
    if form.profile and kind == "BMP":
        lost.append("colour profile")
    if form.chunks and kind != "PNG" and "sRGB" not in form.chunks and not form.profile:
        lost.append(f"definition of its colours ({', '.join(form.chunks)})")
    if form.resolution and kind == "WebP":
        lost.append("resolution")
    if form.tags and kind != "TIFF":
        lost.append("description and other TIFF tags")
    if form.exif:
        lost.append("EXIF data")
    if count > 1 and form.milliseconds is not None and kind == "TIFF":
        lost.append("timing of the animation")
    return " and ".join(lost)


def to_integers(values: Array, depth: int) -> Array:
    """Clip values to the range from 0 to 1 and scale them to unsigned integers of `depth` bits, 8 or 16."""
    largest = 2**depth - 1
    integers: Array = np.rint(np.clip(values, 0, 1) * largest).astype(np.uint16 if depth == 16 else np.uint8)
    return integers


# -- Pillow and PNG ---------------------------------------------------------------------------------------------------


def _from_pillow(image: Any, path: str | os.PathLike[str]) -> Stored:
    mode, transparent = image.mode, "transparency" in image.info
    if mode.startswith("I"):  # 16-bit grey, which some formats deliver as 32-bit integers
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise FileError(f"{path} has pixels from {pixels.min():g} to {pixels.max():g}; expected 8 or 16 bits")
        # A grey PNG may name a single value that is transparent.
        alpha = (pixels != image.info["transparency"]).astype(np.float64) if transparent else None
        return Stored(pixels[None], alpha, Form(16))
    if mode == "F":
        return Stored(np.asarray(image)[None], None, Form(32, "float"))
    if mode == "LAB":
        raise FileError(f"{path} has CIELAB colours, which are not read: convert it to RGB")
    grey = mode in ("1", "L", "LA", "La")
    opaque = mode not in ("LA", "La", "PA", "RGBA", "RGBa") and not transparent
    wanted = ("L" if opaque else "LA") if grey else ("RGB" if opaque else "RGBA")
    planes = np.moveaxis(np.atleast_3d(np.asarray(image.convert(wanted))), 2, 0)
    return Stored(planes, None, Form()) if opaque else Stored(planes[:-1], Form().brightness(planes[-1]), Form())


def _merged(found: tiff.Page, form: Form) -> Form:
    """The form of a page of a TIFF that Pillow has read."""
    said = found.form()
    resolution = tiff.upright_resolution(said.resolution, found.orientation)
    tags = said.tags if found.orientation == 1 else ()
    return replace(form, profile=said.profile, resolution=resolution, tags=tags, big=said.big)


def _meaning(image: Any, path: str | os.PathLike[str], count: int) -> dict[str, Any]:
    """What Pillow has found about an open picture that is no TIFF, as arguments of `Form`."""
    info = image.info
    about: dict[str, Any] = {
        "profile": info.get("icc_profile") or b"",
        "exif": bool(set(image.getexif()) - {ORIENTATION}),
    }
    for name, unit in (("aspect", NO_UNIT), ("dpi", INCH)):
        if name in info and min(info[name]) > 0:
            resolution = float(info[name][0]), float(info[name][1]), unit
            about["resolution"] = tiff.upright_resolution(resolution, _orientation(image))
    if image.format == "PNG":
        about["chunks"] = _colour_chunks(path)
    if count > 1:
        about |= {"milliseconds": float(info.get("duration", 0)), "loops": int(info.get("loop", 1))}
    return about


def _orientation(image: Any) -> int:
    return int(image.getexif().get(ORIENTATION, 1))


def _colour_chunks(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The chunks of a PNG before its pixels that define its colours."""
    found: dict[str, bytes] = {}
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            size, name = int.from_bytes(head[:4], "big"), head[4:].decode("latin-1")
            content = file.read(size) if name in COLOUR_CHUNKS and size <= 64 else b""
            if content:
                found[name] = content
            file.seek(size - len(content) + 4, os.SEEK_CUR)
    return found


def _with_chunks(encoded: bytes, form: Form) -> bytes:
    """A PNG with the chunks that say what the numbers mean, after the first chunk, which has 13 bytes."""
    chunks = dict(form.chunks)
    if form.profile:
        chunks = {"iCCP": b"ICC profile\0\0" + zlib.compress(form.profile)}
    if form.resolution:
        across, down, unit = form.resolution
        scale = {NO_UNIT: 1, INCH: 1 / METRE, CENTIMETRE: 100}[unit]
        numbers = (round(min(number * scale, 2**31 - 1)) for number in (across, down))
        chunks["pHYs"] = struct.pack(">IIB", *numbers, unit != NO_UNIT)
    added = b""
    for name, content in chunks.items():
        body = name.encode("latin-1") + content
        added += struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    end = 8 + 4 + 4 + 13 + 4
    return encoded[:end] + added + encoded[end:]


def _form_in(kind: str, form: Form) -> Form:
    """The form of a picture in a file of this kind: all but TIFF have numbers of 8 or of 16 bits."""
    if kind == "TIFF" or form.depth in (8, 16):
        return form
    depth = 8 if form.depth < 8 else 16
    white = None if form.white is None else form.white * (2**depth - 1) / form.limits[1]
    return replace(form, depth=depth, white=white)


def _encoded(kind: str, stored: list[Stored]) -> bytes:
    """A file that is no TIFF, with a picture or with the frames of an animation."""
    image_module, buffer, (first, *_) = _pillow("Image"), io.BytesIO(), stored  # Pillow ignores incomplete writing
    transparent, form = any(alpha is not None for _, alpha, _ in stored), first.form
    opaque = np.broadcast_to(first.numbers.dtype.type(form.limits[1]), first.numbers.shape[1:])
    pixels = []
    for numbers, alpha, _ in stored:
        planes = [*numbers, *([opaque if alpha is None else alpha] if transparent else [])]
        pixels.append(np.stack(planes, axis=-1))
    height, width, count = pixels[0].shape
    if form.depth == 16 and count > 1:
        writer = _pypng().Writer(width, height, greyscale=count == 2, alpha=count in (2, 4), bitdepth=16)
        writer.write_packed(buffer, (row.astype(">u2").tobytes() for row in pixels[0]))
    else:
        images = [image_module.fromarray(one[..., 0] if count == 1 else one) for one in pixels]
        images[0].save(buffer, kind, **_options(kind, stored, images[1:]))
    return _with_chunks(buffer.getvalue(), form) if kind == "PNG" else buffer.getvalue()


def _options(kind: str, stored: list[Stored], others: list[Any]) -> dict[str, Any]:
    """What Pillow is told about how to write pictures."""
    form, options = stored[0].form, dict[str, Any]()
    if kind in ("JPEG", "WebP"):
        options["quality"] = 95
        if form.profile:
            options["icc_profile"] = form.profile
    if kind in ("JPEG", "BMP") and form.resolution and form.resolution[2] != NO_UNIT:
        inches = 1 if form.resolution[2] == INCH else 100 * METRE
        options["dpi"] = tuple(inches * number for number in form.resolution[:2])
    if others:
        durations = [one.form.milliseconds or 0 for one in stored]
        options |= {"save_all": True, "append_images": others, "loop": form.loops}
        options["duration"] = [round(duration) for duration in durations] if kind == "WebP" else durations
    return options


def _lost_depth(path: str | os.PathLike[str], kind: str) -> int:
    """The number of bits of a channel if Pillow gives only 8 of them, or 0."""
    with open(path, "rb") as file:
        head = file.read(1 << 14)
    if kind == "PPM" and head[:2] in (b"P3", b"P6"):
        words = b" ".join(line.partition(b"#")[0] for line in head.split(b"\n")).split()
        bits = int(words[3]).bit_length() if len(words) > 3 and words[3].isdigit() else 0
    elif kind == "SGI":
        bits = 8 * head[3] if len(head) > 12 and head[10:12] != b"\0\1" else 0
    elif kind == "JPEG2000":
        at = head.find(b"\xff\x51")
        several, bits = head[at + 38 : at + 40] > b"\0\1", (head[at + 40] & 127) + 1 if 0 <= at < len(head) - 41 else 0
        bits = bits if several else 0
    else:
        at = head.find(b"av1C") if kind == "AVIF" else -1
        bits = (12 if head[at + 6] & 32 else 10) if 0 <= at < len(head) - 7 and head[at + 6] & 64 else 0
    return bits if bits > 8 else 0


def _likely_white(largest: float) -> float:
    """A number that could stand for white if this is the largest one: the largest of a depth that cameras have."""
    return next((float(2**depth - 1) for depth in DEPTHS if largest < 2**depth), largest) if largest > 2 else 1.0


def _check_raw(path: str | os.PathLike[str], image: Any) -> None:
    """Raise FileError if the pixels of an uncompressed picture would reach far beyond the end of its file."""
    for codec, (_, top, _, bottom), offset, options in image.tile:
        stride = options[1] if isinstance(options, tuple) and len(options) > 1 else 0
        if codec == "raw" and isinstance(stride, int) and offset + stride * (bottom - top - 1) > os.path.getsize(path):
            raise FileError(f"{path} is damaged: it is shorter than its header says")


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
