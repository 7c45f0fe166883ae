"""Checks of writes through a disturbed network: G5."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeAlias

from deerflow_conformance.attempts import GRACE_SECONDS, TIMEOUT_SECONDS, Attempts, make_all
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.disturbed import Disturbed, disturbed
from deerflow_conformance.faults import FAULTS, Fault
from deerflow_conformance.networks import Loss, Network

#: Loses something of a write; called with the mark that it bears, and cancelled once it has ended.
Losing: TypeAlias = Callable[[Network, bytes], Coroutine[Any, Any, Loss]]


async def _its_reply(network: Network, mark: bytes) -> Loss:
    return network.lose_reply(mark)


async def _its_request(network: Network, mark: bytes) -> Loss:
    return network.lose_request(mark)


async def lose_later(network: Network, earlier: int, lose: Callable[[Network], Loss]) -> Loss:
    """Lose something of the next piece of a request but *earlier* ones: of a transaction, say, what commits it."""
    before = network.requests
    while network.requests < before + earlier:  # noqa: ASYNC110  # at once, not a moment after the piece has gone
        await asyncio.sleep(0)
    return lose(network)


def _later(earlier: int, lose: Callable[[Network], Loss]) -> Losing:
    return lambda network, _: lose_later(network, earlier, lose)


LOSSES: Final[dict[str, Losing]] = {
    "its reply lost": _its_reply,
    "its request lost": _its_request,
    **{f"the reply to its request {number + 1} lost": _later(number, Network.lose_reply) for number in range(4)},
    **{f"its request {number + 1} lost": _later(number, Network.lose_request) for number in range(4)},
}


@check("G5", level="L3")
def a_lost_request_or_reply_is_resolved_or_reported(bench: Bench) -> None:
    """A write whose request or reply is lost is done once, or tells what it knows; no retry meets its own effect."""

    async def body() -> None:
        space = bench.space()
        async with disturbed(bench, space) as [one]:
            attempts = Attempts(bench)
            turns = [*itertools.product(range(attempts.kinds), LOSSES)]
            bench.random.shuffle(turns)
            happened = 0
            for turn, how in turns:
                (attempt,) = await attempts.prepare(one.observer, how, turn=turn)
                losing = asyncio.create_task(LOSSES[how](one.network, attempt.name.encode()))
                await asyncio.sleep(0)
                await attempt.make(one.opened, space.timeout_seconds + GRACE_SECONDS)
                one.network.mend()
                losing.cancel()  # it was made by fewer requests
                await asyncio.wait([losing])
                happened += not losing.cancelled() and losing.result().happened
            if not happened:
                bench.could_not_run("no request of a write went through the kit's proxy, so none could be lost")
            await attempts.judge(one.observer)

    bench.run(body)


@check("G5", level="L3")
def through_every_fault_a_write_is_done_once_or_says_so(bench: Bench) -> None:
    """Of writes under way and begun in an outage, what returned is done, what failed is as it says, also much later."""

    async def through(how: str, fault: Fault, random: Random, one: Disturbed) -> None:
        attempts = Attempts(bench)
        earlier = await attempts.prepare(one.observer, f"under way; {how}")
        later = await attempts.prepare(one.observer, f"begun meanwhile; {how}")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(make_all(one.opened, earlier))
            tasks.create_task(fault(one.network, random))
            await asyncio.sleep(random.uniform(0.0, 0.05))
            tasks.create_task(make_all(one.opened, later))
        one.network.mend()
        await attempts.judge(one.observer)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, publish_timeout_seconds=TIMEOUT_SECONDS)
        async with disturbed(bench, space, count=len(FAULTS)) as ones:
            chances = [Random(bench.random.random()) for _ in FAULTS]  # noqa: S311  # nothing secret
            scenarios = zip(FAULTS.items(), chances, ones, strict=True)
            await asyncio.gather(*(through(how, fault, random, one) for (how, fault), random, one in scenarios))

    bench.run(body)
