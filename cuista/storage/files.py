"""Writing files so that nothing is lost, and the hash by which arrays are recognised.

A file is written under a temporary name, flushed to disk and renamed, so that neither a reader, a crash nor a full disk
can leave half a file behind. Whoever works towards a file claims it first, so that no two processes do so at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shlex
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError, MissingLibraryError
from cuista.messages import warn
from cuista.ranks import ranks

# What a system call says if the file system cannot lock files, or cannot link them.
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
UNLINKABLE = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
NEEDS_PLUGIN = (
    "is compressed in a way that needs a plugin of the HDF5 library; install it, or save the file with gzip or without "
    "compression"
)
# What the HDF5 library says of files that are well, and what it means.
NOT_DAMAGED = {
    "unable to lock file": (
        "cannot be locked, because its file system has no locks; if no other program writes it, set the environment "
        "variable HDF5_USE_FILE_LOCKING=FALSE"
    ),
    "already open for write": (
        "is open for writing in another program, or was when that ended; close it there, or else run h5clear -s on it"
    ),
    "already open for read-only": "is open in another program; close it there",
    "required filter": NEEDS_PLUGIN,
    "can't open directory": NEEDS_PLUGIN,
}
# An array of more bytes than this is not read if there are more for each stored byte than compression explains.
LARGE, LARGE_PER_BYTE = 1 << 30, 100
# File systems allow names of 255 bytes, of which a temporary name or the name of a lock takes some.
LONGEST = 200


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Give a new binary file, open for reading and writing, which gets the name `path` if the block succeeds.

    Of several ranks, only the first writes; the others are given a file that vanishes.

    If the block fails, the file vanishes, and what was at `path` stays. A file that is replaced passes on its
    permissions. If `path` is a link, the file that it points to is replaced.

    Raises
    ------
    FileError
        As `claimed` and `check_writable`; if the file cannot be written; if `overwrite` is false and a file of this
        name has appeared in the meantime.
    """
    if not ranks().first:
        with tempfile.TemporaryFile() as vanishing:
            yield vanishing
        return
    with claimed(path):
        check_writable(path, overwrite=overwrite)
        target = Path(os.path.realpath(path))
        _clean(target)
        temporary, file = target.with_name(f"{_begin(target)}{secrets.token_hex(4)}.tmp"), None
        try:
            file = _new_file(temporary)
            with file:
                yield file
                if overwrite and target.exists() and hasattr(os, "fchmod"):  # Windows has none
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                file.flush()
                os.fsync(file.fileno())
            _name(temporary, target, overwrite)
            sync_folder(target.parent)
        except OSError as error:
            raise FileError(f"cannot write {path}: {reason_of(error)}") from error
        finally:
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()  # what is still in its buffer may not fit on the disk
            with contextlib.suppress(OSError):
                temporary.unlink()


def _new_file(path: Path) -> IO[bytes]:
    """A new file, open for reading and writing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    return os.fdopen(descriptor, "w+b")


def _begin(target: Path) -> str:
    """How the names of temporary files for this target begin."""
    return f".{_shortened(target.name)}."


def _clean(target: Path) -> None:
    """Remove what killed processes have left beside the target, once for each claim to it."""
    claim = _claims.get(_lock_of(target))
    if claim and not claim.cleaned:
        claim.cleaned = True
        with contextlib.suppress(OSError), os.scandir(target.parent) as entries:  # others may own the folder
            for entry in entries:
                if re.fullmatch(re.escape(_begin(target)) + r"[0-9a-f]{8}\.tmp", entry.name):
                    os.unlink(entry.path)


def _name(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the temporary file its name; unless `overwrite`, an error if that name is taken."""
    if overwrite:
        os.replace(temporary, target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        if os.path.samefile(temporary, target):  # a network file system has answered a repeated request
            return
        raise FileError(
            f"{target} has appeared in the meantime: choose another name, or overwrite it", option="overwrite"
        ) from None
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        check_writable(target)
        os.replace(temporary, target)


def write_checked(file: IO[bytes], content: bytes | memoryview) -> None:
    """Write the whole content of a new file. Raises OSError if there is no room, or if other bytes are read back."""
    reserve(file, len(content))
    file.write(content)
    check_written(file, hashlib.sha256(content))


def check_written(file: IO[bytes], digest: Any) -> None:
    """Raise OSError unless the bytes of a file, as they are read back, have this hash, which `hashlib` has made."""
    file.seek(0)
    found = hashlib.sha256()
    while part := file.read(1 << 20):
        found.update(part)
    if found.digest() != digest.digest():
        raise OSError(errno.EIO, "the disk does not give back what was written")


def reserve(file: IO[bytes], size: int) -> None:
    """Ask the file system for the room that a new file will take, if it can be asked. Raises OSError if it has none."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise


def sync_folder(folder: Path) -> None:
    """Make what happened to the names in a folder survive a crash of the system, if the file system can do so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file for reading.

    Raises
    ------
    FileError
        If it does not exist, cannot be opened, or is a folder, a pipe or a device, from which reading might not end.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except FileNotFoundError:
        raise FileError(f"{path} does not exist") from None
    except OSError as error:
        is_folder = isinstance(error, IsADirectoryError)  # as Python finds when it wraps the descriptor
        raise FileError(
            f"cannot read {path}: {'it is a folder; give a file' if is_folder else reason_of(error)}"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FileError(f"cannot read {path}: it is a pipe or a device; give a file")
    return file


def is_outsized(claimed: int, stored: int) -> bool:
    """Whether an array claims to be far larger than what is stored of it, and too large to try."""
    return claimed > max(LARGE, LARGE_PER_BYTE * stored)


def check_claim(path: str | os.PathLike[str], name: str, claimed: int, stored: int) -> None:
    """Raise FileError if the size that an array claims is outsized for what is stored of it."""
    if is_outsized(claimed, stored):
        raise FileError(
            f"{path}: the array {name!r} takes {claimed} bytes, and {stored} are stored, which looks like a file made "
            "to fill the memory; if it is right, save it without compression"
        )


def identity_of(path: str | os.PathLike[str]) -> list[int] | None:
    """What tells a file from others in its folder, and from itself after a change; None if it does not exist.

    The number of the device is not part of it: on a network file system, it differs between machines.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file that is not needed any more, if it exists, in a way that survives a crash of the system."""
    if ranks().first:
        Path(path).unlink(missing_ok=True)
        sync_folder(Path(path).parent)


# -- claims -----------------------------------------------------------------------------------------------------------


@dataclass
class _Claim:
    """A claim: its process and thread, how often that has made it, and the descriptor of the locked file.

    `cleaned` says whether the files were removed that killed processes have left.
    """

    process: int
    thread: int
    times: int
    descriptor: int
    cleaned: bool = False


_claims: dict[Path, _Claim] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def claimed(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Claim the file `path`, if there is one, for a block that works towards it; nobody else can claim it meanwhile.

    The thread that has claimed a file can do so again. The claim is a lock on the file `.NAME.lock` beside it, which
    the system releases even if the process is killed. Where the file system has no locks, there is a warning instead.

    Raises
    ------
    FileError
        If another process or thread has claimed the file; the message says which.
    """
    if path is None or not ranks().first:  # another rank has the claim of all
        yield
        return
    lock = _lock_of(Path(os.path.realpath(path)))
    with _guard:
        claim = _claims.get(lock)
        if claim is not None and claim.process != os.getpid():  # the parent's, which a forked process does not have
            os.close(_claims.pop(lock).descriptor)
            claim = None
        if claim is None:
            descriptor = _locked(lock, path) if lock.parent.is_dir() and os.access(lock.parent, os.W_OK) else None
            if descriptor is not None:
                claim = _claims[lock] = _Claim(os.getpid(), threading.get_ident(), 0, descriptor)
        elif claim.thread != threading.get_ident():
            raise FileError(f"{path} is being written by another thread: wait for it, or choose another name")
        if claim is not None:
            claim.times += 1
    try:
        yield
    finally:
        with _guard:
            if claim is not None and claim.process == os.getpid():
                claim.times -= 1
                if claim.times == 0:
                    del _claims[lock]
                    lock.unlink(missing_ok=True)  # before the lock is released, so that nobody else can have it
                    os.close(claim.descriptor)


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{_shortened(target.name)}.lock")


def _shortened(name: str) -> str:
    """A name of at most `LONGEST` bytes."""
    return os.fsdecode(os.fsencode(name)[:LONGEST])


def _locked(lock: Path, path: str | os.PathLike[str]) -> int | None:
    """A descriptor that holds the lock, or None if the file system has no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    while True:
        descriptor = -1
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder has removed the file before it released the lock: this may not be the file of that name.
            if _is_at(descriptor, lock):
                if os.fstat(descriptor).st_nlink > 1 or os.pread(descriptor, 8, 0) not in (b"", b"process "):
                    raise FileError(f"{lock} is in the way, and is not a lock of cuista: rename or remove it")
                with contextlib.suppress(OSError):  # on a full disk, nobody learns who holds the lock
                    os.ftruncate(descriptor, 0)
                    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
                    holder = f"process {os.getpid()} on {socket.gethostname()} ({command})"
                    os.write(descriptor, holder.encode(errors="replace"))
                held, descriptor = descriptor, -1
                return held
        except BlockingIOError:
            holder = os.pread(descriptor, 300, 0).decode(errors="replace") or "another process"
            holder = "".join(letter if letter.isprintable() else "?" for letter in holder)
            raise FileError(f"{path} is being written by {holder}: wait for it, or choose another name") from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise FileError(f"cannot write {path}: {reason_of(error)}") from error
            warn(f"{path}: the file system has no locks, so give no other command this output", stacklevel=4)
            lock.unlink(missing_ok=True)
            return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# -- checks -----------------------------------------------------------------------------------------------------------


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise FileError if `path` cannot be written, so that long work does not fail at its end.

    Of several ranks, only the first looks.
    """
    if not ranks().first:
        return
    target = Path(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise FileError(f"cannot write {target}: {reason_of(error)}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise FileError(f"cannot write {target}: it is a folder; give a file name")
    if mode is not None and not stat.S_ISREG(mode):
        raise FileError(f"cannot write {target}: it is a pipe or a device; give another name")
    if mode is not None and not overwrite:
        raise FileError(f"{target} exists already: choose another name, or overwrite it", option="overwrite")
    folder = (Path(os.path.realpath(target)) if target.is_symlink() else target).parent
    if not folder.is_dir():
        raise FileError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"cannot write {target}: the folder {folder} is not writable")


@contextlib.contextmanager
def complete(path: str | os.PathLike[str], advice: str = "", option: str | tuple[str, ...] = ()) -> Iterator[None]:
    """Turn whatever a block raises that reads a file into FileError, which says what is wrong with `path`.

    Libraries raise nearly anything on damaged files, and so does code that meets missing or impossible values in them.
    The error ends with the advice, and carries the option.
    """
    try:
        yield
    except (FileError, MissingLibraryError, Warning):
        raise
    except BlockingIOError as error:
        raise FileError(
            f"{path} is in use by another program, which writes it: wait until that has closed it"
        ) from error
    except MemoryError as error:
        raise FileError(f"{path} is too large: there is not enough memory to read it") from error
    except Exception as error:
        reason = reason_of(error)
        for said, meaning in NOT_DAMAGED.items():
            if said in str(error):
                raise FileError(f"{path} {meaning}") from error
        if isinstance(error, OSError) and error.strerror:
            raise FileError(f"cannot read {path}: {reason}") from error
        if isinstance(error, KeyError) and " " not in str(error):
            reason = f"its entry {error} is missing"
        raise FileError(f"{path} is damaged: {reason}{advice and f'; {advice}'}", option=option) from error


def sha256(array: Array) -> str:
    """The hash by which an array is recognised: of its shape and its values as float64 or complex128, row by row."""
    is_complex = np.iscomplexobj(array)
    values = np.ascontiguousarray(array, dtype="<c16" if is_complex else "<f8")
    begin = f"{'complex ' if is_complex else ''}{values.shape!r}"
    return hashlib.sha256(begin.encode() + values.tobytes()).hexdigest()


def reason_of(error: Exception) -> str:
    """What an error says, in one line, without the internal details in HDF5's messages."""
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return re.split(r" \((?:file write failed|unable to)", text)[0]
