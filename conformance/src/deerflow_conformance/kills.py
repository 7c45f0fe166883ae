"""Checks of calls of which nobody hears the end, and of what killed processes leave: G5 and G12."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from deerflow_conformance.attempts import Attempt, Attempts, make_all, returned
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.replicas import Process


@check("G5", level="L2")
def a_cancelled_write_takes_effect_once_or_never(bench: Bench) -> None:
    """Of whatever kind, a cancelled write is there once or not at all, and one that was done all the same is there."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as here, bench.rival(space) as there, bench.open(space) as observer:
            attempts = Attempts(bench)
            for turn in range(2 * attempts.kinds):
                (attempt,) = await attempts.prepare(observer, "cancelled", turn=turn)
                making = asyncio.create_task(attempt.make((here, there)[turn % 2]))
                for _ in range(bench.random.randrange(9)):
                    await asyncio.sleep(0)
                if not bench.virtual:
                    await asyncio.sleep(bench.random.choice((0.0, 0.0, 0.0005, 0.002)))
                making.cancel()
                await bench.soon(asyncio.wait([making]))
            await attempts.judge(observer)

    bench.run(body)


@check("G5", level="L3")
def what_a_killed_process_wrote_is_whole_or_absent(bench: Bench) -> None:
    """Writes that were under way when their process was killed are there once, whole, or not at all."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as observer:
            attempts = Attempts(bench)
            for _ in range(2):
                async with bench.rival(space) as there:
                    made = await attempts.prepare(observer, "its process killed meanwhile")
                    making = asyncio.create_task(make_all(there, made))
                    await bench.sleep(bench.random.uniform(0.0, 0.02))
                    bench.process_of(there).kill()
                    await bench.soon(asyncio.wait([making]))
            await attempts.judge(observer)

    bench.run(body)


@check("G12", level="L3")
def what_was_acknowledged_outlives_its_writer(bench: Bench) -> None:
    """What a process was told is written, of whatever kind, is there after that process is killed at any moment."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as observer:
            attempts = Attempts(bench)
            acknowledged = 0
            for _ in range(3):
                async with bench.rival(space) as there:
                    made = [one for _ in range(2) for one in await attempts.prepare(observer, "its process killed")]
                    bench.random.shuffle(made)
                    process = bench.process_of(there)
                    await _until_killed(there, made, process, bench.random)
                    acknowledged += len(returned(made))
            expect(acknowledged, "writes that return while nothing is wrong", "none")
            await attempts.judge(observer)

    bench.run(body)


async def _until_killed(there: Any, made: list[Attempt], process: Process, random: Random) -> None:
    """Make one attempt after the other, and kill the process somewhere among them."""
    turn = random.randrange(1, len(made))
    for attempt in made[:turn]:
        await attempt.make(there)
    killing = asyncio.get_running_loop().call_later(random.uniform(0.0, 0.003), process.kill)
    for attempt in made[turn:]:
        if process.running:
            await attempt.make(there)
    killing.cancel()  # or it would be somebody else's process that is killed
    process.kill()
