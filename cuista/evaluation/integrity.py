"""The check of a whole file: that it is what was written, and that everything in it can be read and makes sense."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cuista import model, storage
from cuista.data.dictionary import Dictionary
from cuista.data.perturbed import PerturbedSet
from cuista.data.pictures import Pictures
from cuista.data.problem import Problem
from cuista.data.sensing import Sensing
from cuista.evaluation.comparison import Comparison
from cuista.evaluation.robustness import Robustness
from cuista.weights import ConvWeight

# How the file of each kind is read. Those of the other kinds are arrays and attributes that say nothing on their own.
_LOADERS: dict[str, Callable[[Any], Any]] = {
    "cuista-problem": Problem.load,
    "cuista-perturbed": PerturbedSet.load,
    "cuista-dictionary": Dictionary.load,
    "cuista-conv-weight": ConvWeight.load,
    "cuista-sensing": Sensing.load,
    "cuista-comparison": Comparison.load,
    "cuista-robustness": Robustness.load,
    **dict.fromkeys(model.Trained.kinds, model.load),
}


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
        kind = str(file.attrs["format"])
        for node in storage.datasets(file, path).values():
            node[()]
    if kind in _LOADERS:
        _LOADERS[kind](path)
    proof = "is as it was written" if storage.has_proof(path) else "has no proof that it is as it was written"
    return f"a {kind} file, which {proof}"
