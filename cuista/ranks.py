"""Work that is distributed over the processes of an MPI job, its ranks.

All ranks run the same program on the same inputs. They share out what takes long: the shards of a training batch, the
parts of a validation, the runs of a comparison. Every rank receives all results, so that all take the same decisions.
The first rank alone writes files and talks. Results have the same bits for any number of ranks, because the shards are
the same and are summed along the same tree, whoever computes them; MPI's own sums promise no order and are not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from cuista import parallel
from cuista.checks import Array
from cuista.errors import CuistaError, DivergedError, FileError, InputError, MissingLibraryError, NumericalError
from cuista.messages import keeping_warnings, warn

Result = TypeVar("Result")

# How long a rank that has failed waits for the others to fail too, before it ends them all, in seconds.
GRACE = 5.0
# How long a rank waits for another before it asks the system to run something else, and before it sleeps, in seconds.
AWAKE, NAP = 0.002, 0.0002
# The most bytes in a call of MPI, many versions of which count them in 32 bits, and of what arrays begin at multiples.
PIECE, ALIGNED = 2**30, 64
# The errors of other ranks that are raised here as what they are.
ERRORS: dict[str, type[CuistaError]] = {
    each.__name__: each for each in (InputError, FileError, NumericalError, DivergedError, MissingLibraryError)
}


class Messages(Protocol):
    """What carries messages between ranks: MPI, or in tests the threads of a process.

    Attributes
    ----------
    rank, size
        The number of this rank, and how many there are.
    """

    rank: int
    size: int

    def swap(self, sent: Array, to: Sequence[int], source: int | None = None, room: Array | None = None) -> None:
        """Send bytes to these ranks, and meanwhile fill the room with as many from the source, if there is one."""

    def gather(self, part: bytes) -> list[Any]:
        """The bytes that each rank has given, as memory, in the order of the ranks; all ranks call this together."""

    def end(self, status: int) -> list[int] | None:
        """The exit statuses of all ranks, each of which calls this at its end.

        A rank that has failed waits for the others for `GRACE` seconds only, and returns None if they do not come:
        they wait for what this rank does not send any more.
        """

    def abort(self, status: int) -> None:
        """End all ranks at once."""


class Ranks:
    """The ranks among which work is shared out; this class is that of a process that works alone.

    Attributes
    ----------
    rank, size
        The number of this rank from 0 on, and how many there are.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def share(self, shards: int) -> range:
        """The shards of a step, out of so many, that this rank computes; there may be none."""
        return range(shards)

    def sum(self, arrays: list[Array], shards: int, xp: Any = np) -> None:
        """Add up what the ranks have computed of the shards, in place. All ranks get the same bits.

        `arrays` are those that this rank has for its share, summed along the tree. A rank without a share gives arrays
        of the same shapes and dtypes, whose values do not matter. `xp` is their module. Those on GPUs are exchanged by
        NCCL if each rank has a GPU of its own, and otherwise through host memory.
        """

    def gathered(self, parts: int, work: Callable[[range], list[Result]]) -> list[Result]:
        """The results of `work` on parts 0 … `parts` − 1, in order, where each rank has done its share of them.

        A result is an array, a number or a tuple of numbers; from several ranks come arrays. An error of one rank is
        raised in all of them.
        """
        return work(range(parts))

    def agreed(self, value: Callable[[], Result]) -> Result:
        """What the function returns in the first rank, which alone calls it: anything that JSON can express.

        The error that it raises there is raised in all ranks.
        """
        return value()

    def spread(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of jobs, each of which one rank does alone: anything that JSON can express.

        The first rank issues the warnings of all others' jobs when all are done.
        A rank that does one is not among others meanwhile: it may write files of its own.
        """
        return [job() for job in jobs]

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is set."""
        return flag

    def compare(self, digest: str, what: str) -> None:
        """Raise NumericalError if this digest of `what` is not the same in all ranks."""

    def check_alike(self, given: dict[str, Any]) -> None:
        """Raise InputError if the ranks were not given the same, by name: anything that can be written as text."""

    def end(self, status: int) -> list[int] | None:
        """The exit statuses of all ranks, each of which calls this at its end: see `Messages.end`."""
        return [status]

    def abort(self, status: int) -> None:
        """End all ranks at once with this exit status."""


class Several(Ranks):
    """Ranks that exchange messages."""

    def __init__(self, messages: Messages) -> None:
        self.messages, self.rank, self.size = messages, messages.rank, messages.size
        self._nccl: list[Nccl | None] = []  # once that is known
        self._calls = 0

    def share(self, shards: int) -> range:
        leaf = self._path(shards)[-1]
        return range(leaf.begin, leaf.end) if self.rank == leaf.first else range(0)

    def _path(self, shards: int) -> list[_Node]:
        """The nodes of the tree that contain this rank, from the root to its leaf."""
        path = [_Node(0, shards, 0, self.size)]
        while path[-1].halves:
            path.append(next(half for half in path[-1].halves if half.first <= self.rank < half.last))
        return path

    def sum(self, arrays: list[Array], shards: int, xp: Any = np) -> None:
        if xp is not np and not self._nccl:
            self._nccl.append(_nccl_for(self))
        messages: Any = self.messages if xp is np else self._nccl[0]
        if messages is None:
            hosted = [each.get() for each in cast(Any, arrays)]
            self.sum(hosted, shards)
            for array, host in zip(arrays, hosted, strict=True):
                cast(Any, array).set(host)
            return
        path = self._path(shards)
        # A GPU reads numbers of 8 bytes only at multiples of 8: they come first in messages.
        arrays = sorted(arrays, key=lambda each: -each.dtype.itemsize)
        room = xp.empty(sum(each.nbytes for each in arrays), np.uint8)
        leaf = path.pop()
        if leaf.last - leaf.first > 1:  # the first of these ranks has computed, and the others have not
            self._copy_from(messages, leaf, arrays, room, xp)
        for node in reversed(path):
            self._add_across(messages, node, arrays, room, xp)

    def _copy_from(self, messages: Any, leaf: _Node, arrays: list[Array], room: Array, xp: Any) -> None:
        """Give the arrays of a leaf's first rank to its other ranks."""
        others = range(leaf.first + 1, leaf.last)
        if self.rank == leaf.first:
            messages.swap(_joined(xp, arrays), others)
            return
        messages.swap(room, [], leaf.first, room)
        for array, found in zip(arrays, _parted(room, arrays), strict=True):
            array[...] = found

    def _add_across(self, messages: Any, node: _Node, arrays: list[Array], room: Array, xp: Any) -> None:
        """Add the sums of a node's two halves, which all ranks of each half have.

        Ranks are paired. If one half has more of them, a rank of the other half answers several. Both partners compute
        the same bits, because a + b = b + a.
        """
        left, right = node.halves
        own, other = (left, right) if self.rank < left.last else (right, left)
        size, others = own.last - own.first, other.last - other.first
        place = self.rank - own.first
        to = [other.first + each for each in range(others) if each % size == place]
        messages.swap(_joined(xp, arrays), to, other.first + place % others, room)
        for array, found in zip(arrays, _parted(room, arrays), strict=True):
            array += found

    def _exchanged(self, what: str, work: Callable[[], bytes]) -> list[Any]:
        """What each rank returns from `work`, as memory. An error in one rank is raised in all of them.

        Raises
        ------
        NumericalError
            If the ranks are not at the same place of the program.
        """
        self._calls += 1
        content, error = b"", None
        try:
            content = work()
        except Exception as caught:
            error = caught
        failed = None if error is None else [type(error).__name__, str(error), getattr(error, "options", ())]
        head = json.dumps([self._calls, what, failed]).encode()
        head += b" " * (-len(head) % ALIGNED)
        room = b" " * (-len(content) % ALIGNED)
        parts = self.messages.gather(b"".join([len(head).to_bytes(ALIGNED, "little"), head, content, room]))
        ends = [ALIGNED + int.from_bytes(part[:ALIGNED], "little") for part in parts]
        heads = [json.loads(bytes(part[ALIGNED:end])) for part, end in zip(parts, ends, strict=True)]
        if error is not None:
            raise error
        for rank, (calls, at, failure) in enumerate(heads):
            if failure is not None:
                kind, text, options = failure
                raise ERRORS.get(kind, CuistaError)(f"rank {rank}: {text or kind}", option=tuple(options))
            if [calls, at] != [self._calls, what]:
                raise NumericalError(
                    f"rank {self.rank} was at {what!r} when rank {rank} was at {at!r}: all ranks must do the same, "
                    "with the same arguments and the same files"
                )
        return [part[end:] for part, end in zip(parts, ends, strict=True)]

    def gathered(self, parts: int, work: Callable[[range], list[Result]]) -> list[Result]:
        bounds = [parts * rank // self.size for rank in range(self.size + 1)]
        own = range(bounds[self.rank], bounds[self.rank + 1])

        def packed() -> bytes:
            with among(_ALONE):
                found = [np.asarray(result) for result in work(own)]
            about = json.dumps([(each.dtype.str, each.shape) for each in found]).encode()
            about += b" " * (-len(about) % ALIGNED)
            arrays = (each.tobytes() + bytes(-each.nbytes % ALIGNED) for each in found)
            return b"".join([len(about).to_bytes(ALIGNED, "little"), about, *arrays])

        results: list[Any] = []
        for content in self._exchanged(f"the results of {parts} parts", packed):
            place = ALIGNED + int.from_bytes(content[:ALIGNED], "little")
            for dtype, shape in json.loads(bytes(content[ALIGNED:place])):
                array = np.frombuffer(content, dtype, int(np.prod(shape)), place).reshape(shape)
                results.append(array)
                place += array.nbytes + -array.nbytes % ALIGNED
        return results

    def agreed(self, value: Callable[[], Result]) -> Result:
        decided = self._exchanged("a decision", lambda: json.dumps(value()).encode() if self.first else b"")[0]
        agreed: Result = json.loads(bytes(decided))
        return agreed

    def any(self, flag: bool) -> bool:
        return any(bytes(each).strip() == b"1" for each in self._exchanged("a flag", lambda: b"1" if flag else b"0"))

    def compare(self, digest: str, what: str) -> None:
        found = [bytes(each).decode().strip() for each in self._exchanged(what, digest.encode)]
        usual = max(found, key=found.count)
        others = [str(rank) for rank, each in enumerate(found) if each != usual]
        if others:
            if 2 * len(others) >= self.size:  # nobody knows who is right
                others = [str(rank) for rank in range(self.size)]
            raise NumericalError(
                f"{what} of the ranks differ, although all compute the same: see those of "
                f"{'rank' if len(others) == 1 else 'ranks'} {', '.join(others)} of {self.size}. Use the same kind of "
                "processor and the same libraries everywhere, and test the memory of these machines"
            )

    def check_alike(self, given: dict[str, Any]) -> None:
        texts = {name: str(value) for name, value in given.items()}
        found = [json.loads(bytes(each)) for each in self._exchanged("what is given", json.dumps(texts).encode)]
        for rank, other in enumerate(found):
            for name in sorted(other.keys() | found[0].keys()):
                if other.get(name) != found[0].get(name):
                    raise InputError(
                        f"rank {rank} was given something else than rank 0: {name} is {other.get(name)} there, and "
                        f"{found[0].get(name)} here. Give all ranks of a job the same arguments and the same files; "
                        "runs that differ are jobs of their own"
                    )

    def spread(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        def done() -> bytes:
            # The others do not talk, so that the first rank issues their warnings.
            keeping: Any = contextlib.nullcontext([]) if self.first else keeping_warnings()
            with among(_ALONE), keeping as kept:
                results = [job() for job in jobs[self.rank :: self.size]]
            return json.dumps([results, kept]).encode()

        found = [json.loads(bytes(each)) for each in self._exchanged(f"{len(jobs)} jobs", done)]
        if self.first:
            for text in [text for _, kept in found for text in kept]:
                warn(text, stacklevel=2)
        return [found[number % self.size][0][number // self.size] for number in range(len(jobs))]

    def end(self, status: int) -> list[int] | None:
        return self.messages.end(status)

    def abort(self, status: int) -> None:
        self.messages.abort(status)


class _Node(NamedTuple):
    """Shards `begin` … `end` − 1, which are computed by the ranks `first` … `last` − 1."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def halves(self) -> tuple[_Node, ...]:
        """The two nodes whose sum this is, with the ranks shared out to them; none for a single shard or rank."""
        shards, ranks = self.end - self.begin, self.last - self.first
        if shards < 2 or ranks < 2:
            return ()
        most = 1 << (shards - 1).bit_length() - 1  # the largest power of two below
        left = min(max(round(ranks * most / shards), 1), ranks - 1)
        middle = self.begin + most, self.first + left
        return _Node(self.begin, middle[0], self.first, middle[1]), _Node(middle[0], self.end, middle[1], self.last)


def _joined(xp: Any, arrays: list[Array]) -> Array:
    """The bytes of several arrays in one message."""
    joined: Array = xp.concatenate([xp.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in arrays])
    return joined


def _parted(room: Array, arrays: list[Array]) -> Iterator[Array]:
    """The arrays in a message, which have the shapes and dtypes of the given ones."""
    place = 0
    for each in arrays:
        yield room[place : place + each.nbytes].view(each.dtype).reshape(each.shape)
        place += each.nbytes


# -- MPI --------------------------------------------------------------------------------------------------------------

# The environment variables in which what starts MPI jobs says the number of a rank, and how many there are: Open MPI,
# MPICH and Intel MPI, MVAPICH, Slurm's srun, Flux and IBM's jsrun. Only a step of srun's has the second one of Slurm.
VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
)


def started() -> tuple[int, int]:
    """The number of this process in its MPI job, and how many it has, as the environment says; 0 and 1 if alone."""
    for rank, size in VARIABLES:
        values = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(value.isascii() and value.isdigit() for value in values) and int(values[1]) > 1:
            return int(values[0]), int(values[1])
    return 0, 1


class Mpi:
    """Messages of MPI, through mpi4py. Waiting lets other processes of the same core run, and Python handle signals."""

    def __init__(self, communicator: Any) -> None:
        # A rank that fails says so by the second one, whatever the others wait for by the first one.
        self.communicator, self.last = communicator.Dup(), communicator.Dup()
        self._pending: dict[int, Any] = {}
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def swap(self, sent: Array, to: Sequence[int], source: int | None = None, room: Array | None = None) -> None:
        for first in range(0, len(sent), PIECE):
            part = slice(first, first + PIECE)
            requests = [] if source is None or room is None else [self.communicator.Irecv(room[part], source)]
            requests += [self.communicator.Isend(sent[part], other) for other in to]
            for request in requests:
                self.wait(request, sent, room)

    def gather(self, part: bytes) -> list[Any]:
        own, sizes = np.array([len(part)], np.int64), np.empty(self.size, np.int64)
        self.wait(self.communicator.Iallgather(own, sizes), own, sizes)
        ends = np.cumsum(sizes).tolist()
        room, sent = np.empty(ends[-1], np.uint8), np.frombuffer(part, np.uint8)
        parts = [room[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]
        if len(room) <= PIECE:
            self.wait(self.communicator.Iallgatherv(sent, [room, sizes.tolist()]), sent, room)
        else:
            parts[self.rank][...] = sent
            for rank, of_rank in enumerate(parts):
                for first in range(0, len(of_rank), PIECE):
                    self.wait(self.communicator.Ibcast(of_rank[first : first + PIECE], rank), room)
        return [each.data for each in parts]

    def end(self, status: int) -> list[int] | None:
        found = np.empty(self.size, np.int64)
        own = np.array([status], np.int64)
        request = self.last.Iallgather(own, found)
        return found.tolist() if self.wait(request, own, found, seconds=GRACE if status else np.inf) else None

    def abort(self, status: int) -> None:
        self.communicator.Abort(status)

    def wait(self, request: Any, *buffers: Any, seconds: float = np.inf) -> bool:
        """Wait for a request at most so long, and return whether it is complete.

        MPI may go on with the buffers of a request that is not, so they are kept.
        """
        self._pending[id(request)] = request, buffers
        begun = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - begun
            if waited > seconds:
                return False
            time.sleep(0 if waited < AWAKE else NAP)
        del self._pending[id(request)]
        return True


def describe_mpi() -> dict[str, Any]:
    """Which MPI library mpi4py would use, or the `reason` why there is none. MPI is not started for that."""
    try:
        import mpi4py  # type: ignore[import-not-found, unused-ignore]

        before, mpi4py.rc.initialize = mpi4py.rc.initialize, False
        try:
            from mpi4py import MPI  # type: ignore[import-not-found, unused-ignore]
        finally:
            mpi4py.rc.initialize = before
    except (ImportError, RuntimeError) as error:
        return {"reason": " ".join(str(error).split())}
    library = " ".join(MPI.Get_library_version().replace("\0", "").splitlines()[0].split())
    return {"reason": None, "mpi4py": mpi4py.__version__, "library": library}


def of_job() -> Ranks:
    """The ranks of the MPI job that this process belongs to; itself alone if it belongs to none.

    Raises
    ------
    MissingLibraryError
        If several processes were started, and mpi4py or an MPI library for it is not installed.
    InputError
        If mpi4py uses an MPI library other than that of what has started them.
    """
    _, size = started()
    if size == 1:
        return _ALONE
    try:
        from mpi4py import MPI  # type: ignore[import-not-found, unused-ignore]
    except (ImportError, RuntimeError) as error:  # there is no mpi4py, or it finds no MPI library
        reason = " ".join(str(error).split())
        raise MissingLibraryError(
            f"{size} processes were started as one MPI job, and MPI cannot be used: {reason}. Install cuista[mpi] and "
            "the MPI library of your cluster, or start a single process"
        ) from None
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        raise InputError(
            f"{size} processes were started as one MPI job, and the MPI library of mpi4py sees {found}: "
            f"{MPI.Get_library_version().splitlines()[0].strip()}. Start them with the mpiexec of this library; with "
            "srun, try --mpi=pmix or --mpi=pmi2"
        )
    return Several(Mpi(MPI.COMM_WORLD))


def workers_of(job: Ranks) -> int | None:
    """How many threads this rank should compute with: its part of what its ranks of this machine may use together.

    None leaves the number as it is: for a process that works alone, or if CUISTA_WORKERS sets it.
    """
    if job.size == 1 or os.environ.get(parallel.WORKERS):
        return None
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    own = json.dumps([socket.gethostname(), allowed]).encode()
    places = [bytes(each) for each in cast(Several, job).messages.gather(own)]
    return max(parallel.allowance().workers // places.count(own), 1)


# -- NCCL -------------------------------------------------------------------------------------------------------------


class Nccl:
    """Messages from GPU to GPU by NCCL, in the order of the current stream. Nothing waits for them but that stream.

    `nccl` is CuPy's module, and `communicator` one of its communicators.
    """

    def __init__(self, nccl: Any, communicator: Any, stream: Callable[[], Any]) -> None:
        self.nccl, self.communicator, self.stream = nccl, communicator, stream

    def swap(self, sent: Any, to: Sequence[int], source: int | None = None, room: Any = None) -> None:
        kind, stream = self.nccl.NCCL_UINT8, self.stream().ptr
        self.nccl.groupStart()
        for other in to:
            self.communicator.send(sent.data.ptr, sent.size, kind, other, stream)
        if source is not None:
            self.communicator.recv(room.data.ptr, room.size, kind, source, stream)
        self.nccl.groupEnd()


def _nccl_for(job: Several) -> Nccl | None:
    """NCCL between the ranks' current GPUs; None unless all ranks have it, and each has a GPU of its own."""
    try:
        import cupy
        from cupy.cuda import nccl

        where = f"{socket.gethostname()} {cupy.cuda.Device().pci_bus_id}" if nccl.available else ""
    except (ImportError, AttributeError):  # CuPy was built without it
        where = ""
    places = [bytes(each) for each in job.messages.gather(where.encode())]
    if b"" in places or len(set(places)) < job.size:
        return None
    number = nccl.get_unique_id()  # a tuple or bytes, as the versions of CuPy have it
    shared = job.agreed(lambda: list(number))
    communicator = nccl.NcclCommunicator(job.size, type(number)(shared), job.rank)
    return Nccl(nccl, communicator, cupy.cuda.get_current_stream)


# -- the ranks of this process ----------------------------------------------------------------------------------------

_ALONE = Ranks()
# It belongs to a context, which work that is shared out to threads inherits.
_ranks: ContextVar[Ranks] = ContextVar("ranks", default=_ALONE)


def ranks() -> Ranks:
    """The ranks among which this process shares out its work now: itself alone, or those of the last block.

    Work that is shared out to threads already is not shared out to ranks, because threads send no messages.
    """
    return _ALONE if parallel.is_shared_out() else _ranks.get()


@contextlib.contextmanager
def together() -> Iterator[Ranks]:
    """Share work out in the block among the processes of the MPI job that this one belongs to, if it belongs to one.

    All of them must do the same in the block, with the same arguments. Each computes with its part of the machine's
    cores, unless CUISTA_WORKERS sets a number. If one of them leaves the block by an error alone, it ends the others,
    which would wait for it for ever.

    Raises
    ------
    MissingLibraryError, InputError
        As `of_job`.
    """
    job = of_job()
    with parallel.workers(workers_of(job)), among(job):
        try:
            yield job
        except BaseException:
            if job.end(1) is None:
                sys.excepthook(*cast(Any, sys.exc_info()))
                job.abort(1)
            raise


@contextlib.contextmanager
def among(others: Ranks) -> Iterator[None]:
    """Share work out among these ranks in the block."""
    token = _ranks.set(others)
    try:
        yield
    finally:
        _ranks.reset(token)
