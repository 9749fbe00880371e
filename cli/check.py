"""cuista check"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.errors import CuistaError
from cuista.evaluation.integrity import check_file


@click.command("check", cls=Command)
@click.argument("files", nargs=-1, required=True, type=common.INPUT_FILE)
@common.json_option
@click.pass_context
def command(context: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Check that files are not damaged: cuista's own, arrays and pictures.

    The exit status is 1 if any file is damaged.
    """
    found: list[dict[str, object]] = []
    for file in files:
        try:
            outcome, good = f"{file} is {check_file(file)}", True
        except CuistaError as error:
            outcome, good = str(error), False
        found.append({"file": str(file), "good": good, "found": outcome})
        if not as_json:
            common.out(f"{'good' if good else 'BAD '}  {outcome}")
    if as_json:
        common.print_json(found)
    context.exit(0 if all(one["good"] for one in found) else 1)
