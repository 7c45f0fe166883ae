"""Checks of what happens while a server cannot be reached: G7, and G13."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, Final

from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.memories import PutFact
from deerflow_backends.threads import NewThread
from deerflow_conformance.attempts import GRACE_SECONDS, TIMEOUT_SECONDS, Attempts
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.disturbed import Disturbed, disturbed, opened_soon, until_answered
from deerflow_conformance.faces import RUN, USER, Call, face_of
from deerflow_conformance.faults import FAULTS, Fault, passing
from deerflow_conformance.networks import Network
from deerflow_conformance.subscribers import data_of, reading


def _vanish(network: Network) -> None:
    network.refuse()
    network.cut()


#: How the network goes away, by name.
OUTAGES: Final[dict[str, Callable[[Network], None]]] = {
    "cut, and refused": _vanish,
    "silent": Network.hold,
    "half-open": Network.half_open,
}


async def ends_in_time(call: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Expect an answer, or `BackendUnavailable`, which is returned, within the timeout."""
    began = time.monotonic()
    deadline = asyncio.timeout(TIMEOUT_SECONDS + GRACE_SECONDS)
    try:
        async with deadline:
            return await call()
    except BackendUnavailable as error:
        return error
    except TimeoutError:
        if not deadline.expired():
            raise
        seconds = time.monotonic() - began
        wanted = f"an end of {what}, opened with timeout_seconds and publish_timeout_seconds of {TIMEOUT_SECONDS:g}"
        unkept(wanted, f"nothing in {seconds:.1f} s")


async def fails_in_time(call: Callable[[], Awaitable[Any]], what: str) -> None:
    """Expect `BackendUnavailable` within the timeout."""
    got = await ends_in_time(call, what)
    expect(isinstance(got, BackendUnavailable), f"BackendUnavailable from {what}: no server can be reached", repr(got))


def calls_of(bench: Bench, opened: Any, name: str) -> dict[str, Call]:
    """One of every call that cannot be answered without a server, its writes under *name*."""
    face = face_of(bench.capability)
    calls = {what: call for what, call in face.calls(opened, name).items() if what not in ("subscribe", "restore")}
    calls |= {f"the first item of {what}": partial(_first, one) for what, one in _exports(bench, opened).items()}
    return calls


def _exports(bench: Bench, opened: Any) -> dict[str, AsyncIterator[Any]]:
    return {} if bench.capability == "stream_bridge" else face_of(bench.capability).iterators(opened)


async def _first(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, None)


@check("G7", level="L3")
def every_call_fails_in_time_and_works_again(bench: Bench) -> None:
    """With no server every call, two hundred at once too, raises BackendUnavailable in time; then all of them work."""
    slot = face_of(bench.capability).slots[0]

    async def through(how: str, goes_away: Callable[[Network], None], one: Disturbed) -> None:
        async with opened_soon(bench, one.network.space) as beside:
            await slot.put(one.observer, "before", 1)
            goes_away(one.network)
            crowd = [partial(slot.put, one.opened, f"one of {number}", 1) for number in range(200)]
            await asyncio.gather(
                *(fails_in_time(call, f"{what} ({how})") for what, call in calls_of(bench, one.opened, "name").items()),
                *(fails_in_time(call, f"one write of 200 at once ({how})") for call in crowd),
            )
            # Once more, now that everybody knows that the server is away.
            await asyncio.gather(
                *(fails_in_time(call, f"{what} ({how})") for what, call in calls_of(bench, one.opened, "name").items())
            )
            one.network.mend()
            attempts = Attempts(bench)
            for opened in (one.opened, beside):
                await attempts.until_all_return(opened, one.observer, f"after an outage: {how}")
                found = await until_answered(bench, partial(slot.read, opened, ["before"]))
                expect(found == {"before": 1}, f"what was written before the outage ({how})", found)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with disturbed(bench, space, count=len(OUTAGES)) as ones:
            scenarios = zip(OUTAGES.items(), ones, strict=True)
            await asyncio.gather(*(through(how, goes_away, one) for (how, goes_away), one in scenarios))

    bench.run(body)


@check("G7", level="L3")
def where_replies_trickle_calls_end_in_time(bench: Bench) -> None:
    """Over a line on which little gets through every call ends in time, large values too; then all of them work."""

    async def through(bytes_per_second: int, one: Disturbed) -> None:
        how = f"{bytes_per_second} bytes a second get through"
        large = _large_write(bench, one.opened)
        one.network.throttle(bytes_per_second)
        await asyncio.gather(
            *(ends_in_time(call, f"{what} ({how})") for what, call in calls_of(bench, one.opened, "name").items()),
            *([fails_in_time(large, f"a write of a megabyte ({how})")] if large is not None else []),
        )
        one.network.mend()
        await Attempts(bench).until_all_return(one.opened, one.observer, f"after an outage: {how}")

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        speeds = (100, 5_000)
        async with disturbed(bench, space, count=len(speeds)) as ones:
            await asyncio.gather(*(through(speed, one) for speed, one in zip(speeds, ones, strict=True)))

    bench.run(body)


def _large_write(bench: Bench, opened: Any) -> Call | None:
    text = random_text(bench.random, 1_000_000)
    writes: dict[str, Call] = {
        "stream_bridge": lambda: opened.publish("large", "n", text),
        "memory": lambda: opened.apply("large", [PutFact(None, "f", {"content": text})]),
        "thread_index": lambda: opened.create(NewThread("large", USER, metadata={"text": text})),
    }
    return writes.get(bench.capability)


def random_text(random: Random, length: int) -> str:
    """Return hexadecimal digits: a text that no compression makes much smaller than half."""
    return random.randbytes(length // 2).hex()


@check("G7", level="L3")
def publishing_outlasts_a_short_outage(bench: Bench) -> None:
    """An outage shorter than the publish timeout fails no publication; each event is stored once, in order."""
    if bench.capability != "stream_bridge":
        bench.not_applicable("only publishing waits for longer than the timeout")

    async def through(how: str, fault: Fault, random: Random, one: Disturbed) -> None:
        disturbing = asyncio.create_task(passing(fault, one.network, random))
        ids: list[str] = []
        while not disturbing.done():
            number = len(ids)
            many = [("n", number + more) for more in range(3)]
            try:
                if number % 5:
                    ids.append(await one.opened.publish(RUN, "n", number))
                else:
                    ids += await one.opened.publish_many(RUN, many)
                await asyncio.sleep(0.01)
            except BackendUnavailable as error:
                unkept(f"events published through a shorter outage ({how})", repr(error))
        await disturbing
        await one.opened.publish_end(RUN)
        async with reading(bench, one.observer, RUN) as reader:
            stored = [*await reader.events(len(ids))]
            await reader.ends()
        expect([event.id for event in stored] == ids, f"the ids that were returned ({how}): {ids}", stored)
        expect(data_of(stored) == [*range(len(ids))], f"each event once, in order ({how})", data_of(stored))

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=30.0, max_events=100_000)
        async with disturbed(bench, space, count=len(FAULTS)) as ones:
            chances = [Random(bench.random.random()) for _ in FAULTS]  # noqa: S311  # nothing secret
            scenarios = zip(FAULTS.items(), chances, ones, strict=True)
            await asyncio.gather(*(through(how, fault, random, one) for (how, fault), random, one in scenarios))

    bench.run(body)


@check("G13", level="L3")
def ping_tells_an_outage_in_time(bench: Bench) -> None:
    """With no server ping raises BackendUnavailable in time, also behind a crowd of calls; afterwards it answers."""
    slot = face_of(bench.capability).slots[0]

    async def through(how: str, goes_away: Callable[[Network], None], one: Disturbed) -> None:
        goes_away(one.network)
        crowd = [asyncio.create_task(ends_in_time(partial(slot.put, one.opened, f"{n}", 1), "put")) for n in range(100)]
        for _ in range(2):
            await fails_in_time(one.opened.ping, f"ping ({how})")
        await asyncio.gather(*crowd)
        one.network.mend()
        await until_answered(bench, one.opened.ping)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with disturbed(bench, space, count=len(OUTAGES)) as ones:
            scenarios = zip(OUTAGES.items(), ones, strict=True)
            await asyncio.gather(*(through(how, goes_away, one) for (how, goes_away), one in scenarios))

    bench.run(body)
