"""Checks of writes through a disturbed network: G5."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from random import Random
from typing import Final

from deerflow_conformance.attempts import GRACE_SECONDS, TIMEOUT_SECONDS, Attempts, make_all
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.disturbed import Disturbed, disturbed
from deerflow_conformance.faults import FAULTS, Fault
from deerflow_conformance.networks import Loss, Network

#: What is lost next: called with the mark that the write bears.
LOSSES: Final[dict[str, Callable[[Network, bytes], Loss]]] = {
    "its reply lost": Network.lose_reply,
    "its request lost": Network.lose_request,
    "the next reply lost": lambda network, mark: network.lose_reply(),
    "the next request lost": lambda network, mark: network.lose_request(),
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
            lost: list[Loss] = []
            for turn, how in turns:
                (attempt,) = await attempts.prepare(one.observer, how, turn=turn)
                lost.append(LOSSES[how](one.network, attempt.name.encode()))
                await attempt.make(one.opened, space.timeout_seconds + GRACE_SECONDS)
                one.network.mend()
            if not any(loss.happened for loss in lost):
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
