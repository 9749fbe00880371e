"""The proof that a file is what was written: the SHA-256 of each MiB of it.

One of cuista's files begins with 512 bytes that the HDF5 library skips, continues with its HDF5 content, and ends with
the hash of each MiB of that content. The hash of those hashes is in the first 512 bytes. So the proof covers names and
attributes too, and each part of the file is checked when it is read, before the HDF5 library sees it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from typing import IO, Any

from cuista.errors import FileError
from cuista.storage.files import open_input

# How a file begins, how many bytes come before its content, and how many bytes of that each hash covers.
BEGINNING, HEAD, PART = b"cuista file that ends with the SHA-256 of each MiB: ", 512, 1 << 20
# The bytes of a hash, and the share of parts after which the rest are checked too, so that no more need be.
HASH, MOST = 32, 0.9
# By file, its state when it was last opened, its hashes, and the numbers of the parts that were right.
_seen: dict[str, tuple[tuple[int, ...], list[bytes], set[int]]] = {}


def state_of(file: IO[bytes]) -> tuple[int, ...]:
    """Numbers that change whenever the file does."""
    now = os.fstat(file.fileno())
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def is_old(file: IO[bytes]) -> bool:
    """Whether any later change of the file will show in its state. Times of files can be as coarse as two seconds."""
    return time.time() - os.fstat(file.fileno()).st_ctime > 2


def seal(file: IO[bytes], content: bytes | None = None) -> None:
    """Add the proof to a new file, whose content begins at byte `HEAD`. It is made of what is read back from the file.

    Raises
    ------
    OSError
        If that is not the `content`, where it is given, or if the file cannot be read or written.
    """
    file.seek(HEAD)
    hashes, size = [], 0
    while part := file.read(PART):
        if content is not None and part != content[size : size + PART]:
            raise OSError(errno.EIO, "the disk does not give back what was written")
        hashes.append(hashlib.sha256(part).digest())
        size += len(part)
    file.write(b"".join(hashes))
    file.seek(0)
    file.write(_head(size, hashes))


def _head(size: int, hashes: list[bytes]) -> bytes:
    """The first bytes of a file with a content of this size."""
    return (BEGINNING + f"{hashlib.sha256(b''.join(hashes)).hexdigest()} {size}\n".encode()).ljust(HEAD, b"\0")


def content_of(data: bytes, name: str) -> memoryview:
    """The content of a file whose bytes are given, after a check of all of it; error messages name it `name`.

    Raises
    ------
    FileError
        If the bytes are not those of a file with a proof, or are not what was written.
    """
    match = re.match(rb"[0-9a-f]{64} ([0-9]{1,18})\n", data[len(BEGINNING) : HEAD])
    size = int(match[1]) if match and data.startswith(BEGINNING) else -1
    content = memoryview(data)[HEAD : HEAD + max(size, 0)]
    hashes = [hashlib.sha256(content[first : first + PART]).digest() for first in range(0, len(content), PART)]
    if size < 0 or data[:HEAD] != _head(size, hashes) or data[HEAD + size :] != b"".join(hashes):
        raise FileError(f"{name} are damaged: they are not what was written. Make them again")
    return content


def has_proof(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins like one with a proof. It is not checked. Raises FileError if it cannot be read."""
    with open_input(path) as file:
        return file.read(len(BEGINNING)) == BEGINNING


class Proven:
    """The content of a file with a proof, as a binary file that can be read. Each part is checked before it is given.

    Raises
    ------
    FileError
        If the file cannot be read, or is not what was written. The HDF5 library hides it: `damage` keeps what it says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.place = path, 0
        self.damage = ""
        self.file = open_input(path)
        try:
            known, self._state = os.path.realpath(path), state_of(self.file)
            if known not in _seen or _seen[known][0] != self._state:
                entry = (self._state, self._hashes(), set[int]())
                if is_old(self.file):
                    _seen[known] = entry
            else:
                entry = _seen[known]
            _, self.hashes, self.right = entry
            self.size = self._state[2] - HEAD - HASH * len(self.hashes)
            if len(self.right) > MOST * len(self.hashes):  # some parts may hold nothing that anybody reads
                self.check()
        except BaseException:
            self.file.close()
            raise

    def _hashes(self) -> list[bytes]:
        """The hash of each part, after a check that these are the ones that were written."""
        head = self.file.read(HEAD)
        match = re.fullmatch(rb"[0-9a-f]{64} ([0-9]{1,18})\n\0*", head[len(BEGINNING) :])
        if match is None:
            raise self._damaged()
        size = int(match[1])
        count = -(-size // PART)
        if self._state[2] != HEAD + size + HASH * count:
            raise self._damaged(": it is cut short, or something was added")
        self.file.seek(HEAD + size)
        table = self.file.read(HASH * count)
        hashes = [table[first : first + HASH] for first in range(0, len(table), HASH)]
        if head != _head(size, hashes):
            raise self._damaged()
        return hashes

    def _damaged(self, how: str = "") -> FileError:
        what = f"it is not what was written{how or ' (its SHA-256 has changed)'}"
        self.damage = f"{self.path} is damaged: {what}. Make it again, or take a copy"
        return FileError(self.damage)

    def _part(self, number: int) -> bytes:
        """A part of the content, after its check."""
        self.file.seek(HEAD + number * PART)
        part = self.file.read(min(PART, self.size - number * PART))
        if hashlib.sha256(part).digest() != self.hashes[number]:
            raise self._damaged()
        self.right.add(number)
        return part

    @property
    def is_checked(self) -> bool:
        """Whether all parts have been right since the file was last changed."""
        return len(self.right) == len(self.hashes)

    def check(self) -> None:
        """Check all parts that were not checked since the file was last changed."""
        for number in range(len(self.hashes)):
            if number not in self.right:
                self._part(number)

    # -- what the HDF5 library calls ------------------------------------------------------------------------------

    def readinto(self, buffer: Any) -> int:
        try:
            return self._fill(memoryview(buffer).cast("B"))
        except FileError:
            pass
        # An exception's traceback keeps the variables of its functions. This memory is not to be kept: it is HDF5's.
        del buffer
        raise OSError(self.damage)

    def _fill(self, view: memoryview) -> int:
        begin, end = self.place, min(self.place + len(view), self.size)
        while self.place < end:
            number, first = divmod(self.place, PART)
            count = min(end - self.place, PART - first)
            target = view[self.place - begin : self.place - begin + count]
            if number in self.right:
                self.file.seek(HEAD + self.place)
                if self.file.readinto(target) != count:  # type: ignore[attr-defined]
                    raise self._damaged(": it is cut short")
            else:
                target[:] = self._part(number)[first : first + count]
            self.place += count
        return max(end - begin, 0)

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def __enter__(self) -> Proven:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
