"""Trained encoders, and ALISTA with an encoder: recovery by a matrix other than the one that was trained for."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cuista import storage, stored
from cuista.checks import Array, as_real, check_finite, check_matrix
from cuista.data.perturbed import check_normalized
from cuista.data.problem import Problem, normalize_columns
from cuista.errors import FileError, InputError
from cuista.model import Model
from cuista.networks import Encoder, ExactEncoder, RobustAlista
from cuista.ops import CpuOps, ReferenceOps
from cuista.weights import Weight
from cuista.weights.dense import describe


@dataclass
class EncoderModel:
    """An encoder, the problem whose matrix it is for, and how it was trained.

    Attributes
    ----------
    problem, network
        What it consists of.
    training, history, training_seconds
        As those of `Model`; `validation_nmse_db` is the loss in dB, relative to that of W = Ã.
    """

    problem: Problem
    network: Encoder
    training: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Array] = field(default_factory=dict)
    training_seconds: float = float("nan")

    @classmethod
    def new(cls, problem: Problem, *, Q: ArrayLike | None = None, **options: Any) -> EncoderModel:
        """An untrained encoder; `options` are those of `Encoder`.

        Raises
        ------
        InputError
            If the problem's matrix is not normalised, or an option is out of range.
        """
        check_normalized(problem)
        if Q is not None:
            Q = as_real(Q, "Q")
            check_finite(Q, "Q")
        return cls(problem, Encoder(problem.A, Q=Q, **options))

    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""
        network = self.network
        return {
            "matrix": self.problem.sha256,
            "loss": network.loss_name,
            "Q": None if network.Q is None else storage.sha256(network.Q),
            "start": network.start,
            "eta": network.eta,
            "start_seed": network.seed,
        }

    def weights(self, matrices: Array) -> Array:
        """The weights (n, M, N) of perturbed matrices (n, M, N)."""
        network = self.network
        A = network.ops.asarray(matrices, network.dtype)
        return network.ops.to_numpy(network.output(A))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-encoder` file."""
        storage.write(path, self.record("cuista-encoder"), overwrite=overwrite)

    def record(self, kind: str) -> storage.Record:
        """All of it, as the record of a file."""
        record = storage.Record(kind)
        self.problem.store(record)
        stored.store(record, self)
        _store_encoder(record, self.network)
        record.attributes["matrix_sha256"] = self.problem.sha256
        return record

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str = "cuista-encoder",
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> EncoderModel:
        """Read a file of this kind: a `cuista-encoder`, or the encoder in a `cuista-checkpoint`.

        Raises
        ------
        FileError
            If it is not one, or damaged.
        """
        record = storage.read(path, kind)
        problem = Problem.from_record(record, path)
        with stored.reading(path):
            if record.attributes["net"] != Encoder.name:
                raise FileError(f"{path} holds the net {record.attributes['net']!r}; expected {Encoder.name!r}")
            options = stored.network_options(record)
            kept = {"layers": options["layers"], "parameters": options["parameters"], "ops": ops, "dtype": dtype}
            model = cls(problem, Encoder(problem.A, **_encoder_options(record), **kept))
            stored.restore(record, model, path)
        return model


@dataclass
class RobustModel:
    """ALISTA whose weight is made for each matrix by an encoder, and how the two were trained.

    Attributes
    ----------
    problem
        The nominal matrix, and the law of the signals.
    network
        What it consists of.
    origin
        The hashes of the decoder's and the encoder's parameters that it began with.
    training, history, training_seconds
        As those of `Model`.
    """

    problem: Problem
    network: RobustAlista
    origin: dict[str, str]
    training: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Array] = field(default_factory=dict)
    training_seconds: float = float("nan")

    @classmethod
    def new(
        cls,
        decoder: Model,
        encoder: EncoderModel | None = None,
        *,
        ridge: float | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> RobustModel:
        """An ALISTA with an encoder, or with the exact one.

        Parameters
        ----------
        decoder, encoder
            Trained ones; without an encoder it is the exact one.
        ridge
            Where the exact encoder's ridge starts, which is then learned. If None it is that of the decoder's weight.

        Raises
        ------
        InputError
            If the decoder is another network, or the two are for different matrices.
        """
        problem, network = decoder.problem, decoder.network
        if network.name != "alista":
            raise InputError(f"the decoder is {network.title}; expected ALISTA, which takes a weight made for a matrix")
        check_encoder(problem, encoder, ridge)
        ops = ops or CpuOps()
        inner: Encoder | ExactEncoder
        if encoder is None:
            strength = decoder.weight.report.ridge if ridge is None else ridge
            inner = ExactEncoder(problem.A, ridge=strength, learned=ridge is not None, ops=ops, dtype=dtype)
            of_inner = inner.published_start()
        else:
            inner = _on(encoder.network, ops, dtype)
            of_inner = {name: value[None] for name, value in encoder.network.parameters.items()}
        parts = {"decoder": network.parameters, "encoder": of_inner}
        origin = {name: stored.parameters_sha256(part, ops) for name, part in parts.items()}
        robust = RobustAlista(
            inner,
            problem.M,
            problem.N,
            layers=network.layers,
            percent=network.percent,
            max_percent=network.max_percent,
            per_coordinate=network.per_coordinate,
            parameters={**network.parameters, **of_inner},
            ops=ops,
            dtype=dtype,
        )
        return cls(problem, robust, origin)

    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""
        encoder = self.network.encoder
        return {
            "matrix": self.problem.sha256,
            "encoder": encoder.name,
            **({"ridge": encoder.ridge, "learned": encoder.learned} if isinstance(encoder, ExactEncoder) else {}),
            **{f"{name}_sha256": value for name, value in self.origin.items()},
        }

    def weights(self, matrices: Array) -> Array:
        """The weights (n, M, N) that the encoder makes for matrices (n, M, N)."""
        network = self.network
        A = network.ops.asarray(matrices, network.dtype)
        return network.ops.to_numpy(network.encoder.encode(A, network.parameters)[0])

    def model_for(self, matrix: ArrayLike) -> Model:
        """An ALISTA for a matrix (M, N), with the weight that the encoder makes for it.

        Raises
        ------
        InputError
            If the matrix has another shape, a NaN or an infinity, or its columns have not unit norm.
        """
        A = check_matrix(matrix, "the matrix").astype(np.float64)
        if A.shape != self.problem.A.shape:
            hint = "; it looks transposed" if A.shape == self.problem.A.shape[::-1] else ""
            (M, N), (m, n) = self.problem.A.shape, A.shape
            raise InputError(f"the matrix is {m}×{n}, and the model for {M}×{N}{hint}")
        if not np.allclose(np.linalg.norm(A, axis=0), 1, rtol=1e-3):
            raise InputError(
                "the columns of the matrix have not unit norm, for which the model was trained: divide them by their "
                "norms, and afterwards the recovered entries, too"
            )
        W = self.weights(normalize_columns(A)[None])[0].astype(np.float64)
        return self.with_weight(A, W)

    def with_weight(self, A: Array, W: Array) -> Model:
        """The decoder as an ALISTA for a matrix A (M, N) and a weight W (M, N)."""
        problem = Problem(A, self.problem.pnz, self.problem.snr_db, self.problem.magnitude, self.problem.seed)
        network = self.network
        return Model.new(
            problem,
            Weight(W, problem.sha256, describe(W, A, method=network.encoder.name)),
            layers=network.layers,
            percent=network.percent,
            max_percent=network.max_percent,
            per_coordinate=network.per_coordinate,
            parameters={name: network.parameters[name] for name in ("step_size", "threshold")},
            ops=network.ops,
            dtype=network.dtype,
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-robust` file."""
        storage.write(path, self.record("cuista-robust"), overwrite=overwrite)

    def record(self, kind: str) -> storage.Record:
        """All of it, as the record of a file."""
        record, encoder = storage.Record(kind), self.network.encoder
        self.problem.store(record)
        stored.store(record, self)
        record.attributes |= {"encoder": encoder.name, "origin": json.dumps(self.origin)}
        record.attributes |= {"per_coordinate": self.network.per_coordinate, "matrix_sha256": self.problem.sha256}
        if isinstance(encoder, Encoder):
            _store_encoder(record, encoder)
        else:
            record.attributes |= {"ridge": encoder.ridge, "learned": encoder.learned}
        return record

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str = "cuista-robust",
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> RobustModel:
        """Read a file of this kind: a `cuista-robust`, or the model in a `cuista-checkpoint`.

        Raises
        ------
        FileError
            If it is not one, or damaged.
        """
        record, ops = storage.read(path, kind), ops or CpuOps()
        attributes, problem = record.attributes, Problem.from_record(record, path)
        with stored.reading(path):
            options = stored.network_options(record)
            del options["untied"]
            encoder: Encoder | ExactEncoder
            if attributes["encoder"] == Encoder.name:
                step_matrix = options["parameters"]["step_matrix"]
                encoder = Encoder(
                    problem.A, layers=step_matrix.shape[1], **_encoder_options(record), ops=ops, dtype=dtype
                )
            else:
                ridge = {"ridge": attributes["ridge"], "learned": bool(attributes["learned"])}
                encoder = ExactEncoder(problem.A, **ridge, ops=ops, dtype=dtype)
            options |= {"per_coordinate": bool(attributes["per_coordinate"]), "ops": ops, "dtype": dtype}
            network = RobustAlista(encoder, problem.M, problem.N, **options)
            model = cls(problem, network, json.loads(attributes["origin"]))
            stored.restore(record, model, path)
        return model


def check_encoder(problem: Problem, encoder: EncoderModel | None, ridge: float | None = None) -> None:
    """Raise InputError if an encoder (None: the exact one) is not for a problem's matrix, or has no such ridge."""
    check_normalized(problem)
    if encoder is None:
        return
    if encoder.problem.A.shape != problem.A.shape:
        (M, N), (m, n) = problem.A.shape, encoder.problem.A.shape
        raise InputError(f"the decoder is for matrices of {M}×{N}, and the encoder for {m}×{n}")
    if encoder.problem.sha256 != problem.sha256:
        raise InputError(
            "the decoder and the encoder are for different matrices (their hashes are "
            f"{problem.sha256[:12]}… and {encoder.problem.sha256[:12]}…): train both for one"
        )
    if ridge is not None:
        raise InputError(f"ridge is {ridge}, but a trained encoder has none: it is for the exact one")


def _on(encoder: Encoder, ops: ReferenceOps, dtype: Any) -> Encoder:
    """The same encoder on another engine."""
    return Encoder(
        encoder.source,
        layers=encoder.layers,
        loss=encoder.loss_name,
        Q=encoder.Q,
        start=encoder.start,
        eta=encoder.eta,
        seed=encoder.seed,
        ops=ops,
        dtype=dtype,
    )


def _store_encoder(record: storage.Record, encoder: Encoder) -> None:
    """Put what an encoder is, but for its parameters, into a file's record."""
    record.attributes |= {"loss": encoder.loss_name, "start": encoder.start, "eta": encoder.eta}
    record.attributes["start_seed"] = encoder.seed
    if encoder.Q is not None:
        record.arrays["Q"] = encoder.Q


def _encoder_options(record: storage.Record) -> dict[str, Any]:
    attributes = record.attributes
    return {
        "loss": attributes["loss"],
        "Q": record.arrays.get("Q"),
        "start": attributes["start"],
        "eta": attributes["eta"],
        "seed": int(attributes["start_seed"]),
    }
