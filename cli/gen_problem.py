"""cuista gen-problem: make a problem, a convolutional dictionary or a test set of perturbed matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import hidden_problem_options, load_problem, make_problem, problem_options, warn_of_twins
from cuista.cli.routing import Routed
from cuista.cli.spellings import IN_DICTIONARIES, NOT_IN_DICTIONARIES, Command

from cuista.data.dictionary import Dictionary, normalize_filters, random_dictionary
from cuista.data.images import PatchSet
from cuista.data.perturbed import PerturbedSet
from cuista.data.sensing import Sensing, principal_sensing, random_sensing
from cuista.errors import InputError
from cuista.storage import load_array
from cuista.summary import counted

# The default levels of perturbation.
SIGMAS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025)


@dataclass
class Target:
    """The output file, and the seed of the random numbers that fill it."""

    seed: int
    out: Path
    force: bool

    def write(self, made: Any, what: str) -> None:
        """Write the result and describe it to the user."""
        made.save(self.out, overwrite=self.force)
        common.say(f"Wrote {self.out}: {what}.")

    def __post_init__(self) -> None:
        common.claim(self.out, self.force)


def _target(default: str | None) -> common.Decorator:
    """The options that all these commands share, as one parameter `target`."""
    out = click.option("-o", "--out", type=common.CONVERTIBLE_FILE, default=default, help="Output file.")
    return common.bundled("target", Target, common.seed_option, out, common.force_option)


def _names_task(flag: str) -> common.Decorator:
    """A flag that stands for --task, for which `_natural` has seen it: nothing is left to do with it."""
    return click.option(flag, is_flag=True, hidden=True, expose_value=False, help="Select this task.")


@click.command("gen-problem", cls=Command)
@problem_options
@click.option(
    "--load-a", type=common.INPUT_FILE, help="Take the matrix from a .npy, .npz, .mat, .h5, .csv or .txt file."
)
@common.key_option
@common.pairs_option
@_target("problem.h5")
def matrix(load_a: Path | None, key: str | None, pairs: bool, target: Target, **asked: Any) -> None:
    """Make a problem: a measurement matrix, and the distribution of signals and noise.

    The matrix has Gaussian entries N(0, 1/M), or CN(0, 1/M) with --complex, or is read from a file, where it is found
    under --key or as A or D. If it is complex, signals and noise are complex, too. With --operator, there is no matrix:
    transforms measure signals of up to millions of entries.
    """
    if key is not None and load_a is None:
        raise click.UsageError("--key names an array in the file of --load-a: give that file, or leave --key out")
    if pairs and load_a is None:
        raise click.UsageError("--complex-pairs is for the file of --load-a: give that file, or leave the option out")
    problem = make_problem(asked, target.seed, load_a, key, pairs)
    warn_of_twins(problem)
    facts = problem.facts()
    kind = "".join(f", {facts[name]}" for name in ("numbers", "snapshots", "groups") if facts[name])
    how = f"condition number {problem.condition_number:.4g}" if problem.has_matrix else facts["columns"]
    shape = f"{problem.M}×{problem.N}{kind}, {how}"
    target.write(problem, f"{shape}, SNR {problem.snr_db:g} dB")


@click.command("gen-problem", cls=Command, ignored=NOT_IN_DICTIONARIES, renamed=IN_DICTIONARIES)
@click.option("--size", type=common.filter_size, metavar="S|SxS", help="Size of random filters, in pixels. [7]")
@click.option("--filters", type=common.AT_LEAST_1, metavar="N", help="Number of random filters. [64]")
@click.option("--load-dict", type=common.INPUT_FILE, help="Take filters (s, s, F) from a file (key D).")
@common.key_option
@common.convention_option
@click.option("--normalize/--no-normalize", default=True, help="Scale each filter to unit norm.")
@_names_task("--conv")
@_target("dictionary.h5")
def dictionary(
    size: tuple[int, int] | None,
    filters: int | None,
    load_dict: Path | None,
    key: str | None,
    convention: Any,
    normalize: bool,
    target: Target,
) -> None:
    """Make a convolutional dictionary from random Gaussian filters or from filters in a file."""
    if load_dict is None and (key or convention):
        raise click.UsageError(
            "--key and --convention are for the file of --load-dict: give that file, or leave them out"
        )
    if load_dict is None:
        made = Dictionary(random_dictionary(size or (7, 7), filters or 64, seed=target.seed))
    else:
        made = common.load_dictionary(load_dict, convention, key)
        if size not in (None, made.shape) or filters not in (None, made.filters):
            common.say(f"Note: --size and --filters are ignored: the filters in {load_dict} have their own.")
    if normalize:
        made = Dictionary(normalize_filters(made.D))
    rows, columns = made.shape
    target.write(made, f"{counted(made.filters, 'filter')} of {rows}×{columns}, Σ|d̂|² at most {made.gain:.4g}")


@click.command("gen-problem", cls=Command)
@click.option("--problem", "problem_file", type=common.INPUT_FILE, help="Nominal problem. [made here, as by --task sc]")
@click.option(
    "--sigma", "sigmas", type=float, multiple=True, metavar="σ", help="Level (repeatable). [0, 0.005, …, 0.025]"
)
@click.option("--count", type=common.AT_LEAST_1, default=10, metavar="N", help="Matrices per level.")
@click.option("--samples", type=common.AT_LEAST_1, default=1000, metavar="N", help="Signals that each matrix measures.")
@_names_task("--perturbed")
@_target("perturbed.h5")
@hidden_problem_options
def perturbed(
    problem_file: Path | None, sigmas: tuple[float, ...], count: int, samples: int, target: Target, **asked: Any
) -> None:
    """Make a test set of perturbed matrices, and of signals that each of them measures without noise.

    At level σ the matrices are Ã = A + σN with a standard Gaussian N, and their columns are then scaled to unit norm.
    Instead of --problem, the options of --task sc, like --m and --n, can define the nominal problem.
    """
    given = [name for name, value in asked.items() if value is not None]
    if problem_file is not None and given:
        raise click.UsageError(
            f"{common.spelled(given[0])}: the file of --problem has its own; leave one of the two options out"
        )
    problem = make_problem(asked, target.seed) if problem_file is None else load_problem(problem_file)
    sigmas = sigmas or SIGMAS
    levels = f"{count} matrices of {problem.M}×{problem.N} for each σ of {', '.join(f'{sigma:g}' for sigma in sigmas)}"
    target.write(PerturbedSet.new(problem, sigmas, count, samples, target.seed), f"{levels}, and {samples} signals")


@click.command("gen-problem", cls=Command)
@click.option("--dict", "dictionary_file", type=common.INPUT_FILE, help="Dictionary of the blocks.")
@click.option("--block", type=common.block_size, metavar="S|SxS", help="Size of the blocks, instead of --dict.")
@click.option("--rate", type=common.positive, metavar="R", help="Measurements per pixel, up to 1. [0.25]")
@click.option("--m", type=common.AT_LEAST_2, metavar="M", help="Measurements per block, instead of --rate.")
@click.option(
    "--sensing", type=common.INPUT_FILE, help="Take Φ (M, P, key Phi) from a .npy, .npz, .mat, .h5, .csv or .txt file."
)
@click.option(
    "--principal", type=common.INPUT_FILE, metavar="PATCHES", help="Take principal components of these patches."
)
@click.option("--key", metavar="NAME", help="Which array to read from the file of --sensing or else of --dict.")
@_target("sensing.h5")
def sensing(
    dictionary_file: Path | None,
    block: tuple[int, int] | None,
    rate: float | None,
    m: int | None,
    sensing: Path | None,
    principal: Path | None,
    key: str | None,
    target: Target,
) -> None:
    """Make a problem of compressive sensing: how the blocks of pictures are measured.

    Each block f is measured as y = Φ f; its size is that of the dictionary's atoms. The first row of Φ measures the
    mean of a block, and the others are Gaussian. With --principal they are the principal components of a file of
    patches, which tell more than random rows do. With --sensing, Φ comes from a file. The dictionary is a file of
    cuista learn-dict, or atoms as columns (key D). conv-csc learns filters of its own, so --block is enough for it.
    """
    given = [option for option, value in (("--rate", rate), ("--m", m), ("--sensing", sensing)) if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} each say how many measurements there are: give one of them")
    if sensing is not None and principal is not None:
        raise click.UsageError("--sensing and --principal each give Φ: give one of them")
    if (dictionary_file is None) == (block is None):
        raise click.UsageError("give --dict, or the size of the blocks by --block: one of them")
    if dictionary_file is None and key is not None and sensing is None:
        raise click.UsageError("--key names an array in the file of --dict or --sensing: leave it out")
    within: Any = block
    if dictionary_file is not None:
        within = Dictionary.load_atoms(dictionary_file, key=key if sensing is None else None)
    rows, columns = block or within.shape
    count = m or round((rate or 0.25) * rows * columns)
    if sensing is not None:
        Phi = load_array(sensing, "Phi", "phi", "A", key=key)
    elif principal is not None:
        patches = PatchSet(principal, "train")
        if patches.shape != (rows, columns):
            p1, p2 = patches.shape
            raise InputError(
                f"{principal} has patches of {p1}×{p2} pixels, and a block has {rows}×{columns}; expected the same "
                "size",
                option=("principal", "block" if block else "dict"),
            )
        Phi = principal_sensing(patches, count, seed=target.seed)
    else:
        Phi = random_sensing((rows, columns), count, seed=target.seed)
    made = Sensing(Phi, within)
    if not made.measures_means:
        common.say("Note: the means of blocks do not follow from this Φ exactly, so they are estimated.")
    target.write(made, ", ".join(filter(None, made.facts().values())))


def _natural(words: list[str]) -> str | None:
    """The task that --conv or --perturbed selects, if one of them is given."""
    flags = {"--conv": "denoise", "--perturbed": "robust"}
    named = [task for flag, task in flags.items() if flag in words]
    if len(named) > 1:
        raise click.UsageError("--conv makes a dictionary and --perturbed a set of matrices: give one of them")
    return named[0] if named else None


command = Routed(
    "gen-problem",
    {"sc": matrix, "denoise": dictionary, "cs": sensing, "robust": perturbed},
    _natural,
    _target(None),
    help="""Make a problem, a dictionary or a perturbed test set.

    Without a task, the result is a problem: a measurement matrix, and the distribution of signals and noise. With
    --task denoise (or --conv) it is a convolutional dictionary, with --task cs the measurement of pictures, and with
    --task robust (or --perturbed) a test set of perturbed matrices. All tasks share these options:
    """,
)
