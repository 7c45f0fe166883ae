"""What several clients called, when, and what came of it: the material that the checkers of histories judge.

All is recorded by the check itself, also what happens through another process, so one clock orders everything. A call
took effect at some moment between its start and its end. Of one that was cancelled, whose process died, or whose error
says that it may have been written, nobody knows whether it did: it is a *maybe*, and may take effect at any moment
from its start on, even after later calls, or never.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from deerflow_backends.errors import BackendUnavailable, Conflict, Corrupt, InvalidArgument, StreamEnded
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent, StreamGap, StreamItem
from deerflow_conformance.checks import Unkept
from deerflow_conformance.promises import Capability
from deerflow_conformance.protocols import PROTOCOLS, coroutines_of
from deerflow_conformance.replicas import ReplicaDied

T = TypeVar("T")

#: Errors after which the contract says that nothing was done.
_NOTHING_DONE: Final = (InvalidArgument, Conflict, StreamEnded, Corrupt)
#: As wide as a line of a timeline gets.
_WIDTH: Final = 120


class Impossible(Unkept):
    """A history that no backend can have which keeps its promises.

    Attributes:
        timeline: The calls that show it, in the order of their starts.
    """

    def __init__(self, wanted: Any, got: Any, timeline: str) -> None:
        super().__init__(wanted, got)
        self.timeline = timeline


class Outcome(enum.Enum):
    """What a call came to."""

    RETURNED = "returned"
    REFUSED = "refused"  # it raised, and certainly did nothing
    MAYBE = "maybe"


def outcome_of(error: BaseException) -> Outcome:
    """Say what a call that raised *error* came to; whatever the contract does not call harmless is a maybe."""
    if isinstance(error, BackendUnavailable):
        return Outcome.MAYBE if error.maybe_written else Outcome.REFUSED
    return Outcome.REFUSED if isinstance(error, _NOTHING_DONE) else Outcome.MAYBE


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call.

    Attributes:
        client: Who called.
        name: The method's name.
        arguments: What it was given, by name; what was left out is not there.
        started: Before it began, in seconds of the history's clock. No two moments of a history are equal.
        ended: After it had ended; infinite while it has not.
        outcome: What it came to.
        value: What it returned or raised; None while it has not ended.
    """

    client: str
    name: str
    arguments: Mapping[str, Any]
    started: float
    ended: float = math.inf
    outcome: Outcome = Outcome.MAYBE
    value: Any = None

    @property
    def latest(self) -> float:
        """The last moment at which it may have taken effect: of a maybe there is none."""
        return math.inf if self.outcome is Outcome.MAYBE else self.ended

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={brief(value)}' for name, value in self.arguments.items())})"

    @property
    def result(self) -> str:
        """What came of it, in short."""
        if math.isinf(self.ended):
            return "(not over yet)"
        return f"maybe: {brief(self.value)}" if self.outcome is Outcome.MAYBE else brief(self.value)


@dataclass(slots=True, eq=False)
class Subscription:
    """One iterator that ``subscribe`` gave, from its first ``__anext__`` on. Heartbeats are not kept.

    Attributes:
        client: Who subscribed; one that goes on after a cursor is the same subscriber.
        run_id: To what.
        cursor: The last id that it gave.
        started: Before its first item was asked for, as in `Call`; infinite before that.
        ended: When END or a gap came, or it was over otherwise; infinite before that.
        items: What came, and after which moment it was there.
        end: How it ended: by itself, by the client's leaving, by an error, or since its process was killed by the kit;
            *open* if it has not.
    """

    client: str
    run_id: str
    cursor: str | None
    started: float = math.inf
    ended: float = math.inf
    items: list[tuple[float, StreamItem]] = field(default_factory=list)
    end: Literal["open", "exhausted", "left", "raised", "killed"] = "open"

    def __str__(self) -> str:
        cursor = "" if self.cursor is None else f", last_event_id={self.cursor!r}"
        return f"subscribe(run_id={self.run_id!r}{cursor})"

    @property
    def result(self) -> str:
        """What it got, in short: ids in a row as their first and last."""
        shown: list[str] = []
        for row in _rows([item for _, item in self.items]):
            first, last = _shown_item(row[0]), _shown_item(row[-1])
            shown.append(first if len(row) == 1 else f"{first} .. {last}")
        if self.end in {"raised", "killed"} or math.isinf(self.ended):
            shown.append(f"({self.end})")
        return ", ".join(shown) or "nothing"


def _rows(items: list[StreamItem]) -> list[list[StreamItem]]:
    """Put events together that follow each other without a hole."""
    rows: list[list[StreamItem]] = []
    for item in items:
        if rows and isinstance(item, StreamEvent) and isinstance(rows[-1][-1], StreamEvent):
            (epoch, _, seq), (before, _, last) = item.id.partition("-"), rows[-1][-1].id.partition("-")
            if epoch == before and seq.isdecimal() and last.isdecimal() and int(seq) == int(last) + 1:
                rows[-1].append(item)
                continue
        rows.append([item])
    return rows


def _shown_item(item: StreamItem) -> str:
    if item is END_SENTINEL:
        return "END"
    return f"{item.id} {brief(item.data)}" if isinstance(item, StreamEvent) else brief(item)


class History:
    """Collects what clients call on one capability, in one event loop.

    Args:
        capability: Whose methods are called.

    Attributes:
        calls: All calls in the order of their starts; those that have not ended are maybes.
        subscriptions: All subscriptions that were begun, in that order.
    """

    def __init__(self, capability: Capability) -> None:
        self.capability: Capability = capability
        self.calls: list[Call] = []
        self.subscriptions: list[Subscription] = []
        self._last = -math.inf

    def client(self, name: str, opened: Any) -> Any:
        """Return an object with the methods of *opened*, whose calls are recorded as those of the client *name*."""
        return Client(self, name, opened)

    async def call(self, client: str, name: str, arguments: Mapping[str, Any], awaitable: Awaitable[T]) -> T:
        """Record a call that is begun here, by awaiting *awaitable*; return what it returns, raise what it raises."""
        begun = Call(client, name, arguments, self.moment())
        place = len(self.calls)
        self.calls.append(begun)
        try:
            value = await awaitable
        except BaseException as error:
            over = dataclasses.replace(begun, ended=self.moment(), outcome=outcome_of(error), value=error)
            self.calls[place] = over
            raise
        self.calls[place] = dataclasses.replace(begun, ended=self.moment(), outcome=Outcome.RETURNED, value=value)
        return value

    def moment(self) -> float:
        """Return the time by the event loop's clock, and more than every moment before."""
        self._last = max(math.nextafter(self._last, math.inf), asyncio.get_running_loop().time())
        return self._last


class Client:
    """What `History.client` gives: every coroutine method but ``ping`` is recorded, and ``subscribe``."""

    def __init__(self, history: History, name: str, opened: Any) -> None:
        self._history, self._name, self._opened = history, name, opened
        for method in coroutines_of(history.capability):
            if method != "ping":
                setattr(self, method, functools.partial(self._call, method))
        if history.capability == "stream_bridge":
            self.subscribe = self._subscribe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    async def _call(self, method: str, /, *positional: Any, **named: Any) -> Any:
        signature = inspect.signature(getattr(PROTOCOLS[self._history.capability], method))
        _, *arguments = signature.bind(self, *positional, **named).arguments.items()
        awaitable = getattr(self._opened, method)(*positional, **named)
        return await self._history.call(self._name, method, dict(arguments), awaitable)

    def _subscribe(self, run_id: str, *, last_event_id: str | None = None, **named: Any) -> RecordedIterator:
        iterator = self._opened.subscribe(run_id, last_event_id=last_event_id, **named)
        return RecordedIterator(self._history, Subscription(self._name, run_id, last_event_id), iterator)


class RecordedIterator:
    """Gives what a subscription's iterator gives, and records it."""

    def __init__(self, history: History, subscription: Subscription, iterator: AsyncIterator[StreamItem]) -> None:
        self._history, self._subscription, self._iterator = history, subscription, iterator

    def __aiter__(self) -> RecordedIterator:
        return self

    async def __anext__(self) -> StreamItem:
        subscription = self._subscription
        if math.isinf(subscription.started):
            subscription.started = self._history.moment()
            self._history.subscriptions.append(subscription)
        try:
            item = await anext(self._iterator)
        except asyncio.CancelledError:
            raise  # loses nothing: the next one goes on
        except StopAsyncIteration:
            self._over("exhausted")
            raise
        except ReplicaDied:
            self._over("killed")
            raise
        except BaseException:
            self._over("raised")
            raise
        if item is not HEARTBEAT_SENTINEL:
            now = self._history.moment()
            subscription.items.append((now, item))
            if item is END_SENTINEL or isinstance(item, StreamGap):
                subscription.ended = min(subscription.ended, now)
        return item

    async def aclose(self) -> None:
        """Give the subscription back."""
        self._over("left")
        close = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()

    def _over(self, end: Literal["exhausted", "left", "raised", "killed"]) -> None:
        if self._subscription.end == "open":
            self._subscription.end = end
            self._subscription.ended = min(self._subscription.ended, self._history.moment())


# ---------------------------------------------------------------------------------------------------------- timelines


def timeline(history: Iterable[Call | Subscription], limit: int = 30) -> str:
    """Show a history for a reader: who, from when to when in milliseconds, what, and what came of it.

    Args:
        history: In any order; shown by their starts.
        limit: How many are shown, the last ones.

    A maybe has a question mark before its line.
    """
    rows = sorted(history, key=lambda one: one.started)
    if not rows:
        return "(nothing was called)"
    began = rows[0].started
    hidden, rows = rows[:-limit], rows[-limit:]
    width = max(len(one.client) for one in rows)
    lines = [f"({len(hidden)} earlier calls)"] if hidden else []
    for one in rows:
        doubtful = isinstance(one, Call) and one.outcome is Outcome.MAYBE
        times = f"{_milliseconds(one.started - began)} {_milliseconds(one.ended - began)}"
        lines += _cut(f"{'?' if doubtful else ' '} {times}  {one.client:{width}}  ", str(one), one.result)
    return "\n".join(["        from        to  ms", *lines])


def _milliseconds(seconds: float) -> str:
    return "       …  " if math.isinf(seconds) else f"{seconds * 1000:10.3f}"


def _cut(start: str, call: str, result: str) -> list[str]:
    """Put a call and its result in one line, or in two, the second further to the right, where that is too long."""
    line = f"{start}{call} -> {result}"
    if len(line) <= _WIDTH:
        return [line]
    return [_limited(start + call), _limited(f"{'':{len(start)}}  -> {result}")]


def _limited(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def brief(value: Any) -> str:
    """Return the repr of a value, of the contract's own ones without times and without what is None or a default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [
            f"{one.name}={brief(part)}"
            for one in dataclasses.fields(value)
            if (part := getattr(value, one.name)) is not None and not isinstance(part, datetime) and part != one.default
        ]
        return f"{type(value).__name__}({', '.join(kept)})"
    if isinstance(value, enum.Enum):
        return value.name
    if type(value) is list:
        return f"[{', '.join(map(brief, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(brief, value))}{',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return f"{{{', '.join(f'{key!r}: {brief(part)}' for key, part in value.items())}}}"
    return repr(value)
