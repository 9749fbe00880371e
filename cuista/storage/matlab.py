"""Files of MATLAB before version 7.3, and of Octave in the same formats. SciPy reads them, after a check of sizes."""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from cuista.errors import FileError
from cuista.storage.entries import Entry, dense
from cuista.storage.files import check_claim
from cuista.storage.trial import DEFLATED

# The bytes of a number by MATLAB's name of its class, and what others are, with advice.
BYTES = {
    "double": 8,
    "single": 4,
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "logical": 1,
    "sparse": 8,
}
OTHERS = {
    "char": ("text", ""),
    "cell": ("a cell array", "Save cell2mat of it"),
    "struct": ("a struct", "Save its field as a variable of its own"),
    "function": ("a function", ""),
    "function_handle": ("a function", ""),
}
# What an Octave file in another format than MATLAB's begins with.
OCTAVE = (b"# Created by Octave", b"% Created by Octave", b"# name: ", b"Octave-1-")
# The types of numbers in version 4 by their code, and the codes of text and sparse matrices.
TYPES, TEXT, SPARSE = ("f8", "f4", "i4", "i2", "u2", "u1"), 1, 2


def is_matlab_5(head: bytes) -> bool:
    """Whether a file that begins so is one of MATLAB 5 to 7."""
    return head.startswith(b"MATLAB 5.0") or head[124:128] in (b"\0\1IM", b"\1\0MI")


def is_matlab_4(head: bytes) -> bool:
    """Whether a file that begins so is one of MATLAB 4. That format has no signature, but a header that few match."""
    order = _order(head)
    if len(head) < 22 or order is None:
        return False
    code, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", head)
    name = head[20 : 20 + length]
    plausible = min(rows, columns) >= 0 and imaginary in (0, 1) and 1 < length <= 64
    return plausible and _is_code(code % 1000) and re.fullmatch(rb"[A-Za-z]\w*\0+", name) is not None


def _order(head: bytes) -> str | None:
    """The order of bytes of a file of MATLAB 4, whose first number says it."""
    for order, thousands in (("<", 0), (">", 1)):
        if len(head) >= 4 and struct.unpack_from(f"{order}i", head)[0] // 1000 == thousands:
            return order
    return None


def _is_code(code: int) -> bool:
    """Whether a code without its thousands is one of a type of numbers and a kind of matrix."""
    return code // 10 < len(TYPES) and code % 10 <= SPARSE


def entries_4(path: str | os.PathLike[str], file: IO[bytes]) -> dict[str, Entry]:
    """What a file of MATLAB 4 holds.

    Raises
    ------
    FileError
        If it claims more than there is.
    """
    found: dict[str, Entry] = {}
    size, place = os.fstat(file.fileno()).st_size, 0
    order = _order(file.read(4)) or "<"
    while place < size:
        file.seek(place)
        code, rows, columns, imaginary, length = struct.unpack(f"{order}5i", file.read(20))
        kind = code % 10
        if min(rows, columns, length) < 0 or not _is_code(code % 1000) or imaginary not in (0, 1):
            raise FileError(f"{path} is damaged: at byte {place} there is no variable")
        name = file.read(min(length, size)).strip(b"\0").decode("latin-1")
        dtype = np.dtype(f"{order}{TYPES[code % 1000 // 10]}")
        begin, shape = place + 20 + length, (rows, columns)
        place = begin + rows * columns * dtype.itemsize * (1 + imaginary)
        if place > size:
            raise FileError(f"{path} is damaged: its variable {name!r} ends at byte {place}, and there are {size}")
        if kind == TEXT:
            found[name] = Entry.other("text")
            continue
        if kind == SPARSE:  # rows, columns and values are columns, and the last row has the shape
            ends = []
            for column in (1, 2):
                file.seek(begin + (column * rows - 1) * dtype.itemsize)
                ends.append(int(np.frombuffer(file.read(dtype.itemsize), dtype)[0]))
            shape = (ends[0], ends[1])
        found[name] = Entry(partial(_read, path, file, name), shape)
    return found


def entries_5(path: str | os.PathLike[str], file: IO[bytes]) -> dict[str, Entry]:
    """What a file of MATLAB 5 to 7 holds. Arrays that are far larger than the file are refused when they are read."""
    from scipy.io import whosmat

    _check_inflated(path, file)
    found: dict[str, Entry] = {}
    stored = os.fstat(file.fileno()).st_size
    for name, shape, kind in whosmat(cast(Any, file)):
        if name.startswith("__"):  # what MATLAB keeps for functions
            continue
        if kind in BYTES:
            claimed = math.prod(shape) * BYTES[kind]
            found[name] = Entry(partial(_read, path, file, name, claimed, stored), tuple(map(int, shape)))
        else:
            found[name] = Entry.other(*OTHERS.get(kind, ("an object of MATLAB", "")))
    return found


def _check_inflated(path: str | os.PathLike[str], file: IO[bytes]) -> None:
    """Raise FileError if the variables are compressed from far more bytes than there are, whatever they claim."""
    size = os.fstat(file.fileno()).st_size
    file.seek(124)
    order = "<" if file.read(4)[2:] == b"IM" else ">"
    place, total = 128, 0
    while place + 8 <= size and size * DEFLATED > total:
        file.seek(place)
        kind, length = struct.unpack(f"{order}2I", file.read(8))
        place += 8 + length
        if kind != 15 or length * DEFLATED < 1 << 20:
            continue
        stream, left = zlib.decompressobj(), length
        while left > 0 and not stream.eof:
            part = file.read(min(left, 1 << 16))
            if not part:
                return  # SciPy will say that it is cut short
            left -= len(part)
            total += len(stream.decompress(part))
            check_claim(path, "its variables", total, size)


def _read(path: str | os.PathLike[str], file: IO[bytes], name: str, claimed: int = 0, stored: int = 0) -> Any:
    """Read a variable, after a check of its claimed bytes against the stored ones."""
    from scipy.io import loadmat
    from scipy.sparse import issparse

    check_claim(path, name, claimed, stored)
    file.seek(0)
    value = loadmat(cast(Any, file), variable_names=[name])[name]
    if isinstance(value, str):  # what SciPy gives for a variable that it cannot read
        raise ValueError(value)
    return dense(path, name, value) if issparse(value) else value


def refuse_octave(path: str | os.PathLike[str], head: bytes) -> None:
    """Raise FileError if the file is one of Octave in a format of its own; the message says how to save it."""
    if head.startswith(OCTAVE):
        name = re.search(rb"^[#%] name: (\w+)", head, re.MULTILINE)
        how = f"save -v7 {Path(path).stem}.mat {name[1].decode() if name else 'A'}"
        form = "in its binary format" if head.startswith(b"Octave") else "as text"
        raise FileError(f"{path} was saved by Octave {form}, which cuista does not read; in Octave, save it with {how}")
