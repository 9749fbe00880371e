"""Matrices of numbers in text files (.csv, .txt, .tsv, .dat), as spreadsheets and other programs write them."""

from __future__ import annotations

import csv
import io
import os
import re
from array import array
from dataclasses import dataclass

import numpy as np

from cuista.checks import COMPLEX, Array
from cuista.errors import FileError
from cuista.messages import warn
from cuista.storage.files import open_input

# A text file has no signature, so that its ending says what it is.
ENDINGS = (".csv", ".txt", ".tsv", ".dat")
# How lines begin that are comments.
COMMENTS = ("#", "%")
# A line of numbers with a comment after them.
_COMMENTED = re.compile(r"([-+0-9.,;eEdD\s]*\d[,;\s]*)[#%].*", re.DOTALL)
# A number as Fortran writes it in double precision.
_FORTRAN = re.compile(r"([-+]?(?:\d+[.,]?\d*|[.,]\d+))[dD]([-+]?\d+)")
SEPARATORS = {";": "semicolons", "\t": "tabs", ",": "commas", None: "blanks"}


@dataclass(frozen=True)
class _Form:
    """How a file writes numbers: what separates its columns (None for blanks), and its decimal mark."""

    separator: str | None
    mark: str

    def cells(self, line: str) -> list[str]:
        """The cells of a line."""
        if '"' in line and self.separator:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=self.separator, skipinitialspace=True))]
        return [cell.strip(' "') for cell in line.split(self.separator)]

    def number(self, cell: str) -> float:
        """The number in a cell. Raises ValueError if it has none."""
        if "_" in cell or (self.mark == "," and "." in cell):
            raise ValueError
        cell = cell.replace(",", ".") if self.mark == "," else cell
        try:
            return float(cell)
        except ValueError:
            fortran = _FORTRAN.fullmatch(cell)
            if not fortran:
                raise
            return float(fortran.expand(r"\1e\2"))

    def is_number(self, cell: str) -> bool:
        """Whether a cell has a number."""
        try:
            self.number(cell)
        except ValueError:
            return False
        return True

    def fits(self, line: str, named: bool) -> bool:
        """Whether a line has numbers of this form. Its first cell may be a name if `named`, and others may be empty."""
        first, *others = self.cells(line)
        if not (named or first == "" or self.is_number(first)):
            return False
        if not others:
            return self.separator is None and self.is_number(first)
        return all(cell == "" or self.is_number(cell) for cell in others)


# Numbers with either decimal mark.
_MARKS = _Form(None, "."), _Form(None, ",")


def read_text(path: str | os.PathLike[str]) -> Array:
    """The numbers of a text file: a matrix (lines, columns), or a vector if each line has one number.

    Columns are separated by commas, semicolons, tabs or blanks; all but the first allow decimal commas. Blank lines are
    skipped, and so are comments: lines that begin with # or %, and what follows one of these after the numbers of a
    line. The first line may have names, and so may the first column if that line has no name for it. A warning says
    which names are skipped.

    Raises
    ------
    FileError
        If the file is not such a text; the message names the line and the column.
    """
    lines = [(number, _content(line)) for number, line in enumerate(_decoded(path), 1) if _has_content(line)]
    separators = tuple(SEPARATORS)
    if lines and (stated := re.fullmatch(r"sep=([,;\t])", lines[0][1])):  # as Excel writes
        separators = (stated[1],)
        del lines[0]
    if not lines:
        raise FileError(f"{path} holds no numbers")
    form = _form_of([line for _, line in lines[:3]], separators)
    names = form.cells(lines[0][1]) if len(lines) > 1 and _has_names(form, lines[0][1], lines[1][1]) else []
    body = lines[1:] if names else lines
    first, last = form.cells(body[0][1]), form.cells(body[-1][1])
    begin = int(bool(names) and (names[0] == "" or len(names) + 1 == len(first)))
    end = len(first) - int(len(first) > 1 and first[-1] == last[-1] == "")  # where each line ends with a separator
    found = _numbers(path, body, form, slice(begin, end))
    if names:
        warn(f"{path}: line {lines[0][0]} is skipped as names: {_short(lines[0][1])}", stacklevel=2)
    if begin:
        left_out = _short(f"{first[0]}, …, {last[0]}")
        warn(f"{path}: the first column is skipped, which has no name: {left_out}", stacklevel=2)
    elif len(found) > 2 and found.shape[1] > 1 and _counts(found[:, 0]):
        warn(f"{path}: {_doubt('first column', found[:, 0])}", stacklevel=2)
    if not names and found.shape[1] > 2 and len(found) > 1 and _counts(found[0]):
        warn(f"{path}: {_doubt('first line', found[0])}", stacklevel=2)
    if form.separator == "," and all(re.fullmatch(r"\s*[+-]?\d+,\d+\s*", line) for _, line in body):
        text = f"{_short(body[0][1])} is read as two numbers; if that is a decimal comma, write a point"
        warn(f"{path}, line {body[0][0]}: {text}", stacklevel=2)
    return found[:, 0] if found.shape[1] == 1 else found


def as_csv(matrix: Array) -> bytes:
    """The lines of a .csv file for a matrix, with as many digits as it takes to read the same numbers again."""
    digits = {2: 5, 4: 9, 8: 17}[matrix.dtype.itemsize]
    line = ",".join([f"%.{digits}g"] * matrix.shape[1]) + "\n"
    return "".join(line % tuple(row) for row in matrix.tolist()).encode()


def _decoded(path: str | os.PathLike[str]) -> io.StringIO:
    """The text of a file, in UTF-8, in UTF-16 with a mark, or else in Latin-1."""
    with open_input(path) as file:
        data = file.read()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return io.StringIO(data.decode("utf-16"), None)
    if b"\0" in data:
        raise FileError(f"{path} is not a text file: its byte {data.index(0)} is zero")
    try:
        return io.StringIO(data.decode("utf-8-sig"), None)
    except UnicodeDecodeError:
        return io.StringIO(data.decode("latin-1"), None)


def _has_content(line: str) -> bool:
    line = line.strip()
    return bool(line) and not line.startswith(COMMENTS)


def _content(line: str) -> str:
    """A line without its end, and without a comment after numbers."""
    commented = _COMMENTED.fullmatch(line)
    return commented[1].strip() if commented else line.strip("\r\n ")


def _form_of(lines: list[str], separators: tuple[str | None, ...]) -> _Form:
    """The form of the numbers in these lines, the first ones of a file. The very first may have names instead."""
    lines = lines[1:] or lines
    forms = [_Form(separator, ".") for separator in separators]
    forms += [_Form(separator, ",") for separator in separators if separator != ","]
    for named in (False, True):
        for form in forms:
            if all(form.fits(line, named) for line in lines):
                return form
    # There is something else than numbers. The error will say where.
    return next((form for form in forms if form.separator and all(form.separator in line for line in lines)), forms[-1])


def _has_names(form: _Form, line: str, following: str) -> bool:
    """Whether a line has names of columns, and not numbers. Some programs number columns that have no names."""
    cells = form.cells(line)
    if not any(one.is_number(cell) or _is_complex(cell) for one in (form, *_MARKS) for cell in cells):
        return any(cells)
    named = cells[int(cells[0] == "") :]
    other = not any(cell.isdigit() for cell in form.cells(following)[-len(named) :])
    return len(named) > 1 and named == list(map(str, range(len(named)))) and (len(named) < len(cells) or other)


def _numbers(path: str | os.PathLike[str], lines: list[tuple[int, str]], form: _Form, columns: slice) -> Array:
    """The numbers in these columns of all lines, as a matrix. The cells of other columns are not looked at."""
    numbers, length = array("d"), columns.stop
    for number, line in lines:
        cells = form.cells(line)
        if len(cells) == length + 1 and cells[-1] == "":
            cells.pop()
        if len(cells) != length:
            raise FileError(
                f"{path}, line {number} has {len(cells)} columns, and line {lines[0][0]} has {length} (separated by "
                f"{SEPARATORS[form.separator]}); expected as many in each line"
            )
        try:
            numbers.extend(map(form.number, cells[columns]))
        except ValueError:
            column = next(at for at in range(columns.start, length) if not form.is_number(cells[at]))
            raise FileError(f"{path}, line {number}, column {column + 1} {_fault(cells[column], form)}") from None
    return np.asarray(numbers).reshape(len(lines), -1)


def _fault(cell: str, form: _Form) -> str:
    """What is wrong with a cell that has no number."""
    if not cell:
        return "is empty; expected a number"
    if _is_complex(cell):
        return f"is {_short(cell)}: {COMPLEX}"
    others = {",": "commas", ".": "points"}[form.mark]
    hint = f"; others have decimal {others}" if any(one.is_number(cell) for one in _MARKS) else ""
    return f"is {_short(cell)}; expected a number{hint}. One line of names may come first; begin others with #"


def _is_complex(cell: str) -> bool:
    """Whether a cell has a complex number, as Python, NumPy or MATLAB write it."""
    cell = cell.strip("()").replace("+-", "-")
    try:
        return cell[-1:] in ("i", "j") and complex(cell[:-1] + "j") is not None
    except ValueError:
        return False


def _counts(values: Array) -> bool:
    """Whether values count from 0 or 1."""
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all())


def _doubt(what: str, values: Array) -> str:
    return (
        f"the {what} counts {values[0]:g}, {values[1]:g}, {values[2]:g}, … and is read as data; if it is not, remove it"
    )


def _short(text: str) -> str:
    """A text for messages."""
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
