"""What ties a live object to where it was opened: one event loop, one process, one ``async with``."""

from __future__ import annotations

import asyncio
import os

from deerflow_backends.errors import Closed

#: How often this process was forked off from another: asking for the pid is a system call, and every event checks.
_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603  # a fork is an event of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Binding:
    """Answers one question, before every call: may this object be used here and now?

    Created inside the event loop that the object belongs to.
    """

    __slots__ = ("_forks", "_what", "closed", "loop")

    def __init__(self, what: str) -> None:
        self._what = what
        self.loop = asyncio.get_running_loop()
        self._forks = _forks
        self.closed = False

    def check(self) -> None:
        """Return if the object is open and used by its own event loop and process.

        Raises:
            Closed: It is not; the message says which.
        """
        if self.closed:
            raise Closed(f"{self._what} is closed; use it inside its 'async with' block")
        if _forks != self._forks:
            raise Closed(f"{self._what} was opened in another process; open it after the fork, in the child")
        if asyncio.get_running_loop() is not self.loop:
            raise Closed(f"{self._what} belongs to another event loop; open one for this loop")

    def close(self) -> None:
        """From now on every `check` raises."""
        self.closed = True
