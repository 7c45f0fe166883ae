"""What ties a live object to where it was opened: one event loop, one process, one ``async with``."""

from __future__ import annotations

import asyncio
import os

from deerflow_backends.errors import Closed


class Binding:
    """Answers one question, before every call: may this object be used here and now?

    Created inside the event loop that the object belongs to.
    """

    __slots__ = ("_pid", "_what", "closed", "loop")

    def __init__(self, what: str) -> None:
        self._what = what
        self.loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self.closed = False

    def check(self) -> None:
        """Return if the object is open and used by its own event loop and process.

        Raises:
            Closed: It is not; the message says which.
        """
        if self.closed:
            raise Closed(f"{self._what} is closed; use it inside its 'async with' block")
        if os.getpid() != self._pid:
            raise Closed(f"{self._what} was opened in another process; open it after the fork, in the child")
        if asyncio.get_running_loop() is not self.loop:
            raise Closed(f"{self._what} belongs to another event loop; open one for this loop")

    def close(self) -> None:
        """From now on every `check` raises."""
        self.closed = True
