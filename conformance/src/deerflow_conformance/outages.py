"""Checks of what happens while a server cannot be reached: G7, and for subscribers S16."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from deerflow_backends.errors import BackendUnavailable
from deerflow_backends.streams import HEARTBEAT_SENTINEL
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.faces import RUN, face_of
from deerflow_conformance.networks import Network
from deerflow_conformance.subscribers import publish_numbers, reading

#: How long the calls of these checks may wait for their server, in seconds.
TIMEOUT_SECONDS: Final = 1.0
#: How much later than that they may end: what a busy machine takes, and far from waiting for ever.
GRACE_SECONDS: Final = 4.0


def _vanish(network: Network) -> None:
    network.refuse()
    network.cut()


#: How the network goes away, by name.
OUTAGES: Final[dict[str, Callable[[Network], None]]] = {
    "cut, and refused": _vanish,
    "silent": Network.hold,
    "half-open": Network.half_open,
}


async def fails_in_time(call: Callable[[], Awaitable[Any]], what: str) -> None:
    """Expect BackendUnavailable within the timeout."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS + GRACE_SECONDS):
            got = await call()
    except BackendUnavailable:
        return
    except TimeoutError:
        unkept(
            f"BackendUnavailable from {what} within {TIMEOUT_SECONDS} s", f"nothing in {time.monotonic() - began:.1f} s"
        )
    unkept(f"BackendUnavailable from {what}, whose server cannot be reached", repr(got))


@check("G7", level="L3")
def every_call_fails_in_time_and_works_again(bench: Bench) -> None:
    """While the server cannot be reached every call raises BackendUnavailable in time; afterwards it works again."""
    face = face_of(bench.capability)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with bench.network(space) as network, bench.open(network.space) as opened:
            slot = face.slots[0]
            await slot.put(opened, "before", 1)
            for how, goes_away in OUTAGES.items():
                goes_away(network)
                calls = [
                    fails_in_time(call, f"{name} ({how})")
                    for name, call in face.calls(opened, f"during {how}").items()
                    if name != "subscribe"
                ]
                await asyncio.gather(*calls)
                network.mend()
                if how == "half-open":
                    network.cut()
                await works_again(bench, opened)
            found = await slot.read(opened, ["before"])
            expect(found == {"before": 1}, "what was written before the outages", found)

    bench.run(body)


async def works_again(bench: Bench, opened: Any) -> None:
    """Expect the object to answer by itself, soon after its server can be reached again."""

    async def pinging() -> None:
        while True:
            try:
                await opened.ping()
            except BackendUnavailable:
                await asyncio.sleep(0.05)
            else:
                return

    await bench.soon(pinging(), 20.0)


@check("S16", level="L3")
def a_subscriber_stays_through_an_outage(bench: Bench) -> None:
    """Cut off, a subscriber goes on hearing heartbeats; what was published meanwhile comes once, in order."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS)
        async with (
            bench.network(space) as network,
            bench.open(network.space) as cut_off,
            bench.open(space) as elsewhere,
            reading(bench, cut_off, RUN) as reader,
        ):
            await publish_numbers(elsewhere, RUN, [1, 2])
            await reader.gets([1, 2])
            for number, goes_away in enumerate(OUTAGES.values()):
                goes_away(network)
                await publish_numbers(elsewhere, RUN, [10 * number, 10 * number + 1])
                for _ in range(3):
                    item = await reader.next()
                    expect(item is HEARTBEAT_SENTINEL, "a heartbeat while the server cannot be reached", item)
                network.mend()
                await reader.gets([10 * number, 10 * number + 1])
            await elsewhere.publish_end(RUN)
            await reader.ends()

    bench.run(body)
