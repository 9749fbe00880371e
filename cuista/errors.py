"""The errors that cuista raises on purpose. Each message says what was wrong, what was expected and how to go on.

Messages speak of things, not of the command line: an error carries the name of the parameter that it is about, and
the command line says which of its options that is.
"""

from __future__ import annotations


class CuistaError(Exception):
    """The base of them all: its text is for the user, so the command line prints it without a traceback.

    Parameters
    ----------
    message
        The text.
    option
        The name of the parameter by which the caller can put it right, as in Python (`overwrite`, `ridge`), or several.
    """

    def __init__(self, message: str, *, option: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.options = (option,) if isinstance(option, str) else option


class InputError(CuistaError, ValueError):
    """A value or an array is not what it must be."""


class FileError(CuistaError):
    """A file is missing, damaged, of another kind, in the way, or cannot be written."""


class NumericalError(CuistaError, ArithmeticError):
    """A computation has no usable answer: a singular matrix, a diverged iteration."""


class DeviceError(CuistaError):
    """A device was asked for that cannot be used."""


class DivergedError(NumericalError):
    """Training met NaN or ran away. The last good parameters have been saved where the message says."""


class MissingLibraryError(CuistaError):
    """An optional library is needed and not installed."""
