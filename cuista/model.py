"""A trained network with everything it was made from, and its file, which can be used and checked on its own."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import DeviceError, FileError
from cuista.messages import warn
from cuista.ops import ReferenceOps, engine
from cuista.storage import Record
from cuista.storage.portable import BYTES
from cuista.summary import Described, counted

AnyTrained = TypeVar("AnyTrained", bound="Trained")
# The numbers in which networks with the same name and problem can differ.
NUMBERS = ("layers", "percent", "max_percent", "untied")


@dataclass(repr=False)
class Trained(Described, storage.Portable, ABC):
    """A network, what it was made from, and how it was trained.

    Each task has a subclass, which defines what its networks are made from and what they are used for.

    Attributes
    ----------
    network
        The network.
    training
        How the network was trained: recipe and options, seed, best validation, number of steps. Empty if untrained.
    history
        All validations, with one array per column (stage, step, error). Empty if it was not trained here.
    training_seconds
        How long training took, in seconds; NaN if unknown.
    """

    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Trained]]] = {}

    network: Any
    training: dict[str, Any] = field(default_factory=dict, kw_only=True)
    history: dict[str, Array] = field(default_factory=dict, kw_only=True)
    training_seconds: float = field(default=float("nan"), kw_only=True)

    def __init_subclass__(cls) -> None:
        cls.kinds[cls.kind] = cls

    def facts(self) -> dict[str, str]:
        network, numbers = self.network, sum(value.size for value in self.network.parameters.values())
        device = network.ops.name
        return {
            "network": network.title,
            "layers": counted(network.layers, "layer"),
            "learned": counted(numbers, "learned number"),
            **self.made_for(),
            "training": self._outcome(),
            "device": "" if device == "cpu" else f"on {device}",
        }

    def _outcome(self) -> str:
        """The outcome of training in a few words."""
        if "diverged" in self.training:
            return "whose training failed"
        if "imported" in self.training:
            return "imported"
        for measure in ("psnr", "nmse", "loss"):
            value = self.training.get(f"validation_{measure}_db")
            if value is not None:
                return f"validation {measure if measure == 'loss' else measure.upper()} {value:.2f} dB"
        return "trained elsewhere" if self.trained else "not trained"

    @abstractmethod
    def made_for(self) -> dict[str, str]:
        """What the network was made for, as a part of `facts`."""

    @property
    def trained(self) -> bool:
        """Whether the network has been trained, here or elsewhere: its parameters are not those of a new one."""
        if self.training:
            return True
        new, ops = self.network.published_start(), self.network.ops
        now = {name: ops.to_numpy(value) for name, value in self.network.parameters.items()}
        return not all(np.array_equal(now[name], value.astype(now[name].dtype)) for name, value in new.items())

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
        """What the network was made from, in a form that can be compared. It is part of the training run's identity."""

    @abstractmethod
    def store(self, record: Record) -> None:
        """Store what the network was made from in the record of a file."""

    @classmethod
    @abstractmethod
    def restore(
        cls: type[AnyTrained],
        record: Record,
        path: str | os.PathLike[str],
        options: dict[str, Any],
        place: dict[str, Any],
    ) -> AnyTrained:
        """Make a model from the record of a file.

        Parameters
        ----------
        record, path
            The record, and the path of its file for error messages.
        options
            The arguments that every network has: layers, percent, max_percent, untied and parameters.
        place
            The arguments that say where to compute: ops and dtype. With an operator of SciPy or PyLops, which the file
            does not hold, also `operator`.
        """

    @property
    def external(self) -> Any:
        """The operator of SciPy or PyLops for which the network is, of which a file has a description only, or None."""
        return None

    # -- its file -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model to a file.

        Raises
        ------
        FileError
            If the file exists and `overwrite` is false, or it cannot be written.
        """
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> Record:
        return self.record(self.kind)

    def record(self, kind: str) -> Record:
        """The whole model as the record of a file of this kind."""
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
        operator: Any = None,
    ) -> AnyTrained:
        """Read a model from its file, or from a file of another `kind` that contains one (a `cuista-checkpoint`).

        Parameters
        ----------
        ops, dtype
            The engine (the CPU's if None), and the precision in which it computes.
        operator
            The operator of SciPy or PyLops for which the model was made, if it was made for one.

        Raises
        ------
        FileError
            If the file is not of this kind, or damaged.
        """
        return cls.from_record(storage.read(path, kind or cls.kind), path, ops=ops, dtype=dtype, operator=operator)

    @classmethod
    def from_record(
        cls: type[AnyTrained],
        record: Record,
        path: str | os.PathLike[str],
        *,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
        operator: Any = None,
    ) -> AnyTrained:
        """Make a model from the record of a file; `path` is for error messages."""
        external = {} if operator is None else {"operator": operator}
        attributes = record.attributes
        with storage.complete(path):
            options = {
                "layers": int(attributes["layers"]),
                "percent": attributes["percent"],
                "max_percent": attributes["max_percent"],
                "untied": bool(attributes.get("untied", False)),
                "parameters": group(record, "parameters/"),
            }
            model = cls.restore(record, path, options, {"ops": ops or engine("cpu"), "dtype": dtype, **external})
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

    # -- copies -------------------------------------------------------------------------------------------------

    @classmethod
    def from_bytes(
        cls: type[AnyTrained],
        data: bytes,
        *,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
        operator: Any = None,
    ) -> AnyTrained:
        """Make a model from the bytes of its file; the other parameters are as in `load`, and errors as well."""
        record = storage.unpacked(data, cls.kind, name=BYTES)
        return cls.from_record(record, BYTES, ops=ops, dtype=dtype, operator=operator)

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle also says where the model computes: see `unpickled`.
        return unpickled, (type(self), self.to_bytes(), self.network.ops.name, self.network.dtype.name)

    def __deepcopy__(self: AnyTrained, memo: dict[int, Any]) -> AnyTrained:
        """A copy that shares nothing with this model but its engine."""
        network = self.network
        how = {"ops": network.ops, "dtype": network.dtype, "operator": self.external}
        return type(self).from_bytes(self.to_bytes(), **how)


def unpickled(cls: type[AnyTrained], data: bytes, device: str, dtype: str) -> AnyTrained:
    """The model in a pickle, on the device that it was on; on the CPU, with a warning, if that cannot be used here."""
    try:
        ops = engine(device)
    except DeviceError as error:
        warn(f"a model of {device} will compute on the CPU here: {error}")
        ops = engine("cpu")
    return cls.from_bytes(data, ops=ops, dtype=dtype)


def load(
    path: str | os.PathLike[str], *classes: type[Trained], ops: ReferenceOps | None = None, dtype: Any = np.float32
) -> Trained:
    """Read a trained network of any kind, or of one of the given classes.

    Parameters
    ----------
    classes
        The classes that are accepted; all if none is given.
    ops, dtype
        The engine (the CPU's if None), and the precision in which it computes.

    Raises
    ------
    FileError
        If the file holds no such network, or is damaged.
    """
    record = storage.read(path, *([each.kind for each in classes] or Trained.kinds))
    return Trained.kinds[record.kind].from_record(record, path, ops=ops, dtype=dtype)


def parameters_sha256(parameters: dict[str, Array], ops: ReferenceOps) -> str:
    """The hash of a network's parameters, which identifies what a training run started from."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(f"{name} {storage.sha256(ops.to_numpy(value))}".encode())
    return digest.hexdigest()


def group(record: Record, prefix: str) -> dict[str, Array]:
    """The arrays of a record whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in record.arrays.items() if name.startswith(prefix)}
