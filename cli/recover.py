"""cuista recover"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import matrix_in
from cuista.cli.spellings import Command

from cuista.model import load
from cuista.ops import ReferenceOps
from cuista.storage.streaming import Recoverer, recover_file
from cuista.tasks.robust import RobustModel
from cuista.tasks.sparse_coding import Model


@dataclass
class Codes:
    """The measurements to recover from, the file to write, and the device to use."""

    measurements: Path
    out: Path
    key: str | None
    columns: bool
    device: str
    force: bool

    def __post_init__(self) -> None:
        common.claim(self.out, self.force)

    @cached_property
    def ops(self) -> ReferenceOps:
        """The engine."""
        return common.engine_on(self.device)

    def write(self, recoverer: Recoverer) -> None:
        """Recover the codes, write them, and show progress."""
        how: dict[str, Any] = {"key": self.key, "columns": self.columns, "overwrite": self.force}
        with common.ProgressLine() as line:
            how["progress"] = lambda done, total: line.show(done / total, f"{done} of {total} samples")
            samples = recover_file(recoverer, self.measurements, self.out, **how)
        common.say(f"Wrote {self.out}: {common.counted(samples, 'sample')}.")


_OUT_HELP = "Sparse codes as .npy, .csv or .h5 (key x)."
codes_options = common.bundled(
    "codes",
    Codes,
    click.argument("measurements", metavar="Y", type=common.INPUT_FILE),
    click.option("-o", "--out", type=common.output_file(".npy", ".csv", ".h5"), default="x.npy", help=_OUT_HELP),
    common.key_option,
    common.columns_option,
    common.device_option,
    common.force_option,
)


@click.command("recover", cls=Command)
@click.argument("model_file", metavar="MODEL", type=common.INPUT_FILE)
@click.option("--matrix", type=common.INPUT_FILE, help="Matrix (key A) that took the measurements. [the model's]")
@codes_options
def command(model_file: Path, matrix: Path | None, codes: Codes) -> None:
    """Recover the sparse codes of your own measurements.

    Y is a .npy, .npz, .mat, .h5, .csv or .txt file (key y) with one sample per row, or a vector that is one sample.
    Files in .npy and .h5 are read in batches, so that they may be larger than memory. The codes are written in single
    precision, in the same layout.

    With --matrix, the weight for the other matrix comes from a robust model's encoder; for an ALISTA it is computed.
    """
    model: Any = load(model_file, Model, RobustModel, ops=codes.ops)
    if matrix is not None or isinstance(model, RobustModel):
        robust = model if isinstance(model, RobustModel) else RobustModel.new(model, ops=codes.ops)
        model = robust.model_for(robust.problem.A if matrix is None else matrix_in(matrix))
    codes.write(model)
