"""Which device computes.

This version has the NumPy engine alone. A request for a GPU is answered with the reason, never by a silent
fallback: `parse_device("cuda:0")` raises, and `parse_device("auto")` is the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cuista.errors import DeviceError


@dataclass(frozen=True)
class Device:
    """A place to compute: `Device("cpu")`."""

    name: str

    def __str__(self) -> str:
        return self.name


def parse_device(text: str) -> Device:
    """The device that `auto`, `cpu` or `cuda:N` names.

    Raises
    ------
    DeviceError
        If the text is none of these, or names a device that this version cannot use.
    """
    if text in ("auto", "cpu"):
        return Device("cpu")
    if re.fullmatch(r"cuda(:\d+)?", text):
        raise DeviceError(
            f"device {text!r} cannot be used: this version of cuista has no CUDA engine yet. "
            "Use --device cpu (or auto)."
        )
    raise DeviceError(f"unknown device {text!r}: expected auto, cpu or cuda:N")
