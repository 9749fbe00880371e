"""cuista info"""

from __future__ import annotations

import json
from pathlib import Path

import click
from cuista.cli.common import INPUT_FILE, json_option, print_json
from cuista.cli.spellings import Command


@click.command("info", cls=Command)
@click.argument("file", type=INPUT_FILE)
@json_option
def command(file: Path, as_json: bool) -> None:
    """Describe any of cuista's files."""
    from cuista import storage

    record = storage.read(file)
    first = ("format", "format_version", "cuista_version", "created", "command")
    names = [*first, *sorted(set(record.attributes) - set(first))]
    attributes = {name: _parsed(record.attributes[name]) for name in names if name in record.attributes}
    arrays = {name: {"shape": list(value.shape), "dtype": value.dtype.name} for name, value in record.arrays.items()}
    if as_json:
        print_json({"attributes": attributes, "arrays": arrays})
        return
    for name, value in attributes.items():
        if isinstance(value, dict):
            click.echo(f"{name}:")
            for inner, item in value.items():
                click.echo(f"    {inner}: {item}")
        else:
            click.echo(f"{name}: {value}")
    click.echo("arrays:")
    for name, array in sorted(arrays.items()):
        click.echo(f"    {name}: {'×'.join(map(str, array['shape'])) or 'scalar'} {array['dtype']}")


def _parsed(value: object) -> object:
    """An attribute that holds JSON, as what it says."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
