"""What is done to streams, drawn as data before a backend is touched.

Few runs, few readers and little room: most programs trim, reconnect at what is gone, and clean up under readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from hypothesis.strategies import SearchStrategy

from deerflow_conformance.digits import Digits, from_steps

#: Runs whose ids collide in a careless store.
RUNS: Final = ("run", "Run", "run:1")
#: Names among which are those of the sentinels.
NAMES: Final = ("messages", "values", "__end__", "__heartbeat__", "end")

#: Cursors that are no ids (S7).
MALFORMED: Final[tuple[str, ...]] = (
    *("-1", "abc", "", "007-1", "17", "1" * 30, "1" * 30 + "-1", "1-" + "1" * 30, "1" * 20 + "-1", "-", "1-", "-1-1"),
    *("1-01", "00-1", "1-00", "0-00", "1-1-1", "1--1", "+1-1", "1-+1", "1_0-1", "1.0-1", "0x1-1", "1e3-1", "1:1"),
    *(" 1-1", "1-1 ", "1-1\n", "1-1\x00", "\x00", "\t", "1 - 1", "1-*", "$", ">", "+", "*", "None", "null"),
    *(
        "١-١",
        "１-１",
        "1-１",
        "१-1",
        "²-1",
        "①-1",
        "1−1",
        "1‐1",
        "1–1",
        "\U0001f600",
        "\ud800",
        "1-\udfff",
        "a" * 10_000,
    ),
)


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish events, together if *many*, else one after the other, through instance *via*."""

    run: str
    events: tuple[tuple[str, Any], ...]
    many: bool
    via: int


@dataclass(frozen=True, slots=True)
class End:
    """End a run."""

    run: str
    via: int


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Clean a run up after *delay* seconds."""

    run: str
    delay: float
    via: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where to subscribe, to be worked out when the program runs, since ids are known only then.

    Attributes:
        kind: ``none``; ``zero``: the text 0-0; ``malformed``: *text*; ``known``: the id of the *number*-th event that
            the run ever had, counted from its newest on; ``start``: the place before the first event of its
            *number*-th newest stream; ``beyond``: *number* places after the tail; ``foreign``: the newest id with an
            epoch that is *number* higher.
        number: From 0 on.
        text: What a malformed cursor is.
    """

    kind: Literal["none", "zero", "malformed", "known", "start", "beyond", "foreign"]
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Put reader number *reader* in place of the one that was there, and ask it for *read* items."""

    reader: int
    run: str
    cursor: Cursor
    read: int
    via: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Leave, subscribe again with the last id that the reader knows, and ask for *read* items."""

    reader: int
    read: int
    via: int


@dataclass(frozen=True, slots=True)
class ReadItems:
    """Ask a reader for *count* items, fewer if it finishes or has to wait."""

    reader: int
    count: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Let time pass: a little, or (*long*) until everything has expired."""

    seconds: float
    long: bool = False


Step: TypeAlias = Publish | End | CleanUp | Subscribe | Reconnect | ReadItems | Pass


@dataclass(frozen=True, slots=True)
class StreamProgram:
    """What several publishers and readers do, one call after the other.

    Attributes:
        max_events: See `StreamOptions`.
        max_bytes: See `StreamOptions`.
        max_buffered_events: See `StreamOptions`.
        steps: What happens, in order; instance 1 of a step is a replica.
    """

    max_events: int
    max_bytes: int
    max_buffered_events: int
    steps: tuple[Step, ...]


READERS: Final = 3
_VIA: Final = (0, 1)
_RUNS: Final = (RUNS[0], RUNS[0], RUNS[0], *RUNS[1:])
_READERS: Final = (0, 1, 0, 1, *range(READERS))
_DATA: Final[tuple[Any, ...]] = (0, "x" * 8, None, "x" * 30, {"a": [1.0]}, "", 1)
_DELAYS: Final = (0.0, 0.433, 0.0, 1.871)
#: What a step is, by weight; the simplest comes first, since examples are shortened towards it.
_KINDS: Final = (
    *("publish", "publish", "publish", "publish", "publish", "batch", "batch", "read", "read", "read"),
    *("subscribe", "subscribe", "subscribe", "subscribe", "subscribe", "reconnect", "reconnect", "end", "clean up"),
)
_TIMED_KINDS: Final = (*_KINDS, "clean up", "pass", "pass", "pass a ttl")
_CURSORS: Final = (
    *("none", "none", "recent", "recent", "recent", "recent", "recent", "known", "known", "start", "start"),
    *("zero", "malformed", "malformed", "beyond", "foreign"),
)


def _cursor(digits: Digits) -> Cursor:
    kind = digits.pick(_CURSORS)
    match kind:
        case "known":
            return Cursor("known", digits.pick(range(13)))
        case "recent":
            return Cursor("known", digits.pick(range(4)))
        case "start":
            return Cursor("start", digits.pick(range(2)))
        case "zero":
            return Cursor("zero")
        case "malformed":
            return Cursor("malformed", text=digits.pick(MALFORMED))
        case "beyond":
            return Cursor("beyond", digits.pick((1, 2, 3)))
        case "foreign":
            return Cursor("foreign", digits.pick((1, 2)))
    return Cursor("none")


def _events(digits: Digits, most: int) -> tuple[tuple[str, Any], ...]:
    count, name, data = digits.pick(range(1, most + 1)), digits.pick(range(len(NAMES))), digits.pick(range(len(_DATA)))
    return tuple((NAMES[(name + i) % len(NAMES)], _DATA[(data + i) % len(_DATA)]) for i in range(count))


def _step(digits: Digits, max_events: int, *, timed: bool) -> Step:
    kind = digits.pick(_TIMED_KINDS if timed else _KINDS)
    via = digits.pick(_VIA)
    match kind:
        case "read":
            return ReadItems(digits.pick(_READERS), digits.pick((1, 2, 3, 6)))
        case "subscribe":
            reader, run, read = digits.pick(_READERS), digits.pick(_RUNS), digits.pick((1, 2, 0, 5))
            return Subscribe(reader, run, _cursor(digits), read, via)
        case "reconnect":
            return Reconnect(digits.pick(_READERS), digits.pick((1, 2, 0)), via)
        case "end":
            return End(digits.pick(_RUNS), via)
        case "clean up":
            return CleanUp(digits.pick(_RUNS), digits.pick(_DELAYS) if timed else 0.0, via)
        case "pass":
            return Pass(digits.pick((0.7, 1.1)))
        case "pass a ttl":
            return Pass(0.0, long=True)
    run = digits.pick(_RUNS)
    return Publish(run, _events(digits, max_events if kind == "batch" else 5), kind == "batch", via)


def _program(digits: Digits, following: list[Digits], *, timed: bool) -> StreamProgram:
    max_events, max_bytes = digits.pick((4, 8, 8, 3, 2, 1)), digits.pick((2**25, 2**25, 2**25, 40))
    first: tuple[Step, ...] = (
        Publish(RUNS[0], _events(digits, 4), False, 0),
        Subscribe(0, RUNS[0], _cursor(digits), 1, digits.pick(_VIA)),
    )
    steps = (_step(step, max_events, timed=timed) for step in following)
    return StreamProgram(max_events, max_bytes, digits.pick((1024, 1, 3)), (*first, *steps))


def stream_programs(*, timed: bool, max_steps: int = 30) -> SearchStrategy[StreamProgram]:
    """Draw programs that begin with a publication and a subscriber.

    Args:
        timed: Whether there are delays and waits among the steps, for benches whose time is virtual.
        max_steps: How long programs are, besides their beginning.
    """
    return from_steps(partial(_program, timed=timed), least=max_steps // 3, most=max_steps)
