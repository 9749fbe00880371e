"""Matrices of numbers in text files (.csv, .txt, .tsv, .dat), as spreadsheets and other programs write them."""

from __future__ import annotations

import csv
import io
import os
import re
from array import array
from dataclasses import dataclass

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError, InputError
from cuista.messages import warn
from cuista.storage.files import open_input

# A text file has no signature, so that its ending says what it is.
ENDINGS = (".csv", ".txt", ".tsv", ".dat")
# How lines begin that are comments.
COMMENTS = ("#", "%")
# A line of numbers with a comment after them.
_COMMENTED = re.compile(r"([-+0-9.,;eEdDijmIJ()\s]*(?:\d|[-+]\s*(?=[ijIJ]))(?:im|[ijIJ])?\)?[,;\s]*)[#%].*", re.DOTALL)
# A number as Fortran writes it in double precision.
_FORTRAN = re.compile(r"([-+]?(?:\d+[.,]?\d*|[.,]\d+))[dD]([-+]?\d+)")
# The imaginary unit as Julia, MATLAB and Python write it, and what comes before it.
UNITS, BEFORE_UNITS = ("im", "i", "j", "I", "J"), (*"0123456789.", "inf", "nan")
# The sign before an imaginary part, with the blanks around it that do not separate columns.
_SIGN = re.compile(r"\s*([-+])\s+(?=(?:[\d.][\d.,eEdD+-]*)?(?:im|[ijIJ])(?![A-Za-z]))")
# A sign, and the real part before it if there is one, where the imaginary part is the unit alone.
_WITHOUT_FACTOR = re.compile(r"(?:.*(?:[\d.]|inf|nan)\s*)?[-+]\s*$", re.IGNORECASE)
# What says in the name of a column that it has the real or the imaginary parts of complex numbers.
_PART = re.compile(r"(?<![A-Za-z])(?:(re|real)|im|imag|imaginary)(?![A-Za-z])", re.IGNORECASE)
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

    def complex_number(self, cell: str) -> complex:
        """The complex number in a cell, such as 1.5-2i, (1.5-2j) or 3-i, or the real one; i alone may be a name.

        Raises ValueError if it has none.
        """
        bare = cell[1:-1] if cell.startswith("(") and cell.endswith(")") else cell
        unit = next((unit for unit in UNITS if bare.endswith(unit)), "")
        if not unit:
            return complex(self.number(cell))
        text = bare.removesuffix(unit).replace("+-", "-")  # NumPy writes +-
        text = _WITHOUT_FACTOR.sub(r"\g<0>1", text)
        if "_" in cell or (self.mark == "," and "." in cell) or not text.lower().endswith(BEFORE_UNITS):
            raise ValueError
        text = text.replace(",", ".") if self.mark == "," else text
        try:
            return complex(f"{text}j")
        except ValueError:
            text = re.sub(r"\s*([-+])\s*", r"\1", _FORTRAN.sub(r"\1e\2", text))
            return complex(f"{text}j")

    def is_number(self, cell: str) -> bool:
        """Whether a cell has a number, real or complex."""
        try:
            self.complex_number(cell)
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


def read_text(path: str | os.PathLike[str], *, pairs: bool = False) -> Array:
    """The numbers of a text file: a matrix (lines, columns), or a vector if each line has one number.

    They are complex if any cell is, such as 1+2i, or if the names of the columns say that neighbouring ones are real
    and imaginary parts, such as Re(y), Im(y), which are then one column. With `pairs`, the caller is going to make such
    pairs by `paired`, and the result is a matrix in any case.

    Columns are separated by commas, semicolons, tabs or blanks; all but the first allow decimal commas. Blank lines are
    skipped, and so are comments: lines that begin with # or %, and what follows one of these after the numbers of a
    line. The first line may have names, and so may the first column if that line has no name for it. A warning says
    which names are skipped. Names of real and imaginary parts may also be in the last comment before the numbers.

    Raises
    ------
    FileError
        If the file is not such a text; the message names the line and the column.
    """
    lines: list[tuple[int, str]] = []
    comment = 0, ""
    for number, line in enumerate(_decoded(path), 1):
        if _has_content(line):
            lines.append((number, _content(line)))
        elif not lines and line.strip():
            comment = number, line.strip().lstrip("#% ")
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
    named = names[int(names[0] == "") :][: end - begin] if names else []
    is_paired = not pairs and (_are_pairs(named) if names else _are_commented_pairs(comment[1], form, end - begin))
    if is_paired is None:
        raise FileError(
            f"{path}, line {lines[0][0]} names real and imaginary parts: {_short(lines[0][1])}; expected nothing but "
            "pairs of neighbouring columns, the real part first. Remove or rename the others"
        )
    if is_paired:
        where, which = lines[0] if names else comment
        if np.iscomplexobj(found):
            raise FileError(f"{path}, line {where} names real and imaginary parts, and columns hold complex numbers")
        found = found.view(np.complex128)
        warn(
            f"{path}: pairs of columns are read as complex numbers, as line {where} says: {_short(which)}", stacklevel=2
        )
    elif names:
        warn(f"{path}: line {lines[0][0]} is skipped as names: {_short(lines[0][1])}", stacklevel=2)
    if begin:
        left_out = _short(f"{first[0]}, …, {last[0]}")
        warn(f"{path}: the first column is skipped, which has no name: {left_out}", stacklevel=2)
    elif len(found) > 2 and found.shape[1] > 1 and not is_paired and _counts(found[:, 0]):
        warn(f"{path}: {_doubt('first column', found[:, 0])}", stacklevel=2)
    if not names and found.shape[1] > 2 and len(found) > 1 and _counts(found[0]):
        warn(f"{path}: {_doubt('first line', found[0])}", stacklevel=2)
    if (
        form.separator == ","
        and not (is_paired or pairs)
        and all(re.fullmatch(r"\s*[+-]?\d+,\d+\s*", line) for _, line in body)
    ):
        text = f"{_short(body[0][1])} is read as two numbers; if that is a decimal comma, write a point"
        warn(f"{path}, line {body[0][0]}: {text}", stacklevel=2)
    return found[:, 0] if found.shape[1] == 1 and not pairs else found


def paired(array: Array, name: str) -> Array:
    """Complex numbers whose real and imaginary parts are neighbours along the last axis, the columns of a matrix.

    If that axis has one such pair, it is left out, so that two columns become a vector.

    Raises
    ------
    InputError
        If the array is complex already, is no matrix, or has an odd number of columns.
    """
    if np.iscomplexobj(array):
        raise InputError(f"{name} is complex as it is, so do not ask for pairs", option="complex_pairs")
    if array.ndim < 2 or array.shape[-1] % 2:
        raise InputError(
            f"{name} has shape {array.shape}; expected an even number of columns, which are pairs of real and "
            "imaginary parts: leave the option out if the numbers are real",
            option="complex_pairs",
        )
    kind = np.complex64 if array.dtype == np.float32 else np.complex128
    found: Array = np.ascontiguousarray(array).view(kind)
    return found[..., 0] if found.shape[-1] == 1 else found


def as_csv(matrix: Array) -> bytes:
    """The lines of a .csv file for a matrix, with as many digits as it takes to read the same numbers again.

    Complex numbers are written like 1.5-2j.
    """
    digits = {2: 5, 4: 9, 8: 17}[matrix.real.dtype.itemsize]
    number = f"%.{digits}g"
    if np.iscomplexobj(matrix):
        number += f"%+.{digits}gj"
    line = ",".join([number] * matrix.shape[1]) + "\n"
    rows = np.ascontiguousarray(matrix).view(matrix.real.dtype).tolist()
    return "".join(line % tuple(row) for row in rows).encode()


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
    """A line without its end, without a comment after numbers, and without blanks around the signs within numbers."""
    commented = _COMMENTED.fullmatch(line) if "#" in line or "%" in line else None
    line = commented[1].strip() if commented else line.strip("\r\n ")
    return _SIGN.sub(r"\1", line) if "+ " in line or "- " in line else line


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
    if not any(one.is_number(cell) for one in (form, *_MARKS) for cell in cells):
        return any(cells)
    named = cells[int(cells[0] == "") :]
    other = not any(cell.isdigit() for cell in form.cells(following)[-len(named) :])
    return len(named) > 1 and named == list(map(str, range(len(named)))) and (len(named) < len(cells) or other)


def _are_pairs(names: list[str]) -> bool | None:
    """Whether these columns are pairs of real and imaginary parts by their names; None if only some of them are."""
    parts = [_part(name) for name in names]
    if {part[0] for part in parts if part} != {True, False}:
        return False
    pairs = zip(parts[::2], parts[1::2], strict=False)
    whole = len(parts) % 2 == 0 and all(a and b and a[0] and not b[0] and a[1] == b[1] for a, b in pairs)
    return whole or None


def _are_commented_pairs(comment: str, form: _Form, columns: int) -> bool:
    """Whether a comment has so many names, which are those of pairs. NumPy writes names of columns so."""
    splits = form.cells(comment), re.split(r"[,;\s]+", comment)
    return any(len(names) == columns and _are_pairs(names) for names in splits)


def _part(name: str) -> tuple[bool, str] | None:
    """Whether the name of a column is that of real parts (or of imaginary ones), and of what; None for another name."""
    found = list(_PART.finditer(name))
    if len(found) != 1:
        return None
    return found[0][1] is not None, (name[: found[0].start()] + name[found[0].end() :]).casefold()


def _numbers(
    path: str | os.PathLike[str], lines: list[tuple[int, str]], form: _Form, columns: slice, as_complex: bool = False
) -> Array:
    """The numbers in these columns of all lines, as a matrix. The cells of other columns are not looked at.

    Where one of them is complex, all are read as complex numbers.
    """
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
            if as_complex:
                for value in map(form.complex_number, cells[columns]):
                    numbers.extend((value.real, value.imag))
            else:
                numbers.extend(map(form.number, cells[columns]))
        except ValueError:
            others = [at for at in range(columns.start, length) if not form.is_number(cells[at])]
            if not others:  # but complex numbers
                return _numbers(path, lines, form, columns, as_complex=True)
            raise FileError(f"{path}, line {number}, column {others[0] + 1} {_fault(cells[others[0]], form)}") from None
    found = np.asarray(numbers).reshape(len(lines), -1)
    return found.view(np.complex128) if as_complex else found


def _fault(cell: str, form: _Form) -> str:
    """What is wrong with a cell that has no number."""
    if not cell:
        return "is empty; expected a number"
    others = {",": "commas", ".": "points"}[form.mark]
    hint = f"; others have decimal {others}" if any(one.is_number(cell) for one in _MARKS) else ""
    return f"is {_short(cell)}; expected a number{hint}. One line of names may come first; begin others with #"


def _counts(values: Array) -> bool:
    """Whether values count from 0 or 1."""
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all())


def _doubt(what: str, values: Array) -> str:
    first = ", ".join(f"{value:g}" for value in values[:3].real)
    return f"the {what} counts {first}, … and is read as data; if it is not, remove it"


def _short(text: str) -> str:
    """A text for messages."""
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
