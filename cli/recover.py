"""cuista recover"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.problems import matrix_in, note_norms
from cuista.cli.spellings import Command

from cuista.checks import Array, check_layout, in_columns
from cuista.data.problem import Problem
from cuista.errors import FileError
from cuista.messages import trying
from cuista.model import load
from cuista.ops import ReferenceOps
from cuista.quality import FALSE_ALARMS, Quality, names_of_intervals
from cuista.solvers.improve import Refined, Refitted
from cuista.storage import is_cuista, kind_of, opened_array
from cuista.storage.streaming import recover_file
from cuista.summary import counted
from cuista.tasks.robust import RobustModel
from cuista.tasks.sparse_coding import Model


@dataclass
class Codes:
    """The measurements to recover from, the file to write, and the device to use."""

    measurements: Path
    out: Path
    key: str | None
    columns: bool
    pairs: bool
    debias: bool
    report: Path | None
    as_json: bool
    device: str
    force: bool

    def __post_init__(self) -> None:
        common.claim(self.out, self.force)
        if self.report:
            if self.report.resolve() == self.out.resolve():
                raise click.UsageError("--report and --out name the same file: give two different names")
            common.claim(self.report, self.force)

    def take_key_of_matrix(self) -> str | None:
        """The name that --key gives to the array of the matrix, if it is two names; from then on `key` is the other."""
        of_matrix, comma, last = (self.key or "").rpartition(",")
        self.key = last if comma else self.key
        return of_matrix or None

    @cached_property
    def ops(self) -> ReferenceOps:
        """The engine."""
        return common.engine_on(self.device)

    @cached_property
    def stored(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """The shape and the dtype of the measurements. Warnings about the file come when it is read for good."""
        with trying(), opened_array(self.measurements, "y", key=self.key, pairs=self.pairs) as stored:
            return tuple(map(int, stored.shape)), np.dtype(stored.dtype)

    @property
    def is_complex(self) -> bool:
        """Whether the measurements are complex."""
        return self.stored[1].kind == "c"

    def check(self, problem: Problem) -> None:
        """Raise InputError if the measurements do not have the shape that the problem needs, before any long work."""
        shape, dtype = self.stored
        columns = in_columns(shape, problem.M, self.columns)
        size: dict[str, Any] = {"signals": problem.N, "snapshots": problem.snapshots}
        size["parts"] = problem.is_complex and not self.is_complex
        check_layout(shape, problem.M, f"{self.measurements}", columns=columns, **size)
        problem.check_kind(dtype, f"{self.measurements}")

    def write(self, recoverer: Any, level: float | None = None, steps: int | None = None) -> Quality:
        """Recover the codes, write them, show progress, and say how good they are.

        With a `level`, the file holds intervals too; see `Model.intervals`. With `steps`, the codes are refined by that
        many; see `Refined`.
        """
        method = recoverer if steps is None else Refined(recoverer, steps)
        method = Refitted(method) if self.debias else method
        parts: list[Quality] = []
        names = () if level is None else names_of_intervals(recoverer.problem)
        basis, in_hdf5 = recoverer.problem.basis, self.out.suffix.lower() == ".h5"

        def inspect(y: Array, x: Array) -> dict[str, Array]:
            parts.append(method.quality(y, x))
            more = {} if level is None else dict(zip(names, recoverer.intervals(y, x, level), strict=True))
            if basis is not None and in_hdf5:
                more["signal"] = recoverer.problem.signals_of(x)
            return more

        how: dict[str, Any] = {"key": self.key, "columns": self.columns, "pairs": self.pairs}
        how |= {"overwrite": self.force, "inspect": inspect}
        with common.ProgressLine() as line:
            how["progress"] = lambda done, total: line.show(done / total, f"{done} of {total} samples")
            more = (*names, "signal") if basis is not None and in_hdf5 else names
            samples = recover_file(method, self.measurements, self.out, more=more, **how)
        common.say(f"Wrote {self.out}: {counted(samples, 'sample')}.")
        if recoverer.problem.measures_complex and not self.is_complex:
            common.say(f"Note: {self.measurements} is real, and was taken as complex with imaginary parts of zero.")
        if basis is not None:
            where = "The signals are beside them (signal)." if in_hdf5 else "Name an .h5 file for the signals."
            common.say(f"The codes (x) are coefficients in the basis of the operator. {where}")
        quality = Quality.joined(parts)
        describe(quality, recoverer.problem.N // recoverer.problem.group)
        left = int(np.count_nonzero(~quality.more.get("refitted", np.ones(0, bool))))
        if left:
            common.say(
                f"Note: {left} of {samples} samples are not fitted again, because their supports do not determine the "
                "entries."
            )
        if "gap" in quality.more:
            of = " of the adaptive Lasso" if steps else ""
            common.say(f"The largest relative duality gap{of} is {quality.more['gap'].max():.2g}.")
        if level is not None:
            promise = "for signals like those of the training" + (", which these are not" if quality.too_many else "")
            what = "Discs" if recoverer.problem.is_complex else "Intervals"
            common.say(f"{what} ({', '.join(names)}) contain {100 * level:g} % of the true entries {promise}.")
        if self.report:
            about = {"measurements": str(self.measurements), "codes": str(self.out)}
            quality.save(self.report, about, overwrite=self.force)
            common.say(f"Wrote {self.report}.")
        if self.as_json:
            common.print_json(quality.summary())
        return quality


def describe(quality: Quality, N: int) -> None:
    """Tell the user how good codes of N entries are, and whether their measurements are usual for the model."""
    found = quality.summary()
    if not found["samples"]:
        return
    residual, support = found["relative_residual"], found["support_size"]
    common.say(
        f"Relative residual ‖y − A x̂‖/‖y‖: median {residual['median']:.3g}, largest {residual['largest']:.3g}. "
        f"Non-zeros: {support['smallest']} to {support['largest']}, median {support['median']:g} of {N}."
    )
    zero = int(np.count_nonzero(quality.zero))
    if zero:
        common.say(f"Note: {zero} of {counted(found['samples'], 'sample')} are zero, and so are the codes.")
    if quality.reference is None or zero == found["samples"]:
        return
    samples, unusual, rate = found["samples"], found["unusual"], f"{100 * FALSE_ALARMS:g} %"
    words = _WORDS | ({"energy": "norm ‖y‖"} if quality.reference.fixed else {})
    medians = ", ".join(f"{words[name]} {a:.3g} ({b:.3g})" for name, (a, b) in quality.differing.items())
    compared = f" Medians, with those of the training in brackets: {medians}." if medians else ""
    if quality.reference.fixed and "energy" in quality.differing:
        compared += " The model computes on measurements as they are: convert them, if they are in other units."
    if quality.too_many:
        common.warn(
            f"{unusual} of {samples} samples do not look like the signals that the model was trained for ({rate} of "
            f"its own signals do not).{compared} Judge the codes by their residuals, use cuista solve, or train on "
            "such signals."
        )
    else:
        common.say(f"{unusual} of {samples} samples look unusual for the model; {rate} is expected.")
        if compared:
            common.say(f"Note: as a set, the samples differ from the signals that the model was trained for.{compared}")


_WORDS = {
    "relative_residual": "relative residual",
    "support_size": "non-zeros",
    "energy": "energy ‖x̂‖/‖y‖",
    "spread": "spread ‖x̂‖₁/‖x̂‖₂",
    "peak": "peak max|x̂|/‖x̂‖₂",
}


_OUT_HELP = "Sparse codes as .npy, .csv or .h5 (key x)."
codes_options = common.bundled(
    "codes",
    Codes,
    click.argument("measurements", metavar="Y", type=common.INPUT_FILE),
    click.option("-o", "--out", type=common.output_file(".npy", ".csv", ".h5"), default="x.npy", help=_OUT_HELP),
    click.option("--key", metavar="NAME[,NAME]", help="Array to read from Y, or from the matrix's file and from Y."),
    common.columns_option,
    common.pairs_option,
    click.option("--debias", is_flag=True, help="Fit the found non-zeros again by least squares."),
    click.option("--report", type=common.H5_FILE, help="Write residual, support and more of each sample."),
    common.json_option,
    common.device_option,
    common.force_option,
)


_level = common.number("a probability, more than 0 and less than 1", lambda value: 0 < value < 1)


@click.command("recover", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--matrix", type=common.INPUT_FILE, help="Matrix (key A) that took the measurements. [the model's]")
@click.option("--refine", type=common.AT_LEAST_1, metavar="N", help="Improve the codes by N steps of FISTA.")
@click.option("--interval", type=_level, metavar="P", help="Add intervals that hold each entry with probability P.")
@codes_options
def command(model_file: Path, matrix: Path | None, refine: int | None, interval: float | None, codes: Codes) -> None:
    """Recover the sparse codes of your own measurements.

    Y is a .npy, .npz, .mat, .h5, .csv or .txt file (key y) with one sample per row, or a vector that is one sample.
    Files in .npy and .h5 are read in batches, so that they may be larger than memory. The codes are written in single
    precision, in the same layout.

    With --matrix, the weight for the other matrix comes from a robust model's encoder; for an ALISTA it is computed.

    For each sample the relative residual, the number of non-zeros, and whether the sample looks like the signals of the
    training are measured; --json prints a summary, and --report keeps them all.
    """
    if interval is not None and codes.out.suffix.lower() != ".h5":
        raise click.UsageError("--interval writes three arrays: name an .h5 file with -o")
    changed = "--debias" if codes.debias else "--refine" if refine is not None else ""
    if interval is not None and changed:
        raise click.UsageError(
            f"--interval is about the network's own answer, which {changed} changes: give one of them"
        )
    if model_file.exists() and (not is_cuista(model_file) or kind_of(model_file) == "cuista-problem"):
        raise FileError(f"{model_file} holds no network: train one with cuista train, or use cuista solve")
    model: Any = load(model_file, Model, RobustModel, ops=codes.ops)
    common.warn_untrained(model, model_file)
    if matrix is not None or isinstance(model, RobustModel):
        robust = model if isinstance(model, RobustModel) else RobustModel.new(model, ops=codes.ops)
        given = robust.problem.given if matrix is None else matrix_in(matrix, codes.take_key_of_matrix())
        model = robust.model_for(given)
        if matrix is not None:
            note_norms(model.problem, matrix)
    codes.write(model, interval, refine)
