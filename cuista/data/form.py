"""What a picture's file says besides its pixels: how its numbers are to be read, and what gives them their meaning."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from cuista.checks import Array

Numbers = Literal["unsigned", "signed", "float"]
# Units of a resolution, as TIFF numbers them.
NO_UNIT, INCH, CENTIMETRE = 1, 2, 3


@dataclass(frozen=True)
class Form:
    """How the numbers of a picture are stored, and what gives them their meaning.

    Attributes
    ----------
    depth
        The number of bits of a number: 1 to 64 for integers, and 16, 32 or 64 for floating point.
    numbers
        The kind of number: `unsigned`, `signed` or `float`.
    white
        The number that stands for white, or None for the largest integer, or 1 in floating point. 0 stands for black.
    white_is_zero
        Whether it is the other way round in the file that was read. Files are written with 0 for black.
    colour
        Whether the first three channels are red, green and blue; None if that follows from their number.
    profile
        The ICC colour profile; empty if there is none.
    resolution
        Pixels along a row and along a column for each unit, and the unit: `INCH`, `CENTIMETRE` or `NO_UNIT`.
    chunks
        The chunks of a PNG that define its colours, by name.
    tags
        TIFF tags that are passed on, each as (code, data type, count, value).
    big
        Whether the file is a BigTIFF.
    exif
        Whether the file says more in EXIF, such as the camera, than which way up the picture is. That is not kept.
    milliseconds
        How long a frame of an animation is shown; None if the picture belongs to none.
    loops
        How often an animation is repeated, or 0 for ever.
    """

    depth: int = 8
    numbers: Numbers = "unsigned"
    white: float | None = None
    white_is_zero: bool = False
    colour: bool | None = None
    profile: bytes = b""
    resolution: tuple[float, float, int] | None = None
    chunks: Mapping[str, bytes] = field(default_factory=dict)
    tags: tuple[tuple[int, int, int, Any], ...] = ()
    big: bool = False
    exif: bool = False
    milliseconds: float | None = None
    loops: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of array that holds the numbers."""
        size = next(size for size in (1, 2, 4, 8) if 8 * size >= self.depth)
        return np.dtype(f"{self.numbers[0]}{size}".replace("s", "i"))

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number that can be stored."""
        if self.numbers == "float":
            return -np.inf, np.inf
        signs = int(self.numbers == "signed")
        bits = self.depth - signs
        return -signs * 2.0**bits, 2.0**bits - max(1.0, 2.0 ** (bits - 53))  # float64 has 53 bits

    @property
    def brightest(self) -> float:
        """The number that stands for white."""
        return self.white or (1.0 if self.numbers == "float" else self.limits[1])

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest brightness that can be stored, where 0 is black and 1 is white."""
        low, high = self.limits
        return low / self.brightest, high / self.brightest

    def brightness(self, numbers: Array) -> Array:
        """The brightness that numbers of the file stand for, as float64: 0 is black and 1 is white."""
        numbers = numbers.astype(np.float64)
        return np.asarray((self.brightest - numbers if self.white_is_zero else numbers) / self.brightest)

    def stored(self, brightness: Array) -> Array:
        """The numbers that stand for this brightness. Integers are rounded, and clipped to what can be stored."""
        numbers = brightness * self.brightest
        if self.numbers != "float":
            numbers = np.clip(np.rint(numbers), *self.limits)
        return np.asarray(numbers.astype(self.dtype))

    def to_json(self) -> str:
        """The form as a text, for a file's attributes."""
        return json.dumps(asdict(self), default=lambda value: {"base64": base64.b64encode(bytes(value)).decode()})

    @classmethod
    def from_json(cls, text: str) -> Form:
        """The form that `to_json` has described."""

        def decoded(value: dict[str, Any]) -> Any:
            return base64.b64decode(value["base64"], validate=True) if value.keys() == {"base64"} else value

        found = json.loads(text, object_hook=decoded)
        if found["resolution"] is not None:
            found["resolution"] = tuple(found["resolution"])
        found["tags"] = tuple(
            (*tag[:3], tuple(tag[3]) if isinstance(tag[3], list) else tag[3]) for tag in found["tags"]
        )
        return cls(**found)
