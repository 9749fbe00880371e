"""cuista gen-problem: a problem, a convolutional dictionary, or a test set of perturbed matrices, by task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    AT_LEAST_1,
    INPUT_FILE,
    Decorator,
    bundled,
    convention_option,
    counted,
    filter_size,
    force_option,
    key_option,
    load_dictionary,
    output_file,
    say,
    seed_option,
    spelled,
)
from cuista.cli.problems import hidden_problem_options, make_problem, problem_options
from cuista.cli.routing import Routed
from cuista.cli.spellings import Command

from cuista.data.dictionary import Dictionary, normalize_filters, random_dictionary
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem
from cuista.storage import check_writable

# Levels of perturbation, if not said otherwise.
SIGMAS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025)


@dataclass
class Target:
    """The file that is made, and of which random numbers."""

    seed: int
    out: Path
    force: bool

    def write(self, made: Any, what: str) -> None:
        """Write what was made, and say what it is."""
        made.save(self.out, overwrite=self.force)
        say(f"Wrote {self.out}: {what}.")

    def __post_init__(self) -> None:
        check_writable(self.out, overwrite=self.force)


def _target(default: str) -> Decorator:
    """The options of every such command, as one `target`."""
    written = output_file(".h5", advice="cuista convert writes problems and dictionaries in other formats")
    out = click.option("-o", "--out", type=written, default=default, help="The file.")
    return bundled("target", Target, seed_option, out, force_option)


@click.command("gen-problem", cls=Command)
@problem_options
@click.option("--load-a", type=INPUT_FILE, help="Take the matrix from a .npy, .npz, .mat or .h5 file (key A or D).")
@key_option
@_target("problem.h5")
def matrix(load_a: Path | None, key: str | None, target: Target, **asked: Any) -> None:
    """Make a problem: a measurement matrix, and the law of its signals and noise.

    The matrix is Gaussian, with entries N(0, 1/M), or one of your own.
    """
    if key is not None and load_a is None:
        raise click.UsageError("--key names an array in the file of --load-a, which is not given")
    problem = make_problem(asked, target.seed, load_a, key)
    shape = f"{problem.M}×{problem.N}, condition number {problem.condition_number:.4g}"
    target.write(problem, f"{shape}, SNR {problem.snr_db:g} dB")


@click.command("gen-problem", cls=Command)
@click.option("--size", type=filter_size, metavar="S|SxS", help="Pixels of a random filter. [7]")
@click.option("--filters", type=AT_LEAST_1, metavar="N", help="How many random filters. [64]")
@click.option("--load-dict", type=INPUT_FILE, help="Take the filters (s, s, F) from a file instead (key D).")
@key_option
@convention_option
@click.option("--normalize/--no-normalize", default=True, help="Scale filters to unit norm.")
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
    """Make a convolutional dictionary, of Gaussian filters or those of a file."""
    if load_dict is not None and (size or filters):
        raise click.UsageError("--size and --filters are of random filters, and --load-dict gives others")
    if load_dict is None and (key or convention):
        raise click.UsageError("--key and --convention are of the file of --load-dict, which is not given")
    if load_dict is None:
        made = Dictionary(random_dictionary(size or (7, 7), filters or 64, seed=target.seed))
    else:
        made = load_dictionary(load_dict, convention, key)
    if normalize:
        made = Dictionary(normalize_filters(made.D))
    rows, columns = made.shape
    target.write(made, f"{counted(made.filters, 'filter')} of {rows}×{columns}, Σ|d̂|² at most {made.gain:.4g}")


@click.command("gen-problem", cls=Command)
@click.option("--problem", "problem_file", type=INPUT_FILE, help="The nominal problem. [made as by --task sc]")
@click.option("--sigma", "sigmas", type=float, multiple=True, metavar="σ", help="A level; repeatable. [0 to 0.025]")
@click.option("--count", type=AT_LEAST_1, default=10, metavar="N", help="Matrices for each level.")
@click.option("--samples", type=AT_LEAST_1, default=1000, metavar="N", help="Signals they measure.")
@_target("perturbed.h5")
@hidden_problem_options
def perturbed(
    problem_file: Path | None, sigmas: tuple[float, ...], count: int, samples: int, target: Target, **asked: Any
) -> None:
    """Make a test set of perturbed matrices Ã = A + σN with columns of unit norm, and signals that all of them measure.

    Measurements are without noise.
    """
    given = [name for name, value in asked.items() if value is not None]
    if problem_file is not None and given:
        raise click.UsageError(f"{spelled(given[0])}: the file of --problem says it; leave it out")
    problem = make_problem(asked, target.seed) if problem_file is None else Problem.load(problem_file)
    sigmas = sigmas or SIGMAS
    levels = f"{count} matrices of {problem.M}×{problem.N} for each σ of {', '.join(f'{sigma:g}' for sigma in sigmas)}"
    target.write(PerturbedSet.new(problem, sigmas, count, samples, target.seed), f"{levels}, and {samples} signals")


def _natural(words: list[str]) -> str | None:
    """The task that --conv or --perturbed means; None without them."""
    flags = {"--conv": "denoise", "--perturbed": "robust"}
    named = [task for flag, task in flags.items() if flag in words]
    if len(named) > 1:
        raise click.UsageError("--conv makes a dictionary and --perturbed a set of matrices: give one of them")
    words[:] = [word for word in words if word not in flags]
    return named[0] if named else None


command = Routed(
    "gen-problem",
    {"sc": matrix, "denoise": dictionary, "robust": perturbed},
    _natural,
    _target("FILE.h5"),
    help="""Make a problem: a measurement matrix, and the law of its signals and noise.

    Or, with --task denoise (or --conv), a convolutional dictionary; or, with --task robust (or --perturbed), a test set
    of perturbed matrices. All have these options:
    """,
)
