"""A trained network with all that it was made from, and its file: usable, resumable and auditable alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import FileError
from cuista.ops import CpuOps, ReferenceOps
from cuista.storage import Record

AnyTrained = TypeVar("AnyTrained", bound="Trained")
# What makes networks of one name and one problem differ.
NUMBERS = ("layers", "percent", "max_percent", "untied")


@dataclass
class Trained(ABC):
    """A network, what it was made from, and how it was trained.

    What differs from task to task, which is what networks are made from and what is done with them, is said by the
    subclass in the task's own room.

    Attributes
    ----------
    network
        The network.
    training
        How it came to be: recipe and its options, seed, the best validation, steps. Empty if it is untrained.
    history
        Every validation, array by array; empty if it was not trained here.
    training_seconds
        How long training took; NaN if that is not known.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Trained]]] = {}

    network: Any
    training: dict[str, Any] = field(default_factory=dict, kw_only=True)
    history: dict[str, Array] = field(default_factory=dict, kw_only=True)
    training_seconds: float = field(default=float("nan"), kw_only=True)

    def __init_subclass__(cls) -> None:
        cls.kinds[cls.kind] = cls

    @abstractmethod
    def task(self) -> Any:
        """The `cuista.training.Task` that it is trained for if no other is given.

        Raises
        ------
        InputError
            If the task needs something that only the caller has.
        """

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""

    @abstractmethod
    def store(self, record: Record) -> None:
        """Put what it was made from into a file's record."""

    @classmethod
    @abstractmethod
    def restore(
        cls: type[AnyTrained],
        record: Record,
        path: str | os.PathLike[str],
        options: dict[str, Any],
        place: dict[str, Any],
    ) -> AnyTrained:
        """Make it from a file's record.

        Parameters
        ----------
        record, path
            The record, and the file's name for error messages.
        options
            Those of every network: layers, percent, max_percent, untied and parameters.
        place
            Where it is to compute: ops and dtype.
        """

    # -- its file -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write its file.

        Raises
        ------
        FileError
            If the file exists and `overwrite` is false, or it cannot be written.
        """
        storage.write(path, self.record(self.kind), overwrite=overwrite)

    def record(self, kind: str) -> Record:
        """All of it as the record of a file of this kind."""
        record, network = Record(kind), self.network
        self.store(record)
        record.arrays |= {f"parameters/{name}": network.ops.to_numpy(p) for name, p in network.parameters.items()}
        record.arrays |= {f"history/{name}": column for name, column in self.history.items()}
        record.attributes |= {
            "net": network.name,
            **{name: getattr(network, name) for name in NUMBERS},
            "training": json.dumps(self.training),
            "training_seconds": self.training_seconds,
        }
        return record

    @classmethod
    def load(
        cls: type[AnyTrained],
        path: str | os.PathLike[str],
        *,
        kind: str | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> AnyTrained:
        """Read its file, or what a file of another `kind` (a `cuista-checkpoint`) has of it.

        Parameters
        ----------
        ops, dtype
            The engine, the CPU's if None, and the precision it computes in.

        Raises
        ------
        FileError
            If the file is not of this kind, or damaged.
        """
        return cls.from_record(storage.read(path, kind or cls.kind), path, ops=ops, dtype=dtype)

    @classmethod
    def from_record(
        cls: type[AnyTrained],
        record: Record,
        path: str | os.PathLike[str],
        *,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> AnyTrained:
        """The same from a file's record; `path` is for the error message."""
        attributes = record.attributes
        with reading(path):
            options = {
                "layers": int(attributes["layers"]),
                "percent": attributes["percent"],
                "max_percent": attributes["max_percent"],
                "untied": bool(attributes.get("untied", False)),
                "parameters": group(record, "parameters/"),
            }
            model = cls.restore(record, path, options, {"ops": ops or CpuOps(), "dtype": dtype})
            for name, shape in model.network.shapes.items():
                value = record.arrays[f"parameters/{name}"]
                if value.shape != shape:
                    raise FileError(f"{path} is damaged: parameters/{name} has shape {value.shape}, not {shape}")
                if not np.isfinite(value).all():
                    raise FileError(f"{path} is damaged: there are NaN or infinite entries in parameters/{name}")
            model.training = json.loads(attributes["training"])
            model.training_seconds = float(attributes.get("training_seconds", "nan"))
            model.history = group(record, "history/")
        return model


def load(path: str | os.PathLike[str], *, ops: ReferenceOps | None = None, dtype: Any = np.float32) -> Trained:
    """Read a trained network of any kind.

    Parameters
    ----------
    ops, dtype
        The engine, the CPU's if None, and the precision it computes in.

    Raises
    ------
    FileError
        If the file holds no trained network, or is damaged.
    """
    record = storage.read(path, *Trained.kinds)
    return Trained.kinds[record.kind].from_record(record, path, ops=ops, dtype=dtype)


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say as a FileError what is missing or wrong in a record."""
    try:
        yield
    except KeyError as error:
        raise FileError(f"{path} is damaged: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def parameters_sha256(parameters: dict[str, Array], ops: ReferenceOps) -> str:
    """The hash of a network's parameters, by which training knows what it began with."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(f"{name} {storage.sha256(ops.to_numpy(value))}".encode())
    return digest.hexdigest()


def group(record: Record, prefix: str) -> dict[str, Array]:
    """The arrays of a record whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in record.arrays.items() if name.startswith(prefix)}
