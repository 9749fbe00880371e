"""cuista plot"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.evaluation.figures import ENDINGS, KINDS, plot

INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4}


def size(value: str | tuple[float, float]) -> tuple[float, float]:
    """The option type of a figure's size in inches, written as 3.3x2.5, 3.3x2.5in, 8.4x6cm or 84x60mm."""
    if isinstance(value, tuple):
        return value
    number, unit = r"(\d+\.?\d*|\.\d+)", "(in|cm|mm)?"
    found = re.fullmatch(rf"{number} ?{unit} ?[x×] ?{number} ?{unit}", value.strip().lower())
    if not found or (found[2] and not found[4]) or (found[2] and found[2] != found[4]):
        raise click.BadParameter(f"{value!r} is not a size; expected a width and a height, like 3.3x2.5 or 8.4x6cm")
    scale = INCHES[found[4] or "in"]
    return float(found[1]) * scale, float(found[3]) * scale


@click.command("plot", cls=Command)
@click.argument("files", metavar="FILE…", type=common.INPUT_FILE, nargs=-1, required=True)
@click.option("--kind", type=click.Choice(KINDS), metavar="KIND", help=f"What to draw: {', '.join(KINDS)}.")
@click.option("--label", "labels", multiple=True, metavar="TEXT", help="Name in the figure (repeat it in order).")
@click.option("--size", type=size, metavar="W×H[cm]", help="Width and height in inches, or in cm. [as it takes]")
@click.option(
    "-o",
    "--out",
    type=common.output_file(*ENDINGS),
    default="figure.pdf",
    help=f"Figure as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}.",
)
@common.force_option
def command(files: tuple[Path, ...], out: Path, force: bool, **how: Any) -> None:
    """Draw a figure of results, models, dictionaries or codes.

    \b
    FILE is one or more of the same kind:
      comparisons, reports    error by layer, by perturbation or by picture
      models                  parameters by layer; --kind history: the
                              validation by step; --kind filters: filters
      checkpoints             the history so far
      dictionaries, weights   the filters
      codes (.npy, .h5, …)    recovered codes, and last the true ones

    The same results give the same file. This needs matplotlib: pip install 'cuista[plot]'.
    """
    plot(files, out, overwrite=force, say=lambda text: common.say(f"Note: {text}."), **how)
    common.say(f"Wrote {out}.")
