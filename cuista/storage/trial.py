"""A trial reading of files that have no proof, by a process that may crash.

The HDF5 library can crash, loop for ever or take all memory on a damaged file. A file of which nobody can tell whether
it is damaged is therefore read to its end by a forked process first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from typing import Any

from cuista.errors import FileError
from cuista.storage.proof import is_old, state_of

# What the process may take: seconds of computing, and seconds for each byte of the file.
SECONDS, SECONDS_PER_BYTE = 10, 2e-7
# Bytes of memory, at least. Deflate makes 1032 bytes of one, at most.
MEMORY, DEFLATED = 1 << 30, 1032
# How many bytes it reads at a time, and the exit status of a process that has too little memory for that.
AT_ONCE, TOO_LITTLE = 1 << 26, 77
_survived: dict[str, tuple[int, ...]] = {}


def try_reading(path: str | os.PathLike[str]) -> None:
    """Raise FileError if the HDF5 library cannot be trusted with the file.

    Where processes cannot be forked (Windows), nothing is tried.
    """
    with open(path, "rb") as file:
        state, settled = state_of(file), is_old(file)
    known = os.path.realpath(path)
    if _survived.get(known) == state or not hasattr(os, "fork"):
        return
    import h5py  # noqa: F401  (so that the new process has it)

    with warnings.catch_warnings():
        # Python warns that a process with several threads forks. This one calls nothing that other threads may lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _read_all(path, state[2])
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if status == 0:
        if settled:
            _survived[known] = state
        return
    reasons = {-signal.SIGXCPU: "does not come to an end", TOO_LITTLE: "takes too much memory"}
    raise FileError(f"{path} is damaged: reading it {reasons.get(status, 'crashes the HDF5 library')}")


def _read_all(path: str | os.PathLike[str], size: int) -> None:
    """Read the whole file as its readers will, and end the process. An error is none here: the readers will meet it."""
    status = 1
    try:
        with contextlib.suppress(OSError, ValueError):
            _limit(size)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where the C library reports what it finds out about its memory
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        status = _visit(path)
    finally:
        os._exit(status)


def _limit(size: int) -> None:
    import resource

    seconds = int(SECONDS + SECONDS_PER_BYTE * size)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    if sys.platform == "linux":
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        allowed = now + MEMORY + DEFLATED * size
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (allowed if hard < 0 else min(allowed, hard), hard))


def _visit(path: str | os.PathLike[str]) -> int:
    """Read all arrays and attributes, and return the exit status."""
    import h5py

    from cuista.storage.records import check_stored

    short = False

    def reading(node: Any) -> None:
        nonlocal short
        for name in list(node.attrs):
            try:
                node.attrs[name]
            except MemoryError:
                short = True
            except Exception:
                continue
        try:
            if isinstance(node, h5py.Dataset):
                check_stored(path, node)
                _read(node)
        except MemoryError:
            short = True
        except Exception:
            return

    try:
        with h5py.File(path, "r") as file:
            reading(file)
            file.visititems(lambda name, node: reading(node))
    except MemoryError:
        short = True
    except Exception:
        pass
    return TOO_LITTLE if short else 0


def _read(node: Any) -> None:
    """Read an array. Of one that lies in one piece, a row will do: no more than its address can be wrong."""
    if not node.shape:
        node[()]
        return
    row = node.dtype.itemsize * (node.size // max(node.shape[0], 1))
    rows = max(AT_ONCE // max(row, 1), 1) if node.chunks else 1
    for first in range(0, node.shape[0] if node.chunks else 1, rows):
        node[first : first + rows]
