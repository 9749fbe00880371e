"""cuista quickstart"""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.errors import FileError


@click.command("quickstart", cls=Command)
@click.argument("folder", type=common.INPUT_FILE, default="quickstart")
@common.device_option
@click.option("--force", is_flag=True, help="Overwrite the files of an earlier quickstart.")
def command(folder: Path, device: str, force: bool) -> None:
    """Run all steps of an example, in one to two minutes.

    Make a problem, compute its weight, train ALISTA, and test it beside ISTA and FISTA. All files are written to FOLDER
    [quickstart]. Each command is shown before it runs, so that you can repeat and vary it.
    """
    from cuista.cli import cli

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {folder}: {error.strerror}") from error
    problem, weight, model, report = (str(folder / f"{name}.h5") for name in ("problem", "weight", "model", "report"))
    commands = [
        ["gen-problem", "--m", "250", "--n", "500", "--pnz", "0.1", "--snr", "inf", "-o", problem],
        ["solve-w", problem, "-o", weight],
        ["train", problem, "--net", "alista", "-W", weight, "-T", "16", "-o", model],
        ["test", model, "--baselines", "-o", report],
    ]
    if device != "auto":
        commands[2] += ["--device", device]
        commands[3] += ["--device", device]
    for words in commands:
        words += ["--force"] if force else []
        common.say(f"\n$ {shlex.join(['cuista', *words])}")
        cli.main(words, "cuista", standalone_mode=False)
    common.say(f"\nThe files are in {folder}. Continue with measurements, here simulated ones:")
    signals = str(folder / "signals.h5")
    for words in (["simulate", problem, "-o", signals], ["recover", model, signals, "-o", str(folder / "x.npy")]):
        common.say(f"$ {shlex.join(['cuista', *words])}")
