"""What an operator is made of, as text that a file keeps in place of a matrix.

A description is a dictionary that JSON can hold: the `kind` of the operator, the arguments of its class by name, and
whether `signals` are real or complex. It may also be written by hand, for example

    {"kind": "composition",
     "outer": {"kind": "fourier", "shape": [256, 256], "mask": {"kind": "radial", "rate": 0.2, "seed": 1}},
     "inner": {"kind": "wavelet", "shape": [256, 256], "wavelet": "db4", "level": 4}}

A mask is described by how it was made, or is an array. Arrays are not part of a description, which has their hash, as
{"array": SHA-256}. In one that is written by hand, the name of a file may stand in place of an array, or for one array
of several {"file": "arrays.mat", "key": "h"}.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista import storage
from cuista.checks import Array
from cuista.errors import CuistaError, FileError, InputError
from cuista.operators.base import Operator
from cuista.operators.composition import Composition, Scaled, Stack
from cuista.operators.convolution import Convolution
from cuista.operators.dense import Dense
from cuista.operators.external import External
from cuista.operators.masks import MASKS, Mask
from cuista.operators.sampled import Cosine, Hadamard
from cuista.operators.spectral import Circular, Fourier
from cuista.operators.wavelets import Wavelet
from cuista.ops import ReferenceOps

KINDS: dict[str, type[Operator]] = {
    each.kind: each
    for each in (Circular, Composition, Convolution, Cosine, Dense, Fourier, Hadamard, Scaled, Stack, Wavelet)
}
# The arguments that are arrays.
ARRAYS = ("A", "D", "kernel", "mask")
# Those that are numbers, of operators and of masks.
NUMBERS = {
    **dict.fromkeys(("shape", "picture"), "a whole number, or a list of them"),
    **dict.fromkeys(("stride", "level", "seed"), "a whole number"),
    **dict.fromkeys(("rate", "power", "centre"), "a number"),
    "factor": "a number, or the list of its real and its imaginary part",
}


def describe(operator: Operator, arrays: MutableMapping[str, Array] | None = None) -> dict[str, Any]:
    """What an operator is made of, as a dictionary that JSON can hold.

    Parameters
    ----------
    operator
        The operator. One of SciPy or PyLops is described by what it does to a few random signals, by which it can be
        recognised, but not made.
    arrays
        If it is given, the arrays that the description names are put into it, each under its hash.
    """
    signals = "complex" if operator.dtype.kind == "c" else "real"
    return {"signals": signals, **_encoded(operator, {} if arrays is None else arrays)}


def description_sha256(description: Mapping[str, Any]) -> str:
    """The hash of a description, which identifies an operator."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_description(
    description: Mapping[str, Any],
    source: str | os.PathLike[str] | Mapping[str, Array] | None = None,
    *,
    external: Operator | None = None,
    ops: ReferenceOps | None = None,
    dtype: DTypeLike = np.float32,
) -> Operator:
    """The operator that a description describes.

    Parameters
    ----------
    description
        The description. Without `signals`, they are complex if there is a Fourier transform, and real otherwise. The
        shape of a mask may be left out.
    source
        Where the arrays are: a folder, or a dictionary in which they are under their hashes.
    external
        The operator itself, where the description is of one that can only be recognised.
    ops
        The engine; that of the CPU if None.
    dtype
        The precision, float32 or float64.

    Raises
    ------
    InputError
        If the description is not one.
    FileError
        If an array is missing or is another one, or the `external` operator is.
    """
    signals = description.get("signals") or ("complex" if '"fourier"' in json.dumps(description) else "real")
    if signals not in ("real", "complex"):
        raise InputError(f"the signals of an operator are {signals!r}; expected real or complex")
    place = {"ops": ops, "dtype": np.result_type(dtype, np.complex64) if signals == "complex" else np.dtype(dtype)}
    described = {name: value for name, value in description.items() if name != "signals"}
    try:
        made = _operator(described, source, external, place)
        if signals == "real" and made.dtype.kind == "c":
            raise InputError(
                f'the {made.kind} is complex, so that signals are complex, too: add "signals": "complex" to the '
                "description",
                option="operator",
            )
        return made
    except InputError as error:  # the option is about the description, and not about what is named in it
        raise InputError(str(error), option="operator") from error
    except CuistaError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise InputError(
            f"a value in the description of the operator has a wrong kind: {error}. The description is {described}",
            option="operator",
        ) from error


def in_double(operator: Operator) -> Operator | None:
    """The same operator on the CPU in double precision.

    None if it is, or is made of, one that is not cuista's own, of which nobody knows what it does in double precision.
    """
    if not _is_own(operator):
        return None
    arrays: dict[str, Array] = {}
    return from_description(describe(operator, arrays), arrays, dtype=np.float64)


def _is_own(part: Any) -> bool:
    if isinstance(part, Operator):
        return type(part) is KINDS.get(part.kind) and all(map(_is_own, part.form.values()))
    return all(map(_is_own, part)) if isinstance(part, list) else True


def external_of(operator: Any) -> External | None:
    """The operator of SciPy or PyLops that an operator is, or is made of; None if there is none."""
    if isinstance(operator, External):
        return operator
    if hasattr(operator, "matvec"):
        return External(operator, dtype=np.float64)
    if isinstance(operator, list):
        found = list(filter(None, map(external_of, operator)))
        if len(found) > 1:
            raise InputError("an operator is made of several of SciPy or PyLops; expected one: combine them there")
        return found[0] if found else None
    return external_of(list(operator.form.values())) if isinstance(operator, Operator) else None


def _encoded(value: Any, arrays: MutableMapping[str, Array]) -> Any:
    """An argument of an operator, in a description."""
    if isinstance(value, Operator):
        return {"kind": value.kind, **{name: _encoded(part, arrays) for name, part in value.form.items()}}
    if isinstance(value, Mask):
        # A mask is drawn again, by functions that may round otherwise elsewhere, so that its hash goes with it.
        if value.made is None:
            return _encoded(value.sampled, arrays)
        return {**{name: _encoded(part, arrays) for name, part in value.made.items()}, "sha256": value.sha256}
    if isinstance(value, np.ndarray):
        name = storage.sha256(value)
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
    return [_encoded(part, arrays) for part in value] if isinstance(value, list) else value


def _operator(description: Any, source: Any, external: Operator | None, place: dict[str, Any]) -> Operator:
    """The operator with a description, or a part of one."""
    kind = description.get("kind") if isinstance(description, Mapping) else None
    kind = kind if isinstance(kind, str) else json.dumps(kind)
    if kind == External.kind:
        if not isinstance(external, External):
            raise FileError(
                "the operator is one of SciPy or PyLops, which no file can hold: give the operator itself, in Python, "
                "as in Model.load(path, operator=…)"
            )
        if description.get("shape") != [external.M, external.N] or not external.does(description.get("action", [])):
            raise FileError(
                "the operator that is given is another one: it does something else to the signals by which it is "
                "recognised"
            )
        return External(external.operator, **place)
    if kind not in KINDS:
        raise InputError(f"{kind!r} is not a kind of operator; expected one of {', '.join(KINDS)}", option="operator")
    given = {name: value for name, value in description.items() if name != "kind"}
    made_of = inspect.signature(KINDS[kind]).parameters
    names = [name for name in made_of if name not in place]
    needed = [name for name in names if made_of[name].default is inspect.Parameter.empty]
    if set(given) - set(names) or set(needed) - set(given):
        raise InputError(
            f"the description of the operator {kind} has {', '.join(given) or 'nothing'}; expected "
            f"{', '.join(needed)} and possibly {', '.join(set(names) - set(needed)) or 'nothing else'}",
            option="operator",
        )
    arguments = {name: _decoded(name, value, given, source, external, place) for name, value in given.items()}
    return KINDS[kind](**arguments, **{name: value for name, value in place.items() if name in made_of})


def _decoded(
    name: str, value: Any, given: Mapping[str, Any], source: Any, external: Operator | None, place: dict[str, Any]
) -> Any:
    """An argument of an operator, from its description."""
    _check_number(name, value)
    if name == "operators":
        if not isinstance(value, list):
            raise InputError(f'"operators" in the description is {json.dumps(value)}; expected a list of descriptions')
        return [_operator(part, source, external, place) for part in value]
    if name in ("operator", "outer", "inner"):
        return _operator(value, source, external, place)
    if name == "factor" and isinstance(value, list):
        return complex(*value)
    if name in ARRAYS and isinstance(value, str):
        value = {"file": value}
    if name in ARRAYS and isinstance(value, Mapping) and ("file" in value or "key" in value):
        return _in_file(name, value, source)
    if name in ARRAYS and isinstance(value, Mapping):
        if not {"kind", "array"} & set(value):
            raise InputError(f'"{name}" in the description is {json.dumps(value)}; expected a kind, a file or an array')
        return _mask(value, given) if "kind" in value else _array(str(value.get("array")), source)
    return value


def _check_number(name: str, value: Any) -> None:
    """Raise InputError if an argument that must be a number, or a list of numbers, is something else, such as text."""
    expected = NUMBERS.get(name, "")
    kinds = (int,) if "whole" in expected else (int, float)
    values = value if isinstance(value, list) and "list" in expected else [value]
    is_right = all(type(each) in kinds for each in values) and (name != "factor" or len(values) in (1, 2))
    if expected and not is_right and not (name in ("level", "picture") and value is None):
        raise InputError(f'"{name}" in the description of the operator is {json.dumps(value)}; expected {expected}')


def _mask(made: Mapping[str, Any], given: Mapping[str, Any]) -> Mask:
    """The mask that is made like this, by default in the shape of the operator."""
    kind = made["kind"]
    if kind not in MASKS:
        raise InputError(f"{kind!r} is not a kind of mask; expected one of {', '.join(MASKS)}", option="operator")
    shape = given.get("shape")
    for name, value in made.items():
        _check_number(name, value)
    arguments = {
        "shape": [shape] if isinstance(shape, int) else shape,
        **{name: value for name, value in made.items() if name not in ("kind", "sha256")},
    }
    try:
        inspect.signature(MASKS[kind]).bind(**arguments)
    except TypeError as error:
        raise InputError(f"the description of a {kind} mask is not one: {error}", option="operator") from None
    mask = MASKS[kind](**arguments)
    if made.get("sha256") not in (None, mask.sha256):
        raise FileError(
            f"the {kind} mask with the arguments {arguments} is another one here than where the file was written: give "
            "the mask as an array"
        )
    return mask


def _in_file(name: str, value: Mapping[str, Any], source: Any) -> Array:
    """The array in a file that is named in place of the argument `name`."""
    file, key = value.get("file"), value.get("key")
    texts = [file] if key is None else [file, key]
    if set(value) - {"file", "key"} or not all(isinstance(text, str) for text in texts):
        raise InputError(f'"{name}" in the description is {json.dumps(value)}; expected {{"file": TEXT, "key": TEXT}}')
    try:
        return storage.load_array(Path(source or ".") / str(file), name, key=key)
    except FileError as error:
        if error.options != ("key",):
            raise
        held, how = str(error).partition(". Choose")[0], f'{{"file": "{file}", "key": NAME}}'
        raise FileError(f'{held}. Write "{name}": {how} with one of these names', option="operator") from None


def _array(name: str, source: Any) -> Array:
    """The array with this hash."""
    if isinstance(source, Mapping):
        if name not in source:
            raise FileError(f"the array {name[:12]}… of the operator is missing")
        array: Array = source[name]
    else:
        array = storage.load_array(Path(source or ".") / f"{name}.npy")
    if storage.sha256(array) != name:
        raise FileError(f"the array {name[:12]}… of the operator is another one: its hash differs")
    return array
