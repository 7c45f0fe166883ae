"""What is common to every kind of call that writes: what it does once, for calls of which nobody may hear the end.

Each write is made under a name of its own, so what it did is told apart from what all others do, however they mix.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

#: In place of the answer of a call that nobody heard.
UNHEARD: Final = object()

#: Makes a call on an object, under a name.
Action: TypeAlias = Callable[[Any, str], Awaitable[Any]]


async def _nothing(_opened: Any, _name: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Write:
    """One kind of call that writes.

    Attributes:
        name: What it is, for messages.
        call: Make it, under a name that nobody used before.
        once: Whether it is what lies between two states of that name, and its answer, if one was heard, says so:
            called with the name, the state before, the state afterwards, and the answer or `UNHEARD`.
        prepare: What is there before, written by somebody else.
        later: What somebody else writes afterwards: were the write done then, or once more, it would show.
    """

    name: str
    call: Action
    once: Callable[[str, Any, Any, Any], bool]
    prepare: Action = _nothing
    later: Action = _nothing


@dataclass(frozen=True, slots=True)
class Writes:
    """All kinds of one capability.

    Attributes:
        state: Everything that is kept under a name; the same until somebody writes.
        kinds: Each of them.
    """

    state: Action
    kinds: tuple[Write, ...]


def marked(name: str, number: int = 0) -> Any:
    """Return a value that tells which write it is of."""
    return {"marker": name, "n": number}
