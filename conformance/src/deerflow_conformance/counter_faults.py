"""Checks of the buffer in front of model counters over a real network, and beside real processes: C5."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from deerflow_backends.buffering import BufferedCounters, buffered
from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.errors import BackendUnavailable
from deerflow_conformance.attempts import GRACE_SECONDS, LATER_SECONDS, RECOVERY_SECONDS, TIMEOUT_SECONDS
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.disturbed import Disturbed, disturbed, opened_soon, patient, unlogged, until_answered
from deerflow_conformance.expectations import until
from deerflow_conformance.networks import Network
from deerflow_conformance.outages import OUTAGES, fails_in_time
from deerflow_conformance.stalls import LongWriter

#: How often the buffers of these checks flush.
_FLUSH_SECONDS: Final = 0.05
#: How long the outages of the check of buckets are, in buckets of one second.
_OUTAGE_BUCKETS: Final = 4
#: How much more than its last interval a killed process may lose: what a busy machine takes to flush.
_LATE_SECONDS: Final = 2.0
#: How far the age of a count may be off: slots of the buffer, the way to the server, a busy machine.
_AGE_SECONDS: Final = 1.5


@check("C5", level="L3")
def an_outage_loses_doubles_and_displaces_nothing(bench: Bench) -> None:
    """What is recorded in an outage is counted once, in the buckets of its time; beyond max_models it is refused."""

    async def through(how: str, goes_away: Callable[[Network], None], one: Disturbed) -> None:
        loop = asyncio.get_running_loop()
        names = [f"model {number}" for number in range(_OUTAGE_BUCKETS)]
        async with buffered(one.opened, flush_seconds=_FLUSH_SECONDS, max_models=len(names)) as buffer:
            await buffer.record("before", calls=1)
            await until_answered(bench, partial(buffer.totals, "before"))
            goes_away(one.network)
            began = loop.time()
            for name in names:
                for _ in range(3):
                    await buffer.record(name, calls=1, successes=1)
                await asyncio.sleep(1.0)
            await buffer.record_many([Recorded("one more", calls=1), Recorded("and another", calls=1)])
            expect(buffer.refused == 2, f"2 recordings refused, of more models than are held ({how})", buffer.refused)
            await fails_in_time(lambda: buffer.totals("before"), f"a read of the buffer ({how})")
            one.network.mend()
            wanted = {"before": Counts(calls=1), **dict.fromkeys(names, Counts(3, 3))}
            found = await until_answered(bench, buffer.all_totals)
            expect(found == wanted, f"what was recorded ({how}): {wanted}", found)
            if how != "silent":  # what is held up on its way, with the age it had, is as much younger when it arrives
                await _is_where_it_belongs(one.observer, names[0], lambda: loop.time() - began, how)
            await asyncio.sleep(LATER_SECONDS)
            found = await one.observer.all_totals()
            expect(found == wanted, f"the same a while later ({how}): {wanted}", found)

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS, bucket_seconds=1, keep_buckets=120)
        async with disturbed(bench, space, count=len(OUTAGES)) as ones:
            scenarios = zip(OUTAGES.items(), ones, strict=True)
            await asyncio.gather(*(through(how, goes_away, one) for (how, goes_away), one in scenarios))

    bench.run(body)


async def _is_where_it_belongs(observer: Any, name: str, age: Callable[[], float], how: str) -> None:
    """Expect a model's counts in a window that reaches back to them, and not in one that does not."""
    recent = max(1, math.floor(age() - 1 - _AGE_SECONDS))
    found = await observer.window(name, seconds=recent)
    expect(found == Counts(), f"nothing in the last {recent} s of what was recorded {age():.1f} s ago ({how})", found)
    whole = math.ceil(age() + _AGE_SECONDS)
    found = await observer.window(name, seconds=whole)
    expect(found == Counts(3, 3), f"in the last {whole} s what was recorded {age():.1f} s ago ({how})", found)


@check("C5", level="L3")
def a_lost_flush_counts_once(bench: Bench) -> None:
    """However often the request or the reply of a flush is lost, everything recorded is counted once in the end."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS)
        async with disturbed(bench, space) as [one], buffered(one.opened, flush_seconds=_FLUSH_SECONDS) as buffer:
            wanted = {f"model {number}": Counts(3, 3) for number in range(3)}
            for _ in range(3):
                for name in wanted:
                    lost = bench.random.choice((one.network.lose_reply, one.network.lose_request))()
                    await buffer.record(name, calls=1, successes=1)
                    await until(bench, partial(_happened, lost))
                    await asyncio.sleep(bench.random.uniform(0.0, _FLUSH_SECONDS))
            one.network.mend()
            for _ in range(2):
                found = await until_answered(bench, buffer.all_totals)
                expect(found == wanted, f"each recording counted once: {wanted}", found)
                await asyncio.sleep(LATER_SECONDS)

    bench.run(body)


async def _happened(loss: Any) -> bool:
    return bool(loss.happened)


@check("C5", level="L3")
def closing_in_an_outage_says_what_is_lost(bench: Bench) -> None:
    """Closing the buffer counts what it holds, or raises BackendUnavailable in time, which says whether it may have."""

    async def through(how: str, goes_away: Callable[[Network], None], one: Disturbed, *, mended: bool) -> None:
        heard: BackendUnavailable | None = None
        try:
            async with asyncio.timeout(RECOVERY_SECONDS + 2 * TIMEOUT_SECONDS + GRACE_SECONDS):
                async with buffered(one.opened, flush_seconds=_FLUSH_SECONDS) as buffer:
                    await buffer.record("m", calls=1)
                    await until_answered(bench, partial(buffer.totals, "m"))
                    goes_away(one.network)
                    await buffer.record("m", calls=2)
                    await asyncio.sleep(_FLUSH_SECONDS * 2)
                    if mended:
                        one.network.mend()
        except BackendUnavailable as error:
            heard = error
        except TimeoutError:
            unkept(f"an end of closing the buffer ({how})", "nothing")
        expect(heard or mended, f"BackendUnavailable from closing the buffer ({how})", "no error")
        one.network.mend()
        await asyncio.sleep(LATER_SECONDS)
        found = (await one.observer.totals("m")).calls
        allowed = {3} if heard is None else {1, 3} if heard.maybe_written else {1}
        expect(
            found in allowed, f"{sorted(allowed)} calls after closing the buffer ({how}), which said {heard!r}", found
        )

    async def body() -> None:
        cases = [(how, goes_away, mended) for how, goes_away in OUTAGES.items() for mended in (False, True)]
        async with disturbed(bench, bench.space(timeout_seconds=TIMEOUT_SECONDS), count=len(cases)) as ones:
            await asyncio.gather(
                *(
                    through(how, goes_away, one, mended=mended)
                    for (how, goes_away, mended), one in zip(cases, ones, strict=True)
                )
            )

    bench.run(body)


@check("C5", level="L3")
def a_killed_process_loses_its_last_moments_at_most(bench: Bench) -> None:
    """Of what a process recorded before it was killed, only what came after its last flush is lost, nothing twice."""

    async def body() -> None:
        space = bench.space()
        time = asyncio.get_running_loop().time
        async with bench.open(space) as observer, bench.rival(space, flush_seconds=_FLUSH_SECONDS) as there:
            recorded_at: list[float] = []
            until = time() + _LATE_SECONDS + bench.random.uniform(0.5, 1.0)
            while time() < until:
                await there.record("m", calls=1, failures=1)
                recorded_at.append(time())
                await asyncio.sleep(0.01)
            killed_at = time()
            bench.process_of(there).kill()
            least = sum(at < killed_at - _FLUSH_SECONDS - _LATE_SECONDS for at in recorded_at)
            found = await observer.totals("m")
            expect(least <= found.calls <= len(recorded_at), f"{least} to {len(recorded_at)} calls", found)
            expect(found == Counts(calls=found.calls, failures=found.calls), "each call with its failure", found)

    bench.run(body)


@check("C5", level="L3")
def a_stopped_process_loses_and_doubles_nothing(bench: Bench) -> None:
    """What is recorded while another process stands still in a write is counted once, after it went on."""

    async def body() -> None:
        space = bench.space(timeout_seconds=TIMEOUT_SECONDS)
        with unlogged():
            async with (
                opened_soon(bench, space) as here,
                bench.open(patient(bench, space)) as observer,
                bench.rival(patient(bench, space)) as there,
                buffered(here, flush_seconds=_FLUSH_SECONDS) as buffer,
            ):
                rival = LongWriter(bench, there)
                await rival.rehearse("rehearsal")
                recorded = 0
                for turn in range(3):
                    await rival.write_and(rival.process.stop, f"long {turn}")
                    recorded += await _record_for(buffer, 1.5 * TIMEOUT_SECONDS)
                    rival.process.resume()
                    await bench.soon(rival.finish(), 30)
                await until_answered(bench, partial(buffer.totals, "m"))
                await asyncio.sleep(LATER_SECONDS)
                found = await observer.totals("m")
                wanted = Counts(calls=recorded, failures=recorded)
                expect(found == wanted, wanted, found)

    bench.run(body)


async def _record_for(buffer: BufferedCounters, seconds: float) -> int:
    """Record for so long; return how often."""
    count = 0
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        await buffer.record("m", calls=1, failures=1)
        count += 1
        await asyncio.sleep(0.01)
    return count
