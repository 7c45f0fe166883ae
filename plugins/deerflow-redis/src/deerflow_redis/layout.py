"""Everything this backend owns, by name: keys, channels, and which of them have no expiry.

A key is ``<namespace>:<s|m|t|c>:{<tag>}:<what>``. Only what is between the braces decides a key's place in a cluster,
so all that one script touches has one tag: a run's stream, a user's memory, all threads, all counters. Identifiers in
keys
are percent-encoded, since a raw ``}`` would end the tag early; ``!`` stands for None, which no encoded one can be.

========================================= ======= =========== ====================================================
key                                       type    expires     holds
========================================= ======= =========== ====================================================
``<ns>:s:{<run>}:head``                   string  with it     the stream's head, or its trace after a cleanup
``<ns>:s:{<run>}:events``                 stream  with it     the events
``<ns>:s:{<run>}:tokens``                 hash    minutes     what each producer stored last
``<ns>:s:{ends}:ends``                    stream  seconds     runs that ended or were cleaned, for ``tail: xread``
``<ns>:s:{<process>}:unblock``            stream  seconds     ends a blocking XREAD of that process
``<ns>:t:{threads}:thread:<id>``          hash    never       a thread; its id as it is, for it comes last
``<ns>:t:{threads}:ids``                  zset    never       the ids of all threads
``<ns>:t:{threads}:order:<who>:<status>`` zset    never       threads in the order of a listing, ``*`` for all of them
``<ns>:c:{counters}:totals``              hash    never       the sums of all models, ever
``<ns>:c:{counters}:buckets``             zset    with them   the buckets that there are, by their beginnings
``<ns>:c:{counters}:bucket:<beginning>``  hash    yes         the sums of one bucket, until no window reaches it
``<ns>:c:{counters}:changed``             string  an hour     when buckets of the past were changed last
``<ns>:c:{counters}:token:<token>``       string  minutes     that it was counted
``<ns>:m:{<user>}:user``                  hash    never       the user's ``revision`` and ``updated_at``
``<ns>:m:{<user>}:bodies``                hash    never       by part: the body's record
``<ns>:m:{<user>}:facts``                 hash    never       by part, ``/`` and fact id: the fact's record
``<ns>:m:{<user>}:ids``                   zset    never       the fields of the facts, all with the score 0: by id
========================================= ======= =========== ====================================================

Channels of pub/sub are ``<database>:<ns>:s:{<run>}:wake``: pub/sub does not know of databases.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

#: Keys that bear no expiry, after the namespace; every other key of ours must have one.
_PERMANENT: Final = re.compile(
    rb"[a-z][a-z0-9_]*:(?:m:\{[^{}]+\}:(?:user|bodies|facts|ids)\Z|t:\{threads\}:|c:\{counters\}:totals\Z)", re.DOTALL
)


#: A few hundred bytes each.
_REMEMBERED_RUNS: Final = 16_384


def encoded(identifier: str | None) -> bytes:
    """Write an identifier so that it can be part of a key, no two alike."""
    return b"!" if identifier is None else quote(identifier, safe="").encode()


def decoded(text: bytes) -> str | None:
    """Read what `encoded` wrote."""
    return None if text == b"!" else unquote(text.decode(), errors="strict")


def is_permanent(key: bytes) -> bool:
    """Whether a key of ours is meant to stay until it is removed."""
    return _PERMANENT.match(key) is not None


class RunNames(NamedTuple):
    """What a run has at the server.

    Attributes:
        keys: Its head, events and tokens.
        channel: Where its readers are woken.
    """

    keys: tuple[bytes, bytes, bytes]
    channel: bytes

    @property
    def head(self) -> bytes:
        """The key of its head."""
        return self.keys[0]

    @property
    def events(self) -> bytes:
        """The key of its events."""
        return self.keys[1]


class StreamKeys:
    """The keys and the channel of each run of a namespace."""

    def __init__(self, namespace: str, database: int) -> None:
        self._prefix = f"{namespace}:s:".encode()
        self._channel_prefix = f"{database}:{namespace}:s:".encode()
        self.ends = self._prefix + b"{ends}:ends"
        #: ``of(run_id)`` names what a run has; those of late are remembered, since every event needs them.
        self.of = lru_cache(_REMEMBERED_RUNS)(self._of)

    def _of(self, run_id: str) -> RunNames:
        tag = encoded(run_id)
        run = b"%b{%b}:" % (self._prefix, tag)
        return RunNames((run + b"head", run + b"events", run + b"tokens"), b"%b{%b}:wake" % (self._channel_prefix, tag))

    def probe(self, process: str) -> bytes:
        """Name the channel on which a process hears of itself; as a key it never exists."""
        return b"%b{%b}:probe" % (self._channel_prefix, process.encode())

    def unblock(self, process: str) -> bytes:
        """Name the stream that ends a blocking read of a process."""
        return b"%b{%b}:unblock" % (self._prefix, process.encode())


class ThreadKeys:
    """The keys of the threads of a namespace.

    Attributes:
        prefix: What all of them begin with: scripts make the others of it, which are in the same slot.
        ids: The ids of all threads.
        every_order: A glob that matches every listing.
    """

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{namespace}:t:{{threads}}:".encode()
        self.ids = self.prefix + b"ids"
        self.every_order = self.prefix + b"order:*"

    def thread(self, thread_id: str) -> bytes:
        """Name a thread."""
        return self.prefix + b"thread:" + thread_id.encode()

    def order(self, who: bytes, status: bytes) -> bytes:
        """Name the listing of an owner's threads of one status, both encoded or ``*``."""
        return b"%border:%b:%b" % (self.prefix, who, status)


class CounterKeys:
    """The keys of the counters of a namespace."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}:c:{{counters}}:".encode()
        self.totals = self._prefix + b"totals"
        self.buckets = self._prefix + b"buckets"
        self.bucket_prefix = self._prefix + b"bucket:"
        self.changed = self._prefix + b"changed"

    def token(self, token: str) -> bytes:
        """Name what remembers a token; it comes last, so it stands there as it is."""
        return self._prefix + b"token:" + token.encode()


class UserKeys(NamedTuple):
    """The keys of one user's memory, as its scripts take them."""

    user: bytes
    bodies: bytes
    facts: bytes
    ids: bytes


class MemoryKeys:
    """The keys of each user's memory, and the fields in them.

    Attributes:
        every_user: A glob that matches one key of each user.
    """

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}:m:{{".encode()
        self.every_user = self._prefix + b"*}:user"

    def of(self, user_id: str | None) -> UserKeys:
        """Name a user's keys."""
        user = self._prefix + encoded(user_id) + b"}:"
        return UserKeys(user + b"user", user + b"bodies", user + b"facts", user + b"ids")

    def user_of(self, key: bytes) -> str | None:
        """Read the user from a key."""
        return decoded(key[len(self._prefix) : key.rindex(b"}")])

    def part(self, agent_name: str | None) -> bytes:
        """Name a part within its user's keys."""
        return encoded(agent_name)

    def fact(self, key: tuple[str | None, str]) -> bytes:
        """Name a fact within its user's keys; by byte order the facts of a part are together, and by id."""
        agent_name, fact_id = key
        return encoded(agent_name) + b"/" + fact_id.encode()
