"""cuista info"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista import storage
from cuista.data.images import SPLITS
from cuista.errors import CuistaError
from cuista.evaluation.integrity import describe_file
from cuista.summary import counted


@click.command("info", cls=Command)
@click.argument("file", type=common.INPUT_FILE)
@common.json_option
def command(file: Path, as_json: bool) -> None:
    """Describe a file that cuista has written, or say which arrays another file holds.

    The first line says what it is; then comes all that the file says of itself.
    """
    if not storage.is_cuista(file) and storage.has_arrays(file):
        holds = storage.described(file)
        common.print_json({"file": str(file), "holds": holds}) if as_json else common.out(f"{file} holds {holds}")
        return
    found, held = storage.contents(file)
    first = ("format", "format_version", "cuista_version", "created", "command")
    names = [*first, *sorted(set(found) - set(first))]
    attributes = {name: _parsed(found[name]) for name in names if name in found}
    arrays = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in held.items()}
    splits = _splits(held) if attributes["format"] in ("cuista-images", "cuista-patches") else None
    try:
        summary = describe_file(file)
    except CuistaError as error:  # of a later version, perhaps
        common.warn(f"{file} cannot be used: {error}")
        summary = ""
    if as_json:
        common.print_json(
            {
                "summary": summary,
                "attributes": attributes,
                **({"arrays": arrays} if splits is None else {"splits": splits}),
            }
        )
        return
    if summary:
        common.out(summary)
    for name, value in attributes.items():
        if isinstance(value, dict):
            common.out(f"{name}:")
            for inner, item in value.items():
                common.out(f"    {inner}: {_shown(item)}")
        else:
            common.out(f"{name}: {_shown(value)}")
    if splits is not None:
        for name, split in splits.items():
            common.out(f"{name}: {_described(split)}")
        return
    common.out("arrays:")
    for name, array in sorted(arrays.items()):
        common.out(f"    {name}: {_size(array['shape']) or 'scalar'} {array['dtype']}")


def _splits(arrays: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, dict[str, Any]]:
    """What each split of a file holds, in pictures or patches."""
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        own = [array for name, array in arrays.items() if name.startswith(f"{split}/")]
        splits[split] = {"pictures": len(own)}
        if own:
            shapes = sorted({shape[-2:] for shape, _ in own}, key=lambda shape: (shape[0] * shape[1], shape))
            splits[split] |= {"smallest": shapes[0], "largest": shapes[-1], "dtypes": sorted({kind for _, kind in own})}
            if len(own[0][0]) == 3:
                splits[split]["patches"] = sum(shape[0] for shape, _ in own)
    return splits


def _described(split: dict[str, Any]) -> str:
    pictures = counted(split["pictures"], "picture")
    if not split["pictures"]:
        return pictures
    smallest, largest, kinds = _size(split["smallest"]), _size(split["largest"]), " and ".join(split["dtypes"])
    if "patches" in split:
        return f"{counted(split['patches'], 'patch', 'patches')} of {smallest} {kinds}, of {pictures}"
    return f"{pictures} of {smallest}{'' if smallest == largest else f' to {largest}'} {kinds}"


def _shown(value: object) -> object:
    """The value of an attribute, with a word for NaN: of an operator's weight, which is not formed, little is known."""
    return "unknown" if isinstance(value, float) and math.isnan(value) else value


def _size(shape: Iterable[object]) -> str:
    return "×".join(map(str, shape))


def _parsed(value: object) -> object:
    """The value of an attribute, decoded if it is JSON."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
