"""The errors that cuista raises on purpose. Each message says what was wrong, what was expected and how to go on.

Messages do not mention options of the command line. An error carries the name of the Python parameter that it is about,
and the command line adds the option that this parameter corresponds to.
"""

from __future__ import annotations


class CuistaError(Exception):
    """The base class of cuista's errors. The message is for the user: the command line prints it without a traceback.

    Parameters
    ----------
    message
        What was wrong, what was expected and how to go on.
    option
        The name of the Python parameter that can put it right, such as `overwrite` or `ridge`, or several names.
    """

    def __init__(self, message: str, *, option: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.options = (option,) if isinstance(option, str) else option


class InputError(CuistaError, ValueError):
    """A value or an array is not acceptable."""


class FileError(CuistaError):
    """A file is missing, damaged or of the wrong kind, exists already, or cannot be written."""


class NumericalError(CuistaError, ArithmeticError):
    """A computation has no usable result, for example because a matrix is singular or an iteration diverged."""


class DeviceError(CuistaError):
    """The requested device cannot be used."""


class DivergedError(NumericalError):
    """Training met a NaN, or its loss grew without bound. The message says where the last good parameters are saved."""


class MissingLibraryError(CuistaError):
    """An optional library is needed, but is not installed."""
