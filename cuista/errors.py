"""The errors that cuista raises on purpose. Each message says what was wrong, what was expected, what to do."""


class CuistaError(Exception):
    """Base of them all: its text is written for the user, so the command line prints it without a traceback."""


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
