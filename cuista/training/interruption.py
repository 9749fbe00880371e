"""Interruption: signals that wait until a step is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait until the loop asks, so that neither ever meets a half-made step."""
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:  # a second one means now
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {
        number: signal.signal(number, receive)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) != signal.SIG_IGN  # as for a job in the background
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
