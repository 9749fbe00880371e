"""What the files of trained networks have in common, whatever the networks are for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError
from cuista.networks import Unrolled
from cuista.ops import ReferenceOps
from cuista.storage import Record, sha256


class Trained(Protocol):
    """A trained network, and how it was trained."""

    @property
    def network(self) -> Unrolled: ...

    training: dict[str, Any]
    history: dict[str, Array]
    training_seconds: float

    def record(self, kind: str) -> Record:
        """All of it, as the record of a file of this kind."""


def store(record: Record, trained: Trained) -> None:
    """Put the network and its training into a file's record."""
    network = trained.network
    parameters = {f"parameters/{name}": network.ops.to_numpy(value) for name, value in network.parameters.items()}
    history = {f"history/{name}": value for name, value in trained.history.items()}
    record.arrays.update(parameters | history)
    record.attributes.update(
        net=network.name,
        layers=network.layers,
        percent=network.percent,
        max_percent=network.max_percent,
        untied=network.untied,
        training=json.dumps(trained.training),
        training_seconds=trained.training_seconds,
    )


def parameters_sha256(parameters: dict[str, Array], ops: ReferenceOps) -> str:
    """The hash of a network's parameters, by which it is told what training began with."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(f"{name} {sha256(ops.to_numpy(value))}".encode())
    return digest.hexdigest()


def network_options(record: Record) -> dict[str, Any]:
    """The options with which a network is made as it was stored, its parameters included."""
    attributes = record.attributes
    return {
        "layers": int(attributes["layers"]),
        "percent": attributes["percent"],
        "max_percent": attributes["max_percent"],
        "untied": bool(attributes.get("untied", False)),
        "parameters": _group(record, "parameters/"),
    }


def restore(record: Record, trained: Trained, path: str | os.PathLike[str]) -> None:
    """Check the parameters of a network made from a record, and give it its history back.

    Raises
    ------
    FileError
        If they have other shapes than the network's, or a NaN or an infinity.
    """
    for name, shape in trained.network.shapes.items():
        value = record.arrays[f"parameters/{name}"]
        if value.shape != shape:
            raise FileError(f"{path} is damaged: parameters/{name} has shape {value.shape}, not {shape}")
        if not np.isfinite(value).all():
            raise FileError(f"{path} is damaged: there are NaN or infinite entries in parameters/{name}")
    trained.training = json.loads(record.attributes["training"])
    trained.training_seconds = float(record.attributes.get("training_seconds", "nan"))
    trained.history = _group(record, "history/")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """What is missing or wrong in a record, said as a FileError."""
    try:
        yield
    except KeyError as error:
        raise FileError(f"{path} is damaged: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def _group(record: Record, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in record.arrays.items() if name.startswith(prefix)}
