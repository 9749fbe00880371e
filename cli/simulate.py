"""cuista simulate"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.problems import law_options, load_codes, load_problem, with_law
from cuista.cli.spellings import Command

from cuista.counter import TEST, Key
from cuista.storage import save_arrays


@click.command("simulate", cls=Command)
@click.argument("problem_file", metavar="PROBLEM", type=common.INPUT_FILE)
@click.option("--samples", type=common.AT_LEAST_1, metavar="N", help="Number of new signals. [1000]")
@click.option("--signals", "--x", "codes", type=common.INPUT_FILE, help="Codes, or pictures, to measure. [new ones]")
@common.keys_option
@common.columns_option
@common.pairs_option
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
    problem_file: Path,
    samples: int | None,
    codes: Path | None,
    key: str | None,
    columns: bool,
    pairs: bool,
    snr: float | None,
    pnz: str | None,
    seed: int,
    out: Path,
    force: bool,
) -> None:
    """Draw signals of a PROBLEM, or take those of --signals, and measure them.

    PROBLEM is a problem file or a model file. The output holds the signals as x and the measurements as y, one sample
    per row: y is an input for cuista recover and cuista solve, and x shows what they should find. With the same seed,
    cuista test uses the same signals.
    """
    if codes is None and (columns or pairs or key is not None):
        raise click.UsageError("--key, --columns and --complex-pairs are for the file of --signals: give that file too")
    if codes is not None and (samples, pnz) != (None, None):
        raise click.UsageError("--samples and --pnz are for new signals, and --signals gives some: leave them out")
    common.claim(out, force)
    problem = with_law(load_problem(problem_file), snr, pnz)
    if codes is None:
        x, y = problem.sample(samples or 1000, stream=TEST, seed=seed)
    else:
        x = load_codes(codes, problem, key, columns, pairs)
        y = problem.measure(x, Key(seed, TEST))
    save_arrays(out, {"x": x, "y": y}, overwrite=force)
    common.say(f"Wrote {out}: x {x.shape} and y {y.shape}, SNR {problem.snr_db:g} dB.")
