"""cuista recover"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    INPUT_FILE,
    ProgressLine,
    columns_option,
    device_option,
    engine_on,
    force_option,
    key_option,
    output_file,
    say,
)
from cuista.cli.spellings import Command

from cuista import storage
from cuista.model import Trained
from cuista.storage.streaming import Recoverer, recover_file
from cuista.tasks import Model, RobustModel

codes_option = click.option(
    "-o",
    "--out",
    type=output_file(".npy", ".h5"),
    default="x.npy",
    show_default=True,
    help="The sparse codes, .npy or .h5 (as x), float32.",
)


def write_codes(
    recoverer: Recoverer, measurements: Path, out: Path, key: str | None, columns: bool, force: bool
) -> None:
    """Recover the measurements in a file to another, with progress."""
    with ProgressLine() as line:
        samples = recover_file(
            recoverer,
            measurements,
            out,
            key=key,
            columns=columns,
            overwrite=force,
            progress=lambda done, total: line.show(done / total, f"{done} of {total} samples"),
        )
    say(f"Wrote {out}: {samples} samples.")


@click.command("recover", cls=Command)
@click.argument("model_file", metavar="MODEL", type=INPUT_FILE)
@click.argument("measurements", metavar="Y", type=INPUT_FILE)
@codes_option
@click.option(
    "--matrix",
    type=INPUT_FILE,
    help="The matrix (key A) that measured, if not the model's own. A robust model's encoder makes its weight; for an "
    "ALISTA it is solved.",
)
@key_option
@columns_option
@device_option
@force_option
def command(
    model_file: Path,
    measurements: Path,
    out: Path,
    matrix: Path | None,
    key: str | None,
    columns: bool,
    device: str,
    force: bool,
) -> None:
    """Recover the sparse codes of your own measurements.

    Y is a .npy, .npz, .mat or .h5 file (key y), a sample a row. Works in batches: from .npy and .h5, whose rows
    need not be in memory at once, in constant memory.
    """
    ops = engine_on(device)
    record = storage.read(model_file, Model.kind, RobustModel.kind)
    model: Any = Trained.kinds[record.kind].from_record(record, model_file, ops=ops)
    if matrix is not None or record.kind == RobustModel.kind:
        robust = model if record.kind == RobustModel.kind else RobustModel.new(model, ops=ops)
        model = robust.model_for(robust.problem.A if matrix is None else storage.load_array(matrix, "A"))
    write_codes(model, measurements, out, key, columns, force)
