"""SIGTERM, as CI and timeout(1) send it, ends a command as Ctrl-C does: with nothing left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminations() -> Iterator[list[int]]:
    """Have SIGTERM interrupt what runs inside; yield the list that then holds the signal's number.

    Off the main thread, where Python allows no handlers, nothing changes.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        # Not by a signal: where a shell started the command in the background SIGINT is ignored.
        on_interrupt = signal.getsignal(signal.SIGINT)  # in an event loop it is asyncio's, which cancels the main task
        if callable(on_interrupt):
            on_interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, before)
