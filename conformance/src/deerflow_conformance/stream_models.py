"""What streams ought to do, in a few lines, and the interpreter that holds a backend to it.

A program runs one call after the other, so what every reader gets next is known. Not to the last detail: between two
calls of a reader several things happen to its run, and a backend may have noticed any of them in time (it serves a
slow reader from a buffer) or only the last one. So the model keeps the states of a run, and accepts what one of those
since the reader's last item explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from deerflow_backends.codec import encode
from deerflow_backends.errors import StreamEnded
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamBridge,
    StreamEvent,
    StreamGap,
    StreamItem,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import expect, unkept
from deerflow_conformance.programs import same
from deerflow_conformance.stream_programs import (
    CleanUp,
    Cursor,
    End,
    Pass,
    Publish,
    ReadItems,
    Reconnect,
    Step,
    StreamProgram,
    Subscribe,
)
from deerflow_conformance.subscribers import QUIET_SECONDS, Reader

#: Longer than all short waits of a program together; every trace is gone after twice that.
TTL_SECONDS: Final = 40.0
_MAX_LONG_WAITS: Final = 4


@dataclass(eq=False)
class Stream:
    """One stream of a run, from its creation to its trace's end. `first` is the seq of the earliest event retained."""

    epoch: int
    prior: Stream | None
    events: list[StreamEvent] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    first: int = 1
    ended: bool = False
    cleaned: bool = False
    cleanup_at: float | None = None

    @property
    def latest_id(self) -> str:
        """The last id given, ``<epoch>-0`` before the first event."""
        return f"{self.epoch}-{len(self.events)}"


@dataclass(frozen=True)
class State:
    """A run at one moment; *stream* None: no stream and no trace."""

    stream: Stream | None
    first: int = 1
    latest: int = 0
    ended: bool = False
    cleaned: bool = False

    def gap(self, requested: str | None) -> StreamGap:
        """The gap that tells of this state."""
        if self.stream is None:
            return StreamGap(requested, None, None)
        earliest = None if self.cleaned or not self.latest else f"{self.stream.epoch}-{self.first}"
        return StreamGap(requested, earliest, f"{self.stream.epoch}-{self.latest}")


class Run:
    """All streams that a run ever had, and its states in order."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.states: list[State] = [State(None)]
        self._current: Stream | None = None

    @property
    def current(self) -> Stream | None:
        """The stream or trace that is there."""
        return self._current

    @current.setter
    def current(self, stream: Stream | None) -> None:
        self._current = stream
        if stream is not None and stream not in self.streams:
            self.streams.append(stream)

    def note(self) -> None:
        """Remember the state as it is now."""
        stream = self.current
        state = (
            State(None)
            if stream is None
            else State(stream, stream.first, len(stream.events), stream.ended, stream.cleaned)
        )
        if state != self.states[-1]:
            self.states.append(state)

    def settle(self, now: float) -> None:
        """Do what was due by *now*."""
        stream = self.current
        if stream is not None and stream.cleanup_at is not None and stream.cleanup_at <= now:
            stream.cleaned, stream.cleanup_at = True, None
        self.note()

    def expire(self) -> None:
        """Everything is older than its ttl."""
        self.current = None
        self.note()

    def resolve(self, cursor: Cursor) -> str | None:
        """Work out a cursor; one that cannot be (no such event yet) is none."""
        ids = [event.id for stream in self.streams for event in stream.events]
        match cursor.kind:
            case "zero":
                return "0-0"
            case "malformed":
                return cursor.text
            case "known" if ids:
                return ids[-1 - cursor.number % len(ids)]
            case "start" if cursor.number < len(self.streams):
                return f"{self.streams[-1 - cursor.number].epoch}-0"
            case "beyond" if self.streams:
                newest = self.streams[-1]
                return f"{newest.epoch}-{len(newest.events) + cursor.number}"
            case "foreign" if self.streams:
                newest = self.streams[-1]
                return f"{newest.epoch + cursor.number}-{len(newest.events)}"
        return None


class Expectation:
    """What one reader may get next."""

    def __init__(self, run: Run, cursor: str | None, malformed: bool) -> None:
        self.run = run
        self.cursor = None if cursor == "0-0" else cursor
        self.requested = cursor
        self.malformed = malformed
        self.begun = False
        self.finished = False
        self._delivered = False
        self._lost = False  # its cursor was not retained when it began
        self._stream: Stream | None = None  # where it stands, after the event of `_seq`
        self._seq = 0
        self._since = 0  # the first state that it may not have noticed yet
        self._known: tuple[Stream, ...] = ()  # the streams that there were when the reader began

    def begin(self) -> None:
        """The first item is asked for: this is where it subscribes."""
        self.begun = True
        self._since = len(self.run.states) - 1
        self._known = tuple(self.run.streams)
        state = self.run.states[-1]
        stream = state.stream
        if self.cursor is None or (self.malformed and (stream is None or state.cleaned or state.ended)):
            return
        if self.malformed:
            self._stream, self._seq = stream, state.latest
            return
        self._stream = self._find(state)
        self._lost = self._stream is None

    def _find(self, state: State) -> Stream | None:
        """The stream of the state, if the cursor is a place in it that can be continued from."""
        stream, (epoch, _, seq) = state.stream, str(self.cursor).partition("-")
        if stream is None or int(epoch) != stream.epoch:
            return None
        self._seq = int(seq)
        if state.cleaned:
            return stream if self._seq == state.latest else None
        if self._seq == 0:
            return stream if state.first == 1 else None
        return stream if state.first <= self._seq <= state.latest else None

    def items(self) -> list[StreamItem]:
        """All that it may get now; a heartbeat among them if it may have to wait."""
        states = self.run.states[self._since :]
        found = [item for state in states[:-1] for item in self._of(state) if item is not HEARTBEAT_SENTINEL]
        found += self._of(states[-1])
        return [*found, *self._buffered()]

    def got(self, item: StreamItem) -> None:
        """Note what it got."""
        if item is END_SENTINEL or isinstance(item, StreamGap):
            self.finished = True
            if isinstance(item, StreamGap):
                self.requested = item.latest_available_event_id
        elif item is not HEARTBEAT_SENTINEL:
            self._delivered, self.requested = True, item.id
            epoch, _, seq = item.id.partition("-")
            self._stream = next(stream for stream in self.run.streams if stream.epoch == int(epoch))
            self._seq = int(seq)

    def noticed(self, state: int) -> None:
        """Whatever it gets from now on is explained by the state of this number or a later one."""
        self._since = state

    def _of(self, state: State) -> list[StreamItem]:
        if self._lost:
            return [state.gap(self.requested)]
        if self._stream is None:
            return list(self._from_the_start(state))
        if state.stream is self._stream:
            return list(self._following(self._stream, state))
        return list(self._elsewhere(self._stream, state))

    def _from_the_start(self, state: State) -> Iterator[StreamItem]:
        """It waits for a stream, or was given nothing yet of the one that is there."""
        if state.stream is not None and not state.cleaned and state.latest:
            yield state.stream.events[state.first - 1]
        else:
            yield END_SENTINEL if state.ended else HEARTBEAT_SENTINEL

    def _following(self, stream: Stream, state: State) -> Iterator[StreamItem]:
        """Its own stream, or the trace of it, is there."""
        if self._seq == state.latest:
            if state.ended:
                yield END_SENTINEL
            elif state.cleaned and self._delivered:
                yield state.gap(self.requested)
            else:
                yield HEARTBEAT_SENTINEL
        elif state.cleaned and self.malformed and not self._delivered:
            yield from self._from_the_start(state)
        elif state.cleaned or self._seq + 1 < state.first:
            yield state.gap(self.requested)
        elif self._seq < state.latest:
            yield stream.events[self._seq]

    def _elsewhere(self, own: Stream, state: State) -> Iterator[StreamItem]:
        """Its own stream is gone, and maybe another one or its trace is there."""
        if self._delivered:
            yield state.gap(self.requested)
        elif self.malformed:
            yield from self._from_the_start(state)
            yield state.gap(self.requested)
        elif state.stream is None:
            yield state.gap(self.requested)
            yield HEARTBEAT_SENTINEL  # nothing was delivered to it, so it need not learn of it (S14)
        elif self._is_next(state.stream) and not state.cleaned and state.first == 1:
            yield from self._from_the_start(state)  # it waited at the last id, and this is what came next
        else:
            yield state.gap(self.requested)

    def _buffered(self) -> Iterator[StreamItem]:
        """Events that are gone from the store, and may still come out of a buffer."""
        if self._lost:
            return
        if self._stream is not None and (self.begun and self._seq < len(self._stream.events)):
            yield self._stream.events[self._seq]
        if self._delivered:
            return
        # The first event of those that were published while it waited, whichever the backend kept for it.
        for stream in self.run.streams:
            if stream in self._known or stream is self._stream:
                continue
            if self._stream is None or self.malformed:
                yield from stream.events[: stream.first]
            elif self._is_next(stream):
                yield from stream.events[:1]

    def _is_next(self, stream: Stream) -> bool:
        """Whether it waits at the end of the stream that *stream* came in place of."""
        return stream.prior is self._stream is not None and self._seq == len(self._stream.events)


class Interpreter:
    """Runs one program against two instances of a bridge and the model."""

    def __init__(self, bench: Bench, program: StreamProgram, now: Callable[[], float]) -> None:
        self._bench = bench
        self._program = program
        self._now = now
        self._runs: dict[str, Run] = {}
        self._readers: dict[int, tuple[Reader, Expectation]] = {}
        self._long_waits = 0

    async def play(self, instances: tuple[StreamBridge, StreamBridge]) -> None:
        """Do every step; after it, compare the status of the run on both instances with the model."""
        try:
            for step in self._program.steps:
                await self._step(step, instances)
                if not isinstance(step, Subscribe | Reconnect | ReadItems):
                    for run_id in self._runs:
                        await self._compare_status(run_id, instances)
            for number in self._readers:
                await self._read(number, 100)
        finally:
            for reader, _ in self._readers.values():
                await reader.leave()

    def _run(self, run_id: str) -> Run:
        run = self._runs.setdefault(run_id, Run())
        run.settle(self._now())
        return run

    async def _step(self, step: Step, instances: tuple[StreamBridge, StreamBridge]) -> None:
        match step:
            case Publish(run=run_id, events=events, many=True, via=via):
                await self._publish(instances[via], run_id, events, many=True)
            case Publish(run=run_id, events=events, via=via):
                for event in events:
                    await self._publish(instances[via], run_id, (event,), many=False)
            case End(run=run_id, via=via):
                await self._end(instances[via], run_id)
            case CleanUp(run=run_id, delay=delay, via=via):
                await self._clean_up(instances[via], run_id, delay)
            case Subscribe(reader=number, run=run_id, cursor=cursor, read=count, via=via):
                await self._subscribe(instances[via], number, run_id, cursor)
                await self._read(number, count)
            case Reconnect(reader=number, read=count, via=via):
                await self._reconnect(instances[via], number)
                await self._read(number, count)
            case ReadItems(reader=number, count=count):
                await self._read(number, count)
            case Pass(seconds=seconds, long=False):
                await self._bench.sleep(seconds)
            case Pass(long=True):
                await self._wait_for_expiry()

    async def _publish(
        self, bridge: StreamBridge, run_id: str, events: tuple[tuple[str, Any], ...], *, many: bool
    ) -> None:
        run = self._run(run_id)
        stream = run.current
        try:
            ids = await bridge.publish_many(run_id, events) if many else [await bridge.publish(run_id, *events[0])]
        except StreamEnded as error:
            expect(stream is not None and stream.ended, f"publishing to {run_id!r} to succeed", repr(error))
            return
        expect(stream is None or not stream.ended, f"StreamEnded for {run_id!r}", ids)
        stream = run.current = self._stream_of(run, ids[0])
        for (name, data), event_id in zip(events, ids, strict=True):
            wanted = f"{stream.epoch}-{len(stream.events) + 1}"
            expect(event_id == wanted, f"the id {wanted}", event_id)
            stream.events.append(StreamEvent(event_id, name, data))
            stream.sizes.append(len(encode(data)))
        self._trim(stream)
        run.note()

    def _stream_of(self, run: Run, event_id: str) -> Stream:
        """The run's stream, or the new one that this first id belongs to."""
        if run.current is not None and not run.current.cleaned:
            return run.current
        epoch = int(event_id.partition("-")[0])
        older = max((stream.epoch for stream in run.streams), default=-1)
        expect(epoch > older, f"an epoch above {older}, for that stream is over", event_id)
        return Stream(epoch, run.current)

    def _trim(self, stream: Stream) -> None:
        def kept() -> int:
            return len(stream.events) - stream.first + 1

        while kept() > 1 and (
            kept() > self._program.max_events or sum(stream.sizes[stream.first - 1 :]) > self._program.max_bytes
        ):
            stream.first += 1

    async def _end(self, bridge: StreamBridge, run_id: str) -> None:
        run = self._run(run_id)
        await bridge.publish_end(run_id)
        if run.current is None:
            status = await bridge.status(run_id)
            if status is None:
                unkept("an ended, empty stream after publish_end on an unknown run", "no stream")
            stream = self._stream_of(run, status.latest_id)
            expect(status.latest_id == stream.latest_id, "an id <epoch>-0", status.latest_id)
            run.current = stream
        run.current.ended = True
        run.note()

    async def _clean_up(self, bridge: StreamBridge, run_id: str, delay: float) -> None:
        run = self._run(run_id)
        await bridge.cleanup(run_id, delay=delay)
        stream = run.current
        if stream is not None and not stream.cleaned:
            at = self._now() + delay
            stream.cleanup_at = at if stream.cleanup_at is None else min(at, stream.cleanup_at)
        run.settle(self._now())

    async def _subscribe(self, bridge: StreamBridge, number: int, run_id: str, cursor: Cursor) -> None:
        await self._leave(number)
        text = self._run(run_id).resolve(cursor)
        self._put(bridge, number, run_id, text, malformed=cursor.kind == "malformed")

    async def _reconnect(self, bridge: StreamBridge, number: int) -> None:
        if number not in self._readers:
            return
        _, expectation = self._readers[number]
        await self._leave(number)
        run_id = next(name for name, run in self._runs.items() if run is expectation.run)
        text = expectation.requested
        malformed = expectation.malformed and text == expectation.cursor
        self._put(bridge, number, run_id, text, malformed=malformed)

    def _put(self, bridge: StreamBridge, number: int, run_id: str, cursor: str | None, *, malformed: bool) -> None:
        iterator = bridge.subscribe(run_id, last_event_id=cursor, heartbeat_interval=QUIET_SECONDS)
        expectation = Expectation(self._run(run_id), cursor, malformed)
        self._readers[number] = Reader(self._bench, iterator), expectation

    async def _leave(self, number: int) -> None:
        if number in self._readers:
            reader, _ = self._readers.pop(number)
            await reader.leave()

    async def _read(self, number: int, count: int) -> None:
        if number not in self._readers:
            return
        reader, expectation = self._readers[number]
        for _ in range(count):
            if expectation.finished:
                await reader.is_finished()
                return
            if await self._read_item(reader, expectation) is HEARTBEAT_SENTINEL:
                return

    async def _read_item(self, reader: Reader, expectation: Expectation) -> StreamItem:
        expectation.run.settle(self._now())
        if not expectation.begun:
            expectation.begin()
        asked_in = len(expectation.run.states) - 1
        may_wait = any(item is HEARTBEAT_SENTINEL for item in expectation.items())
        item = await (reader.next() if may_wait else reader.item())
        expectation.run.settle(self._now())
        wanted = expectation.items()
        if item is HEARTBEAT_SENTINEL and may_wait:
            expectation.noticed(asked_in)
            return item
        expect(any(_is(item, one) for one in wanted), _one_of(wanted, expectation.requested), item)
        expectation.got(item)
        expectation.noticed(asked_in)
        return item

    async def _wait_for_expiry(self) -> None:
        if self._long_waits < _MAX_LONG_WAITS:
            self._long_waits += 1
            await self._bench.sleep(2 * TTL_SECONDS + 3)
            for run in self._runs.values():
                run.settle(self._now())
                run.expire()

    async def _compare_status(self, run_id: str, instances: tuple[StreamBridge, StreamBridge]) -> None:
        run = self._run(run_id)
        stream = run.current
        wanted = None
        if stream is not None and not stream.cleaned:
            earliest = stream.events[stream.first - 1].id if stream.events else None
            length = len(stream.events) - stream.first + 1 if stream.events else 0
            wanted = (earliest, stream.latest_id, length, stream.ended)
        for bridge in instances:
            status = await bridge.status(run_id)
            got = status and (status.earliest_id, status.latest_id, status.length, status.ended)
            expect(got == wanted, f"status (earliest, latest, length, ended) of {run_id!r} to be {wanted}", got)
            exists = await bridge.stream_exists(run_id)
            expect(exists is (wanted is not None), f"stream_exists({run_id!r}) to be {wanted is not None}", exists)


def _is(item: StreamItem, wanted: StreamItem) -> bool:
    if item is END_SENTINEL or wanted is END_SENTINEL or item is HEARTBEAT_SENTINEL or wanted is HEARTBEAT_SENTINEL:
        return item is wanted
    if isinstance(item, StreamEvent) and isinstance(wanted, StreamEvent):
        return (item.id, item.event) == (wanted.id, wanted.event) and same(item.data, wanted.data)
    return item == wanted


def _one_of(wanted: list[StreamItem], requested: str | None) -> str:
    different = list(dict.fromkeys(map(repr, wanted)))
    return f"after {requested!r} {' or '.join(different)}"


async def hold_to_the_model(bench: Bench, program: StreamProgram) -> None:
    """Run *program* in a fresh space and hold every answer to the model."""
    space = bench.space(
        max_events=program.max_events,
        max_bytes=program.max_bytes,
        max_buffered_events=program.max_buffered_events,
        ttl_seconds=TTL_SECONDS if bench.virtual else 86_400.0,
    )
    async with AsyncExitStack() as stack:
        instances = (
            await stack.enter_async_context(bench.open(space)),
            await stack.enter_async_context(bench.replica(space)),
        )
        await Interpreter(bench, program, lambda: space.clock() / 1_000_000).play(instances)
