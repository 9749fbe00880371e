"""What the commands share: option types, tables, progress, and where a problem comes from."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cuista.errors import FileError, InputError

if TYPE_CHECKING:
    from cuista.checks import Array
    from cuista.data.dictionary import Convention, Dictionary
    from cuista.data.images import ImageSet, NoisyCrops
    from cuista.data.problem import Problem
    from cuista.ops import Bernoulli, Normal, ReferenceOps
    from cuista.training import Progress, Recipe, SearchRecipe
    from cuista.training.trainer import AnyModel

F = TypeVar("F", bound=Callable[..., Any])


def output_file(*endings: str, advice: str = "") -> Callable[[str], Path]:
    """The option type of a file to write, whose ending says in which format; `advice` is for another ending."""

    def file(value: str) -> Path:
        path = Path(value)
        if path.suffix.lower() not in endings:
            raise click.BadParameter(f"{value} must end in {' or '.join(endings)}{advice and f'; {advice}'}")
        return path

    return file


def decibels(value: str) -> float:
    """The option type of a number of dB, or inf."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number) or number == -math.inf:
        raise click.BadParameter(f"{value!r} is neither a number of dB nor inf")
    return number


def positive(value: str | float) -> float:
    """The option type of a finite number more than 0."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"{value!r} is not a number more than 0")
    return number


INPUT_FILE = click.Path(path_type=Path)
H5_FILE = output_file(".h5")
CONVERTIBLE_FILE = output_file(".h5", advice="cuista convert writes other formats")

force_option = click.option("--force", is_flag=True, help="Overwrite the output if it exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all random numbers."
)
key_option = click.option("--key", metavar="NAME", help="Name of the array in a file that holds several.")
columns_option = click.option("--columns", is_flag=True, help="Samples are columns, not rows.")
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda:N",
    help="Where to compute; auto takes a GPU if one can be used. See cuista doctor.",
)


resume_option = click.option("--resume", is_flag=True, help="Continue an interrupted run, to the bit-identical result.")
convention_option = click.option(
    "--convention",
    type=click.Choice(["correlation", "convolution"]),
    help="What bare filters were made for; those for convolution are rotated by 180°. [.mat: convolution]",
)


def filter_size(value: str | tuple[int, int]) -> tuple[int, int]:
    """The option type of a filter's size: 7, or 7x5."""
    if isinstance(value, tuple):
        return value
    try:
        sizes = [int(part) for part in value.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} is not the size of a filter: expected 7, or 7x5")
    return sizes[0], sizes[-1]


def check_resume(out: Path, resume: bool, force: bool, load: Callable[[], object]) -> bool:
    """Whether there is something to do for a command that writes `out`, which `load` reads, and can be resumed.

    Raises
    ------
    click.UsageError, FileError
        If the options contradict each other, or an output or a checkpoint is in the way.
    """
    from cuista.storage import check_writable
    from cuista.training import checkpoint_path

    if resume and force:
        raise click.UsageError("--resume continues a run and --force starts it afresh: give one of them")
    checkpoint = checkpoint_path(out)
    if resume and not checkpoint.exists():
        if out.exists():
            load()
            say(f"{out} is complete: nothing to resume.")
            return False
        say(f"No checkpoint {checkpoint}: starting afresh.")
    if checkpoint.exists() and not (resume or force):
        raise FileError(
            f"{checkpoint} holds an unfinished run: continue it with --resume, or start afresh with --force"
        )
    check_writable(out, overwrite=force or (resume and checkpoint.exists()))
    return True


def note_left_out(images: ImageSet) -> None:
    """Say how many pictures were too small, if any."""
    if images.left_out:
        are = "is" if images.left_out == 1 else "are"
        what, least = counted(images.left_out, f"{images.split} picture"), f"{images.least}×{images.least}"
        say(f"Note: {what} {are} smaller than {images.least_of} of {least}, and left out.")


def engine_on(device: str) -> ReferenceOps:
    """The engine of --device, told when it was chosen here."""
    from cuista.device import cupy_packages, parse_device, why_no_cuda, why_not
    from cuista.ops import engine

    chosen = parse_device(device)
    if device == "auto":
        # Who has CuPy wants the GPU.
        reason = (why_no_cuda() or why_not(0)) if chosen.index is None and cupy_packages() else None
        say(f"Computing on {chosen} (--device auto).{f' No GPU: {reason}.' if reason else ''}")
    return engine(chosen)


def problem_options(function: F) -> F:
    """The options that make a problem; None where not given."""
    options = [
        click.option("--m", type=click.IntRange(1), help="Number of measurements M. [250]"),
        click.option("--n", type=click.IntRange(1), help="Length N of a sparse code. [500]"),
        click.option(
            "--pnz", metavar="P|FILE", help="Probability of a non-zero: a number, or a file with one per entry. [0.1]"
        ),
        click.option("--snr", type=decibels, metavar="dB|inf", help="Signal-to-noise ratio of the measurements. [inf]"),
        click.option("--con-num", type=float, help="Condition number of the matrix; 0 leaves it as drawn. [0]"),
        click.option("--normalize/--no-normalize", default=None, help="Scale columns to unit norm. [--normalize]"),
        click.option("--magnitude", type=click.Choice(["normal", "bernoulli"]), help="Law of the non-zeros. [normal]"),
        click.option("--mean", type=float, help="Mean of normal magnitudes. [0]"),
        click.option("--std", type=float, help="Standard deviation of normal magnitudes. [1]"),
        click.option("--q", type=float, help="Probability of the Bernoulli magnitude v0. [0.5]"),
        click.option("--v0", type=float, help="One Bernoulli magnitude. [1]"),
        click.option("--v1", type=float, help="The other. [1]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


PROBLEM_OPTIONS = ("m", "n", "pnz", "snr", "con_num", "normalize", "magnitude", "mean", "std", "q", "v0", "v1")


def magnitude_law(options: dict[str, Any]) -> Normal | Bernoulli:
    """The law of magnitudes that the options ask for."""
    from cuista.ops import Bernoulli, Normal

    law = Bernoulli if options["magnitude"] == "bernoulli" else Normal
    other = Normal if law is Bernoulli else Bernoulli
    for name in other._fields:
        if options[name] is not None:
            raise click.UsageError(f"--{name} is of {other.__name__.lower()} magnitudes: see --magnitude")
    return law(**{name: options[name] for name in law._fields if options[name] is not None})


def probability(text: str | None) -> float | Array:
    """The value of --pnz: a number, or the array in a file."""
    if text is None:
        return 0.1
    try:
        return float(text)
    except ValueError:
        from cuista.storage import load_array

        if not Path(text).exists():
            raise FileError(f"--pnz {text} is neither a number nor a file that exists") from None
        return load_array(text, "pnz", "support_probability").ravel()


def make_problem(options: dict[str, Any], seed: int, load_a: Path | None = None, key: str | None = None) -> Problem:
    """The problem that the problem options ask for."""
    from cuista.checks import check_matrix
    from cuista.data.problem import Problem, normalize_columns, random_matrix, with_condition_number
    from cuista.storage import load_array

    m, n, snr, con_num = (options[name] for name in ("m", "n", "snr", "con_num"))
    if load_a is None:
        A = random_matrix(250 if m is None else m, 500 if n is None else n, seed=seed)
    else:
        A = check_matrix(load_array(load_a, "A", "D", key=key), f"the matrix in {load_a}")
        for option, asked, found in (("--m", m, A.shape[0]), ("--n", n, A.shape[1])):
            if asked not in (None, found):
                raise InputError(f"{option} is {asked}, but the matrix in {load_a} is {A.shape[0]}×{A.shape[1]}")
    if con_num:
        A = with_condition_number(A, con_num)
    if options["normalize"] is not False:
        A = normalize_columns(A)
    return Problem(A, probability(options["pnz"]), math.inf if snr is None else snr, magnitude_law(options), seed)


def load_dictionary(path: Path, convention: Convention | None = None, key: str | None = None) -> Dictionary:
    """The dictionary in a file of ours, or of bare filters, of which is said what they are taken for."""
    from cuista.data.dictionary import Dictionary, default_convention
    from cuista.storage import is_cuista

    dictionary = Dictionary.load(path, convention=convention, key=key)
    if not is_cuista(path):
        rows, columns = dictionary.shape
        taken = f"those of a {convention or default_convention(path)}{'' if convention else ' (--convention)'}"
        say(f"Taking {path} for {counted(dictionary.filters, 'filter')} of {rows}×{columns}, {taken}.")
        if rows != columns and rows > 1 and dictionary.filters < max(rows, columns):
            meant = f"{counted(rows, 'filter')} of {columns}×{dictionary.filters}"
            say(f"Note: filters stand in the last axis here; if these are {meant}, move it: np.moveaxis(D, 0, -1).")
    return dictionary


def for_bare(convention: Convention | None, *files: Path | None) -> list[Convention | None]:
    """The --convention for each of these files: for ours there is none, and some must be bare if it was given."""
    from cuista.storage import is_cuista

    bare = [file is not None and not is_cuista(file) for file in files]
    if convention is not None and not any(bare):
        raise click.UsageError("--convention is of bare filters, and none are given here: leave it out")
    return [convention if one else None for one in bare]


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of right-aligned columns, numbers with two decimals."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (headers, *cells)]
    return "\n".join(lines)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout; what JSON has no number for (infinities) becomes null."""
    click.echo(json.dumps(_jsonable(value), indent=2))


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


class ProgressLine:
    """Progress on stderr: a bar on a terminal, else a plain line every ten seconds."""

    WIDTH = 24

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._drawn = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)

    def show(self, fraction: float, text: str) -> None:
        """Say how far the work is, if it is time to."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._terminal else 10):
            return
        self._shown = now
        if self._terminal:
            full = round(self.WIDTH * fraction)
            click.echo(f"\r\033[K[{'#' * full}{'.' * (self.WIDTH - full)}] {text}", nl=False, err=True)
            self._drawn = True
        else:
            click.echo(f"{fraction:4.0%} {text}", err=True)


def counted(number: int, noun: str, plural: str = "") -> str:
    """So many of them, as 1 filter or 2 filters."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def say(text: str) -> None:
    """A line for the user that is no data: on stderr."""
    click.echo(text, err=True)


@contextlib.contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say how to go on if what writes `out` is interrupted."""
    from cuista.training import checkpoint_path

    try:
        yield
    except KeyboardInterrupt:
        checkpoint = checkpoint_path(out)
        if checkpoint.exists():
            say(f"\nThe run is saved in {checkpoint}: the same command with --resume (not --force) continues it.")
        raise


def refuse(options: Mapping[str, object], reason: str) -> None:
    """Raise UsageError if one of these options is given."""
    for option, value in options.items():
        if value is not None:
            raise click.UsageError(f"{option}: {reason}; leave it out")


@dataclass(frozen=True)
class Run:
    """What every run of cuista train is told: of which numbers, where it computes and writes, whether it goes on."""

    seed: int
    device: str
    out: Path
    checkpoint_every: float
    resume: bool
    force: bool

    def is_due(self, kind: Any) -> bool:
        """Whether there is something to do to have an output of this kind: see `check_resume`."""
        return check_resume(self.out, self.resume, self.force, lambda: kind.load(self.out))

    def begun(self, kind: Any) -> Any:
        """The model, of this kind, in the checkpoint that is to be continued; None to start afresh."""
        from cuista.training import checkpoint_path

        checkpoint = checkpoint_path(self.out)
        return kind.load(checkpoint, kind="cuista-checkpoint") if self.resume and checkpoint.exists() else None

    def train(self, model: AnyModel, recipe: Recipe | SearchRecipe, crops: NoisyCrops | None = None) -> None:
        """Train with progress."""
        from cuista.training import train

        with ProgressLine() as line, resumable(self.out):
            train(
                model,
                recipe,
                crops=crops,
                seed=self.seed,
                out=self.out,
                resume=self.resume,
                overwrite=self.force,
                checkpoint_seconds=self.checkpoint_every,
                progress=lambda progress: line.show(*describe(progress)),
            )
        result, steps = model.training["validation_nmse_db"], model.training["steps"]
        what = "loss, relative to that of W = Ã," if model.network.name == "atow" else "NMSE"
        say(f"Wrote {self.out}: validation {what} {result:.2f} dB after {steps} steps.")


def describe(progress: Progress) -> tuple[float, str]:
    """How far training is, and in which words."""
    what = "loss" if progress.title == "encoder" else "NMSE"
    nmse = "" if progress.nmse_db is None else f", {what} {progress.nmse_db:.2f} dB"
    return progress.fraction, f"{progress.title}, step {progress.step}/{progress.steps}{nmse}"
