"""The hub where wake-ups get lost, and where a server forgets what it had acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends import hub as hub_module
from deerflow_backends.binding import Binding
from deerflow_backends.cursors import Entry, EventId, Head, Read
from deerflow_backends.errors import BackendUnavailable
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
    """One run's events on a server that may lose its last ones; it knows them by ids in a higher epoch afterwards."""

    def __init__(self) -> None:
        self.events: list[Entry] = []
        self.epoch = 7
        self.ended = False
        self.unavailable = False
        self.looks: list[list[str]] = []

    def head(self) -> Head | None:
        if not self.events and not self.ended:
            return None
        latest = self.events[-1].id if self.events else EventId(7, 0)
        return Head(7, latest, self.events[0].id if self.events else None, ended=self.ended)

    def publish(self, count: int) -> list[Entry]:
        start = len(self.events) + 1
        new = [
            Entry(EventId(self.epoch, seq), "e", b"[%d,%d]" % (self.epoch, seq)) for seq in range(start, start + count)
        ]
        self.events += new
        return new

    def lose(self, count: int) -> None:
        """Restart without the last events; the first stays, or the stream would be another one."""
        del self.events[max(1, len(self.events) - count) :]
        self.epoch += 1

    async def read(self, run_id: str, after: int, limit: int, max_bytes: int) -> Read:
        await asyncio.sleep(0)
        return Read(self.head(), tuple(self.events[after:][:limit]))

    async def look(self, run_ids: Sequence[str]) -> list[Head | None]:
        self.looks.append(list(run_ids))
        if self.unavailable:
            raise BackendUnavailable("away")
        return [self.head() if run_id == RUN else None for run_id in run_ids]


def in_hub(body: Callable[[Hub, Store], Awaitable[None]], forget: Callable[[str], None] | None = None) -> None:
    async def run() -> None:
        store, binding = Store(), Binding("the hub under test")
        hub = Hub(binding, store.read, StreamOptions(max_buffered_events=4), look=store.look, forget=forget)
        async with asyncio.timeout(30):
            await body(hub, store)
        binding.close()
        await hub.close()
        assert len(asyncio.all_tasks()) == 1, "the hub left a task behind"

    asyncio.run(run())


async def collect(hub: Hub) -> list[StreamItem]:
    subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=0.02)
    return [item async for item in subscription if item is not HEARTBEAT_SENTINEL]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["feed", "wake", "lost"]), st.integers(0, 6)),
        min_size=1,
        max_size=12,
    )
)
def test_what_a_server_lost_is_a_gap_to_whoever_had_it(steps: list[tuple[int, int, str, int]]) -> None:
    """Acknowledged events may be lost, and their numbers given to others: nobody mixes the two histories (S2, S16)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish(1)
        readers = [asyncio.create_task(collect(hub))]
        for lost, count, hint, turns in steps:
            if lost:
                store.lose(lost)
            entries = store.publish(count)
            head = store.head()
            assert head is not None
            if hint == "feed":
                hub.feed(RUN, head, entries)
            elif hint == "wake":
                hub.wake(RUN)
            for _ in range(turns):
                await asyncio.sleep(0)
            readers.append(asyncio.create_task(collect(hub)))
        store.ended = True
        hub.wake(RUN)
        final = [str(entry.id) for entry in store.events]
        for items in await asyncio.gather(*readers):
            ids = [item.id for item in items if isinstance(item, StreamEvent) and item is not END_SENTINEL]
            if items[-1] is END_SENTINEL:
                assert ids == final, "who reads to the end has what is there, and nothing else"
            else:
                assert isinstance(items[-1], StreamGap)
                assert items[-1].requested_event_id == ids[-1]
                assert ids[-1] not in final, "who gets a gap had something that is lost"

    in_hub(body)


@pytest.fixture
def quick_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_ROUND_SECONDS", 0.2)
    monkeypatch.setattr(hub_module, "_STEP_SECONDS", 0.02)


@pytest.mark.usefixtures("quick_rounds")
def test_a_lost_wake_up_is_made_up_for() -> None:
    """Events and END reach subscribers although no hint of them ever came (S14)."""

    async def body(hub: Hub, store: Store) -> None:
        reader = asyncio.create_task(collect(hub))
        await asyncio.sleep(0.05)
        store.publish(2)
        await asyncio.sleep(0.05)
        store.ended = True
        assert [item.id for item in await reader if isinstance(item, StreamEvent)] == ["7-1", "7-2", ""]

    in_hub(body)


@pytest.mark.usefixtures("quick_rounds")
def test_a_lost_word_of_disappearance_is_made_up_for() -> None:
    """Who was given something learns that its stream is gone although nobody said so (S14)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish(1)
        subscription = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5)
        await anext(subscription)
        waiting = asyncio.ensure_future(anext(subscription))
        await asyncio.sleep(0.05)
        store.events.clear()
        assert await waiting == StreamGap("7-1", None, None)

    in_hub(body)


@pytest.mark.usefixtures("quick_rounds")
def test_a_store_that_cannot_be_looked_at_is_looked_at_again() -> None:
    """An outage ends neither the looking around nor a subscription."""

    async def body(hub: Hub, store: Store) -> None:
        reader = asyncio.create_task(collect(hub))
        await asyncio.sleep(0.05)
        store.unavailable = True
        while len(store.looks) < 3:
            await asyncio.sleep(0.01)
        store.publish(1)
        store.ended, store.unavailable = True, False
        assert [item.id for item in await reader if isinstance(item, StreamEvent)] == ["7-1", ""]

    in_hub(body)


@pytest.mark.usefixtures("quick_rounds")
def test_every_watched_run_is_looked_at_in_a_round() -> None:
    """However many runs are watched, each has its turn, and a few at a time."""

    async def body(hub: Hub, store: Store) -> None:
        subscriptions = [
            hub.subscribe(f"run {number}", last_event_id=None, heartbeat_interval=5) for number in range(100)
        ]
        waiting = [asyncio.ensure_future(anext(subscription)) for subscription in subscriptions]
        while len({run_id for run_ids in store.looks for run_id in run_ids}) < 100:
            await asyncio.sleep(0.01)
        assert max(map(len, store.looks)) <= 11
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        looks = len(store.looks)
        for subscription in subscriptions:
            await subscription.aclose()
        await asyncio.sleep(0.1)
        assert len(store.looks) <= looks + 1, "nobody looks at runs that nobody watches"

    in_hub(body)


@pytest.mark.usefixtures("quick_rounds")
def test_a_round_does_not_get_longer_as_runs_go() -> None:
    """Though each run that was looked at goes away, the last of many has its turn within a round (S14)."""

    async def body(hub: Hub, store: Store) -> None:
        subscriptions = {
            f"run {number}": hub.subscribe(f"run {number}", last_event_id=None, heartbeat_interval=5)
            for number in range(200)
        }
        waiting = [asyncio.ensure_future(anext(one)) for one in subscriptions.values()]
        steps = 0
        while subscriptions:
            await asyncio.sleep(0.001)
            for run_ids in store.looks[steps:]:
                for run_id in run_ids:
                    await subscriptions.pop(run_id).aclose()
            steps = len(store.looks)
        assert steps <= 10
        await asyncio.gather(*waiting, return_exceptions=True)

    in_hub(body)


def test_who_forgets_runs_is_told() -> None:
    """A backend hears once of each run whose last subscriber has left."""
    forgotten: list[str] = []

    async def body(hub: Hub, store: Store) -> None:
        store.publish(1)
        first, second = (hub.subscribe(RUN, last_event_id=None, heartbeat_interval=5) for _ in range(2))
        await anext(first)
        await anext(second)
        await first.aclose()
        assert forgotten == []
        await second.aclose()
        assert forgotten == [RUN]

    in_hub(body, forgotten.append)


def test_what_a_server_lost_is_given_to_nobody_who_comes_later() -> None:
    """Before anything is published in their places lost events are in no ring: who resumes there waits (S3, S6)."""

    async def body(hub: Hub, store: Store) -> None:
        store.publish(1)
        watching = hub.subscribe(RUN, last_event_id=None, heartbeat_interval=0.02)
        await anext(watching)
        reader = asyncio.create_task(collect(hub))
        store.publish(4)
        hub.wake(RUN)
        while await anext(watching) != StreamEvent("7-5", "e", [7, 5]):
            pass
        store.lose(2)
        hub.wake(RUN)
        gap = (await reader)[-1]
        assert gap == StreamGap("7-5", "7-1", "7-3")
        resumed = hub.subscribe(RUN, last_event_id="7-3", heartbeat_interval=0.02)
        assert [await anext(resumed) for _ in range(3)] == [HEARTBEAT_SENTINEL] * 3
        store.publish(1)
        hub.wake(RUN)
        while (item := await anext(resumed)) is HEARTBEAT_SENTINEL:
            pass
        assert item == StreamEvent("8-4", "e", [8, 4])

    in_hub(body)
