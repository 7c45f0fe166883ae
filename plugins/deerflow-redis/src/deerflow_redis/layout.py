"""Everything this backend owns, by name: keys, channels, and which of them have no expiry.

A key is ``<namespace>:<s|m|t|c>:{<tag>}:<what>``. Only what is between the braces decides a key's place in a cluster, so
all that one script touches has one tag: a run's stream, a user's memory, all threads, all counters. Identifiers in keys
are percent-encoded, since a raw ``}`` would end the tag early; ``!`` stands for None, which no encoded one can be.

========================================= ======= =========== ====================================================
key                                       type    expires     holds
========================================= ======= =========== ====================================================
``<ns>:s:{<run>}:head``                   string  with it     the stream's head, or its trace after a cleanup
``<ns>:s:{<run>}:events``                 stream  with it     the events
``<ns>:s:{<run>}:tokens``                 hash    minutes     what each producer stored last
``<ns>:s:{ends}:ends``                    stream  minutes     runs that ended or were cleaned, for ``tail: xread``
``<ns>:s:{<process>}:unblock``            stream  minutes     ends a blocking XREAD of that process
========================================= ======= =========== ====================================================

Channels of pub/sub are ``<database>:<ns>:s:{<run>}:wake``: pub/sub does not know of databases.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

#: Keys that bear no expiry, after the namespace; every other key of ours must have one.
_PERMANENT: Final = re.compile(
    rb"[a-z][a-z0-9_]*:(?:m:\{[^{}]+\}:|t:\{threads\}:|c:\{counters\}:(?:totals|buckets)\Z)", re.DOTALL
)


def encoded(identifier: str | None) -> bytes:
    """Write an identifier so that it can be part of a key, no two alike."""
    return b"!" if identifier is None else quote(identifier, safe="").encode()


def is_permanent(key: bytes) -> bool:
    """Whether a key of ours is meant to stay until it is removed."""
    return _PERMANENT.match(key) is not None


class StreamKeys:
    """The keys and the channel of each run of a namespace."""

    def __init__(self, namespace: str, database: int) -> None:
        self._prefix = f"{namespace}:s:".encode()
        self._channel_prefix = f"{database}:{namespace}:s:".encode()
        self.ends = self._prefix + b"{ends}:ends"

    def of(self, run_id: str) -> tuple[bytes, bytes, bytes]:
        """Name a run's head, events and tokens."""
        run = b"%b{%b}:" % (self._prefix, encoded(run_id))
        return run + b"head", run + b"events", run + b"tokens"

    def head(self, run_id: str) -> bytes:
        """Name a run's head."""
        return b"%b{%b}:head" % (self._prefix, encoded(run_id))

    def channel(self, run_id: str) -> bytes:
        """Name a run's channel."""
        return b"%b{%b}:wake" % (self._channel_prefix, encoded(run_id))

    def probe(self, process: str) -> bytes:
        """Name the channel on which a process hears of itself; as a key it never exists."""
        return b"%b{%b}:probe" % (self._channel_prefix, process.encode())

    def unblock(self, process: str) -> bytes:
        """Name the stream that ends a blocking read of a process."""
        return b"%b{%b}:unblock" % (self._prefix, process.encode())
