"""Reading and writing the pages of TIFF files through tifffile, with numbers of any kind.

Pages of up to 8 bits are left to Pillow, which knows more about palettes and colour spaces.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cuista.checks import Array, library
from cuista.data.form import CENTIMETRE, INCH, NO_UNIT, Form, Numbers
from cuista.errors import FileError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What the first letter of NumPy's kinds of numbers means, and the depths that are read of each.
KINDS: dict[str, Numbers] = {"u": "unsigned", "i": "signed", "f": "float"}
# The depths of numbers that fill their bytes.
WHOLE = (8, 16, 32, 64)
# Values of tags: no compression, kinds of colour, and kinds of further samples.
UNCOMPRESSED = 1
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
UNKNOWN, PREMULTIPLIED, STRAIGHT = 0, 1, 2
# The tags by which pixels are read: sizes, depth, compression, kind of colour, places, orientation, palette, opacity.
MATTERS = {
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    338,
    339,
    347,
    34675,
}
# Pages that are smaller copies of others, or masks.
COPY_OR_MASK = 1 | 4
# Tags that are passed on: description, page name, transfer function, white point, primaries, and where on Earth it is.
DESCRIPTION = 270
PASSED_ON = (DESCRIPTION, 285, 301, 318, 319, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
# A classic TIFF cannot be larger than 4 GiB, and this leaves some room for what describes its pages.
CLASSIC = 2**32 - 2**25


@dataclass(frozen=True)
class Page:
    """A page of a TIFF file.

    Attributes
    ----------
    page
        What tifffile found in its directory.
    index
        Its number in the file, from 0.
    plane
        The number of the page within those that the file stores behind a single directory, or None.
    """

    page: Any
    index: int
    plane: int | None = None

    @property
    def extra(self) -> list[int]:
        """The kinds of the samples that are not colours."""
        found = [int(kind) for kind in self.page.extrasamples]
        # Some writers leave out the tag that says that the fourth sample is the opacity.
        return found or [STRAIGHT] * (int(self.page.photometric) == RGB and self.page.samplesperpixel == 4)

    @property
    def is_for_pillow(self) -> bool:
        """Whether Pillow reads all that is in the page."""
        page, extra = self.page, self.extra
        colours = page.samplesperpixel - len(extra)
        return (
            page.bitspersample <= 8
            and page.sampleformat == 1
            and self.plane is None
            and extra in ([], [PREMULTIPLIED], [STRAIGHT])
            and colours == {RGB: 3, YCBCR: 3, SEPARATED: 4}.get(int(page.photometric), 1)
            and not (extra and int(page.photometric) == WHITE_IS_ZERO)
        )

    @property
    def orientation(self) -> int:
        """How the page must be turned to be upright, as the tag of that name numbers it."""
        return int(self.page.tags.valueof(274, 1))

    def form(self) -> Form:
        """How the page is stored."""
        page = self.page
        tags = []
        for code in PASSED_ON:
            tag = page.tags.get(code)
            # ImageJ's description belongs to the whole file. That of tifffile is about the layout of its arrays.
            if tag is None or (code == DESCRIPTION and (page.is_shaped or (self.plane or 0) > 0)):
                continue
            value = tag.value.encode("utf-8", "surrogateescape") + b"\0" if isinstance(tag.value, str) else tag.value
            count = len(value) if isinstance(value, bytes) else tag.count
            tags.append((code, int(tag.dtype), count, value))
        kind = KINDS.get("u" if page.dtype is None else page.dtype.kind, "unsigned")
        return Form(
            8 * page.dtype.itemsize if kind == "float" else page.bitspersample,
            kind,
            profile=bytes(page.iccprofile or b""),
            resolution=self._resolution(),
            tags=tuple(tags),
            big=page.parent.is_bigtiff,
        )

    def _resolution(self) -> tuple[float, float, int] | None:
        """Pixels for each unit along a row and along a column, and the unit."""
        tags, found = self.page.tags, []
        for code in (282, 283):
            over, under = tags.valueof(code, (0, 0))
            found.append(over / under if under else 0.0)
        unit = int(tags.valueof(296, INCH))
        if min(found) <= 0 or unit not in (NO_UNIT, INCH, CENTIMETRE) or (unit == NO_UNIT and found == [1, 1]):
            return None
        return found[0], found[1], unit


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[list[Page], list[str]]]:
    """The pages of a TIFF file that are pictures, and notes about what is left out. Any error means damage.

    Raises
    ------
    FileError
        If the file is cut, or keeps its pictures where they are not read.
    """
    tifffile = library("tifffile", "images", "TIFF is read with tifffile")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # or its warnings would be printed
    with tifffile.TiffFile(path, _multifile=False) as file:
        found = list(file.pages)
        for number, page in enumerate(found, 1):
            _check_directory(path, file, page, number == len(found))
        kept = [Page(page, index) for index, page in enumerate(found) if not int(page.subfiletype) & COPY_OR_MASK]
        notes = []
        if not kept:
            if len(found) > 1 or found[0].subifds:
                raise FileError(f"{path} keeps its picture in a sub-file, like the raw files of cameras: convert it")
            kept = [Page(found[0], 0)]
        elif len(kept) < len(found):
            notes.append(
                f"{len(found) - len(kept)} of {len(found)} pages of {path} are previews or masks, and left out"
            )
        planes, more = _planes(path, file, found[0]) if len(found) == 1 else ([], [])
        yield planes or kept, notes + more


def _check_directory(path: str | os.PathLike[str], file: Any, page: Any, is_last: bool) -> None:
    """Raise FileError if tifffile has passed over an entry of a directory that matters, or over further pages."""
    sizes, handle = file.tiff, file.filehandle
    handle.seek(page.offset)
    (count,) = struct.unpack(sizes.tagnoformat, handle.read(sizes.tagnosize))
    entries = handle.read(count * sizes.tagsize)
    codes = {code for (code,) in struct.iter_unpack(f"{file.byteorder}H{sizes.tagsize - 2}x", entries)}
    wrong = sorted(code for code in codes & MATTERS if code not in page.tags)
    if wrong:
        raise FileError(f"{path} is damaged: the tag {wrong[0]} of page {page.index + 1} cannot be read")
    (following,) = struct.unpack(sizes.offsetformat, handle.read(sizes.offsetsize))
    if is_last and following:
        raise FileError(f"{path} is damaged: its directory of pages leads to nothing")


def _planes(path: str | os.PathLike[str], file: Any, page: Any) -> tuple[list[Page], list[str]]:
    """The pages of a file that describes only the first of them, and notes: one of ImageJ, of MetaMorph, or tifffile.

    The list is empty if the file has no more than that page.
    """
    count = 1
    if file.is_imagej:  # beyond 4 GiB
        count = int((file.imagej_metadata or {}).get("images", 1))
    elif file.is_stk:
        count = int(file.stk_metadata["NumberPlanes"])
    elif file.is_shaped and file.shaped_metadata[0].get("truncated"):
        count = math.prod(file.shaped_metadata[0]["shape"]) // page.size
    if count < 2:
        return [], []
    if not page.is_contiguous or page.dataoffsets[0] + count * page.nbytes > os.path.getsize(path):
        return [], [f"page 1 of {count} in {path} only: the file is too short for the others"]
    return [Page(page, 0, plane) for plane in range(count)], []


def read_page(path: str | os.PathLike[str], found: Page) -> tuple[Array, Array | None, Form]:
    """The numbers (C, H, W) of a page, upright, its opacity (H, W) from 0 to 1, and its form.

    Raises
    ------
    FileError
        If its kind is not supported.
    MissingLibraryError
        If it is compressed or packed, and imagecodecs is not installed.
    """
    page, photometric = found.page, int(found.page.photometric)
    form = found.form()
    name = getattr(page.photometric, "name", photometric)
    if page.dtype is None or page.dtype.kind not in KINDS:
        raise FileError(
            f"{path} is a TIFF of {form.depth}-bit numbers of a kind that is not read, such as complex ones"
        )
    if photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE) and not (
        photometric == YCBCR and form.depth > 8
    ):
        raise FileError(f"{path} is a TIFF of the kind {name}, which is not read: convert it to grey or RGB")
    if 262 not in page.tags:
        raise FileError(f"{path} is damaged: it does not say whether 0 is black or white (tag 262)")
    if page.imagedepth > 1:
        raise FileError(f"{path} is a TIFF with volumes, which are not read: save the volume as a stack of pages")
    if int(page.compression) != UNCOMPRESSED or form.depth not in WHOLE:
        library("imagecodecs", "images", "TIFF that is compressed, or packed like this, is read with imagecodecs")
    numbers = _numbers(path, found)
    extra, alpha = found.extra, None
    for kind in (STRAIGHT, PREMULTIPLIED):
        if kind in extra:
            at = len(numbers) - len(extra) + extra.index(kind)
            alpha = _opacity(numbers[at], form)
            numbers = np.delete(numbers, at, axis=0)
            if kind == PREMULTIPLIED:
                numbers = _divided(numbers, alpha, form)
            break
    if photometric == PALETTE:
        if page.colormap is None or numbers.max() >= page.colormap.shape[1] or len(numbers) != 1:
            raise FileError(f"{path} is damaged: its palette does not have all of its colours")
        numbers, form = page.colormap[:, numbers[0]], replace(form, depth=16)
    form = replace(form, white_is_zero=photometric == WHITE_IS_ZERO, colour=photometric in (RGB, PALETTE, YCBCR))
    turned = [upright(planes, found.orientation) for planes in (numbers, alpha) if planes is not None]
    if found.orientation != 1:
        form = replace(form, tags=(), resolution=upright_resolution(form.resolution, found.orientation))
    return turned[0], turned[1] if alpha is not None else None, form


def _numbers(path: str | os.PathLike[str], found: Page) -> Array:
    """The numbers (samples, H, W) of a page as they are stored, after a check that all of them are there."""
    page, plane = found.page, found.plane
    size, segments = os.path.getsize(path), math.prod(page.chunked)
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if plane is not None or page.is_contiguous:
        places = [(page.dataoffsets[0] + (plane or 0) * page.nbytes, page.nbytes)] if page.dataoffsets else []
        segments = 1
    if len(places) != segments or any(at <= 0 or count <= 0 or at + count > size for at, count in places):
        raise FileError(f"{path} is damaged: parts of its pixels are missing")
    if plane is None:
        samples = page.asarray(squeeze=False, maxworkers=1)
    else:
        kind = page.dtype.newbyteorder(page.parent.byteorder)
        samples = np.fromfile(path, kind, page.size, offset=places[0][0]).reshape(page.shaped)
    # tifffile gives (planes, 1, H, W, samples), where either planes or samples are 1.
    samples = samples.reshape(page.shaped)
    return np.asarray(np.moveaxis(samples[:, 0], -1, 1).reshape(-1, *page.shaped[2:4]))


def _opacity(numbers: Array, form: Form) -> Array:
    """The opacity that numbers stand for: 1 is opaque."""
    return np.clip(replace(form, white=None).brightness(numbers), 0, 1)


def _divided(numbers: Array, alpha: Array, form: Form) -> Array:
    """Colours that were multiplied by their opacity, as they were before that."""
    divided = numbers / np.where(alpha > 0, alpha, 1)
    return np.asarray(divided if form.numbers == "float" else np.clip(np.rint(divided), *form.limits))


def upright(planes: Array, orientation: int) -> Array:
    """Pictures (…, H, W) turned and mirrored as the orientation of TIFF and Exif says, from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        planes = np.swapaxes(planes, -1, -2)
    if orientation in (3, 4, 7, 8):
        planes = planes[..., ::-1, :]
    if orientation in (2, 3, 6, 7):
        planes = planes[..., ::-1]
    return planes


def upright_resolution(
    resolution: tuple[float, float, int] | None, orientation: int
) -> tuple[float, float, int] | None:
    """The resolution of a picture that was turned upright."""
    if resolution is None or orientation not in (5, 6, 7, 8):
        return resolution
    across, down, unit = resolution
    return down, across, unit


def encoded(pages: Sequence[tuple[Array, Array | None, Form]]) -> bytes:
    """A TIFF file of these pages, each with its numbers (C, H, W), the numbers (H, W) of its opacity, and its form."""
    tifffile = library("tifffile", "images", "TIFF is written with tifffile")
    buffer = io.BytesIO()
    size = sum(numbers.nbytes + (0 if alpha is None else alpha.nbytes) for numbers, alpha, _ in pages)
    with tifffile.TiffWriter(buffer, bigtiff=size > CLASSIC or pages[0][2].big, byteorder="<") as writer:
        for numbers, alpha, form in pages:
            writer.write(**_described(numbers, alpha, form))
    return buffer.getvalue()


def _described(numbers: Array, alpha: Array | None, form: Form) -> dict[str, Any]:
    """The arguments with which tifffile writes a page."""
    is_rgb = len(numbers) == 3 if form.colour is None else form.colour
    further = (len(numbers) - (3 if is_rgb else 1)) * [UNKNOWN] + [STRAIGHT] * (alpha is not None)
    about: dict[str, Any] = {"photometric": "rgb" if is_rgb else "minisblack", "metadata": None, "software": False}
    about |= {"iccprofile": form.profile or None, "extratags": [(*tag, False) for tag in form.tags]}
    planes = numbers if alpha is None else np.concatenate([numbers, alpha[None]])
    if len(planes) > 1:
        about |= {"planarconfig": "contig", "extrasamples": further}
    if form.resolution:
        across, down, unit = form.resolution
        about |= {"resolution": (across, down), "resolutionunit": unit}
    pixels = np.ascontiguousarray(np.moveaxis(planes, 0, -1) if len(planes) > 1 else planes[0])
    if form.depth in WHOLE:
        return {**about, "data": pixels}
    shape = {"shape": pixels.shape, "dtype": pixels.dtype, "rowsperstrip": len(pixels)}
    return {**about, **shape, "bitspersample": form.depth, "data": iter([_packed(pixels, form.depth)])}


def _packed(pixels: Array, depth: int) -> bytes:
    """Rows of integers with `depth` bits for each number; each row ends with a whole byte."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1, 1)
    bits = np.unpackbits(rows.view(np.uint8), axis=-1)[..., -depth:]
    return np.packbits(bits.reshape(len(pixels), -1), axis=-1).tobytes()
