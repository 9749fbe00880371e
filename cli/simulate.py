"""cuista simulate"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.problems import law_options, load_problem, with_law
from cuista.cli.spellings import Command

from cuista.counter import TEST
from cuista.storage import save_arrays


@click.command("simulate", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.option("--samples", type=common.AT_LEAST_1, default=1000, metavar="N", help="Number of signals.")
@law_options
@common.seed_option
@click.option(
    "-o",
    "--out",
    type=common.output_file(".h5", ".npz", ".mat"),
    default="signals.h5",
    help="Output file (.h5, .npz or .mat).",
)
@common.force_option
def command(
    problem_file: Path, samples: int, snr: float | None, pnz: str | None, seed: int, out: Path, force: bool
) -> None:
    """Draw signals of a PROBLEM and measure them.

    PROBLEM is a problem file or a model file. The output holds the signals as x and the measurements as y, one sample
    per row: y is an input for cuista recover and cuista solve, and x shows what they should find. With the same seed,
    cuista test uses the same signals.
    """
    common.claim(out, force)
    problem = with_law(load_problem(problem_file), snr, pnz)
    x, y = problem.sample(samples, stream=TEST, seed=seed)
    save_arrays(out, {"x": x, "y": y}, overwrite=force)
    common.say(f"Wrote {out}: x {x.shape} and y {y.shape}, SNR {problem.snr_db:g} dB.")
