"""The options that define a problem, and how a problem is made from them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common

from cuista.checks import Array, as_real, check_matrix, in_columns
from cuista.data.coefficients import coefficients, holds_pictures
from cuista.data.problem import Problem, normalize_columns, random_matrix, with_condition_number
from cuista.data.signals import SignalSet
from cuista.errors import FileError, InputError
from cuista.operators import Operator, from_description
from cuista.ops import Bernoulli, Normal
from cuista.original import read_problem
from cuista.storage import is_cuista, load_array, load_arrays, opened_array
from cuista.tasks.sparse_coding import Model

_OPTIONS: dict[str, dict[str, Any]] = {
    "m": {"type": common.AT_LEAST_1, "metavar": "M", "help": "Number of measurements. [250]"},
    "n": {"type": common.AT_LEAST_1, "metavar": "N", "help": "Length of the sparse signals. [500]"},
    "pnz": {"metavar": "P|FILE", "help": "Probability of a non-zero, or a file with one per entry. [0.1]"},
    "snr": {"type": common.decibels, "metavar": "dB|inf", "help": "SNR of the measurements. [inf]"},
    "con-num": {"type": float, "metavar": "κ", "help": "Condition number; 0 leaves it as drawn. [0]"},
    "normalize/--no-normalize": {"default": None, "help": "Compute with columns of unit norm. [normalize]"},
    "magnitude": {
        "type": click.Choice(["normal", "bernoulli"]),
        "metavar": "NAME",
        "help": "Non-zeros: normal or bernoulli. [normal]",
    },
    "mean": {"type": float, "metavar": "μ", "help": "Mean of normal non-zeros. [0]"},
    "std": {"type": float, "metavar": "σ", "help": "Standard deviation of normal non-zeros. [1]"},
    "q": {"type": float, "metavar": "Q", "help": "Probability that a bernoulli non-zero is v0. [0.5]"},
    "v0": {"type": float, "metavar": "V", "help": "One value of bernoulli non-zeros. [1]"},
    "v1": {"type": float, "metavar": "V", "help": "Their other value. [1]"},
    "positive": {"is_flag": True, "default": None, "help": "No negative entries: absolute values."},
    "complex": {"is_flag": True, "default": None, "help": "Complex matrix, signals and noise."},
    "snapshots": {"type": common.AT_LEAST_1, "metavar": "L", "help": "Snapshots that share a support. [1]"},
    "group": {"type": common.AT_LEAST_1, "metavar": "G", "help": "Neighbours that are non-zero together. [1]"},
    "operator": {"type": common.INPUT_FILE, "help": "Measure by the operator that a .json file describes."},
}
JOINT = ("snapshots", "group")
MAGNITUDE = ("magnitude", "mean", "std", "q", "v0", "v1")
# The options that define a matrix, and so have no meaning for an operator.
OF_A_MATRIX = ("m", "n", "con_num", "normalize", "complex")
PROBLEM_OPTIONS = (*OF_A_MATRIX, "pnz", "snr", *MAGNITUDE, "positive", *JOINT, "operator")
problem_options = common.options(*(click.option(f"--{name}", **how) for name, how in _OPTIONS.items()))
# The same for commands whose help they would crowd; the help of gen-problem shows them.
hidden_problem_options = common.options(
    *(click.option(f"--{name}", **how, hidden=True) for name, how in _OPTIONS.items())
)


class Asked:
    """A problem as the command line specifies it: by a file, or by the options that define one."""

    def __init__(self, problem_file: Path | None, **options: Any) -> None:
        self.file, self.options = problem_file, options

    @property
    def given(self) -> list[str]:
        """The names of the options that were given."""
        return [common.spelled(name) for name, value in self.options.items() if value is not None]

    def load(self, seed: int) -> Problem:
        """The problem in the file, with which the options must agree, or else the one that the options define."""
        return choose_problem(self.file, seed, self.options)


# The problem of a command, from the file that is its optional argument or from options.
problem_argument = common.bundled(
    "problem",
    Asked,
    click.argument("problem_file", metavar="[PROBLEM]", type=common.INPUT_FILE, required=False),
    hidden_problem_options,
)


def magnitude_law(options: dict[str, Any]) -> Normal | Bernoulli:
    """The distribution of the non-zeros that the options ask for."""
    law = Bernoulli if options["magnitude"] == "bernoulli" else Normal
    other = Normal if law is Bernoulli else Bernoulli
    for name in other._fields:
        if options[name] is not None:
            raise click.UsageError(
                f"--{name} is for --magnitude {other.__name__.lower()}: give that, or leave --{name} out"
            )
    return law(**{name: options[name] for name in law._fields if options[name] is not None})


def probability(text: str | None) -> float | Array:
    """The value of --pnz, which is a number or names a file with an array."""
    if text is None:
        return 0.1
    try:
        return float(text)
    except ValueError:
        if not Path(text).exists():
            raise FileError(f"--pnz {text} is neither a number nor a file that exists") from None
        return as_real(load_array(text, "pnz", "support_probability"), f"the array in {text}").ravel()


law_options = common.options(
    click.option("--snr", type=common.decibels, metavar="dB|inf", help="SNR of the measurements. [the problem's]"),
    click.option("--pnz", metavar="P|FILE", help="Probability of a non-zero. [the problem's]"),
)


def with_law(problem: Problem, snr: float | None, pnz: str | None) -> Problem:
    """The problem with its SNR and its probability of non-zeros replaced where the options give others."""
    problem = problem if snr is None else replace(problem, snr_db=snr)
    return problem if pnz is None else replace(problem, pnz=probability(pnz))


def note_other_law(model: Model, problem: Problem, file: Path) -> None:
    """Tell the user if a model is tested on a problem with another SNR or sparsity than the one it was made for."""
    own = model.problem
    here, there = (f"{each.sparsity:g} and an SNR of {each.snr_db:g} dB" for each in (problem, own))
    if here == there:
        return
    text = f"{file} was trained for pnz {there}, and is tested with pnz {here}"
    if problem.sparsity > 1.5 * own.sparsity or problem.snr_db < own.snr_db - 6:
        common.warn(f"{text}: a model trained for these will do better")
    else:
        common.say(f"Note: {text}.")


def warn_of_twins(problem: Problem) -> None:
    """Warn the user of columns that cannot be told apart."""
    if problem.twins.number:
        common.warn(str(problem.twins))


def matrix_in(path: Path, key: str | None = None) -> Array:
    """The matrix in a file without a problem, under this name or a usual one."""
    return load_array(path, "A", "D", key=key)


def make_problem(
    options: dict[str, Any], seed: int, load_a: Path | None = None, key: str | None = None, pairs: bool = False
) -> Problem:
    """The problem that the options define; the matrix comes from `load_a` if that is given."""
    m, n, snr, con_num = (options[name] for name in ("m", "n", "snr", "con_num"))
    law = probability(options["pnz"]), math.inf if snr is None else snr, magnitude_law(options)
    joint = {name: options[name] for name in JOINT if options[name] is not None}
    positive = bool(options["positive"])
    if options["operator"] is not None:
        for name in OF_A_MATRIX:
            if options[name] is not None:
                raise click.UsageError(f"{common.spelled(name)} is about a matrix: leave it out, or --operator")
        if load_a is not None:
            raise click.UsageError("--load-a gives a matrix, and --operator an operator: give one of them")
        return Problem(read_operator(options["operator"]), *law, seed, positive=positive, **joint)
    if load_a is None:
        dtype = complex if options["complex"] else float
        A = random_matrix(250 if m is None else m, 500 if n is None else n, seed=seed, dtype=dtype)
    else:
        A = check_matrix(load_array(load_a, "A", "D", key=key, pairs=pairs), f"the matrix in {load_a}")
        if options["complex"] and A.dtype.kind != "c":
            A = A.astype(np.complex128)
        hint = "; it looks transposed" if (m, n) == A.shape[::-1] else ""
        for option, asked, found in (("--m", m, A.shape[0]), ("--n", n, A.shape[1])):
            if asked not in (None, found):
                size = f"{A.shape[0]}×{A.shape[1]}{hint}"
                common.say(f"Note: {option} {asked} is ignored: the matrix in {load_a} is {size}.")
    if con_num:
        A = with_condition_number(A, con_num)
    kept = options["normalize"] is False
    if load_a is None and not kept:
        A = normalize_columns(A)
    problem = Problem(A, *law, seed, norms=1.0 if kept else None, positive=positive, **joint)
    if load_a is not None:
        note_norms(problem, load_a)
    return problem


def read_operator(path: Path) -> Operator:
    """The operator that a JSON file describes. Files of arrays that it names are beside it."""
    if not path.exists():
        raise FileError(f"{path} does not exist", option="operator")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{path} is no description of an operator, as JSON: {error}", option="operator") from None
    if not isinstance(description, dict):
        raise FileError(f'{path} holds no JSON object; expected one like {{"kind": …}}', option="operator")
    return from_description(description, path.parent, dtype=np.float64)


def note_norms(problem: Problem, path: Path) -> None:
    """Tell the user what becomes of the columns of the matrix in a file if they do not have unit norm."""
    if problem.rescaled:
        effect = "They are scaled to unit norm inside; recovered codes are for the matrix as given."
    elif not problem.normalized:
        effect = "They are kept as they are, but networks do best with columns of unit norm."
    else:
        return
    norms = np.linalg.norm(problem.given, axis=0)
    common.say(f"Note: the columns of {path} have norms from {norms.min():.4g} to {norms.max():.4g}. {effect}")


def codes_of_pictures(path: Path, problem: Problem, key: str | None, columns: bool, pairs: bool) -> Array | None:
    """The codes (samples, N) of pictures, or of an array of them, in the basis of an operator; None for other files."""
    basis, are_pictures = problem.basis, holds_pictures(path)
    if basis is None and are_pictures:
        raise FileError(
            f"{path} holds pictures, and codes are needed: describe an operator with a basis of wavelets in which "
            "pictures are sparse"
        )
    if basis is None:
        return None
    if not are_pictures and problem.snapshots == 1 and len(basis.shape[1]) == 2:
        with opened_array(path, "x", key=key, pairs=pairs) as stored:
            are_pictures = len(stored.shape) == 3
            if stored.shape == basis.shape[0] and stored.shape[1] != problem.N:
                expected = ", ".join(map(str, ("samples", *stored.shape)))
                raise FileError(f"{path} has the shape {stored.shape}, of a single picture; expected ({expected})")
    if not are_pictures:
        common.say(f"{path} holds codes, which are coefficients in the basis of the operator.")
        return None
    if columns:
        raise click.UsageError(f"--columns is for codes, and {path} holds pictures: leave it out")
    codes = coefficients(path, basis, key=key, pairs=pairs)
    common.say(f"{len(codes)} signals of {path} are converted to their coefficients in the basis of the operator.")
    return codes


def load_codes(path: Path, problem: Problem, key: str | None, columns: bool, pairs: bool) -> Array:
    """The codes in a file, (samples, N) or (samples, L, N), or those of the pictures in a file or folder."""
    codes = codes_of_pictures(path, problem, key, columns, pairs)
    return load_samples(path, "x", problem, key, columns, pairs) if codes is None else codes


def load_samples(path: Path, name: str, problem: Problem, key: str | None, columns: bool, pairs: bool) -> Array:
    """The codes x or the measurements y of a problem in a file: (samples, N or M), or (samples, L, N or M)."""
    array, length = load_array(path, name, key=key, pairs=pairs), problem.N if name == "x" else problem.M
    rows = array.T if in_columns(array.shape, length, columns) else array
    return problem.checked(rows, length, f"{path}", codes=name == "x")


def note_law(problem: Problem, signals: SignalSet) -> Problem:
    """The problem with the law of given signals. The user is told how they are split and what the law is."""
    fitted = problem.fitted(signals)
    law = fitted.magnitude
    assert isinstance(law, Normal)
    times = ", each times the norm of its column" if problem.rescaled else ""
    noise = "" if signals.M is None else f" The SNR of their measurements is {fitted.snr_db:.4g} dB."
    common.say(f"{signals.name}: {signals.summary}.")
    common.say(
        f"Their law is estimated: {100 * fitted.sparsity:.3g} % of the entries are non-zero, with mean {law.mean:.3g} "
        f"and standard deviation {law.std:.3g}{times}.{noise}"
    )
    return fitted


def load_problem(path: Path) -> Problem:
    """The problem in a file of ours, or in a prob.npz of the original."""
    if path.suffix.lower() == ".npz" and path.exists():
        common.say(f"Reading {path} as a problem of the original code.")
        return read_problem(load_arrays(path), str(path))
    if path.exists() and not is_cuista(path):
        raise FileError(f"{path} is not a problem: if it holds a matrix, make one with cuista gen-problem --load-a")
    return Problem.load(path)


def choose_problem(path: Path | None, seed: int, options: dict[str, Any]) -> Problem:
    """The problem in the file, with which the options must agree, or else the one that the options define."""
    asked = {name: options[name] for name in PROBLEM_OPTIONS}
    if path is None:
        if all(value is None for value in asked.values()):
            raise click.UsageError(
                "give a PROBLEM file (cuista gen-problem makes one), or options like --m and --n that define a problem"
            )
        return make_problem(asked, seed)
    problem = load_problem(path)
    if asked["pnz"] is not None:
        asked["pnz"] = probability(asked["pnz"])
    law = magnitude_law(asked) if any(asked[name] is not None for name in MAGNITUDE) else None
    found: dict[str, Any] = {"m": problem.M, "n": problem.N, "pnz": problem.pnz, "snr": problem.snr_db}
    if asked["operator"] is not None and Problem(read_operator(asked["operator"])).sha256 != problem.sha256:
        raise InputError(
            f"{asked['operator']} (--operator) describes another operator than that of {path}: leave it out, or make "
            "another problem"
        )
    found |= {"normalize": problem.normalized}
    found |= {"positive": problem.positive, "complex": problem.is_complex}
    found |= {name: getattr(problem, name) for name in JOINT}
    pairs = [(name, asked[name], value) for name, value in found.items()]
    for name, value, actual in [*pairs, ("magnitude", law, problem.magnitude)]:
        if value is not None and not np.array_equal(value, actual):
            raise InputError(f"--{name} is {value}, but {path} has {actual}: leave it out, or make another problem")
    kappa = asked["con_num"]
    if kappa and not 0.9 < problem.condition_number / kappa < 1.1:  # normalizing the columns changes it a little
        has = f"{path} has {problem.condition_number:.4g}"
        raise InputError(f"--con-num is {kappa:g}, but {has}: leave it out, or make another problem")
    return problem
