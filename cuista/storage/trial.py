"""A trial reading of files that have no proof, by a process that may crash.

The HDF5 library can crash, loop for ever or take all memory on a damaged file. A file that cannot prove that it is
whole is therefore read to its end by a forked process first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from cuista.errors import FileError
from cuista.storage.files import open_input
from cuista.storage.proof import state_of

# What the process may take: seconds of computing, and seconds for each byte of the file.
SECONDS, SECONDS_PER_BYTE = 5, 2e-7
# Bytes of memory, at least. Deflate makes 1032 bytes of one, at most.
MEMORY, DEFLATED = 1 << 30, 1032
# How many bytes it reads at a time.
AT_ONCE = 1 << 26
# What it reports at its end.
WELL, TOO_LITTLE = b"well", b"too little memory"
# Warnings can only be silenced for the whole process, by one thread at a time.
_FORKING = threading.Lock()
# By file, its state when it was tried, and what is wrong with it, if anything is.
_tried: dict[str, tuple[tuple[int, ...], str]] = {}


def try_reading(path: str | os.PathLike[str]) -> None:
    """Raise FileError if the HDF5 library cannot be trusted with the file.

    Where processes cannot be forked (Windows), nothing is tried.
    """
    if not hasattr(os, "fork"):
        return
    with open_input(path) as file:
        state = state_of(file)
    known = os.path.realpath(path)
    if known not in _tried or _tried[known][0] != state:
        _tried[known] = state, _fault_of(path, state[2])
    fault = _tried[known][1]
    if fault:
        raise FileError(f"{path} is damaged: reading it {fault}")


def _fault_of(path: str | os.PathLike[str], size: int) -> str:
    """What happens if the file is read; nothing, as a rule."""
    import h5py  # noqa: F401  (so that the new process has it)

    receiving, sending = os.pipe()
    try:
        with _FORKING, warnings.catch_warnings():
            # Python warns if a process with several threads forks. This one only calls h5py, which protects its lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError as error:
        os.close(receiving)
        os.close(sending)
        raise FileError(f"cannot read {path}: no process could be started to try that ({error.strerror})") from error
    if child == 0:
        _read_all(path, size, sending)
    os.close(sending)
    try:
        with os.fdopen(receiving, "rb") as pipe:
            report = pipe.read()
        status = _status_of(child)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _status_of(child)
        raise
    if report == WELL:
        return ""
    if report == TOO_LITTLE:
        return "takes too much memory"
    return "does not come to an end" if status == -signal.SIGXCPU else "crashes the HDF5 library"


def _status_of(child: int) -> int | None:
    """The exit status of a process when it has ended, or None where the system does not keep it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:  # SIGCHLD is ignored
        return None


def _read_all(path: str | os.PathLike[str], size: int, pipe: int) -> None:
    """Read the whole file as its readers will, and end the process. They will report the errors, not this process."""
    try:
        _limit(size)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the C library prints that its memory is corrupted
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.write(pipe, _visit(path))
    finally:
        os._exit(0)


def _limit(size: int) -> None:
    """Limit the time and the memory of this process."""
    import resource

    def lower(kind: int, limit: int) -> None:
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, hard))

    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_CPU, int(SECONDS + SECONDS_PER_BYTE * size))
    if sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        lower(resource.RLIMIT_AS, now + MEMORY + DEFLATED * size)


def _visit(path: str | os.PathLike[str]) -> bytes:
    """Read all arrays and attributes, and return what is to be reported."""
    import h5py

    from cuista.storage.records import check_stored

    enough = True

    @contextlib.contextmanager
    def trying() -> Iterator[None]:
        nonlocal enough
        try:
            yield
        except Exception as error:
            # The HDF5 library says that an allocation has failed in the text of an OSError.
            enough = enough and not isinstance(error, MemoryError) and "allocat" not in str(error)

    def reading(node: Any) -> None:
        for name in list(node.attrs):
            with trying():
                node.attrs[name]
        with trying():
            if isinstance(node, h5py.Dataset):
                check_stored(path, node)
                _read(node)

    with trying(), h5py.File(path, "r") as file:
        reading(file)
        file.visititems(lambda name, node: reading(node))
    return WELL if enough else TOO_LITTLE


def _read(node: Any) -> None:
    """Read an array. Of one that lies in one piece, a row will do: no more than its address can be wrong."""
    if not node.shape:
        node[()]
        return
    row = node.dtype.itemsize * (node.size // max(node.shape[0], 1))
    rows = max(AT_ONCE // max(row, 1), 1) if node.chunks else 1
    for first in range(0, node.shape[0] if node.chunks else 1, rows):
        node[first : first + rows]
