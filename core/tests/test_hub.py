"""The hub: fan-out over hints that may be lost, doubled or late, and reads that may be slow or fail."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends.binding import Binding
from deerflow_backends.cursors import Entry, EventId, Head, Read
from deerflow_backends.errors import BackendUnavailable, Closed, Corrupt, InvalidArgument
from deerflow_backends.hub import Hub
from deerflow_backends.streams import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamEvent,
    StreamGap,
    StreamItem,
    StreamOptions,
)

RUN = "run"


class Store:
    """One run's events. A read looks after `lag` turns of the event loop, and answers after the next of `delays`."""

    def __init__(self) -> None:
        self.events: list[Entry] = []
        self.first = 1
        self.ended = False
        self.vanishes_in: float | None = None
        self.delays: list[int] = []
        self.lag = 0
        self.failures: list[BaseException] = []
        self.reads = 0

    def head(self) -> Head | None:
        if not self.events and not self.ended:
            return None
        earliest = EventId(7, self.first) if self.events else None
        return Head(7, EventId(7, len(self.events)), earliest, ended=self.ended, vanishes_in=self.vanishes_in)

    def publish(self, count: int = 1) -> list[Entry]:
        start = len(self.events) + 1
        new = [Entry(EventId(7, seq), "e", b"%d" % seq) for seq in range(start, start + count)]
        self.events += new
        return new

    async def read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        self.reads += 1
        for _ in range(self.lag):
            await asyncio.sleep(0)  # a late look
        if self.failures:
            raise self.failures.pop(0)
        answer = Read(self.head(), tuple(self.events[max(after, self.first - 1) :][:limit]))
        for _ in range(self.delays.pop(0) if self.delays else 0):
            await asyncio.sleep(0)  # an old answer: things may happen meanwhile
        return answer


def in_hub(
    body: Callable[[Hub, Store], Awaitable[None]],
    options: StreamOptions | None = None,
    clock: Callable[[], int] | None = None,
) -> None:
    async def run() -> None:
        store, binding = Store(), Binding("the hub under test")
        hub = Hub(binding, store.read, options or StreamOptions(), clock)
        async with asyncio.timeout(30):
            await body(hub, store)
        binding.close()
        await hub.close()
        assert len(asyncio.all_tasks()) == 1, "the hub left a task behind"

    asyncio.run(run())


async def collect(hub: Hub, cursor: str | None = None) -> list[StreamItem]:
    """Read to the end, heartbeats left out."""
    subscription = hub.subscribe(RUN, last_event_id=cursor, heartbeat_interval=0.02)
    return [item async for item in subscription if item is not HEARTBEAT_SENTINEL]


def seqs(items: list[StreamItem]) -> list[object]:
    return [item.data if isinstance(item, StreamEvent) and item is not END_SENTINEL else item for item in items]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["feed", "wake", "lost", "twice", "late"])), max_size=15),
    st.lists(st.integers(0, 4), max_size=30),
    st.integers(1, 4),
    st.integers(1, 8),
)
def test_hints_lost_doubled_or_late(
    steps: list[tuple[int, str]], delays: list[int], subscribers: int, buffered: int
) -> None:
    """Whatever happens to the hints, one later hint is enough: every event exactly once, in order, then END (S3)."""

    async def body(hub: Hub, store: Store) -> None:
        store.delays = delays
        readers = []
        late: list[tuple[Head, list[Entry]]] = []
        for i, (count, hint) in enumerate(steps):
            if i % 4 == 0:
                readers += [asyncio.create_task(collect(hub)) for _ in range(subscribers)]
            await asyncio.sleep(0)
            entries = store.publish(count)
            head = store.head()
            assert head is not None
            if hint in {"feed", "twice"}:
                hub.feed(RUN, head, entries)
            if hint in {"wake", "twice"}:
                hub.feed(RUN, head, entries)
                hub.wake(RUN)
            if hint == "late":
                late.append((head, entries))
            elif late:
                hub.feed(RUN, *late.pop())
        await asyncio.sleep(0)
        store.ended = True
        hub.wake(RUN)
        readers.append(asyncio.create_task(collect(hub)))
        expected = [*range(1, len(store.events) + 1), END_SENTINEL]
        for items in await asyncio.gather(*readers):
            assert seqs(items) == expected

    in_hub(body, StreamOptions(max_buffered_events=buffered))


def test_a_read_of_an_earlier_moment_is_no_gap() -> None:
    """A read that is answered late, when the subscriber has got from the ring what was not there yet, ends nothing."""

    async def body(hub: Hub, store: Store) -> None:
        store.delays = [3, 0, 3]
        reader = asyncio.create_task(collect(hub))
        for turns in (0, 5, 5):
            for _ in range(turns):
                await asyncio.sleep(0)
            entries = store.publish()
            hub.feed(RUN, store.head() or Head(7, EventId(7, 0)), entries)
        store.ended = True
        hub.wake(RUN)
        assert seqs(await reader) == [1, 2, 3, END_SENTINEL]

    in_hub(body)


def test_one_read_serves_all_local_subscribers() -> None:
    """After attaching, fed events cost no read, however many subscribers there are (S15)."""

    async def body(hub: Hub, store: Store) -> None:
        readers = [asyncio.create_task(collect(hub)) for _ in range(50)]
        await asyncio.sleep(0.05)
        before = store.reads
        for _ in range(100):
            entries, head = store.publish(), store.head()
            assert head is not None
            hub.feed(RUN, head, entries)
            await asyncio.sleep(0)
        assert store.reads == before
        store.ended = True
        hub.wake(RUN)
        assert all(len(items) == 101 for items in await asyncio.gather(*readers))
        assert store.reads <= before + 1

    in_hub(body)


def test_a_feed_of_a_part_has_the_rest_read() -> None:
    """A feed may hold only the first of the new events: the others arrive without a further hint (S3)."""

    async def body(hub: Hub, store: Store) -> None:
        assert hub.position(RUN) is None
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        store.publish()
        assert seqs([await anext(subscription)]) == [1]
        assert hub.position(RUN) == 1
        entries, head = store.publish(5), store.head()
        assert head is not None
        hub.feed(RUN, head, entries[:2])
        assert seqs([await anext(subscription) for _ in range(5)]) == [*range(2, 7)]
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.05)
        store.publish()
        assert hub.position(RUN) == 6
        hub.wake(RUN)
        assert seqs([await waiting]) == [7]

    in_hub(body)


def test_slow_reader_falls_out_of_the_ring_and_reads_the_store() -> None:
    """A subscriber behind the ring is served from the store, and gets a gap only if that has trimmed (S6, S12)."""

    async def body(hub: Hub, store: Store) -> None:
        slow, overrun = (hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5) for _ in range(2))
        store.publish()
        for subscription in (slow, overrun):
            assert seqs([await anext(subscription)]) == [1]
        for _ in range(20):
            entries, head = store.publish(), store.head()
            assert head is not None
            hub.feed(RUN, head, entries)
        assert seqs([await anext(slow) for _ in range(20)]) == [*range(2, 22)]
        store.first = 15
        store.ended = True
        assert await anext(overrun) == StreamGap("7-1", "7-15", "7-21")
        with pytest.raises(StopAsyncIteration):
            await anext(overrun)

    in_hub(body, StreamOptions(max_buffered_events=3))


def test_outage_heartbeats_then_goes_on() -> None:
    """While the backend is away heartbeats come, and afterwards every event (S9, S16)."""

    async def body(hub: Hub, store: Store) -> None:
        store.failures = [BackendUnavailable("away") for _ in range(4)]
        store.publish(2)
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=0.01)
        items = [await anext(subscription)]
        assert items == [HEARTBEAT_SENTINEL]
        while items[-1] is HEARTBEAT_SENTINEL:
            items.append(await anext(subscription))
        assert seqs([items[-1], await anext(subscription)]) == [1, 2]

    in_hub(body)


def test_a_fault_that_waiting_cannot_mend_is_raised() -> None:
    """Corrupt data is raised to the subscriber, whose iterator then ends (S16)."""

    async def body(hub: Hub, store: Store) -> None:
        store.failures = [Corrupt("unreadable")] * 2
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        with pytest.raises(Corrupt):
            await anext(subscription)
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)
        assert not hub.watched

    in_hub(body)


def test_no_heartbeat_before_the_live_tail_is_known() -> None:
    """What is published after the first item came is delivered, however slow the first read was (S3, S7)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish(3)
        store.lag = 200
        subscription = hub.subscribe(RUN, last_event_id="malformed", heartbeat_interval=1e-6)
        assert await anext(subscription) is HEARTBEAT_SENTINEL
        store.publish()
        hub.wake(RUN)
        item = await anext(subscription)
        while item is HEARTBEAT_SENTINEL:
            item = await anext(subscription)
        assert seqs([item]) == [4]

    in_hub(body)


def test_cancelled_anext_loses_nothing() -> None:
    """A cancelled ``__anext__`` leaves the subscription where it was (G8)."""

    async def body(hub: Hub, store: Store) -> None:
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        for turns in range(6):
            task = asyncio.ensure_future(anext(subscription))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        store.publish(2)
        hub.wake(RUN)
        assert seqs([await anext(subscription), await anext(subscription)]) == [1, 2]

    in_hub(body)


def test_abandoned_subscription_is_forgotten() -> None:
    """Dropping the last reference is as good as ``aclose()``: the run is watched no longer."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        await anext(subscription)
        assert RUN in hub.watched
        del subscription
        gc.collect()
        await asyncio.sleep(0.01)
        assert not hub.watched

    in_hub(body)


def test_closing_ends_every_iterator() -> None:
    """After close a waiting iterator and one that waits later raise Closed (G9)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        waiting, idle = (hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5) for _ in range(2))
        for subscription in (waiting, idle):
            await anext(subscription)
        task = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0.01)
        hub.binding.close()
        await hub.close()
        with pytest.raises(Closed):
            await task
        with pytest.raises(Closed):
            await anext(idle)

    in_hub(body)


@pytest.mark.parametrize(
    "arguments", [{"run_id": ""}, {"heartbeat_interval": 0}, {"heartbeat_interval": float("nan")}, {"last_event_id": 7}]
)
def test_bad_arguments_at_the_first_anext(arguments: dict[str, object]) -> None:
    """What is wrong with the arguments is raised at the first ``__anext__``, nothing is attached (S9)."""

    async def body(hub: Hub, store: Store) -> None:
        good = {"run_id": RUN, "last_event_id": None, "heartbeat_interval": 1.0}
        subscription = hub.subscribe(**{**good, **arguments})  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            await anext(subscription)
        assert not hub.watched

    in_hub(body)


def test_two_tasks_in_one_subscription() -> None:
    """A second task waiting in the same iterator is told so, and the first goes on."""

    async def body(hub: Hub, store: Store) -> None:
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        first = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="already waiting"):
            await anext(subscription)
        store.publish()
        hub.wake(RUN)
        assert seqs([await first]) == [1]

    in_hub(body)


def test_a_late_feed_does_not_undo_the_end() -> None:
    """A head stored before the end that is known here is not taken back over it (S8)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        await anext(subscription)
        await asyncio.sleep(0.01)
        before = store.head()
        store.ended = True
        hub.wake(RUN)
        await asyncio.sleep(0.01)
        assert before is not None
        hub.feed(RUN, before, [])
        assert await anext(subscription) is END_SENTINEL

    in_hub(body)


def test_a_clock_that_jumps_makes_watched_runs_be_read_again() -> None:
    """A host that slept, or a clock set anew, is noticed without waiting for the timers (S14)."""
    ahead = 0

    def clock() -> int:
        return time.monotonic_ns() // 1_000 + ahead

    async def body(hub: Hub, store: Store) -> None:
        nonlocal ahead
        store.publish()
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=30)
        await anext(subscription)
        store.events.clear()  # expired
        ahead = 3_600_000_000
        assert await anext(subscription) == StreamGap("7-1", None, None)

    in_hub(body, clock=clock)


def test_nothing_of_a_dropped_run_lives_on() -> None:
    """The last subscriber may leave at any moment of a read: no timer keeps the run's events (G9)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        store.vanishes_in = 86_400
        for turns in range(8):
            subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
            task = asyncio.ensure_future(anext(subscription))
            for _ in range(turns):
                await asyncio.sleep(0)
            await subscription.aclose()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.01)
            left = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            assert len(left) == 1, "only in_hub's own deadline may be scheduled"

    in_hub(body)


def test_closing_while_another_task_waits() -> None:
    """``aclose()`` ends the wait of another task at once, and nothing is delivered after it."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=3_600)
        await anext(subscription)
        task = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.01)
        await subscription.aclose()
        store.publish()
        hub.wake(RUN)
        with pytest.raises(StopAsyncIteration):
            await task

    in_hub(body)


def test_cancelled_before_the_live_tail_is_known() -> None:
    """Cancelling the first ``__anext__`` does not move the place where subscribing began (S3, S7, G8)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish(3)
        store.lag = 5
        subscription = hub.subscribe(RUN, last_event_id="malformed", heartbeat_interval=5)
        task = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)
        store.publish()
        hub.wake(RUN)
        assert seqs([await anext(subscription)]) == [4]

    in_hub(body)


def test_abandoned_in_an_outage() -> None:
    """An iterator dropped while the backend is away leaves no task that goes on trying."""

    async def body(hub: Hub, store: Store) -> None:
        store.failures = [BackendUnavailable("away") for _ in range(10_000)]
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=0.01)
        assert await anext(subscription) is HEARTBEAT_SENTINEL
        del subscription
        gc.collect()
        await asyncio.sleep(0.01)
        assert len(asyncio.all_tasks()) == 1
        assert hub.unavailable

    in_hub(body)


def test_an_outage_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """However many subscribers try however often, the log tells of an outage once, and of its end (S16)."""

    async def body(hub: Hub, store: Store) -> None:
        store.failures = [BackendUnavailable("away") for _ in range(20)]
        store.publish()
        readers = [hub.subscribe(RUN, last_event_id=None, heartbeat_interval=30) for _ in range(10)]
        await asyncio.gather(*(anext(reader) for reader in readers))

    caplog.set_level("INFO", "deerflow_backends")
    in_hub(body)
    assert [record.message for record in caplog.records] == ["stream_bridge.unavailable", "stream_bridge.available"]


def test_mended_data_is_read_again() -> None:
    """A fault that was raised to some subscribers is not raised to later ones once it is gone."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish()
        idle = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        await anext(idle)
        await asyncio.sleep(0.01)
        store.failures = [Corrupt("unreadable")]
        hub.wake(RUN)
        await asyncio.sleep(0.01)
        later = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        assert seqs([await anext(later)]) == [1]

    in_hub(body)


def test_waiting_for_a_run_costs_few_reads() -> None:
    """A subscriber that waits for a run to begin reads the store once, not at every look of its neighbours."""

    async def body(hub: Hub, store: Store) -> None:
        readers = [asyncio.create_task(collect(hub)) for _ in range(20)]
        await asyncio.sleep(0.05)
        before = store.reads
        for _ in range(10):
            hub.wake(RUN)
            await asyncio.sleep(0.005)
        assert store.reads <= before + 10
        store.ended = True
        hub.wake(RUN)
        await asyncio.gather(*readers)

    in_hub(body)
