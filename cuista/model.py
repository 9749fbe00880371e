"""A trained network with all that it was made from: usable, resumable and auditable alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cuista import storage, stored
from cuista.checks import Array, check_rows
from cuista.counter import FITTING
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.networks import NETWORKS, Network
from cuista.ops import ReferenceOps
from cuista.weights import Weight, WeightReport


@dataclass
class Model:
    """A network, the problem and the weight it is for, and how it was trained.

    Attributes
    ----------
    problem, weight, network
        What it consists of.
    training
        How it came to be: recipe and its options, seed, `validation_nmse_db`, steps.
    history
        What was measured on the way, array by array; empty if it was not trained here.
    training_seconds
        How long that took; NaN if it is not known.
    """

    problem: Problem
    weight: Weight
    network: Network
    training: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Array] = field(default_factory=dict)
    training_seconds: float = float("nan")

    @classmethod
    def new(
        cls,
        problem: Problem,
        weight: Weight,
        net: str = "alista",
        *,
        layers: int = 16,
        percent: float | None = None,
        max_percent: float | None = None,
        per_coordinate: bool = False,
        untied: bool = False,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Model:
        """An untrained network for a problem; `net` is its name, a key of `NETWORKS`.

        Without `percent` and `max_percent` the support schedule follows the problem's sparsity s: 17·s percent a
        layer up to 170·s percent, which is 1.7 and 17 for pnz 0.1. (The paper's are 1.2 and 13.)

        Raises
        ------
        InputError
            If the weight is of another matrix, the schedule is out of range, or there is no such network.
        """
        if weight.matrix_sha256 != problem.sha256:
            raise InputError("the weight is not one of this problem's matrix: solve it for this matrix")
        if net not in NETWORKS:
            raise InputError(f"{net!r} is not a network of this version of cuista, which has: {', '.join(NETWORKS)}")
        network = NETWORKS[net](
            problem.A,
            weight.W,
            layers=layers,
            percent=round(17 * problem.sparsity, 6) if percent is None else percent,
            max_percent=min(round(170 * problem.sparsity, 6), 100.0) if max_percent is None else max_percent,
            per_coordinate=per_coordinate,
            untied=untied,
            parameters=parameters,
            ops=ops,
            dtype=dtype,
        )
        if parameters is None and network.starts_relative:
            with network.ops.computing():
                network.calibrate(problem.sample(256, stream=FITTING)[1])
        return cls(problem, weight, network)

    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""
        problem = self.problem
        return {
            "per_coordinate": self.network.per_coordinate,
            "matrix": problem.sha256,
            "weight": storage.sha256(self.weight.W),
            "pnz": problem.pnz if isinstance(problem.pnz, float) else storage.sha256(problem.pnz),
            "snr_db": problem.snr_db,
            "magnitude": repr(problem.magnitude),
        }

    def iterates(self, y: ArrayLike) -> Iterator[Array]:
        """The network's x_1, …, x_T for measurements y (samples, M), one at a time."""
        return self.network.iterates(check_rows(y, self.problem.M, "y"))

    def recover(self, y: ArrayLike) -> Array:
        """The sparse codes (samples, N) of measurements y (samples, M), in batches.

        Raises
        ------
        InputError
            If y has another shape, a NaN or an infinity.
        """
        network = self.network
        return network.ops.apply(network.output, check_rows(y, self.problem.M, "y"), network.N, network.dtype)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-model` file."""
        storage.write(path, self.record("cuista-model"), overwrite=overwrite)

    def record(self, kind: str) -> storage.Record:
        """All of this model as a file's record."""
        network = self.network
        record = storage.Record(kind)
        self.problem.store(record)
        record.arrays["W"] = self.weight.W
        stored.store(record, self)
        record.attributes.update(
            support_schedule=list(network.support),
            matrix_sha256=self.problem.sha256,
            weight_sha256=storage.sha256(self.weight.W),
            weight=json.dumps(asdict(self.weight.report)),
        )
        return record

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str = "cuista-model",
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Model:
        """Read a file of this kind: a `cuista-model`, or the model in a `cuista-checkpoint`."""
        return cls.from_record(storage.read(path, kind), path, ops=ops, dtype=dtype)

    @classmethod
    def from_record(
        cls,
        record: storage.Record,
        path: str | os.PathLike[str],
        *,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Model:
        """The model in a file's record; `path` is for the error message."""
        attributes, arrays = record.attributes, record.arrays
        problem = Problem.from_record(record, path)
        with stored.reading(path):
            if attributes["net"] not in NETWORKS:
                raise FileError(
                    f"{path} holds the net {attributes['net']!r}, which this version of cuista does not know"
                )
            if not np.isfinite(arrays["W"]).all():
                raise FileError(f"{path} is damaged: there are NaN or infinite entries in W")
            if attributes["weight_sha256"] != storage.sha256(arrays["W"]) or arrays["W"].shape != problem.A.shape:
                raise FileError(f"{path} is damaged: its weight is not the one it was made with")
            weight = Weight(arrays["W"], attributes["matrix_sha256"], WeightReport(**json.loads(attributes["weight"])))
            per_coordinate = arrays["parameters/threshold"].ndim == 2
            options = {**stored.network_options(record), "per_coordinate": per_coordinate, "ops": ops, "dtype": dtype}
            model = cls.new(problem, weight, attributes["net"], **options)
            stored.restore(record, model, path)
        return model
