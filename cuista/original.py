"""Reading and writing files of the original ALISTA code: problems, perturbed matrices and variables of networks.

The original keeps samples in columns. It names variables as TensorFlow does: `SCOPE/alpha_1:0`, where layers count from
1, and `SCOPE/W:0` for a variable that all layers share. Thresholds for each coordinate have the shape (N, 1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cuista.checks import Array, as_real, check_finite
from cuista.counter import TEST, VALIDATION
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.networks import NETWORKS, Network
from cuista.operators import Dense
from cuista.tasks.sparse_coding import Model
from cuista.weights import Weight

LEVEL = re.compile(r"\d+(\.\d*)?(e-?\d+)?")
VARIABLE = re.compile(r"(?:(?P<scope>.+)/)?(?P<name>alpha|theta|lam|W|B)(?:_(?P<layer>[1-9]\d*))?:0")


def read_problem(arrays: Mapping[str, Array], source: str) -> Problem:
    """Make a problem from the arrays of a `prob.npz`.

    The arrays are A (or D, or a single array of any name), pnz (by default 0.1) and SNR (by default no noise).

    Raises
    ------
    FileError
        If there are several arrays and none of them is named A or D; the message names `source`.
    """
    matrices = [arrays[name] for name in ("A", "D") if name in arrays] or list(arrays.values())
    if len(arrays) != 1 and not {"A", "D"} & set(arrays):
        raise FileError(f"{source} holds {', '.join(arrays) or 'nothing'}; expected a matrix A (or D)")
    pnz = as_real(arrays["pnz"], "pnz").ravel() if "pnz" in arrays else np.array([0.1])
    snr = float(as_real(arrays["SNR"], "SNR").ravel()[0]) if "SNR" in arrays else np.inf
    return Problem(matrices[0], float(pnz[0]) if pnz.size == 1 else pnz, snr)


def write_problem(problem: Problem, samples: int = 1000) -> dict[str, Array]:
    """The arrays of a `prob.npz` for a problem, with the validation set x (N, samples), y (M, samples).

    The matrix is stored under the name `D` too, which the original's `CalculateW.m` reads.
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


def has_levels(arrays: Mapping[str, Array]) -> bool:
    """Whether the arrays are those of a `robust_test_A.npz`: perturbed matrices (count, M, N), named by their σ."""
    return bool(arrays) and all(LEVEL.fullmatch(name) and array.ndim == 3 for name, array in arrays.items())


def read_perturbed(arrays: Mapping[str, Array], problem: Problem, samples: int = 1000, seed: int = 0) -> PerturbedSet:
    """Make a test set from the matrices of a `robust_test_A.npz`, and new signals of the nominal problem.

    Raises
    ------
    InputError
        If the matrices are not of the problem's shape, or their numbers differ from σ to σ.
    """
    sigmas = sorted(arrays, key=float)
    shapes = {name: arrays[name].shape for name in sigmas}
    if len(set(shapes.values())) > 1 or next(iter(shapes.values()))[1:] != problem.A.shape:
        raise InputError(
            f"the matrices have the shapes {shapes} by σ; expected (count, {problem.M}, {problem.N}), the same for all"
        )
    matrices = np.stack([as_real(arrays[name], f"the matrices of σ = {name}") for name in sigmas]).astype(np.float32)
    check_finite(matrices, "the matrices")
    x, _ = problem.sample(samples, stream=TEST, seed=seed)
    return PerturbedSet(problem, np.array([float(name) for name in sigmas]), matrices, x, seed)


def write_perturbed(perturbed: PerturbedSet) -> dict[str, Array]:
    """The arrays of a `robust_test_A.npz` for a test set."""
    return {repr(float(sigma)): matrices for sigma, matrices in zip(perturbed.sigmas, perturbed.matrices, strict=True)}


# The original's networks by our names. Its own name of a network is also the scope in which it looks for variables.
NETS = {
    "alista": "ALISTA",
    "lista": "LISTA",
    "lista-cp": "LISTA_cp",
    "lista-ss": "LISTA_ss",
    "lista-cpss": "LISTA_cpss",
    "tilista": "TiLISTA",
    "lamp": "LAMP",
    "liht": "LIHT",
}


def variable_names(net: str) -> dict[str, str]:
    """The original's names for the parameters of a network.

    Raises
    ------
    InputError
        If the original has no such network.
    """
    if net not in NETS:
        raise InputError(
            f"no names of the original code are known for the variables of {net}; expected one of {', '.join(NETS)}. "
            "A .mat file needs no such names"
        )
    names = {"step_size": "alpha", "threshold": "theta", "weight": "W", "input_weight": "B"}
    return {**names, "threshold": "lam", "weight": "B"} if net == "lamp" else names


def has_variables(arrays: Mapping[str, Array]) -> bool:
    """Whether any of the arrays has the name of a network's saved variable."""
    return any(VARIABLE.fullmatch(name) for name in arrays)


def read_model(
    arrays: Mapping[str, Array],
    problem: Problem,
    weight: Weight,
    net: str = "alista",
    *,
    percent: float,
    max_percent: float,
    scope: str | None = None,
    source: str = "the file",
) -> Model:
    """Make a model from a network's saved variables `alpha_1:0`, `theta_1:0`, `W_1:0`, …, with or without a scope.

    Parameters
    ----------
    arrays
        The variables by name.
    problem, weight
        The problem that the network was trained for, and its analytic weight.
    net
        The network's name.
    percent, max_percent
        The schedule of support selection, in per cent, which the original does not save.
    scope
        The scope of the variables; it may be None if there is only one.
    source
        The file's name for error messages.

    Raises
    ------
    FileError
        If `scope` is not one of the scopes, or is None and there are several; if a variable is missing, unknown or of
        the wrong shape.
    """
    matches = [match for match in map(VARIABLE.fullmatch, arrays) if match]
    scopes = sorted({match["scope"] or "" for match in matches})
    if scope is None and len(scopes) == 1:
        scope = scopes[0]
    if scope not in scopes:
        raise FileError(
            f"{source} has the scopes {', '.join(map(repr, scopes))}; say which one to take", option="scope"
        )
    found = {(m["name"], int(m["layer"] or 0)): arrays[m.string] for m in matches if (m["scope"] or "") == scope}
    names = variable_names(net)
    layers = max(layer for _, layer in found)
    if layers == 0:
        raise FileError(f"{source} has no variables of single layers; expected {names['threshold']}_1:0 and so on")
    kind = NETWORKS[net]
    options: dict[str, Any] = {
        "layers": layers,
        "percent": percent,
        "max_percent": max_percent,
        "untied": kind.can_untie and (names["weight"], 1) in found,
        "per_coordinate": found.get((names["threshold"], 1), np.zeros(1)).size > 1,
    }
    parameters = {}
    network = kind(Dense(problem.A), weight.W, **options)
    unknown = sorted({variable for variable, _ in found} - {names[name] for name in network.shapes})
    if unknown:
        raise FileError(
            f"{source} holds {', '.join(unknown)}, which {kind.title} does not have: name its network", option="net"
        )
    for name, (_, *shape) in network.shapes.items():
        numbers = (0,) if _shared(network, name) else range(1, layers + 1)
        missing = [_spelled(names[name], t) for t in numbers if (names[name], t) not in found]
        if missing:
            raise FileError(
                f"{source} lacks {', '.join(missing)}, which {kind.title} with {layers} layers has: name its network",
                option="net",
            )
        parts = [as_real(found[names[name], t], name) for t in numbers]
        if any(part.size != np.prod(shape) or (len(shape) == 2 and part.shape != tuple(shape)) for part in parts):
            shapes = sorted({part.shape for part in parts})
            raise FileError(f"{source}: {names[name]} has shape {shapes}; expected {tuple(shape)}")
        parameters[name] = np.stack([part.reshape(shape) for part in parts]).astype(np.float64)
    model = Model.new(problem, weight, net, **options, parameters=parameters)
    model.training = {"imported": scope or "no scope"}
    return model


def write_model(model: Model, scope: str | None = None) -> dict[str, Array]:
    """A model's parameters as the original's saved variables, float32. The scope is its name of the network if None."""
    names = variable_names(model.network.name)
    scope = NETS[model.network.name] if scope is None else scope
    prefix = f"{scope}/" if scope else ""
    variables: dict[str, Array] = {}
    for name, stack in model.network.parameters.items():
        shared = _shared(model.network, name)
        for t, part in enumerate(model.network.ops.to_numpy(stack)):
            part = part[:, None] if part.ndim == 1 else part
            variables[prefix + _spelled(names[name], 0 if shared else t + 1)] = np.asarray(part, np.float32)
    return variables


def _shared(network: Network, name: str) -> bool:
    """Whether all layers of the network share this parameter."""
    return name == "input_weight" or (name in network.matrices and not network.untied)


def _spelled(name: str, layer: int) -> str:
    """The name of a layer's variable, counted from 1; layer 0 stands for a variable that all layers share."""
    return f"{name}_{layer}:0" if layer else f"{name}:0"
