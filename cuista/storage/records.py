"""cuista's own files: records in HDF5.

Every file has the root attributes `format`, `format_version`, `cuista_version`, `created` (UTC) and `command`. It holds
its arrays by name (`A`, `parameters/step_size`, …), and needs no other file.

Each file has a proof that it is what was written (`cuista.storage.proof`), which is checked while the file is read.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError
from cuista.messages import warn
from cuista.ranks import ranks
from cuista.storage.files import check_claim, complete, open_input, replacing, reserve
from cuista.storage.proof import HEAD, Proven, content_of, has_proof, seal
from cuista.storage.trial import DEFLATED, try_reading
from cuista.version import __version__

# The latest version of the format. Files with complex arrays have it, and all others have version 1, which every
# version of cuista reads.
FORMAT_VERSION = 2
# Up to this many bytes, an array may be declared that was never written.
UNWRITTEN = 64 << 20
# The files without a proof that were mentioned already.
_noted: set[str] = set()


@dataclass
class Record:
    """The content of one of cuista's files: its kind (`cuista-problem`, …), its arrays by name and its attributes."""

    kind: str
    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def write(path: str | os.PathLike[str], record: Record, *, overwrite: bool = False) -> None:
    """Write a record to a file, atomically. Attributes can be numbers, strings and flat lists.

    Of several ranks, only the first writes.

    Raises
    ------
    FileError
        As `replacing` does.
    """
    if not ranks().first:
        return
    with replacing(path, overwrite=overwrite) as output:
        image = _image(record)
        reserve(output, HEAD + len(image))
        output.seek(HEAD)
        output.write(image)
        seal(output, image)


def packed(record: Record) -> bytes:
    """The bytes of the file that `write` makes of a record."""
    output, image = io.BytesIO(), _image(record)
    output.seek(HEAD)
    output.write(image)
    seal(output)
    return output.getvalue()


def _image(record: Record) -> bytes:
    """The HDF5 content of a record's file."""
    import h5py

    name = f"record-{secrets.token_hex(8)}"  # the HDF5 library knows open files by their names
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        is_complex = any(np.iscomplexobj(array) for array in record.arrays.values())
        file.attrs.update(_provenance(record.kind, FORMAT_VERSION if is_complex else 1))
        for name, value in record.attributes.items():
            file.attrs[name] = printable(value) if isinstance(value, str) else value
        for name, array in record.arrays.items():
            file.create_dataset(name, data=array)
        file.flush()
        image: bytes = file.id.get_file_image()
        return image


@contextlib.contextmanager
def creating(path: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> Iterator[Any]:
    """Open a new file of this kind, an `h5py.File`, to be filled; it gets its name when the block ends without error.

    Its arrays are real.

    Raises
    ------
    FileError
        As `replacing` does.
    """
    with replacing(path, overwrite=overwrite) as output, new_hdf5(output) as file:
        file.attrs.update(_provenance(kind))
        yield file


def _provenance(kind: str, format_version: int = 1) -> dict[str, Any]:
    """The attributes that every file has."""
    return {
        "format": kind,
        "format_version": format_version,
        "cuista_version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": printable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def read(path: str | os.PathLike[str], *kinds: str) -> Record:
    """Read the record in one of cuista's files, after a check of all of it.

    Raises
    ------
    FileError
        As `opened` does.
    """
    with opened(path, *kinds, whole=True) as file:
        return _record_in(file, path)


def unpacked(data: bytes, *kinds: str, name: str = "the bytes") -> Record:
    """The record in the bytes of a file, after a check of all of it; error messages name the bytes `name`.

    Raises
    ------
    FileError
        If the bytes are not those of a file of these kinds, or are damaged.
    """
    import h5py

    content = content_of(data, name)
    with complete(name), h5py.File(io.BytesIO(content), "r") as file:
        _check_kind(file, name, kinds)
        return _record_in(file, name)


def _record_in(file: Any, path: str | os.PathLike[str]) -> Record:
    """The record in the open HDF5 file `path`."""
    attributes, nodes = _attributes(file), datasets(file, path)
    for name, node in nodes.items():
        if not (_is_plain(node.dtype) or node.dtype.kind == "c"):
            raise FileError(f"{path} is damaged: its array {name!r} has dtype {node.dtype}")
    return Record(attributes["format"], {name: node[()] for name, node in nodes.items()}, attributes)


def contents(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]:
    """The attributes of one of cuista's files, and the shape and dtype of each array. The arrays are not read.

    Raises
    ------
    FileError
        As `opened` does.
    """
    with opened(path) as file:
        arrays = {name: (node.shape, node.dtype.name) for name, node in datasets(file, path).items()}
        return _attributes(file), arrays


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *kinds: str, whole: bool = False) -> Iterator[Any]:
    """Open one of cuista's files, an `h5py.File`, for reading. With `whole`, all of it is checked at once.

    Raises
    ------
    FileError
        If the file is missing or damaged, is not one of cuista's, is of a kind that is not in `kinds` (when any are
        given), or has a later format version than this cuista reads; and as `complete`, about the block too.
    """
    with complete(path), open_hdf5(path, whole=whole) as file:
        proven = has_proof(path)
        _check_kind(file, path, kinds)
        if not proven and not str(file.attrs.get("cuista_version")).startswith("0.1."):
            raise FileError(f"{path} is damaged: its beginning is not what was written")
        if not proven and os.fspath(path) not in _noted:
            _noted.add(os.fspath(path))
            warn(f"{path} has no proof that it is what was written, as files of 0.1.0 have none", stacklevel=5)
        yield file


def _check_kind(file: Any, path: str | os.PathLike[str], kinds: tuple[str, ...]) -> None:
    """Raise FileError unless an open HDF5 file is one of cuista's, and of one of these kinds, if there are any."""
    kind = file.attrs.get("format")
    if not isinstance(kind, str) or not kind.startswith("cuista-"):
        raise FileError(f"{path} is an HDF5 file, but not one of cuista's: it has no 'format' attribute")
    version = file.attrs.get("format_version")
    if not isinstance(version, np.integer):
        raise FileError(f"{path} is damaged: its format version is {version!r}; expected a whole number")
    if version > FORMAT_VERSION:
        raise FileError(
            f"{path} has format version {version}, and this cuista reads up to {FORMAT_VERSION}: update cuista"
        )
    if kinds and kind not in kinds:
        raise FileError(f"{path} is a {kind} file; expected {' or '.join(kinds)}")


@contextlib.contextmanager
def new_hdf5(output: IO[bytes]) -> Iterator[Any]:
    """A new HDF5 file with a proof, an `h5py.File`, in an empty file that is open for writing.

    The HDF5 library may crash the process, or go on as if nothing had happened, if a write fails or is interrupted. It
    is therefore told that all is well, and the first error or interruption is raised when it has closed its file.
    """
    import h5py

    output.write(bytes(HEAD))
    output.flush()  # an error now must not become one of the HDF5 library
    steady = _Steady(output)
    try:
        with h5py.File(steady, "w") as file:
            yield file
    except Exception:
        if steady.error is None:  # otherwise, this is only a consequence
            raise
    if steady.error is not None:
        raise steady.error
    seal(output)


class _Steady:
    """A file after byte `HEAD`, whose writes never fail, as the HDF5 library wants it. The first error is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: BaseException | None = None

    def _trying(self, action: Callable[[], Any], otherwise: Any) -> Any:
        if self.error is None:
            try:
                return action()
            except BaseException as error:  # an interruption must not reach the HDF5 library either
                self.error = error.with_traceback(None)  # which would keep memory of the library's
        return otherwise

    def write(self, data: Any) -> int:
        return int(self._trying(lambda: self.file.write(data), len(data)))

    def flush(self) -> None:
        self._trying(self.file.flush, None)

    def truncate(self, size: int | None = None) -> int:
        return int(self._trying(lambda: self.file.truncate(None if size is None else size + HEAD), 0))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        place = offset + HEAD if whence == os.SEEK_SET else offset
        return int(self._trying(lambda: self.file.seek(place, whence) - HEAD, 0))

    def tell(self) -> int:
        return int(self._trying(lambda: self.file.tell() - HEAD, 0))

    def read(self, size: int = -1) -> bytes:
        return bytes(self._trying(lambda: self.file.read(size), bytes(max(size, 0))))

    def readinto(self, buffer: Any) -> int:
        return int(self._trying(lambda: self.file.readinto(buffer), len(buffer)))  # type: ignore[attr-defined]


def printable(text: str) -> str:
    """The text with everything that is not valid UTF-8 escaped (as \\udcff); file names may contain such text."""
    return text.encode(errors="backslashreplace").decode()


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts with the signature of HDF5."""
    signature = b"\x89HDF\r\n\x1a\n"
    if not os.path.lexists(path):
        return False
    with open_input(path) as file:
        # MATLAB and cuista put 512 bytes of their own before it.
        return signature in (file.read(HEAD)[: len(signature)], file.read(len(signature)))


def is_cuista(path: str | os.PathLike[str]) -> bool:
    """Whether the file claims to be one of cuista's own; `read` checks the rest."""
    if not is_hdf5(path):
        return False
    with complete(path), open_hdf5(path) as file:
        return str(file.attrs.get("format", "")).startswith("cuista-")


def kind_of(path: str | os.PathLike[str], *kinds: str) -> str:
    """The kind of one of cuista's files, one of `kinds` if any are given. Raises FileError as `opened` does."""
    with opened(path, *kinds) as file:
        return str(file.attrs["format"])


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str], *, whole: bool = False) -> Iterator[Any]:
    """Open an HDF5 file, an `h5py.File`, for reading. What is read is checked if the file has a proof.

    Parameters
    ----------
    whole
        Whether everything is checked at once, not only what is read.

    Raises
    ------
    FileError
        If it cannot be opened, or is not what was written; the message says why.
    """
    import h5py

    with contextlib.ExitStack() as stack:
        proven = None
        if has_proof(path):
            proven = stack.enter_context(Proven(path))
            if whole:
                proven.check()
        elif is_hdf5(path):
            try_reading(path)
        else:
            raise FileError(f"{path} is not an HDF5 file, and therefore not one of cuista's")
        # What is checked already can be read without the detour through Python.
        source: Any = path if proven is None else proven
        if proven and proven.is_checked and os.path.exists("/dev/fd"):
            source = f"/dev/fd/{proven.file.fileno()}"
        try:
            with complete(path):
                file = stack.enter_context(h5py.File(source, "r"))
            yield file
        except Exception as error:
            if proven and proven.damage:  # the HDF5 library hides it
                raise FileError(proven.damage) from error
            raise


def datasets(file: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays in the open HDF5 file `path` by name, in all its groups. They are not read; links are not followed.

    Raises
    ------
    FileError
        As `check_stored`.
    """
    import h5py

    found: dict[str, Any] = {}
    unwritten = 0

    def visit(name: Any, node: Any) -> None:
        if not isinstance(name, str) or "\0" in name:
            raise FileError(f"{path} is damaged: it has an array whose name is {name!r}")
        nonlocal unwritten
        if isinstance(node, h5py.Dataset):
            unwritten += check_stored(path, node)
            if unwritten > UNWRITTEN:
                raise FileError(f"{path} is damaged: {unwritten} bytes of its arrays were never written")
            found[name] = node

    file.visititems(visit)
    return found


def check_stored(path: str | os.PathLike[str], node: Any) -> int:
    """Raise FileError unless an array of an HDF5 file is stored in the file itself, as large as it says it is.

    Returns the number of bytes that may not be stored because they were never written.
    """
    import h5py

    plan, name = node.id.get_create_plist(), node.name.lstrip("/")
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise FileError(f"{path}: the array {name!r} is stored elsewhere; expected a file that holds its arrays")
    # Without filters that compress, an array takes as much room as it has bytes; with deflate, up to 1032 times less.
    # Parts that were never written, and strings, take none: only what is large is refused for that.
    declared, stored = (node.size or 0) * node.dtype.itemsize, node.id.get_storage_size()
    most = stored * (DEFLATED if plan.get_nfilters() else 1)
    if declared > max(most, UNWRITTEN):
        raise FileError(f"{path} is damaged: the array {name!r} has {declared} bytes, and {stored} are stored")
    check_claim(path, name, declared, stored)
    return max(int(declared - most), 0)


def _is_plain(dtype: Any) -> bool:
    """Whether values are real numbers or text, which is all that cuista's files hold beside complex arrays."""
    import h5py

    return dtype.kind in "fiub" or h5py.check_string_dtype(dtype) is not None


def _attributes(file: Any) -> dict[str, Any]:
    """The attributes of an open HDF5 file as plain Python objects: numbers, strings and lists."""
    values = {}
    for name, value in file.attrs.items():
        if not isinstance(name, str):
            raise TypeError(f"it has an attribute whose name is {name!r}")
        if not isinstance(value, str) and not (hasattr(value, "dtype") and _is_plain(value.dtype)):
            raise TypeError(f"its attribute {name!r} is {value!r}; expected numbers or text")
        values[name] = value if isinstance(value, str) else value.tolist()
    return values
