"""cuista convert"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import load_problem
from cuista.cli.routing import net_option
from cuista.cli.spellings import Command

from cuista import original, storage
from cuista.checks import Array
from cuista.data.dictionary import default_convention, rotate
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.model import group
from cuista.storage import Record
from cuista.tasks.sparse_coding import Model
from cuista.weights import ConvWeight, Weight, solve_exact

FILTERS = ("cuista-dictionary", "cuista-conv-weight")


@click.command("convert", cls=Command)
@click.argument("source", type=common.INPUT_FILE)
@click.argument("target", type=common.output_file(".h5", ".npy", ".npz", ".mat"))
@common.key_option
@click.option("--problem", "problem_file", type=common.INPUT_FILE, help="The problem of an imported weight or network.")
@click.option(
    "-W", "--weight", "weight_file", type=common.INPUT_FILE, help="The weight of an imported network. [computed here]"
)
@click.option(
    "--dict", "dictionary_file", type=common.INPUT_FILE, help="Import filters as the weight of this dictionary."
)
@common.convention_option
@click.option("-p", "--percent", type=float, default=1.2, metavar="P", help="Imported network: see train.")
@click.option("--max-percent", type=float, default=13.0, metavar="P", help="Imported network: see train.")
@net_option("sc", default="alista")
@click.option("--scope", metavar="NAME", help="Scope of the network's variables in the .npz file. [its name]")
@common.force_option
def command(
    source: Path,
    target: Path,
    key: str | None,
    problem_file: Path | None,
    weight_file: Path | None,
    dictionary_file: Path | None,
    convention: Any,
    force: bool,
    **network: Any,
) -> None:
    """Import .npy, .npz and .mat files, or export to them.

    Files of the original ALISTA code can be imported: a prob.npz; a weight W.npy, with --problem; and a network's saved
    variables alpha_1:0, theta_1:0, W_1:0, …, with --problem and the --net, -W, -p and --max-percent that it was trained
    with; and perturbed matrices (robust_test_A.npz), with --problem. A problem is exported as a prob.npz, a weight as
    W, and a network as these variables (.npz) or as step_size, threshold, weight, … (.mat).

    An array of filters (s, s, F) is imported as a convolutional dictionary, or as the weight of one if --dict names it
    or the same file also holds it as D.
    """
    if not source.exists():
        raise FileError(f"{source} does not exist")
    storage.check_writable(target, overwrite=force)
    exporting = storage.is_cuista(source)
    if exporting == (target.suffix.lower() == ".h5"):
        ours = "a cuista file" if exporting else "not a cuista file"
        expected = ".npy, .npz or .mat to export to" if exporting else ".h5 to import to"
        raise InputError(f"{source} is {ours}, and the target is {target}; expected a target ending in {expected}")
    if exporting and key is not None:
        raise click.UsageError(f"--key is for a file from other software, and {source} is a cuista file: leave it out")
    if exporting and dictionary_file is not None:
        raise click.UsageError(
            f"--dict is for filters from other software, and {source} is a cuista file: leave it out"
        )
    if exporting:
        kinds = ("cuista-problem", "cuista-weight", "cuista-model", "cuista-perturbed", *FILTERS)
        record = storage.read(source, *kinds)
        if convention is not None and record.kind not in FILTERS:
            raise click.UsageError(f"--convention is for filters, and {source} is a {record.kind} file: leave it out")
        if record.kind in FILTERS:
            arrays = filters_of(record, target, convention)
        elif record.kind == "cuista-problem":
            arrays = original.write_problem(Problem.from_record(record, source))
            if target.suffix.lower() == ".npy":
                arrays = {"A": arrays["A"]}
        elif record.kind == "cuista-perturbed":
            arrays = original.write_perturbed(PerturbedSet.load(source))
        elif record.kind == "cuista-weight":
            arrays = {"W": record.arrays["W"]}
        elif target.suffix.lower() == ".npz":
            arrays = original.write_model(Model.from_record(record, source), network["scope"])
        else:
            arrays = group(record, "parameters/")
        storage.save_arrays(target, arrays, overwrite=force)
        names = list(arrays)
        common.say(f"Wrote {target}: {', '.join(names if len(names) < 12 else [*names[:2], '…', names[-1]])}.")
        return

    arrays = storage.load_arrays(source)
    if key is not None:
        arrays = {key: storage.load_array(source, key=key)}
    made: Any
    if original.has_levels(arrays):
        if problem_file is None:
            raise click.UsageError(f"{source} holds perturbed matrices: name the nominal problem with --problem")
        made = original.read_perturbed(arrays, load_problem(problem_file))
        counts = f"{made.matrices.shape[1]} matrices for each σ of {', '.join(arrays)}"
        what = f"{counts}, and {len(made.x)} new signals"
    elif dictionary_file is not None or any(array.ndim == 3 for array in arrays.values()):
        if problem_file is not None:
            raise click.UsageError(f"--problem is for matrices and networks, and {source} holds filters: leave it out")
        made, what = filters_in(source, list(arrays), dictionary_file, convention, key)
    elif convention is not None:
        raise click.UsageError(f"--convention is for filters (s, s, F), and {source} holds none: leave it out")
    elif problem_file is None:
        if original.has_variables(arrays):
            raise click.UsageError(f"{source} holds a network's variables: name the file of its problem with --problem")
        made = original.read_problem(arrays, str(source))
        what = f"a {made.M}×{made.N} problem, pnz {made.sparsity:g}, SNR {made.snr_db:g} dB"
    else:
        problem = load_problem(problem_file)
        if original.has_variables(arrays):
            weight = Weight.load(weight_file, problem.A) if weight_file else solve_exact(problem.A)
            made = original.read_model(arrays, problem, weight, source=str(source), **network)
            what = f"{made.network.title}, {made.network.layers} layers"
        else:
            made = Weight.from_array(storage.load_array(source, "W", key=key), problem.A)
            what = f"a weight with objective {made.report.objective:.8g}"
    made.save(target, overwrite=force)
    common.say(f"Wrote {target}: {what}.")


def filters_of(record: Record, target: Path, convention: Any) -> dict[str, Array]:
    """The filters of a dictionary or its weight for export, in the convention that users of the format expect."""
    names = ("D",) if record.kind == "cuista-dictionary" else ("W",) if target.suffix.lower() == ".npy" else ("W", "D")
    convention = convention or default_convention(target, weight="W" in names)
    common.say(f"Writing the filters for {convention} (--convention changes that).")
    return {name: rotate(record.arrays[name]) if convention == "convolution" else record.arrays[name] for name in names}


def filters_in(
    source: Path, names: list[str], dictionary_file: Path | None, convention: Any, key: str | None
) -> tuple[Any, str]:
    """A file of bare filters as a dictionary, or as the weight of one; and what that is, for the user."""
    with_dictionary = key is None and "W" in names and "D" in names
    if dictionary_file is None and not with_dictionary:
        if "W" in names and len(names) == 1:
            raise click.UsageError(f"{source} holds a weight W: name the file of its dictionary with --dict")
        dictionary = common.load_dictionary(source, convention, key)
        return dictionary, f"a dictionary of {common.counted(dictionary.filters, 'filter')}"
    if with_dictionary and dictionary_file is None:  # written together, they have one convention
        convention = convention or default_convention(source, weight=True)
    dictionary_convention, _ = common.for_bare(convention, dictionary_file or source, source)
    dictionary = common.load_dictionary(
        dictionary_file or source, dictionary_convention, None if dictionary_file else "D"
    )
    weight = ConvWeight.load(source, dictionary, convention=convention, key=key)
    return weight, f"a convolutional weight with objective {weight.report.objective:.8g}"
