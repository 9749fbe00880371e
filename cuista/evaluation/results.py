"""Files of results: the curves of methods in dB, and a description of what they were measured on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from cuista import storage

Result = TypeVar("Result")


def save_results(
    path: str | os.PathLike[str], record: storage.Record, results: Sequence[Any], about: dict[str, Any], overwrite: bool
) -> None:
    """Add results, which are dataclasses, to a record and write it.

    The arrays `nmse_db` of the results are named `nmse_db/0`, `nmse_db/1`, … in the file, in the order of the results.
    """
    rows = [{name: value for name, value in asdict(result).items() if name != "nmse_db"} for result in results]
    record.arrays |= {f"nmse_db/{i}": result.nmse_db for i, result in enumerate(results)}
    record.attributes |= {"results": json.dumps(rows), "about": json.dumps(about)}
    storage.write(path, record, overwrite=overwrite)


def load_results(
    path: str | os.PathLike[str], record: storage.Record, kind: Callable[..., Result]
) -> tuple[tuple[Result, ...], dict[str, Any]]:
    """The results in a file's record as objects of class `kind`, and what they were measured on.

    Raises
    ------
    FileError
        If the record is damaged; the message names `path`.
    """
    with storage.complete(path):
        rows = json.loads(record.attributes["results"])
        results = tuple(kind(**row, nmse_db=record.arrays[f"nmse_db/{i}"]) for i, row in enumerate(rows))
        return results, json.loads(record.attributes["about"])
