"""cuista gen-problem"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cuista.cli.common import (
    INPUT_FILE,
    PROBLEM_OPTIONS,
    convention_option,
    counted,
    filter_size,
    force_option,
    key_option,
    load_dictionary,
    make_problem,
    output_file,
    problem_options,
    say,
    seed_option,
)
from cuista.cli.spellings import Command

if TYPE_CHECKING:
    from cuista.data.problem import Problem

# Levels of perturbation, if not said otherwise.
SIGMAS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.025)


@click.command("gen-problem", cls=Command)
@problem_options
@click.option("--load-a", type=INPUT_FILE, help="Take the matrix from a .npy, .npz, .mat or .h5 file (key A or D).")
@click.option("--conv", is_flag=True, help="Make a convolutional dictionary instead, random or from --load-dict.")
@click.option("--load-dict", type=INPUT_FILE, help="--conv: take the filters (s, s, F) from a file (key D).")
@convention_option
@click.option("--size", type=filter_size, metavar="S|SxS", help="--conv: pixels of a random filter. [7]")
@click.option("--filters", type=click.IntRange(1), help="--conv: how many random filters. [64]")
@click.option("--perturbed", is_flag=True, help="Make a test set of perturbed matrices instead, for robust recovery.")
@click.option("--problem", "problem_file", type=INPUT_FILE, help="--perturbed: the nominal problem, in a file.")
@click.option("--sigma", "sigmas", type=float, multiple=True, help="--perturbed: a level; repeatable. [0 to 0.025]")
@click.option("--count", type=click.IntRange(1), help="--perturbed: matrices for each level. [10]")
@click.option("--samples", type=click.IntRange(1), help="--perturbed: signals that each measures. [1000]")
@key_option
@seed_option
@click.option(
    "-o",
    "--out",
    type=output_file(".h5", advice="cuista convert writes problems and dictionaries in other formats"),
    help="The file. [problem.h5; --conv: dictionary.h5; --perturbed: perturbed.h5]",
)
@force_option
def command(
    load_a: Path | None,
    conv: bool,
    load_dict: Path | None,
    convention: Any,
    size: tuple[int, int] | None,
    filters: int | None,
    perturbed: bool,
    problem_file: Path | None,
    sigmas: tuple[float, ...],
    count: int | None,
    samples: int | None,
    key: str | None,
    seed: int,
    out: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Make a problem: a measurement matrix, and the law of its signals and noise.

    Or a convolutional dictionary, or a test set of perturbed matrices.
    """
    from cuista.data.problem import Problem
    from cuista.storage import check_writable

    of_conv = {"--load-dict": load_dict, "--convention": convention, "--size": size, "--filters": filters}
    given = [name for name, value in of_conv.items() if value is not None]
    if given and not conv:
        raise click.UsageError(f"{given[0]} is of a convolutional dictionary: give --conv too")
    of_set = {"--problem": problem_file, "--sigma": sigmas or None, "--count": count, "--samples": samples}
    given = [name for name, value in of_set.items() if value is not None]
    if given and not perturbed:
        raise click.UsageError(f"{given[0]} is of a set of perturbed matrices: give --perturbed too")
    if conv and perturbed:
        raise click.UsageError("--conv makes a dictionary and --perturbed a set of matrices: give one of them")
    out = out or Path("dictionary.h5" if conv else "perturbed.h5" if perturbed else "problem.h5")
    if conv:
        of_matrix = {"--load-a": load_a} | {f"--{name.replace('_', '-')}": options[name] for name in PROBLEM_OPTIONS}
        wrong = [name for name, value in of_matrix.items() if value is not None and name != "--normalize"]
        if wrong:
            raise click.UsageError(f"{wrong[0]} is of a matrix, and --conv makes a dictionary: leave it out")
        if load_dict is not None and (size or filters):
            raise click.UsageError("--size and --filters are of random filters, and --load-dict gives others")
        if load_dict is None and (key or convention):
            raise click.UsageError("--key and --convention are of the file of --load-dict, which is not given")
        check_writable(out, overwrite=force)
        make_dictionary(out, load_dict, convention, key, size, filters, options["normalize"], seed, force)
        return
    if key is not None and load_a is None:
        raise click.UsageError("--key names an array in the file of --load-a, which is not given")
    check_writable(out, overwrite=force)
    if problem_file is not None:
        of_matrix = {"load_a": load_a, **{name: options[name] for name in PROBLEM_OPTIONS}}
        wrong = [name for name, value in of_matrix.items() if value is not None]
        if wrong:
            raise click.UsageError(f"--{wrong[0].replace('_', '-')}: the file of --problem says it; leave it out")
        problem = Problem.load(problem_file)
    else:
        problem = make_problem(options, seed, load_a, key)
    if perturbed:
        make_set(out, problem, sigmas or SIGMAS, count or 10, samples or 1000, seed, force)
        return
    problem.save(out, overwrite=force)
    shape = f"{problem.M}×{problem.N}, condition number {problem.condition_number:.4g}"
    say(f"Wrote {out}: {shape}, SNR {problem.snr_db:g} dB.")


def make_set(
    out: Path, problem: Problem, sigmas: tuple[float, ...], count: int, samples: int, seed: int, force: bool
) -> None:
    """Write a test set of perturbed matrices."""
    from cuista.data.perturbed import PerturbedSet

    PerturbedSet.new(problem, sigmas, count, samples, seed).save(out, overwrite=force)
    levels = ", ".join(f"{sigma:g}" for sigma in sigmas)
    say(f"Wrote {out}: {count} matrices of {problem.M}×{problem.N} for each σ of {levels}, and {samples} signals.")


def make_dictionary(
    out: Path,
    source: Path | None,
    convention: Any,
    key: str | None,
    size: tuple[int, int] | None,
    filters: int | None,
    normalize: bool | None,
    seed: int,
    force: bool,
) -> None:
    """Write a dictionary of filters from a file, or random ones."""
    from cuista.data.dictionary import Dictionary, normalize_filters, random_dictionary

    if source is None:
        dictionary = Dictionary(random_dictionary(size or (7, 7), filters or 64, seed=seed))
    else:
        dictionary = load_dictionary(source, convention, key)
    if normalize is not False:
        dictionary = Dictionary(normalize_filters(dictionary.D))
    dictionary.save(out, overwrite=force)
    rows, columns = dictionary.shape
    filters_of = f"{counted(dictionary.filters, 'filter')} of {rows}×{columns}"
    say(f"Wrote {out}: {filters_of}, Σ|d̂|² at most {dictionary.gain:.4g}.")
