"""What the library tells its user: messages in the log `cuista`, and warnings."""

from __future__ import annotations

import logging
import warnings

# Without a handler of the user's, nothing is printed.
LOG = logging.getLogger("cuista")
LOG.addHandler(logging.NullHandler())


class CuistaWarning(UserWarning):
    """A warning of cuista's, which is also in the log."""


def say(text: str) -> None:
    """Log what is being done."""
    LOG.info(text)


def warn(text: str, stacklevel: int = 1) -> None:
    """Log a warning, and issue it as Python does; the log's level and the filters of `warnings` decide what is shown.

    `stacklevel` is 1 for the caller of this function, 2 for its caller, and so on.
    """
    LOG.warning(text)
    warnings.warn(text, CuistaWarning, stacklevel=stacklevel + 1)
