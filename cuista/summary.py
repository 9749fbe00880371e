"""What things say they are: one line, and a small table in a notebook."""

from __future__ import annotations

import html
from abc import abstractmethod
from typing import Any

import numpy as np

from cuista.checks import Array


class Described:
    """Something that says what it is."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What is worth knowing, by what it is about. The texts, joined by commas, make sense without these names."""

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        return printable(f"{type(self).__name__}: {', '.join(filter(None, self.facts().values()))}")

    def __repr__(self) -> str:
        return f"<{self.summary}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align: left'>{html.escape(printable(name))}</th>"
            f"<td style='text-align: left'>{html.escape(printable(text))}</td></tr>"
            for name, text in self.facts().items()
            if text
        )
        return f"<table><caption>{html.escape(type(self).__name__)}</caption>{rows}</table>"


def printable(text: str) -> str:
    """The text in one line, with what cannot be printed as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def span(values: Any, form: str = ".4g") -> str:
    """The range of some numbers: 0.1, or 0.1 to 0.3."""
    values = np.asarray(values)
    least, most = (format(float(value), form) for value in (values.min(), values.max()))
    return least if least == most else f"{least} to {most}"


def size_of(array: Array) -> str:
    """The shape of an array: 250×500."""
    return "×".join(map(str, array.shape))


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun in the singular or plural: 1 filter, 2 filters."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
