"""cuista plot"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.evaluation.figures import plot


@click.command("plot", cls=Command)
@click.argument("files", metavar="FILE…", type=common.INPUT_FILE, nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=common.output_file(".pdf", ".png", ".svg"),
    default="figure.pdf",
    help="Figure as .pdf, .png or .svg.",
)
@common.force_option
def command(files: tuple[Path, ...], out: Path, force: bool) -> None:
    """Draw the results in a file, or the parameters of models.

    FILE is a comparison (NMSE by layer), a report of a robust test (NMSE by level of perturbation), or one or more
    models (step sizes and thresholds by layer). This needs matplotlib: pip install 'cuista[plot]'.
    """
    plot(files, out, overwrite=force)
    common.say(f"Wrote {out}.")
