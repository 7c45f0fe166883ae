"""Checks of a server that is stopped, best by a crash, and started again: G5, G7, G12, and for streams S16."""

from __future__ import annotations

import asyncio
from typing import Any

from deerflow_backends.streams import END_SENTINEL, StreamGap
from deerflow_conformance.attempts import TIMEOUT_SECONDS, Attempt, Attempts, make_all, returned
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.disturbed import opened_soon, patient, unlogged
from deerflow_conformance.faces import RUN
from deerflow_conformance.outages import calls_of, fails_in_time
from deerflow_conformance.stream_steps import split_id
from deerflow_conformance.subscribers import Reader, data_of, publish_numbers, reading


def _expect_durable(bench: Bench) -> None:
    if not bench.durable:
        bench.without_server("durable=True", "killed")


@check("G5", level="L3")
def writes_under_way_when_the_server_dies_are_done_once_or_say_so(bench: Bench) -> None:
    """Through a crash that loses nothing, writes that returned are done once, and those that failed as they say."""

    async def body() -> None:
        _expect_durable(bench)
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with opened_soon(bench, space) as here, opened_soon(bench, space) as there:
            attempts = Attempts(bench)
            async with bench.open(patient(bench, space)) as observer:
                earlier, later, ours, theirs = [
                    await attempts.prepare(observer, f"the server died {when}")
                    for when in ("meanwhile", "before", "meanwhile", "before")
                ]
            making = [asyncio.create_task(make_all(here, earlier)), asyncio.create_task(make_all(there, ours))]
            await bench.sleep(bench.random.uniform(0.0, 0.01))
            await bench.stop_server()
            making += [asyncio.create_task(make_all(here, later)), asyncio.create_task(make_all(there, theirs))]
            await bench.sleep(bench.random.uniform(0.0, TIMEOUT_SECONDS))
            await bench.start_server()
            await asyncio.gather(*making)
            async with bench.open(patient(bench, space)) as observer:
                await attempts.judge(observer)

    with unlogged():
        bench.run(body)


@check("G12", level="L3")
def what_was_acknowledged_outlives_the_server(bench: Bench) -> None:
    """What was acknowledged, of whatever kind and whenever, is there after the server crashed and came back."""

    async def body() -> None:
        _expect_durable(bench)
        space = bench.space(timeout_seconds=5.0, publish_timeout_seconds=5.0)
        attempts = Attempts(bench)
        for _ in range(2):
            async with bench.open(space) as opened, bench.open(space) as observer:
                made = [
                    one for _ in range(2) for one in await attempts.prepare(observer, "acknowledged before a crash")
                ]
                bench.random.shuffle(made)
                moment = asyncio.Event()
                writing = asyncio.create_task(_one_by_one(opened, made, bench.random.randrange(1, len(made)), moment))
                await bench.soon(moment.wait())
                await bench.stop_server()
                writing.cancel()
                await asyncio.wait([writing])
                await bench.start_server()
        expect(returned(attempts.made), "writes that return while nothing is wrong", "none")
        async with bench.open(patient(bench, space)) as observer:
            await attempts.judge(observer)

    with unlogged():
        bench.run(body)


async def _one_by_one(opened: Any, made: list[Attempt], turn: int, moment: asyncio.Event) -> None:
    for number, attempt in enumerate(made):
        if number == turn:
            moment.set()
        await attempt.make(opened)


@check("G7", level="L3")
def everything_works_again_after_a_restart(bench: Bench) -> None:
    """While the server is stopped all calls fail in time; once it is back all objects of all processes work again."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with (
            opened_soon(bench, space) as here,
            opened_soon(bench, space) as beside,
            bench.rival(patient(bench, space)) as there,
        ):
            await bench.stop_server()
            calls = calls_of(bench, here, "name").items()
            await asyncio.gather(*(fails_in_time(call, f"{what} (the server is stopped)") for what, call in calls))
            await bench.start_server()
            attempts = Attempts(bench)
            async with bench.open(patient(bench, space)) as observer:
                for opened in (here, beside, there):
                    await attempts.until_all_return(opened, observer, "after the server's restart")

    with unlogged():
        bench.run(body)


@check("G7", level="L3")
def publishing_outlasts_a_restart(bench: Bench) -> None:
    """A restart within the publish timeout fails no publication, and of a server that loses nothing none is lost."""
    if bench.capability != "stream_bridge":
        bench.not_applicable("only publishing waits for longer than the timeout")

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=30.0, max_events=10_000)
        async with opened_soon(bench, space) as bridge:
            publishing = [asyncio.create_task(publish_numbers(bridge, f"{RUN} {n}", range(300))) for n in range(3)]
            await bench.sleep(bench.random.uniform(0.0, 0.05))
            await bench.stop_server()
            publishing.append(asyncio.create_task(publish_numbers(bridge, f"{RUN} 3", range(3))))
            await bench.sleep(2 * TIMEOUT_SECONDS)
            await bench.start_server()
            published = await asyncio.gather(*publishing)
            for number, ids in enumerate(published):
                await bridge.publish_end(f"{RUN} {number}")
                expect(len(set(ids)) == len(ids), "an id of its own for each event", ids)
                if bench.durable:
                    parts = [split_id(one) for one in ids]
                    growing = parts == sorted(parts) and [seq for _, seq in parts] == [*range(1, 1 + len(ids))]
                    expect(growing, "epochs that never fall, and seqs without a hole", ids)
                    async with reading(bench, bridge, f"{RUN} {number}") as reader:
                        events = [item for item in await reader.rest() if item is not END_SENTINEL]
                        expect(data_of(events) == [*range(len(ids))], "each event once, in order", data_of(events))

    with unlogged():
        bench.run(body)


@check("S16", level="L3")
def a_subscriber_stays_through_a_restart(bench: Bench) -> None:
    """While the server is away heartbeats go on; then all goes on without loss, or, if events were lost, by a gap."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=30.0)
        async with (
            opened_soon(bench, space) as here,
            opened_soon(bench, space) as there,
            reading(bench, here, RUN) as attached,
            reading(bench, here, "another") as waiting,
        ):
            ids = await publish_numbers(there, RUN, range(4))
            await attached.gets(range(4))
            await waiting.waits()
            await bench.stop_server()
            publishing = asyncio.create_task(publish_numbers(there, RUN, range(4, 8)))
            async with reading(bench, here, RUN, ids[1]) as late:
                for _ in range(3):
                    await asyncio.gather(*(reader.waits() for reader in (attached, waiting, late)))
                await bench.start_server()
                await publishing
                await there.publish_end(RUN)
                await there.publish("another", "n", "new")
                await _goes_on(bench, attached, 4)
                await _goes_on(bench, late, 2)
                await waiting.gets(["new"])

    with unlogged():
        bench.run(body)


async def _goes_on(bench: Bench, reader: Reader, first: int) -> None:
    """Expect the numbers from *first* to 7 and END; of a server that may lose events, a gap at some point instead."""
    *events, last = await reader.rest()
    expect(data_of(events) == [*range(first, first + len(events))], f"numbers from {first} on, in order", events)
    if bench.durable or not isinstance(last, StreamGap):
        expect(last is END_SENTINEL and len(events) == 8 - first, f"{first} to 7, then END", [*events, last])
