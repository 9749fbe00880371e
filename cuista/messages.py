"""What the library tells its user: messages in the log `cuista`, warnings, and the progress of long work."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

# Without a handler of the user's, nothing is printed.
LOG = logging.getLogger("cuista")
LOG.addHandler(logging.NullHandler())

AnyLine = TypeVar("AnyLine", bound="ProgressLine")
_trying: ContextVar[bool] = ContextVar("trying", default=False)
_kept: ContextVar[list[str] | None] = ContextVar("kept", default=None)


class CuistaWarning(UserWarning):
    """A warning of cuista's, which is also in the log."""


def say(text: str) -> None:
    """Log what is being done."""
    LOG.info(text)


def warn(text: str, stacklevel: int = 1) -> None:
    """Log a warning, and issue it as Python does; the log's level and the filters of `warnings` decide what is shown.

    `stacklevel` is 1 for the caller of this function, 2 for its caller, and so on.
    """
    if _trying.get():
        LOG.debug(text)
        return
    kept = _kept.get()
    if kept is not None:
        kept.append(text)
        return
    LOG.warning(text)
    warnings.warn(text, CuistaWarning, stacklevel=stacklevel + 1)


@contextlib.contextmanager
def trying() -> Iterator[None]:
    """Keep warnings and the steps of training about what is only tried in this block for the log's level DEBUG."""
    token = _trying.set(True)
    try:
        yield
    finally:
        _trying.reset(token)


@contextlib.contextmanager
def keeping_warnings() -> Iterator[list[str]]:
    """Keep the warnings of this block in a list, for another process to issue them."""
    kept: list[str] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def step_level() -> int:
    """The level of messages about the steps of training: INFO, or DEBUG for what is only tried."""
    return logging.DEBUG if _trying.get() else logging.INFO


# -- progress ---------------------------------------------------------------------------------------------------------


class TimeLeft:
    """Estimates how long work will still take, as if its rate since the first report were to stay."""

    # The time in seconds before which there is no estimate.
    LEAST = 2.0

    def __init__(self) -> None:
        self._begun: tuple[float, float] | None = None
        self._latest = 0.0

    def left(self, fraction: float) -> float | None:
        """The seconds left when this fraction is done; None while too little is known.

        A fraction smaller than the one before begins new work. The first need not be 0, as in a run that is resumed.
        """
        now = time.monotonic()
        if self._begun is None or fraction < self._latest:
            self._begun = now, fraction
        (then, first), self._latest = self._begun, fraction
        if fraction <= first or now - then < self.LEAST:
            return None
        return (now - then) * (1 - fraction) / (fraction - first)


def duration(seconds: float) -> str:
    """A time for people: 12 s, 3 min, 2 h 5 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


class ProgressLine:
    """The progress of long work: one line that is updated in a notebook or on a terminal, otherwise a line at times.

    It goes to stderr, except in a notebook.
    """

    # The length of the bar, and how many seconds apart updates are: where the line is updated, and otherwise.
    WIDTH = 24
    OFTEN, SELDOM = 0.1, 10.0

    def __init__(self) -> None:
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._display = _notebook_display()
        self._handle: Any = None
        self._shown = time.monotonic()
        self._drawn = False
        self._time = TimeLeft()

    def __enter__(self: AnyLine) -> AnyLine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.erase()

    @property
    def interval(self) -> float:
        """How many seconds apart updates are."""
        return self.OFTEN if self._terminal or self._display else self.SELDOM

    def show(self, fraction: float, text: str) -> None:
        """Show which fraction of the work is done, unless the last update was too recent."""
        left, now = self._time.left(fraction), time.monotonic()
        if now - self._shown >= self.interval:
            self._shown = now
            self.update(fraction, text, left)

    def update(self, fraction: float, text: str, left: float | None) -> None:
        """Show it now, with the seconds left if they are known."""
        text = text if left is None else f"{text}, {duration(left)} left"
        full = round(self.WIDTH * min(max(fraction, 0.0), 1.0))
        bar = f"[{'#' * full}{'.' * (self.WIDTH - full)}] {text}"
        if self._display:
            content = {"text/plain": f"{fraction:4.0%} {bar}"}
            if self._handle is None:
                self._handle = self._display(content, raw=True, display_id=True)
            else:
                self._handle.update(content, raw=True)
        elif self._terminal:
            self.put(f"\r\033[K{bar}")
            self._drawn = True
        else:
            self.put(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {fraction:4.0%} {text}\n")

    def erase(self) -> None:
        """Erase the line from a terminal."""
        if self._drawn:
            self.put("\r\033[K")
            self._drawn = False

    def put(self, text: str) -> None:
        """Write to stderr. If that is closed or full, progress is not shown any more; the work goes on."""
        try:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()
        except (OSError, ValueError):
            sys.stderr = None


def _notebook_display() -> Any:
    """IPython's function that displays something in a notebook; None elsewhere. IPython is not imported for that."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if getattr(shell, "kernel", None) is None:
        return None
    return importlib.import_module("IPython.display").display


@contextlib.contextmanager
def showing(
    progress: Callable[..., None] | bool | None, how: Callable[..., tuple[float, str]]
) -> Iterator[Callable[..., None] | None]:
    """The function to call with the progress of the block's work: the given one, or for True one that shows a line.

    `how` makes of what the function is called with the fraction that is done, and a text.
    """
    if progress is not True:
        yield progress or None
        return
    with ProgressLine() as line:
        yield lambda *at: line.show(*how(*at))
