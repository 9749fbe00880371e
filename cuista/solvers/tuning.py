"""The choice of λ: the value with the least error among several, which is kept for later runs."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.ops.joint import ALONE, Joint
from cuista.version import __version__

# The number of values of λ if all are tried.
TRIED = 24

Error = Callable[[float], float]


def lambdas(A: Array, y: Array, relative: Array | None = None, joint: Joint = ALONE) -> list[float]:
    """Values of λ for min ½‖y − A x‖² + λ‖x‖₁, as shares of the median of max_i |a_iᴴy| over measurements (batch, M).

    If λ exceeds max_i |a_iᴴy|, the solution is 0. If `relative` is None, there are 24 shares from 1e-4 to 1, equally
    spaced on a logarithmic scale. With L snapshots, y is (batch, L, M), and the magnitudes of `joint` entries take the
    place of |a_iᴴy|.
    """
    return lambdas_of(y.reshape(-1, y.shape[-1]) @ A.conj(), joint, relative)


def lambdas_of(correlations: Array, joint: Joint = ALONE, relative: Array | None = None) -> list[float]:
    """`lambdas` for measurements of which Aᴴy, (batch·L, N), is known."""
    most = np.median(joint.magnitudes(np, correlations).max(axis=1))
    values: list[float] = (most * (np.geomspace(1e-4, 1, TRIED) if relative is None else relative)).tolist()
    return values


def tune(
    error: Error, values: Sequence[float], each: Callable[[Error, Sequence[float]], Iterable[float]] = map
) -> tuple[float, float]:
    """The value with the least error, and this error. `each` applies `error` to all values, as `map` does."""
    least, best = min(zip(each(error, values), values, strict=True))
    return best, least


def tune_unimodal(error: Error, values: Sequence[float]) -> float:
    """The value with the least error among ordered values, if the error falls up to it and rises beyond it.

    The search goes from coarse to fine, so that only some of the values are tried.
    """

    @cache
    def error_at(index: int) -> float:
        return error(values[index])

    step = len(values) // 4
    best = min(range(step // 2, len(values), step), key=error_at)
    while step > 1:
        step //= 2
        best = min((near for near in (best - step, best, best + step) if 0 <= near < len(values)), key=error_at)
    return values[best]


def kept_in(tuned_for: Mapping[str, Any]) -> Path | None:
    """The file that keeps a λ that was tuned for this, in the user's cache folder; None if there is no such folder.

    The folder is `cuista` in $XDG_CACHE_HOME, %LOCALAPPDATA% or ~/.cache, the first of them that is known.
    """
    digest = sha256(_text(tuned_for).encode()).hexdigest()
    try:
        folder = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(folder) / "cuista" / f"lambda-{digest[:24]}.json"


def kept(path: Path | None, tuned_for: Mapping[str, Any]) -> float | None:
    """The λ that a file keeps; None if there is none for this."""
    try:
        found = json.loads((path or Path()).read_text())
        lam = float(found["lambda"]) if found["for"] == json.loads(_text(tuned_for)) else np.nan
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return lam if 0 < lam < np.inf else None


def keep(path: Path | None, tuned_for: Mapping[str, Any], lam: float) -> bool:
    """Keep a λ in a file, which is complete whenever it is there, and return whether that was possible."""
    if path is None:
        return False
    text = json.dumps({"lambda": lam, "for": json.loads(_text(tuned_for))}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent)
        try:
            with open(handle, "w") as file:
                file.write(text + "\n")
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
    except OSError:
        return False
    return True


def _text(tuned_for: Mapping[str, Any]) -> str:
    return json.dumps({**tuned_for, "version": __version__}, sort_keys=True)
