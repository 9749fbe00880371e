"""What the commands share: types of options, the options themselves, tables and progress."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, wraps
from itertools import chain
from pathlib import Path
from typing import Any

import click

from cuista import device as devices
from cuista import messages, parallel
from cuista.data.dictionary import Convention, Dictionary, default_convention
from cuista.data.form import Form
from cuista.data.images import ImageSet
from cuista.data.pictures import Note, left_out
from cuista.errors import FileError
from cuista.metrics import PictureReport
from cuista.model import Trained
from cuista.ops import ReferenceOps, engine
from cuista.ranks import ranks
from cuista.storage import check_writable, claimed, is_cuista
from cuista.summary import counted
from cuista.tasks.denoising import Denoiser


def claim(out: Path, overwrite: bool) -> None:
    """Check that the output can be written, and claim it until the command ends.

    Of several ranks, the first does so for all, and all fail together.
    """
    context = click.get_current_context()

    def first_claims() -> None:
        context.with_resource(claimed(out))
        check_writable(out, overwrite=overwrite)

    ranks().agreed(first_claims)


def output_file(*endings: str, advice: str = "") -> Callable[[str], Path]:
    """The option type of an output file whose ending selects the format; `advice` is shown for any other ending."""

    def file(value: str) -> Path:
        path = Path(value)
        if path.suffix.lower() not in endings:
            raise click.BadParameter(f"{value} must end in {' or '.join(endings)}{advice and f'; {advice}'}")
        return path

    return file


# Parameters of the library whose options have a different name.
FLAGS = {
    "overwrite": "--force",
    "decays": "--lr-decay",
    "factor": "--decay-rate",
    "per_coordinate": "--coord",
    "dictionary": "--dict",
    "labels": "--label",
}


def spelled(parameter: str) -> str:
    """The name of the option that sets this parameter of the library."""
    return FLAGS.get(parameter, f"--{parameter.replace('_', '-')}")


# What Click's option() and argument() return.
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def options(*decorators: Decorator) -> Decorator:
    """Combine several options into one decorator; the help lists them in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def parameters(*decorators: Decorator) -> list[click.Parameter]:
    """The Click parameters that these decorators create."""
    made: list[click.Parameter] = vars(options(*decorators)(lambda: None))["__click_params__"]
    return made[::-1]


def bundled(name: str, make: Callable[..., Any], *decorators: Decorator) -> Decorator:
    """Pass several options or arguments to a command as one parameter, the result of `make` on their values."""
    names = [parameter.name for parameter in parameters(*decorators)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def command(**given: Any) -> Any:
            # An option that `workers_option` adds is not given: it has taken its value.
            made = make(**{str(option): given.pop(str(option)) for option in names if option in given})
            return function(**{name: made}, **given)

        return options(*decorators)(command)

    return decorate


def number(expected: str, suits: Callable[[float], bool], whole: bool = False) -> Callable[[Any], Any]:
    """The option type of numbers for which `suits` holds; `expected` describes them in the message about any other."""

    def convert(value: str | float) -> float:
        try:
            found = int(value) if whole else float(value)
        except ValueError:
            found = math.nan
        if not suits(found):
            raise click.BadParameter(f"{value!r} is not {expected}")
        return found

    return convert


decibels = number("a number of dB or inf", lambda value: value > -math.inf)
positive = number("a number greater than 0", lambda value: 0 < value < math.inf)
not_negative = number("a number, 0 or greater", lambda value: 0 <= value < math.inf)
percentage = number("a percentage, from 0 to 100", lambda value: 0 <= value <= 100)
AT_LEAST_0 = number("a whole number, 0 or greater", lambda value: 0 <= value < 2**63, whole=True)
AT_LEAST_1 = number("a whole number, 1 or greater", lambda value: 1 <= value < 2**63, whole=True)
AT_LEAST_2 = number("a whole number, 2 or greater", lambda value: 2 <= value < 2**63, whole=True)


def ridge(value: str) -> float | str:
    """The option type of a ridge: a number that is 0 or greater, or auto."""
    number_or_auto: float | str = value if value == "auto" else not_negative(value)
    return number_or_auto


INPUT_FILE = click.Path(path_type=Path)
H5_FILE = output_file(".h5")
CONVERTIBLE_FILE = output_file(".h5", advice="use cuista convert for other formats")


def layers_option(default: int | None, more: str = "") -> Decorator:
    """The option for the number of layers; `more` ends its help if there is no default for Click to show."""
    return click.option(
        "-T", "--layers", type=AT_LEAST_1, default=default, metavar="N", help=f"Number of layers.{more}"
    )


def percent_options(default: str = "", maximum: str = "") -> Decorator:
    """The options for the support schedule, whose defaults end the help texts."""
    text = f"Leave P % more entries unshrunk per layer.{default}"
    limit = f"Never leave more than P % unshrunk.{maximum}"
    return options(
        click.option("-p", "--percent", type=not_negative, metavar="P", help=text),
        click.option("--max-percent", type=percentage, metavar="P", help=limit),
    )


force_option = click.option("--force", is_flag=True, help="Overwrite the output file if it exists.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
seed_option = click.option("--seed", type=AT_LEAST_0, metavar="N", default=0, help="Seed of the random numbers.")
white_option = click.option("--white", type=positive, metavar="V", help="The number that is white, such as 4095.")
shifts_option = click.option(
    "--shifts", type=AT_LEAST_1, metavar="N", help="Places of the maps' grid that are averaged over. [all]"
)
key_option = click.option("--key", metavar="NAME", help="Which array to read from a file with several.")
keys_option = click.option("--key", metavar="NAME[,NAME]", help="Which array to read from a file with several.")
pairs_option = click.option(
    "--complex-pairs", "pairs", is_flag=True, help="Columns are pairs of real and imaginary parts."
)
columns_option = click.option("--columns", is_flag=True, help="Samples are columns, not rows.")


def workers_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option for the number of workers, which holds while the command runs."""

    @click.option("--workers", type=AT_LEAST_1, metavar="N", help="Threads on the CPU. [one for each allowed core]")
    @wraps(function)
    def command(workers: int | None = None, **given: Any) -> Any:
        with parallel.workers(workers):
            return function(**given)

    return command


device_option = options(
    click.option("--device", default="auto", metavar="auto|cpu|cuda:N", help="Device (auto prefers a GPU)."),
    workers_option,
)


def keys_of(key: str | None, pairs: bool) -> tuple[str | None, str | None]:
    """The names that --key gives to the arrays of codes and of measurements. Without the latter it is a single name."""
    if key is None or not pairs:
        return key, None
    names = key.split(",")
    if len(names) != 2 or not all(names):
        raise click.UsageError(f"--key is {key!r}; expected two names, that of --x and that of --y, like codes,data")
    return names[0], names[1]


@dataclass
class Report:
    """Where a test runs and how its results are reported."""

    device: str
    out: Path | None
    as_json: bool
    force: bool

    def __post_init__(self) -> None:
        if self.out:
            claim(self.out, self.force)

    @cached_property
    def ops(self) -> ReferenceOps:
        """The engine."""
        return engine_on(self.device)

    def write(self, save: Callable[..., None], **about: Any) -> None:
        """Write the report if a file was requested; `save` has the arguments of `cuista.metrics.Report.save`."""
        if self.out:
            save(self.out, about, overwrite=self.force)
            say(f"Wrote {self.out}.")

    def show_pictures(self, found: PictureReport, **about: Any) -> None:
        """Write the report, and print how well pictures were restored."""
        self.write(found.save, **about)
        methods, measures = found.methods, {name: array.tolist() for name, array in found.measures().items()}
        means = {name: array.mean(axis=0).tolist() for name, array in found.measures().items()}
        if self.as_json:
            pictures = [
                {
                    "name": name,
                    "shape": shape,
                    **{measure: dict(zip(methods, rows[i], strict=True)) for measure, rows in measures.items()},
                }
                for i, (name, shape) in enumerate(zip(found.pictures, found.shapes, strict=True))
            ]
            mean = {method: {measure: row[j] for measure, row in means.items()} for j, method in enumerate(methods)}
            print_json({**found.about, "lambda": found.lambdas, "mean": mean, "pictures": pictures})
        else:
            headings = {"psnr_db": "dB", "psnr_clipped_db": "dB clipped", "ssim": "SSIM"}
            shown = [name for name in headings if name in measures]
            headers = ["picture", *(f"{method} {headings[name]}" for name in shown for method in methods)]
            rows = [
                [picture, *chain.from_iterable(measures[name][i] for name in shown)]
                for i, picture in enumerate(found.pictures)
            ]
            rows.append(["mean", *chain.from_iterable(means[name] for name in shown)])
            out(table(headers, rows))
            for name, lam in found.lambdas.items():
                say(f"{name} uses λ = {lam:.3g}, the best of 16 values on validation data.")


report_option_list = (
    device_option,
    click.option("-o", "--out", type=H5_FILE, help="Write a report with the results of each example."),
    json_option,
    force_option,
)
report_options = bundled("report", Report, *report_option_list)
convention_option = click.option(
    "--convention",
    type=click.Choice(["correlation", "convolution"]),
    metavar="KIND",
    help="Convention of bare filters. [weights and .mat: convolution; others: correlation]",
)


def filter_size(value: str | tuple[int, int]) -> tuple[int, int]:
    """The option type of a filter's size, such as 7 or 7x5."""
    return _size(value, "a filter", "7 or 7x5", 1)


def block_size(value: str | tuple[int, int]) -> tuple[int, int]:
    """The option type of a block's size, such as 16 or 16x8."""
    return _size(value, "a block", "16 or 16x8, of 2 pixels or more", 2)


def _size(value: str | tuple[int, int], what: str, example: str, least: int) -> tuple[int, int]:
    """The size of something with at least so many pixels; for the error message, what it is and an example."""
    if isinstance(value, tuple):
        return value
    try:
        sizes = [int(part) for part in value.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1 or sizes[0] * sizes[-1] < least:
        raise click.BadParameter(f"{value!r} is not the size of {what}; expected a value like {example}")
    return sizes[0], sizes[-1]


def note_one_level(denoiser: Denoiser, file: Path) -> None:
    """Tell the user of a denoiser that is to recover pictures from measurements, and is for one level of noise."""
    if denoiser.sigmas is None:
        say(f"Note: {file} was trained for σ = {denoiser.levels}; one for a range from about 1 is usually better here.")


def warn_untrained(model: Trained, file: Path) -> None:
    """Warn the user of a model without the parameters that make it useful."""
    diverged = model.training.get("diverged")
    if diverged:
        warn(f"the training of {file} has failed ({diverged}), so do not expect much of it")
    elif not model.trained:
        warn(f"{file} has never been trained, so do not expect much of it: train it first")


def note_left_out(images: ImageSet) -> None:
    """Tell the user how many pictures were too small, if any were."""
    if images.left_out:
        are = "is" if images.left_out == 1 else "are"
        what, least = counted(images.left_out, f"{images.split} picture"), f"{images.least}×{images.least}"
        say(f"Note: {what} {are} left out: smaller than {images.least_of} of {least} pixels.")


def say_notes(notes: Sequence[Note], most: int = 10) -> None:
    """Tell the user what there is to know about files of pictures, but not much more often than `most` times."""
    for text, option in notes[:most]:
        say(f"Note: {text}{f' ({spelled(option)})' if option else ''}.")
    if len(notes) > most:
        say(f"Note: and {counted(len(notes) - most, 'note')} like these.")


def say_left_out(out: Path, form: Form, count: int = 1) -> None:
    """Tell the user what the format of the output does not keep of pictures that were stored like this."""
    lost = left_out(out, form, count)
    if lost:
        say(f"Note: {out} does not keep the {lost}.")


def engine_on(device: str) -> ReferenceOps:
    """The engine for --device; if that is auto, the user is told which device was chosen."""
    chosen = devices.parse_device(device)
    if device == "auto":
        # Whoever has installed CuPy expects the GPU, and is told why it is not used.
        wanted = chosen.index is None and devices.cupy_packages()
        reason = (devices.why_no_cuda() or devices.why_not(0)) if wanted else None
        say(f"Computing on {chosen} (--device auto).{f' No GPU: {reason}.' if reason else ''}")
    return engine(chosen)


def load_dictionary(path: Path, convention: Convention | None = None, key: str | None = None) -> Dictionary:
    """Read a dictionary from a file of ours or from bare filters; for the latter, say how they are interpreted."""
    dictionary = Dictionary.load(path, convention=convention, key=key)
    if not is_cuista(path):
        rows, columns = dictionary.shape
        taken = f"for {convention or default_convention(path)}{'' if convention else ' (--convention changes that)'}"
        say(f"Reading {path} as {counted(dictionary.filters, 'filter')} of {rows}×{columns}, {taken}.")
        if rows != columns and rows > 1 and dictionary.filters < max(rows, columns):
            meant = f"{counted(rows, 'filter')} of {columns}×{dictionary.filters}"
            say(f"Note: the last axis counts the filters. If these are {meant}, save np.moveaxis(D, 0, -1) instead.")
    return dictionary


def for_bare(convention: Convention | None, *files: Path | None) -> list[Convention | None]:
    """The --convention for each file: None for our own files. At least one must be bare if the option was given."""
    bare = [file is not None and not is_cuista(file) for file in files]
    if convention is not None and not any(bare):
        raise click.UsageError("--convention is for filters from other software, and there are none here: leave it out")
    return [convention if one else None for one in bare]


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], keys: int = 1) -> str:
    """A table with right-aligned columns and two decimals for floating-point numbers.

    If it is wider than the terminal (80 characters where that is unknown), it continues in further blocks of columns,
    each of which begins with the first `keys` columns. Cells that are too long for that take several lines.
    """
    most = shutil.get_terminal_size().columns
    cells = [
        list(headers),
        *([f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows),
    ]
    widths = _widths(cells)
    if sum(widths[:keys]) + 2 * keys + max(widths[keys:], default=0) > most:
        longest = max((most - 2 * keys) // (keys + 1), 8)
        cells = [[_folded(cell, longest) for cell in row] for row in cells]
        widths = _widths(cells)
    blocks, room = list[list[int]](), 0
    for column in range(keys, len(headers)):
        room -= widths[column] + 2
        if room < 0 or not blocks:
            blocks.append(list(range(keys)))
            room = most - sum(widths[:keys]) - 2 * (keys - 1) - widths[column] - 2
        blocks[-1].append(column)
    return "\n\n".join(
        "\n".join(_lines([row[column] for column in block], [widths[column] for column in block]) for row in cells)
        for block in blocks
    )


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column, whose cells may have several lines."""
    return [max(len(line) for cell in column for line in cell.split("\n")) for column in zip(*cells, strict=True)]


def _lines(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The lines of a row of right-aligned cells; shorter cells stand on its last line."""
    parts = [cell.split("\n") for cell in cells]
    height = max(map(len, parts))
    filled = [[""] * (height - len(lines)) + lines for lines in parts]
    rows = zip(*filled, strict=True)
    return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in rows)


def _folded(text: str, longest: int) -> str:
    """A text on lines of at most this length, which break after a space or a character between words if they can."""
    lines = [""]
    for word in re.findall(r"[^\s/:_.-]*[\s/:_.-]*", text):
        while word:
            if len(lines[-1]) + len(word.rstrip()) > longest and lines[-1]:
                lines.append("")
            lines[-1] += word[:longest]
            word = word[longest:]
    return "\n".join(line.rstrip() for line in lines)


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout. NaN and infinities, which JSON cannot express, become null."""
    out(json.dumps(_jsonable(value), indent=2))


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


class ProgressLine(messages.ProgressLine):
    """Progress on stderr: a bar on a terminal, otherwise a line every ten seconds; nothing with --quiet.

    With --log-json, a message every ten seconds has the fraction that is done and the seconds left, if they are known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._display = None
        self._terminal = self._terminal and not _talking.as_json
        self._shown = -math.inf if _talking.as_json else self._shown
        _talking.line = self

    def update(self, fraction: float, text: str, left: float | None) -> None:
        if _talking.as_json:
            progress = {"fraction": round(fraction, 4), "seconds_left": left and round(left, 1)}
            LOG.info(text, extra={"progress": progress})
        elif _talking.level <= logging.INFO:
            super().update(fraction, text, left)


def out(text: str = "") -> None:
    """Print a line of data to stdout. Raises FileError if that is closed or full; `main` handles a closed pipe."""
    if sys.stdout is None:
        raise FileError("the standard output is closed, so that there is nowhere to print the result")
    try:
        click.echo(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"cannot write to the standard output: {error.strerror}") from error


# -- messages -------------------------------------------------------------------------------------------------------

LOG = logging.getLogger("cuista.cli")


def say(text: str) -> None:
    """Log a message for the user, which appears on stderr, which keeps stdout for data."""
    LOG.info(text)


def warn(text: str) -> None:
    """Log a warning, which appears on stderr even with --quiet."""
    LOG.warning(text)


class Talking(logging.Handler):
    """Shows the log `cuista` on stderr.

    If stderr is closed or full, messages are lost; the work goes on.

    Parameters
    ----------
    level
        The least level that is shown: INFO, WARNING with --quiet, DEBUG with --verbose.
    as_json
        Whether each message is one line of JSON.
    """

    def __init__(self, level: int = logging.INFO, as_json: bool = False) -> None:
        super().__init__(level)
        self.as_json = as_json
        self.line: ProgressLine | None = None

    def emit(self, record: logging.LogRecord) -> None:
        # The progress line shows the steps of training.
        if record.levelno == logging.INFO and record.name == "cuista.training" and self.level == logging.INFO:
            return
        try:
            if self.line is not None:
                self.line.erase()
            click.echo(self.format(record), err=True)
        except (OSError, ValueError):
            sys.stderr = None

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if self.as_json:
            time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
            message = {"time": time, "level": record.levelname.lower(), "message": text.strip()}
            return json.dumps({**message, **getattr(record, "progress", {})}, ensure_ascii=False)
        if record.levelno >= logging.ERROR:
            return f"Error: {text}"
        return f"Warning: {text.rstrip('.')}." if record.levelno == logging.WARNING else text


_talking = Talking()


@contextlib.contextmanager
def talking(level: int = logging.INFO, as_json: bool = False) -> Iterator[None]:
    """Show the log on stderr in the block, and Python's warnings too, except those that are in the log already."""
    global _talking
    log, formatted = logging.getLogger("cuista"), warnings.formatwarning
    before, before_level, _talking = _talking, log.level, Talking(level, as_json)

    def format_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        if not issubclass(category, messages.CuistaWarning):
            LOG.warning(str(message))
        return ""

    log.addHandler(_talking)
    log.setLevel(level)
    warnings.formatwarning = format_warning
    try:
        yield
    finally:
        warnings.formatwarning = formatted
        log.setLevel(before_level)
        log.removeHandler(_talking)
        _talking = before
