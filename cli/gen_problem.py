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
@click.option(
    "--magnitude",
    type=click.Choice(["normal", "bernoulli"]),
    default="normal",
    show_default=True,
    help="Law of the non-zeros.",
)
@click.option("--mean", type=float, default=0.0, show_default=True, help="Mean of normal magnitudes.")
@click.option("--std", type=float, default=1.0, show_default=True, help="Standard deviation of normal magnitudes.")
@click.option("--q", type=float, default=0.5, show_default=True, help="Probability of the Bernoulli magnitude v0.")
@click.option("--v0", type=float, default=1.0, show_default=True, help="One Bernoulli magnitude.")
@click.option("--v1", type=float, default=-1.0, show_default=True, help="The other.")
@seed_option
@click.option("-o", "--out", type=H5_FILE, default="problem.h5", show_default=True, help="The problem file.")
@force_option
def command(
    magnitude: str, mean: float, std: float, q: float, v0: float, v1: float, out: Path, force: bool, **options: Any
) -> None:
    """Make a problem: a measurement matrix, and the law of its signals and noise."""
    from cuista.ops import Bernoulli, Normal
    from cuista.storage import check_writable

    check_writable(out, overwrite=force)
    law = Normal(mean, std) if magnitude == "normal" else Bernoulli(q, v0, v1)
    problem = make_problem(magnitude=law, **options)
    problem.save(out, overwrite=force)
    shape = f"{problem.M}×{problem.N}, condition number {problem.condition_number:.4g}"
    say(f"Wrote {out}: {shape}, SNR {problem.snr_db:g} dB.")
