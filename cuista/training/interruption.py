"""Interruption by signals, which wait until the current step is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

# Windows has only the first two.
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Hold back signals that end a run until the loop asks for them, so that they never interrupt a step halfway.

    They are SIGINT, SIGTERM and SIGHUP, and SIGUSR1 and SIGUSR2, one of which batch systems send some time before they
    end a job.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:  # the second signal takes effect at once
            raise KeyboardInterrupt
        received.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    previous = {
        number: signal.signal(number, receive)
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name))
        if signal.getsignal(number) != signal.SIG_IGN  # ignored in a background job
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
