"""What client and server send each other, in the frames of `deerflow_conformance.wire`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

#: How the operation is called that only asks whether the server can read.
PING: Final = "ping"
#: And the one that asks for nothing but an answer, at once.
TICK: Final = "tick"


class Hello(NamedTuple):
    """The client's first message.

    Attributes:
        capability: What it uses.
        namespace: Where.
        options: The capability's.
    """

    capability: str
    namespace: str
    options: Any


class Welcome(NamedTuple):
    """The server's answer to `Hello`: from here on `Changed` tells of everything.

    Attributes:
        now: Its clock, in microseconds since 1970.
    """

    now: int


class Write(NamedTuple):
    """What makes a request that writes one that can be sent again.

    Attributes:
        token: The same each time it is sent.
        until: The last moment at which it may be done, in microseconds since 1970 by the server's clock.
    """

    token: str
    until: int


class Request(NamedTuple):
    """What the server is asked.

    Attributes:
        number: Comes back in the answer; unique on its connection.
        operation: One of those in `operations`.
        arguments: Its arguments, checked by the client.
        write: None if it only reads.
    """

    number: int
    operation: str
    arguments: tuple[Any, ...]
    write: Write | None


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
        number: The request's.
        returned: Whether *value* is what to return; else it is an error to raise.
        value: That.
    """

    number: int
    returned: bool
    value: Any


class Changed(NamedTuple):
    """A run's stream may have changed."""

    run_id: str
