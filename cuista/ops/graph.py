"""CUDA graphs: work that is the same in every training step is recorded once and then replayed.

A step that is taken layer by layer launches hundreds of kernels, each of which takes the host longer than the GPU. A
graph launches all of them at once, with the same addresses each time: what it reads must stay where it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from cuista.checks import Array


class NotRecordableError(Exception):
    """The work cannot be recorded. It may read memory of the host, say, which a graph would read again later."""


def arrays_in(structure: Any) -> list[Array]:
    """The arrays in nested tuples, lists and dictionaries, in order."""
    if structure is None:
        return []
    if isinstance(structure, dict):
        structure = tuple(structure.values())
    if isinstance(structure, tuple | list):
        return [array for part in structure for array in arrays_in(part)]
    if not hasattr(structure, "dtype"):
        raise NotRecordableError(f"the work takes or returns {type(structure).__name__}")
    return [structure]


class Recording:
    """A recorded call of `work`, a function of arrays in nested tuples, which has run before.

    Parameters
    ----------
    xp
        CuPy.
    work, inputs
        The function and its arguments. Its results must not depend on anything else that changes, except on arrays that
        are changed in place.

    Attributes
    ----------
    results
        What the call returned, which `replay` overwrites.

    Raises
    ------
    NotRecordableError
        If the work needs the host, or if the replayed work does not have the bits of the call.
    """

    def __init__(self, xp: Any, work: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        cuda = xp.cuda
        given = arrays_in(inputs)
        # The memory of the recorded call belongs to the graph alone, from one replay to the next.
        pool, stream = cuda.MemoryPool(), cuda.Stream()
        with cuda.using_allocator(pool.malloc), stream:
            own = _like(inputs, iter([xp.array(array) for array in given]))
            self._inputs = arrays_in(own)
            expected = work(*own)
            stream.synchronize()
            try:
                # Arrays of the host are copied through pinned memory.
                cuda.set_pinned_memory_allocator(_refuse)
                stream.begin_capture()
                self.results = work(*own)
                self._graph = stream.end_capture()
            except (NotRecordableError, cuda.runtime.CUDARuntimeError) as error:
                with contextlib.suppress(cuda.runtime.CUDARuntimeError):
                    stream.end_capture()
                raise NotRecordableError(f"{type(error).__name__}: {error}") from error
            finally:
                cuda.set_pinned_memory_allocator(xp.get_default_pinned_memory_pool().malloc)
        self._graph.launch()
        for found, direct in zip(arrays_in(self.results), arrays_in(expected), strict=True):
            if found.tobytes() != direct.tobytes():
                raise NotRecordableError("the replayed work has other bits")

    def replay(self, inputs: tuple[Any, ...]) -> Any:
        """The results for other inputs of the same shapes, until the next replay."""
        for own, new in zip(self._inputs, arrays_in(inputs), strict=True):
            own[...] = new
        self._graph.launch()
        return self.results


def _like(structure: Any, arrays: Any) -> Any:
    """The structure with other arrays."""
    if structure is None:
        return None
    if isinstance(structure, tuple):
        return tuple(_like(part, arrays) for part in structure)
    return next(arrays)


def _refuse(size: int) -> Any:
    raise NotRecordableError("the work copies an array from the host")
