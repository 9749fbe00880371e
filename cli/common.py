"""What the commands share: types of options, the options themselves, tables and progress."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any

import click

from cuista import device as devices
from cuista.data.dictionary import Convention, Dictionary, default_convention
from cuista.data.images import ImageSet
from cuista.errors import FileError
from cuista.metrics import PictureReport
from cuista.ops import ReferenceOps, engine
from cuista.storage import check_writable, claimed, is_cuista


def claim(out: Path, overwrite: bool) -> None:
    """Check that the output can be written, and claim it until the command ends."""
    click.get_current_context().with_resource(claimed(out))
    check_writable(out, overwrite=overwrite)


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
            made = make(**{str(option): given.pop(str(option)) for option in names})
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
key_option = click.option("--key", metavar="NAME", help="Which array to read from a file with several.")
keys_option = click.option("--key", metavar="NAME[,NAME]", help="Which array to read from a file with several.")
columns_option = click.option("--columns", is_flag=True, help="Samples are columns, not rows.")
device_option = click.option("--device", default="auto", metavar="auto|cpu|cuda:N", help="Device (auto prefers a GPU).")


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
        rows = [*zip(found.pictures, found.psnr_db.tolist(), found.ssim.tolist(), strict=True)]
        means = found.psnr_db.mean(axis=0).tolist(), found.ssim.mean(axis=0).tolist()
        if self.as_json:
            pairs = zip(found.methods, *means, strict=True)
            pictures = [
                {
                    "name": name,
                    "shape": shape,
                    "psnr_db": dict(zip(found.methods, psnr, strict=True)),
                    "ssim": dict(zip(found.methods, ssim, strict=True)),
                }
                for (name, psnr, ssim), shape in zip(rows, found.shapes, strict=True)
            ]
            mean = {method: {"psnr_db": psnr, "ssim": ssim} for method, psnr, ssim in pairs}
            print_json({**found.about, "lambda": found.lambdas, "mean": mean, "pictures": pictures})
        else:
            methods = found.methods
            headers = ["picture", *(f"{name} dB" for name in methods), *(f"{name} SSIM" for name in methods)]
            out(table(headers, [[name, *psnr, *ssim] for name, psnr, ssim in [*rows, ("mean", *means)]]))
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
    if isinstance(value, tuple):
        return value
    try:
        sizes = [int(part) for part in value.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} is not the size of a filter; expected a value like 7 or 7x5")
    return sizes[0], sizes[-1]


def note_left_out(images: ImageSet) -> None:
    """Tell the user how many pictures were too small, if any were."""
    if images.left_out:
        are = "is" if images.left_out == 1 else "are"
        what, least = counted(images.left_out, f"{images.split} picture"), f"{images.least}×{images.least}"
        say(f"Note: {what} {are} left out: smaller than {images.least_of} of {least} pixels.")


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


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with right-aligned columns and two decimals for floating-point numbers."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (headers, *cells)]
    return "\n".join(lines)


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


class ProgressLine:
    """Progress on stderr: a bar on a terminal, otherwise a plain line every ten seconds."""

    WIDTH = 24

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = time.monotonic()
        self._drawn = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._drawn:
            say("\r\033[K", end=False)

    def show(self, fraction: float, text: str) -> None:
        """Show which fraction of the work is done, unless the last update was too recent."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._terminal else 10):
            return
        self._shown = now
        if self._terminal:
            full = round(self.WIDTH * fraction)
            say(f"\r\033[K[{'#' * full}{'.' * (self.WIDTH - full)}] {text}", end=False)
            self._drawn = True
        else:
            say(f"{fraction:4.0%} {text}")


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the singular or plural: 1 filter, 2 filters."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


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


def say(text: str, end: bool = True) -> None:
    """Print a message for the user to stderr, which keeps stdout for data; `end` says whether the line ends.

    If stderr is closed or full, the message is lost, and all later ones; the work goes on.
    """
    try:
        click.echo(text, nl=end, err=True)
    except (OSError, ValueError):
        sys.stderr = None
