"""The check of a whole file: that it is what was written, and that everything in it can be read and makes sense."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from cuista import model, storage
from cuista.data.dictionary import Dictionary
from cuista.data.images import SPLITS
from cuista.data.perturbed import PerturbedSet
from cuista.data.pictures import Pictures
from cuista.data.problem import Problem
from cuista.data.sensing import Sensing
from cuista.evaluation.comparison import Comparison
from cuista.evaluation.robustness import Robustness
from cuista.summary import Described, counted, printable
from cuista.weights import ConvWeight, Weight

# How the file of each kind is read. Those of the other kinds are arrays and attributes that say nothing on their own.
_LOADERS: dict[str, Callable[[Any], Any]] = {
    "cuista-problem": Problem.load,
    "cuista-perturbed": PerturbedSet.load,
    "cuista-dictionary": Dictionary.load,
    "cuista-conv-weight": ConvWeight.load,
    "cuista-weight": lambda path: Weight.from_record(storage.read(path, Weight.kind), path),
    "cuista-sensing": Sensing.load,
    "cuista-comparison": Comparison.load,
    "cuista-robustness": Robustness.load,
    **dict.fromkeys(model.Trained.kinds, model.load),
}


def describe_file(path: str | os.PathLike[str]) -> str:
    """What is in one of cuista's files, in one line.

    Raises
    ------
    FileError
        If the file is missing, damaged or not one of cuista's; the message says what is wrong.
    """
    attributes, arrays = storage.contents(path)
    kind = attributes["format"]
    if kind in _LOADERS and not _needs_operator(attributes):
        found = _LOADERS[kind](path)
        if isinstance(found, Described):
            return found.summary
        return f"{type(found).__name__}: {counted(len(found.results), 'result')}"
    with storage.complete(path):
        name = kind.removeprefix("cuista-").replace("-", " ").capitalize()
        return printable(f"{name}: {_from_header(kind, attributes, arrays)}")


def _needs_operator(attributes: Any) -> bool:
    """Whether a file is of an operator of SciPy or PyLops, without which it cannot be loaded."""
    return '"external"' in str(attributes.get("operator", ""))


def _from_header(kind: str, attributes: dict[str, Any], arrays: dict[str, Any]) -> str:
    """What is in a file that is not loaded for it, according to its attributes and the shapes of its arrays."""
    if kind in ("cuista-images", "cuista-patches"):
        shapes = {split: [arrays[name][0] for name in arrays if name.startswith(f"{split}/")] for split in SPLITS}
        if kind == "cuista-images":
            return ", ".join(f"{counted(len(own), 'picture')} for {split}" for split, own in shapes.items())
        numbers = [f"{sum(shape[0] for shape in own)} for {split}" for split, own in shapes.items()]
        sizes = sorted({shape[1:] for own in shapes.values() for shape in own})
        return ", ".join([*numbers, *(f"of {rows}×{columns} pixels" for rows, columns in sizes)])
    if kind == "cuista-checkpoint":
        state = json.loads(attributes["state"])
        where = f"stage {state['stage'] + 1}, step {state['step']}"
        return f"an unfinished run of {attributes['net']}, {counted(int(attributes['layers']), 'layer')}, at {where}"
    if _needs_operator(attributes):
        return "for an operator of SciPy or PyLops, which a file cannot hold"
    return ", ".join(f"{name} {'×'.join(map(str, shape)) or 'scalar'}" for name, (shape, _) in sorted(arrays.items()))


def check_file(path: str | os.PathLike[str]) -> str:
    """Check one of cuista's files, a file of arrays or a picture, and return what it is.

    Raises
    ------
    FileError
        If the file is missing or damaged, or none of these; the message says what is wrong.
    """
    if not storage.is_cuista(path):
        if not storage.has_arrays(path):
            shapes = [picture.channels.shape[1:] for picture in Pictures(path, white=1.0)]  # any other would do
            several = f"{len(shapes)} pictures, the first" if len(shapes) > 1 else "a picture"
            return f"{several} of {shapes[0][0]}×{shapes[0][1]} pixels"
        return f"a file with {storage.described(path, whole=True)}"
    with storage.opened(path, whole=True) as file:
        kind, loads = str(file.attrs["format"]), not _needs_operator(file.attrs)
        for node in storage.datasets(file, path).values():
            node[()]
    if kind in _LOADERS and loads:
        _LOADERS[kind](path)
    proof = "is as it was written" if storage.has_proof(path) else "has no proof that it is as it was written"
    return f"a {kind} file, which {proof}"
