"""The measures that checks of level load go by: they count what they say, and see what they are there to see."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from deerflow_backends.streams import END_SENTINEL, StreamEvent, StreamGap, StreamItem
from deerflow_conformance import load
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import CouldNotRun, Unkept
from deerflow_conformance.conformances import Conformance
from deerflow_conformance.crowds import crowd
from deerflow_conformance.load import together
from deerflow_conformance.meters import Held, Meter, held, memory_blocks, metered
from deerflow_conformance.reference import REFERENCE
from deerflow_conformance.spaces import Space


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(REFERENCE[0])
    yield bench
    bench.close()


def meter(bench: Bench, *readings: int, unit: str = "round trips") -> Meter:
    """A meter that reads these figures, one after the other."""
    return Meter(bench.space(), unit, iter(readings).__next__)


# ------------------------------------------------------------------------------------------------------- meters


def test_a_call_costs_the_least_of_three(bench: Bench) -> None:
    """What goes on by itself during one of the three calls is not taken for its cost."""
    calls: list[int] = []

    async def call() -> None:
        calls.append(1)

    async def body() -> None:
        assert await meter(bench, 0, 5, 5, 8, 10, 90).cost(call) == 3

    bench.run(body)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("few", "many", "aside", "same"),
    [(2, 4, None, True), (2, 5, None, False), (100, 151, None, True), (100, 152, None, False), (4, 26, 20, True)],
)
def test_the_same_is_half_as_much_again_and_what_goes_on_aside(
    bench: Bench, few: int, many: int, aside: int | None, same: bool
) -> None:
    """Round trips may be one and a half times those for few, and a handful: a hundredfold never passes."""
    if same:
        meter(bench).expect_same("a page", few, many, aside=aside)
        return
    with pytest.raises(Unkept, match=rf"wanted a page in about {few} round trips, as for few, got {many}"):
        meter(bench).expect_same("a page", few, many, aside=aside)


def test_steps_of_work_have_room_for_a_sweep(bench: Bench) -> None:
    """A page that takes ten steps may take forty-five, not one more."""
    meter(bench, unit="steps of work").expect_same("a page", 10, 45)
    with pytest.raises(Unkept):
        meter(bench, unit="steps of work").expect_same("a page", 10, 46)


def test_within_a_process_work_is_counted(bench: Bench) -> None:
    """Where there is no network a meter counts steps of work, in the very space that was asked for."""

    async def body() -> None:
        space = bench.space()
        async with metered(bench, space) as opened:
            assert (opened.space, opened.unit) == (space, "steps of work")
            assert 10 <= await opened.cost(lambda: loop(10)) < 100
            assert await opened.cost(lambda: loop(1_000)) >= 1_000

    async def loop(count: int) -> None:
        for _ in range(count):
            pass

    bench.run(body)


@asynccontextmanager
async def with_a_server(conformance: Conformance, *, asked: bool) -> AsyncIterator[Bench]:
    """A bench for counters that connect to a server on opening, and ask it something at each recording or never."""
    asking = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := await reader.read(1):
            writer.write(question)
        writer.close()

    async def opening(space: Space) -> AsyncIterator[Any]:
        async with conformance.open(space) as counters:
            parts = urlsplit(space.via(f"tcp://127.0.0.1:{port}"))
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

            async def record(*arguments: Any, **figures: Any) -> None:
                if asked:
                    writer.write(b"?")
                    async with asking:
                        await reader.readexactly(1)
                await type(counters).record(counters, *arguments, **figures)

            counters.record = record
            yield counters
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    bench = Bench(replace(conformance, function=opening, virtual_time=False))
    bench.declared("network", {})
    try:
        yield bench
    finally:
        bench.close()
        server.close()
        await server.wait_closed()


def test_round_trips_are_counted_where_there_is_a_network() -> None:
    """Through the kit's proxies each question to the server counts once."""

    async def test() -> None:
        async with (
            with_a_server(REFERENCE[3], asked=True) as bench,
            metered(bench, bench.space()) as opened,
            bench.open(opened.space) as counters,
        ):
            assert opened.unit == "round trips"
            assert await opened.cost(lambda: counters.record("m", calls=1)) == 1

    asyncio.run(test())


def test_bytes_are_counted_in_both_directions() -> None:
    """What is asked, and answered, in one piece is one round trip, and shows in the bytes."""

    async def test() -> None:
        async with (
            with_a_server(REFERENCE[3], asked=True) as bench,
            bench.network(bench.space()) as network,
            bench.open(network.space) as counters,
        ):
            await counters.record("m", calls=1)
            before, requests = network.passed_bytes, network.requests
            await asyncio.gather(*(counters.record("m", calls=1) for _ in range(20)))
            assert network.passed_bytes - before == 40
            assert network.requests - requests <= 20

    asyncio.run(test())


def test_a_server_that_is_asked_elsewhere_is_noticed() -> None:
    """Where the backend asks its servers past the proxies, nothing could be seen to fail: it could not run."""

    async def test() -> None:
        async with with_a_server(REFERENCE[3], asked=False) as bench:
            with pytest.raises(CouldNotRun, match="of 8 writes 0 went through the kit's proxy"):
                async with bench.network(bench.space()):
                    pass
            async with metered(bench, bench.space()) as opened:
                assert opened.unit == "steps of work"

    asyncio.run(test())


# --------------------------------------------------------------------------------------------------------- held


def test_what_a_process_holds_is_counted() -> None:
    """A thread and a socket more are one thread and some handles more."""

    async def two_more() -> tuple[Held, Held]:
        before = held()
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        await asyncio.to_thread(lambda: None)  # its thread waits for the next one
        after = held()
        server.close()
        await server.wait_closed()
        return before, after

    before, after = asyncio.run(two_more())
    assert after == Held(before.threads + 1, before.handles + 1)


@pytest.mark.parametrize("name", ["threads", "handles"])
def test_more_of_anything_is_more(name: str) -> None:
    """A few more are what a pool is still missing; whatever there is more of beyond that is told by name."""
    few = Held(5, 7)
    few.expect_no_more(replace(few, **{name: getattr(few, name) + 4}), "a thousand")
    with pytest.raises(Unkept, match=f"about {getattr(few, name)} {name} for a thousand, as for few"):
        few.expect_no_more(replace(few, **{name: getattr(few, name) + 5}), "a thousand")


def test_the_most_of_two_moments() -> None:
    """A peak is the higher one of each count, at whichever moment it was."""
    assert Held(9, 2).or_more(Held(3, 4)) == Held(9, 4)


def test_memory_that_is_kept_is_seen() -> None:
    """A thousand lists that are kept are at least a thousand pieces; those that only hold each other are none."""
    before = memory_blocks()
    kept = [[object()] for _ in range(1_000)]
    grown = memory_blocks() - before
    assert 2_000 <= grown < 3_000 + len(kept)
    for one in kept:
        one.append(kept)
    del kept, one
    assert memory_blocks() - before < 500


# ------------------------------------------------------------------------------------------------------- together


def test_calls_are_made_once_and_many_at_once(bench: Bench) -> None:
    """Each call is made once, fifty at a time; without virtual time a slow backend is not asked for all of them."""
    under_way, most, made = 0, 0, list[int]()

    async def call(number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.1)
        made.append(number)
        under_way -= 1

    async def body() -> None:
        assert await together(bench, (partial(call, number) for number in range(3_000))) == 3_000

    bench.run(body)
    assert (sorted(made), most) == ([*range(3_000)], 50)


def test_a_slow_backend_is_asked_for_less(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In real time no call is made once there was time enough, and it is told how many there were."""
    monkeypatch.setattr(load, "_LONG_ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(bench, "virtual", False)
    made = []

    async def call() -> None:
        made.append(1)

    async def body() -> None:
        assert await together(bench, (call for _ in range(3_000))) == len(made) == 50

    bench.run(body)


# ------------------------------------------------------------------------------------------------------- crowds


class Recorded:
    """A bridge whose subscribers each get what was recorded for them."""

    def __init__(self, *recordings: list[StreamItem]) -> None:
        self._recordings = iter(recordings)

    def subscribe(self, run_id: str, **_: Any) -> Any:
        async def items(recording: list[StreamItem]) -> Any:
            for item in recording:
                yield item

        return items(next(self._recordings))


def events(*numbers: int) -> list[StreamItem]:
    return [StreamEvent(f"1-{number}", "n", number) for number in numbers]


def judge(bench: Bench, *recordings: list[StreamItem]) -> None:
    """Let a crowd on one run get these, and judge it by the events 1 and 2."""

    async def body() -> None:
        async with crowd(bench, Recorded(*recordings), ["run"] * len(recordings)) as readers:  # type: ignore[arg-type]
            await readers.began()
            await readers.ended()
            readers.expect_all([1, 2])

    bench.run(body)


def test_a_crowd_that_got_all_passes(bench: Bench) -> None:
    """Each got both events, in an order that is the same for all, and END."""
    judge(bench, *[[*events(2, 1), END_SENTINEL]] * 3)


@pytest.mark.parametrize(
    ("got", "complaint"),
    [
        ([*events(1), END_SENTINEL], "the same for all subscribers of 'run', in one order, got 1 lost, such as 2"),
        ([*events(1, 2, 2), END_SENTINEL], "got 1 too many, such as 2"),
        ([*events(2, 1), END_SENTINEL], "got another order: 2 in place of 1 after 0 others"),
        (events(1, 2), "END for each subscriber"),
        ([*events(1, 2), StreamGap(None, None, None)], "END for each subscriber"),
        ([*events(1), END_SENTINEL, *events(2)], "END for each subscriber"),
    ],
    ids=["one lost", "one twice", "another order", "no end", "a gap", "an event after the end"],
)
def test_a_subscriber_that_got_something_else_is_seen(bench: Bench, got: list[StreamItem], complaint: str) -> None:
    """One of three that lost an event, got one twice, or did not end is enough."""
    whole = [*events(1, 2), END_SENTINEL]
    with pytest.raises(Unkept, match=complaint):
        judge(bench, whole, got, whole)


def test_what_nobody_got_is_seen(bench: Bench) -> None:
    """That all agree is not enough."""
    with pytest.raises(Unkept, match="each of 2 events of 'run' once, got 1 lost, such as 1"):
        judge(bench, *[[*events(2), END_SENTINEL]] * 3)


def test_who_still_waits_is_told(bench: Bench) -> None:
    """Subscribers that never come to an end are counted, and one is named with what it got last."""

    async def body() -> None:
        async with bench.open() as bridge:
            for run in ("ends", "stays"):
                await bridge.publish(run, "n", 1)
            await bridge.publish_end("ends")
            async with crowd(bench, bridge, ["ends", "stays", "stays"]) as readers:
                await readers.ended()

    with pytest.raises(Unkept, match=r"END for each of 3 subscribers .*, got 2 still wait; one, in 'stays', after"):
        bench.run(body)


def test_an_error_of_a_subscriber_is_told(bench: Bench) -> None:
    """What a subscriber raises comes out at once, instead of a wait for what will never come."""

    class Failing:
        def subscribe(self, run_id: str, **_: Any) -> Any:
            async def items() -> Any:
                for divisor in (0,):
                    yield 1 / divisor

            return items()

    async def body() -> None:
        async with crowd(bench, Failing(), ["run"] * 3) as readers:  # type: ignore[arg-type]
            await readers.began()

    with pytest.raises(ZeroDivisionError):
        bench.run(body)


def test_a_crowd_gives_its_subscriptions_back(bench: Bench) -> None:
    """Leaving it, nobody waits any more and the bridge watches no run."""

    async def body() -> None:
        async with bench.open() as bridge:
            await bridge.publish("run", "n", 1)
            async with crowd(bench, bridge, ["run"] * 20) as readers:
                await readers.began()
                assert list(bridge.hub.watched) == ["run"]
            assert list(bridge.hub.watched) == []
            assert all(task.done() for task in readers.tasks)

    bench.run(body)
