"""What is done to streams, drawn as data before a backend is touched.

Few runs, few readers and little room: most programs trim, reconnect at what is gone, and clean up under readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from hypothesis import strategies as st

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
            the run ever had, counted from its newest; ``start``: the place before the first event of its *number*-th
            newest stream; ``beyond``: *number* places after the tail; ``foreign``: the newest id with an epoch that is
            *number* higher.
        number: From 0 on.
        text: What a malformed cursor is.
    """

    kind: Literal["none", "zero", "malformed", "known", "start", "beyond", "foreign"]
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Put reader number *reader* in place of the one that was there, on a run through instance *via*."""

    reader: int
    run: str
    cursor: Cursor
    via: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Leave, and subscribe again through instance *via* with the last id that the reader knows."""

    reader: int
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
_instances = st.integers(0, 1)
_runs = st.sampled_from((RUNS[0], RUNS[0], RUNS[0], *RUNS[1:]))
_readers = st.integers(0, READERS - 1)


def cursors() -> st.SearchStrategy[Cursor]:
    """Draw cursors, most of them ids that the run had once."""
    return st.one_of(
        st.just(Cursor("none")),
        st.builds(Cursor, st.just("known"), st.integers(0, 12)),
        st.builds(Cursor, st.just("known"), st.integers(0, 2)),
        st.builds(Cursor, st.just("start"), st.integers(0, 1)),
        st.one_of(
            st.just(Cursor("zero")),
            st.builds(Cursor, st.just("malformed"), st.just(0), st.sampled_from(MALFORMED)),
            st.builds(Cursor, st.just("beyond"), st.integers(1, 3)),
            st.builds(Cursor, st.just("foreign"), st.integers(1, 2)),
        ),
    )


def _events(most: int) -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    data = st.one_of(st.integers(0, 9), st.sampled_from(["", "x" * 8, "x" * 30, None, {"a": [1.0]}]))
    return st.lists(st.tuples(st.sampled_from(NAMES), data), min_size=1, max_size=most).map(tuple)


def _steps(max_events: int, timed: bool) -> st.SearchStrategy[Step]:
    delays = st.sampled_from((0.0, 0.0, 0.433, 1.871)) if timed else st.just(0.0)
    publish = st.one_of(
        st.builds(Publish, _runs, _events(5), st.just(False), _instances),
        st.builds(Publish, _runs, _events(max_events), st.just(True), _instances),
    )
    read = st.builds(ReadItems, _readers, st.integers(1, 6))
    subscribe = st.builds(Subscribe, _readers, _runs, cursors(), _instances)
    rare: list[st.SearchStrategy[Step]] = [
        st.builds(End, _runs, _instances),
        st.builds(CleanUp, _runs, delays, _instances),
        st.builds(CleanUp, _runs, delays, _instances),
    ]
    if timed:
        rare += [st.builds(Pass, st.sampled_from((0.7, 1.1))), st.just(Pass(0, long=True))]
    return st.one_of(
        publish, publish, read, read, subscribe, st.builds(Reconnect, _readers, _instances), st.one_of(rare)
    )


def stream_programs(*, timed: bool, max_steps: int = 24) -> st.SearchStrategy[StreamProgram]:
    """Draw programs that begin with a publication and a subscriber.

    Args:
        timed: Whether there are delays and waits among the steps, for benches whose time is virtual.
        max_steps: How long programs are.
    """

    def programs(max_events: int) -> st.SearchStrategy[StreamProgram]:
        first = st.tuples(
            st.builds(Publish, st.just(RUNS[0]), _events(4), st.just(False), _instances),
            st.builds(Subscribe, st.just(0), st.just(RUNS[0]), cursors(), _instances),
            st.builds(ReadItems, st.just(0), st.integers(1, 3)),
        )
        steps = st.tuples(first, st.lists(_steps(max_events, timed), max_size=max_steps))
        return st.builds(
            StreamProgram,
            st.just(max_events),
            st.sampled_from((2**25, 2**25, 40)),
            st.sampled_from((1, 3, 1024)),
            steps.map(lambda drawn: (*drawn[0], *drawn[1])),
        )

    return st.sampled_from((1, 2, 3, 4, 8)).flatmap(programs)
