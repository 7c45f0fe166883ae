"""What is sent to a server, and one attempt to send it."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import hiredis

from deerflow_redis.scripts import Script


def pack(words: tuple[Any, ...]) -> bytes:
    """Write a command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)
    return packed


class Command:
    """What is sent, and what may be done about it.

    Attributes:
        key: One of its keys, which tells the server; None for any.
        write: Whether it may change something.
        repeatable: Whether sending it again after a lost reply does no harm.
        stamped: Whether the first argument of the script is to be the server's incarnation.
        size: About how many bytes it has.
        sent: Whether it ever was, as far as this process knows.
    """

    __slots__ = ("_arguments", "_keys", "_script", "key", "repeatable", "sent", "size", "stamped", "write")

    def __init__(
        self,
        arguments: tuple[Any, ...],
        *,
        script: Script | None = None,
        keys: tuple[bytes, ...] = (),
        write: bool = False,
        repeatable: bool = False,
        stamped: bool = False,
    ) -> None:
        self._arguments, self._script, self._keys = arguments, script, keys
        self.key = keys[0] if keys else None
        self.write, self.repeatable, self.stamped = write, repeatable or not write, stamped
        self.size = sum([len(one) for one in arguments if isinstance(one, bytes)])
        self.sent = False

    def packed(self, incarnation: bytes, *, whole: bool = False) -> bytes:
        """Return what goes over the wire: a script by its name, or *whole*."""
        if self._script is None:
            return pack(self._arguments)
        stamp = (incarnation,) if self.stamped else ()
        what = (b"EVAL", self._script.source) if whole else (b"EVALSHA", self._script.sha)
        return pack((*what, len(self._keys), *self._keys, *stamp, *self._arguments))


class Sending(NamedTuple):
    """One attempt to send a command."""

    command: Command
    whole: bool
    asking: bool
    future: asyncio.Future[Any]

    def take(self, reply: Any) -> None:
        """Hand the reply to whoever waits for it, if anybody does yet."""
        if self.future.done():
            return
        if isinstance(reply, Exception):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)

    def fail(self, error: Exception, cause: BaseException | None) -> None:
        """Say that there is no reply."""
        if not self.future.done():
            one = type(error)(*error.args)
            one.__cause__ = cause
            self.future.set_exception(one)
