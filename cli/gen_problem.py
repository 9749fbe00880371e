"""cuista gen-problem"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    H5_FILE,
    INPUT_FILE,
    force_option,
    key_option,
    make_problem,
    problem_options,
    say,
    seed_option,
)
from cuista.cli.spellings import Command


@click.command("gen-problem", cls=Command)
@problem_options
@click.option("--load-a", type=INPUT_FILE, help="Take the matrix from a .npy, .npz, .mat or .h5 file (key A or D).")
@key_option
@seed_option
@click.option("-o", "--out", type=H5_FILE, default="problem.h5", show_default=True, help="The problem file.")
@force_option
def command(load_a: Path | None, key: str | None, seed: int, out: Path, force: bool, **options: Any) -> None:
    """Make a problem: a measurement matrix, and the law of its signals and noise."""
    from cuista.storage import check_writable

    if key is not None and load_a is None:
        raise click.UsageError("--key names an array in the file of --load-a, which is not given")
    check_writable(out, overwrite=force)
    problem = make_problem(options, seed, load_a, key)
    problem.save(out, overwrite=force)
    shape = f"{problem.M}×{problem.N}, condition number {problem.condition_number:.4g}"
    say(f"Wrote {out}: {shape}, SNR {problem.snr_db:g} dB.")
