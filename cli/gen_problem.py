"""cuista gen-problem"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    CONVERTIBLE_FILE,
    INPUT_FILE,
    PROBLEM_OPTIONS,
    convention_option,
    counted,
    filter_size,
    force_option,
    key_option,
    load_dictionary,
    make_problem,
    problem_options,
    say,
    seed_option,
)
from cuista.cli.spellings import Command


@click.command("gen-problem", cls=Command)
@problem_options
@click.option("--load-a", type=INPUT_FILE, help="Take the matrix from a .npy, .npz, .mat or .h5 file (key A or D).")
@click.option("--conv", is_flag=True, help="Make a convolutional dictionary instead, random or from --load-dict.")
@click.option("--load-dict", type=INPUT_FILE, help="--conv: take the filters (s, s, F) from a file (key D).")
@convention_option
@click.option("--size", type=filter_size, metavar="S|SxS", help="--conv: pixels of a random filter. [7]")
@click.option("--filters", type=click.IntRange(1), help="--conv: how many random filters. [64]")
@key_option
@seed_option
@click.option("-o", "--out", type=CONVERTIBLE_FILE, help="The file. [problem.h5; --conv: dictionary.h5]")
@force_option
def command(
    load_a: Path | None,
    conv: bool,
    load_dict: Path | None,
    convention: Any,
    size: tuple[int, int] | None,
    filters: int | None,
    key: str | None,
    seed: int,
    out: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Make a problem: a measurement matrix, and the law of its signals and noise. Or a convolutional dictionary."""
    from cuista.storage import check_writable

    of_conv = {"--load-dict": load_dict, "--convention": convention, "--size": size, "--filters": filters}
    given = [name for name, value in of_conv.items() if value is not None]
    if given and not conv:
        raise click.UsageError(f"{given[0]} is of a convolutional dictionary: give --conv too")
    out = out or Path("dictionary.h5" if conv else "problem.h5")
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
    problem = make_problem(options, seed, load_a, key)
    problem.save(out, overwrite=force)
    shape = f"{problem.M}×{problem.N}, condition number {problem.condition_number:.4g}"
    say(f"Wrote {out}: {shape}, SNR {problem.snr_db:g} dB.")


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
    from cuista.dictionary import Dictionary, normalize_filters, random_dictionary

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
