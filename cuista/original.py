"""Reading and writing files of the original ALISTA code: problems, perturbed matrices and variables of networks.

The original keeps samples in columns. It names variables as TensorFlow does: `SCOPE/alpha_1:0`, where layers count from
1, and `SCOPE/W:0` for a variable that all layers share. Thresholds for each coordinate have the shape (N, 1). Learned
filters have the shape (s₁, s₂, 1, F), and are correlated with the picture as here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cuista.checks import Array, as_numbers, as_real, check_finite
from cuista.counter import TEST, VALIDATION
from cuista.data.dictionary import Dictionary, rotate
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem
from cuista.data.sensing import Sensing
from cuista.errors import FileError, InputError
from cuista.model import AnyTrained, Trained
from cuista.networks import CONV_NETWORKS, NETWORKS, Encoder
from cuista.ops.joint import Joint
from cuista.tasks.denoising import Denoiser
from cuista.tasks.encoder import EncoderModel
from cuista.tasks.robust import RobustModel
from cuista.tasks.sensing import MAX_PERCENT, PERCENT, Reconstructor
from cuista.tasks.sparse_coding import Model
from cuista.training import PaperRecipe
from cuista.weights import ConvWeight, Weight

LEVEL = re.compile(r"\d+(\.\d*)?(e-?\d+)?")
VARIABLE = re.compile(r"(?:(?P<scope>.+)/)?(?P<name>alpha|theta|lam|W|B|D)(?:_(?P<layer>[1-9]\d*))?:0")


def read_problem(arrays: Mapping[str, Array], source: str) -> Problem:
    """Make a problem from the arrays of a `prob.npz`.

    The arrays are A (or D, or a single array of any name), pnz (by default 0.1), SNR (by default no noise), and what
    only `write_problem` adds: `positive`, `column_norms`, `snapshots` and `group`. A matrix with pnz or SNR is kept as
    it is, because the original computes so; a matrix alone, or with `column_norms`, may have columns of any norms.

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
    norms = 1.0 if {"pnz", "SNR"} & set(arrays) and "column_norms" not in arrays else None
    probability = float(pnz[0]) if pnz.size == 1 else pnz
    joint: dict[str, Any] = {name: _count(arrays[name], name, source) for name in Joint._fields if name in arrays}
    return Problem(matrices[0], probability, snr, norms=norms, positive="positive" in arrays, **joint)


def _count(array: Array, name: str, source: str) -> int:
    """The whole number that an array holds."""
    values = as_real(array, name).ravel()
    if len(values) != 1 or values[0] % 1:  # NaN and infinity, too
        raise FileError(f"{source}: {name} has the values {values}; expected one whole number")
    return int(values[0])


def write_problem(problem: Problem, samples: int = 1000) -> dict[str, Array]:
    """The arrays of a `prob.npz` for a problem, with the validation set x (N, samples), y (M, samples).

    The matrix is as the user gave it; if its columns are scaled for networks, their norms are `column_norms`. A
    problem without negative entries has `positive`, and one of joint entries `snapshots` or `group`. The original
    ignores these. The matrix is stored under the name `D` too, which the original's `CalculateW.m` reads. With L
    snapshots, x and y are (N, L, samples) and (M, L, samples).
    """
    x, y = problem.sample(samples, stream=VALIDATION)
    numbers = {"M": problem.M, "N": problem.N, "L": samples, "con_num": problem.condition_number}
    return {
        "A": problem.given,
        "D": problem.given,
        **({"column_norms": np.asarray(problem.norms)} if problem.rescaled else {}),
        **{name: np.asarray(value) for name, value in numbers.items()},
        "pnz": np.asarray(problem.pnz),
        "SNR": np.asarray(problem.snr_db),
        "x": x.T,
        "y": y.T,
        **({"positive": np.asarray(True)} if problem.positive else {}),
        **{name: np.asarray(getattr(problem, name)) for name in Joint._fields if getattr(problem, name) > 1},
    }


def write_dictionary(dictionary: Dictionary) -> dict[str, Array]:
    """The filters fs (s₁, s₂, F) of a convolutional `prob.npz`, for correlation, and their numbers fh, fw and fn."""
    rows, columns = dictionary.shape
    numbers = {"fh": rows, "fw": columns, "fn": dictionary.filters}
    return {
        "fs": dictionary.D,
        "ft": rotate(dictionary.D),
        **{name: np.asarray(value) for name, value in numbers.items()},
    }


def write_sensing(sensing: Sensing) -> dict[str, Array]:
    """The arrays of a sensing matrix and a dictionary for the original, and Φ itself.

    The original measures blocks without their means. Its sensing matrix A (M′, P) is therefore Φ without what measures
    the mean. It reads the dictionary D (P, N), if there is one, from a .npy file of its own. `block` is the size of a
    block in pixels.
    """
    arrays = {"A": sensing.reduced, "Phi": sensing.Phi, "block": np.array(sensing.block)}
    return {**arrays, "D": sensing.dictionary.atoms} if sensing.has_dictionary else arrays


def has_levels(arrays: Mapping[str, Array]) -> bool:
    """Whether the arrays are those of a `robust_test_A.npz`: perturbed matrices (count, M, N), named by their σ."""
    return bool(arrays) and all(LEVEL.fullmatch(name) and array.ndim == 3 for name, array in arrays.items())


def read_sensing(arrays: Mapping[str, Array]) -> Sensing | None:
    """The sensing matrix and the dictionary in the arrays of `write_sensing`; None if they are other arrays."""
    if "Phi" not in arrays or not {"D", "block"} & arrays.keys():
        return None
    side = math.isqrt(np.shape(arrays["Phi"])[-1])
    rows, columns = arrays.get("block", (side, side))
    block = int(rows), int(columns)
    return Sensing(arrays["Phi"], Dictionary.from_atoms(as_real(arrays["D"], "D"), block) if "D" in arrays else block)


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
    numbers, single = (as_numbers, np.complex64) if problem.is_complex else (as_real, np.float32)
    matrices = np.stack([numbers(arrays[name], f"the matrices of σ = {name}") for name in sigmas]).astype(single)
    check_finite(matrices, "the matrices")
    problem = problem.standard
    x, _ = problem.sample(samples, stream=TEST, seed=seed)
    return PerturbedSet(problem, np.array([float(name) for name in sigmas]), matrices, x, seed)


def write_perturbed(perturbed: PerturbedSet) -> dict[str, Array]:
    """The arrays of a `robust_test_A.npz` for a test set."""
    return {repr(float(sigma)): matrices for sigma, matrices in zip(perturbed.sigmas, perturbed.matrices, strict=True)}


# The original's networks by our names, for each kind of model. Its own name of a network is also the scope in which it
# looks for variables, as far as its published command lines say so. That of a denoiser names no scope.
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
SENSING_NETS = {"lista": "LISTA_cs", "lista-ss": "LISTA_ss_cs", "lista-cpss": "LISTA_cpss_cs"}
CONV_NETS = {"conv-alista": "ALISTA_conv", "conv-lista-cp": "LISTA_cp_conv"}
ENCODER_SCOPE = "AtoW"
# The names of the two numbers of the support schedule.
SCHEDULE = ("percent", "max_percent")

# Variables by name and layer, which counts from 1; layer 0 stands for a variable that all layers share.
Variables = dict[tuple[str, int], Array]


def variable_names(net: str) -> dict[str, str]:
    """The original's names for the parameters of a network."""
    names = {"step_size": "alpha", "threshold": "theta", "weight": "W", "input_weight": "B", "dictionary": "D"}
    return {"lamp": {**names, "threshold": "lam", "weight": "B"}, Encoder.name: {"step_matrix": "B"}}.get(net, names)


def has_variables(arrays: Mapping[str, Array]) -> bool:
    """Whether any of the arrays has the name of a network's saved variable."""
    return any(VARIABLE.fullmatch(name) for name in arrays)


def encoder_scopes(arrays: Mapping[str, Array]) -> set[str]:
    """The scopes that hold an encoder: variables `B_1:0`, `B_2:0`, … and no others. "" stands for no scope."""
    found: dict[str, set[str]] = {}
    for match in filter(None, map(VARIABLE.fullmatch, arrays)):
        kind = match["name"] + "_" * (match["layer"] is not None)
        found.setdefault(match["scope"] or "", set()).add(kind)
    return {scope for scope, kinds in found.items() if kinds == {"B_"}}


def read_model(
    arrays: Mapping[str, Array],
    problem: Problem,
    weight: Weight,
    net: str = "alista",
    *,
    percent: float | None = None,
    max_percent: float | None = None,
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
        The schedule of support selection, in per cent. If None, it is the one that `write_model` has added to the
        variables, or else the publication's.
    scope
        The scope of the variables; it may be None if there is only one, apart from those of an encoder.
    source
        The file's name for error messages.

    Raises
    ------
    InputError
        If the original has no such network, or the problem is `positive`, for which the original trains none.
    FileError
        If `scope` is not one of the scopes, or is None and there are several; if a variable is missing, unknown or of
        the wrong shape.
    """
    if problem.positive:
        raise InputError(
            f"the network in {source} keeps entries of both signs, and the problem has no negative ones (positive): "
            "name a problem without that",
            option="problem",
        )
    found, scope = _scoped(arrays, scope, source, encoder=False)
    form = _form(found, net, NETS, source) | _schedule(arrays, percent, max_percent, PaperRecipe().schedule(0.1))
    model = Model.new(problem, weight, net, unit=_unit(arrays), **form)
    return _filled(model, found, scope, source)


def read_encoder(
    arrays: Mapping[str, Array],
    problem: Problem,
    *,
    loss: str = "rel2",
    Q: Array | None = None,
    scope: str | None = None,
    source: str = "the file",
) -> EncoderModel:
    """Make an encoder from its saved variables `B_1:0`, `B_2:0`, …, which are the step matrices (M, N).

    With a decoder from `read_model`, it makes a `RobustModel`.

    Parameters
    ----------
    arrays, scope, source
        As in `read_model`.
    problem
        The problem whose matrix, perturbed, is the encoder's input.
    loss, Q
        The loss and its weights, as in `Encoder`, which the original does not save.

    Raises
    ------
    InputError
        If the problem's matrix has columns without unit norm, or the loss does not allow Q.
    FileError
        As `read_model` does.
    """
    found, scope = _scoped(arrays, scope, source, encoder=True)
    start = "nominal"  # the original's
    model = EncoderModel.new(problem, start=start, loss=loss, Q=Q, layers=_layers(found, Encoder.name, source))
    return _filled(model, found, scope, source)


def read_denoiser(
    arrays: Mapping[str, Array],
    weight: ConvWeight,
    net: str | None = None,
    *,
    sigma: float = 20.0,
    scope: str | None = None,
    source: str = "the file",
) -> Denoiser:
    """Make a denoiser from the saved variables of a convolutional network.

    Parameters
    ----------
    arrays, scope, source
        As in `read_model`.
    weight
        The analytic weight of the dictionary that the network was trained for.
    net
        The network's name; if None, `conv-alista` for a file with step sizes, and `conv-lista-cp` for any other.
    sigma
        Standard deviation of the noise that the network was trained for, of 255. The original does not save it.

    Raises
    ------
    InputError, FileError
        As `read_model` does.
    """
    found, scope = _scoped(arrays, scope, source)
    net = net or ("conv-alista" if ("alpha", 1) in found else "conv-lista-cp")
    form = _form(found, net, CONV_NETS, source)
    return _filled(Denoiser.new(weight, net, sigma=sigma, **form), found, scope, source)


def read_reconstructor(
    arrays: Mapping[str, Array],
    sensing: Sensing,
    net: str,
    weight: Weight | None = None,
    *,
    percent: float | None = None,
    max_percent: float | None = None,
    scope: str | None = None,
    source: str = "the file",
) -> Reconstructor:
    """Make a reconstructor from the saved variables of a network for compressive sensing, with its dictionary `D:0`.

    Parameters
    ----------
    arrays, net, percent, max_percent, scope, source
        As in `read_model`.
    sensing
        How blocks are measured. The network's matrices are for `sensing.A`.
    weight
        The analytic weight of `sensing.A`, on which these networks do not depend; computed here if None.

    Raises
    ------
    InputError, FileError
        As `read_model` does.
    """
    found, scope = _scoped(arrays, scope, source)
    form = _form(found, net, SENSING_NETS, source) | _schedule(arrays, percent, max_percent, (PERCENT, MAX_PERCENT))
    return _filled(Reconstructor.new(sensing, weight, net, **form), found, scope, source)


def write_model(model: Trained, scope: str | None = None) -> dict[str, Array]:
    """A trained network's parameters as the original's saved variables, in single precision, and its support schedule.

    The original does not save the schedule, and ignores these two numbers, `percent` and `max_percent`. A robust model
    has two scopes, `AtoW` for its encoder and `ALISTA` for its decoder. The original reads each from a file of its own,
    and ignores what else is in the file.

    Parameters
    ----------
    model
        A model, an encoder, a robust model, a denoiser or a reconstructor.
    scope
        The scope; if None, the one in which the original looks for the network: its own name of the network, `AtoW`
        for an encoder, and none for a denoiser.

    Raises
    ------
    InputError
        If the original has no such network, as it has none for problems without negative entries, or a scope is given
        for a robust model.
    """
    network = model.network
    if getattr(network, "positive", False):
        raise InputError(
            "the network sets all negative entries to 0 (positive), which the original's networks do not: export it as "
            ".mat, or train one without --positive"
        )
    parameters = {name: network.ops.to_numpy(value) for name, value in network.parameters.items()}
    if isinstance(model, EncoderModel):
        return _written(Encoder.name, parameters, ENCODER_SCOPE if scope is None else scope)
    if isinstance(model, RobustModel):
        if not isinstance(network.encoder, Encoder):
            raise InputError(
                "the original has no exact encoder: only a robust model with a trained encoder can be exported"
            )
        if scope is not None:
            raise InputError(
                f"a robust model is exported in two scopes, {ENCODER_SCOPE} and {NETS['alista']}: leave out {scope!r}",
                option="scope",
            )
        matrices = {"step_matrix": parameters.pop("step_matrix")[0]}
        encoder = _written(Encoder.name, matrices, ENCODER_SCOPE)
        return {**encoder, **_written("alista", parameters, NETS["alista"]), **_written_schedule(network)}
    nets = {Denoiser: CONV_NETS, Reconstructor: SENSING_NETS}.get(type(model), NETS)
    _check_net(network.name, nets)
    if scope is None:
        scope = "" if nets is CONV_NETS else nets[network.name]
    return {**_written(network.name, parameters, scope, untied=network.untied), **_written_schedule(network)}


def states_schedule(arrays: Mapping[str, Array]) -> bool:
    """Whether a file of variables also states the support schedule, as those of `write_model` do."""
    return set(SCHEDULE) <= arrays.keys()


def _written_schedule(network: Any) -> dict[str, Array]:
    """The support schedule, and the norm `unit` to which measurements are scaled, if they are."""
    unit = {"unit": np.asarray(network.unit)} if network.unit else {}
    return {name: np.asarray(getattr(network, name)) for name in SCHEDULE if network.selects} | unit


def _unit(arrays: Mapping[str, Array]) -> float:
    """The norm to which measurements are scaled, as the file states it; 0 in files of the original."""
    return float(as_real(arrays["unit"], "unit").ravel()[0]) if "unit" in arrays else 0.0


def _schedule(
    arrays: Mapping[str, Array], percent: float | None, max_percent: float | None, published: tuple[float, float]
) -> dict[str, float]:
    """The support schedule: as it is given, or as the file states it, or else the published one."""
    given = dict(zip(SCHEDULE, (percent, max_percent), strict=True))
    stated = {name: float(as_real(arrays[name], name).ravel()[0]) for name in SCHEDULE if name in arrays}
    chosen = {name: value for name, value in given.items() if value is not None}
    return {**dict(zip(SCHEDULE, published, strict=True)), **stated, **chosen}


def _scoped(
    arrays: Mapping[str, Array], scope: str | None, source: str, encoder: bool | None = None
) -> tuple[Variables, str]:
    """The variables of one scope, and the scope; `encoder` says whether it is that of an encoder (None: either)."""
    matches = [match for match in map(VARIABLE.fullmatch, arrays) if match]
    scopes = {match["scope"] or "" for match in matches}
    of_encoders = encoder_scopes(arrays)
    suitable = {None: scopes, True: scopes & of_encoders, False: scopes - of_encoders or scopes}[encoder]
    if scope is None and len(suitable) == 1:
        (scope,) = suitable
    if scope is None and encoder and not suitable:
        raise FileError(f"{source} holds no encoder; expected variables B_1:0, B_2:0, … alone in a scope")
    if scope is None or scope not in scopes:
        names = ", ".join(map(repr, sorted(scopes)))
        raise FileError(f"{source} has the scopes {names}; say which one to take", option="scope")
    chosen = [match for match in matches if (match["scope"] or "") == scope]
    return {(match["name"], int(match["layer"] or 0)): arrays[match.string] for match in chosen}, scope


def _check_net(net: str, nets: Mapping[str, str]) -> None:
    if net not in nets:
        known = ", ".join(f"{ours} ({theirs})" for ours, theirs in nets.items())
        raise InputError(
            f"no names of the original code are known for the variables of {net} in this task; expected one of "
            f"{known}. A .mat file needs no such names",
            option="net",
        )


def _layers(found: Variables, net: str, source: str) -> int:
    """The number of layers of which a file has variables."""
    layers = max((layer for _, layer in found), default=0)
    if layers == 0:
        example = next(iter(variable_names(net).values())) if net == Encoder.name else variable_names(net)["threshold"]
        raise FileError(f"{source} has no variables of single layers; expected {example}_1:0 and so on")
    return layers


def _form(found: Variables, net: str, nets: Mapping[str, str], source: str) -> dict[str, Any]:
    """The arguments of a network that its variables show: layers, and the variants that it has."""
    _check_net(net, nets)
    names, kind = variable_names(net), {**NETWORKS, **CONV_NETWORKS}[net]
    form = {"layers": _layers(found, net, source), "untied": kind.can_untie and (names["weight"], 1) in found}
    if nets is not CONV_NETS:
        form["per_coordinate"] = found.get((names["threshold"], 1), np.zeros(1)).size > 1
    return form


def _filled(model: AnyTrained, found: Variables, scope: str, source: str) -> AnyTrained:
    """The model with the parameters that the variables give it."""
    parameters: dict[str, Array] = {}
    network = model.network
    names, layers = variable_names(network.name), range(1, network.layers + 1)
    unknown = sorted({name for name, _ in found} - {names[name] for name in network.shapes})
    if unknown:
        raise FileError(
            f"{source} holds {', '.join(unknown)}, which {network.title} does not have: name its network", option="net"
        )
    for name, (_, *shape) in network.shapes.items():
        numbers = [0] if _shared(name, network.untied) else layers
        missing = [_spelled(names[name], t) for t in numbers if (names[name], t) not in found]
        if missing:
            raise FileError(
                f"{source} lacks {', '.join(missing)}, which {network.title} with {network.layers} layers has: name "
                "its network",
                option="net",
            )
        is_complex = network.parameters[name].dtype.kind == "c"
        parts = [(as_numbers if is_complex else as_real)(found[names[name], t], name) for t in numbers]
        expected = _stored(np.empty(shape)).shape
        if any(part.size != np.prod(shape) or (len(shape) > 1 and part.shape != expected) for part in parts):
            shapes = ", ".join(map(str, sorted({part.shape for part in parts})))
            raise FileError(f"{source}: {names[name]} has the shape {shapes}; expected {expected}")
        double = np.complex128 if is_complex else np.float64
        parameters[name] = np.stack([part.reshape(shape) for part in parts]).astype(double)
        check_finite(parameters[name], f"{names[name]} in {source}")
    network.parameters = parameters
    model.training = {"imported": scope or "no scope"}
    return model


def _written(net: str, parameters: Mapping[str, Array], scope: str, untied: bool = False) -> dict[str, Array]:
    """Parameters, whose first axis is for the layers, as variables in a scope."""
    names, prefix = variable_names(net), f"{scope}/" if scope else ""
    variables: dict[str, Array] = {}
    for name, stack in parameters.items():
        shared = _shared(name, untied)
        for t, part in enumerate(stack):
            single = np.complex64 if np.iscomplexobj(part) else np.float32
            variables[prefix + _spelled(names[name], 0 if shared else t + 1)] = _stored(np.asarray(part, single))
    return variables


def _stored(part: Array) -> Array:
    """A layer's part of a parameter in the shape in which the original stores it: columns, and filters of one channel.

    Scalars and matrices keep their shape.
    """
    return part[:, None] if part.ndim == 1 else part[:, :, None] if part.ndim == 3 else part


def _shared(name: str, untied: bool) -> bool:
    """Whether all layers of a network share this parameter."""
    return name in ("input_weight", "dictionary") or (name == "weight" and not untied)


def _spelled(name: str, layer: int) -> str:
    """The name of a layer's variable, counted from 1; layer 0 stands for a variable that all layers share."""
    return f"{name}_{layer}:0" if layer else f"{name}:0"
