"""Files of the original ALISTA code, read and written: `prob.npz`, `W.npy`, and saved ALISTA variables.

The original keeps samples in columns, names variables as TensorFlow does (`SCOPE/alpha_1:0`, counting from 1), and
stores a threshold per coordinate as (N, 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from cuista.checks import Array, as_real
from cuista.errors import FileError
from cuista.model import Model
from cuista.problem import VALIDATION, Problem
from cuista.weights import Weight

VARIABLE = re.compile(r"(?:(?P<scope>.+)/)?(?P<name>alpha|theta)_(?P<layer>[1-9]\d*):0")


def read_problem(arrays: Mapping[str, Array], source: str) -> Problem:
    """A problem from the arrays of a `prob.npz`: A (or D), pnz and SNR; 0.1 and no noise where they are missing.

    Raises
    ------
    FileError
        If there is no matrix A or D, nor just one array.
    """
    matrices = [arrays[name] for name in ("A", "D") if name in arrays] or list(arrays.values())
    if len(arrays) != 1 and not {"A", "D"} & set(arrays):
        raise FileError(f"{source} holds {', '.join(arrays) or 'nothing'}; expected a matrix A (or D)")
    pnz = as_real(arrays["pnz"], "pnz").ravel() if "pnz" in arrays else np.array([0.1])
    snr = float(as_real(arrays["SNR"], "SNR").ravel()[0]) if "SNR" in arrays else np.inf
    return Problem(matrices[0], float(pnz[0]) if pnz.size == 1 else pnz, snr)


def write_problem(problem: Problem, samples: int = 1000) -> dict[str, Array]:
    """The arrays of a `prob.npz`, with the validation set x (N, samples), y (M, samples) that its reader needs.

    The matrix stands under `D` too, for `CalculateW.m`.
    """
    x, y = problem.sample(samples, stream=VALIDATION)
    numbers = {"M": problem.M, "N": problem.N, "L": samples, "con_num": problem.condition_number}
    return {
        "A": problem.A,
        "D": problem.A,
        **{name: np.asarray(value) for name, value in numbers.items()},
        "pnz": np.asarray(problem.pnz),
        "SNR": np.asarray(problem.snr_db),
        "x": x.T,
        "y": y.T,
    }


def has_variables(arrays: Mapping[str, Array]) -> bool:
    """Whether these are saved ALISTA variables."""
    return any(VARIABLE.fullmatch(name) for name in arrays)


def read_model(
    arrays: Mapping[str, Array],
    problem: Problem,
    weight: Weight,
    *,
    percent: float,
    max_percent: float,
    scope: str | None = None,
    source: str = "the file",
) -> Model:
    """An ALISTA from saved variables, `alpha_t:0` and `theta_t:0` for t = 1 … T, under a scope or none.

    Raises
    ------
    FileError
        If there are several scopes and `scope` names none of them, or a variable is missing or misshapen.
    """
    matches = [match for match in map(VARIABLE.fullmatch, arrays) if match]
    scopes = sorted({match["scope"] or "" for match in matches})
    if scope is None and len(scopes) == 1:
        scope = scopes[0]
    if scope not in scopes:
        raise FileError(f"{source} has the scopes {', '.join(map(repr, scopes))}; say which with --scope")
    found = {(m["name"], int(m["layer"])): arrays[m.string] for m in matches if (m["scope"] or "") == scope}
    layers = max(layer for _, layer in found)
    missing = [f"{name}_{t}:0" for name in ("alpha", "theta") for t in range(1, layers + 1) if (name, t) not in found]
    if missing:
        raise FileError(f"{source} lacks {', '.join(missing)}: expected alpha and theta for each of {layers} layers")
    sizes = {name: {found[name, t].size for t in range(1, layers + 1)} for name in ("alpha", "theta")}
    if sizes["alpha"] != {1} or sizes["theta"] not in ({1}, {problem.N}):
        raise FileError(f"{source}: expected one alpha a layer, and one theta or {problem.N} of them; found {sizes}")
    stacks = [
        np.stack([as_real(found[name, t], name).ravel() for t in range(1, layers + 1)]) for name in ("alpha", "theta")
    ]
    step_size, threshold = (stack.astype(np.float64) for stack in stacks)
    per_coordinate = threshold.shape[1] > 1
    parameters = {"step_size": step_size[:, 0], "threshold": threshold if per_coordinate else threshold[:, 0]}
    model = Model.new(problem, weight, layers=layers, percent=percent, max_percent=max_percent, parameters=parameters)
    model.training = {"imported": scope or "no scope"}
    return model


def write_model(model: Model, scope: str) -> dict[str, Array]:
    """The saved variables of a model, float32 as the original's."""
    prefix = f"{scope}/" if scope else ""
    variables: dict[str, Array] = {}
    parameters = model.network.parameters
    for t in range(model.network.layers):
        theta = parameters["threshold"][t]
        variables[f"{prefix}alpha_{t + 1}:0"] = np.float32(parameters["step_size"][t]).reshape(())
        variables[f"{prefix}theta_{t + 1}:0"] = np.asarray(theta[:, None] if theta.ndim else theta, np.float32)
    return variables
