"""Checks of the buffer in front of model counters: C5."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from deerflow_backends.buffering import BufferedCounters, buffered
from deerflow_backends.counters import Counts, ModelCounters, Recorded
from deerflow_backends.errors import BackendUnavailable, InvalidArgument
from deerflow_conformance.bench import Bench
from deerflow_conformance.change_models import CounterSums
from deerflow_conformance.checks import check, expect, unkept
from deerflow_conformance.counter_programs import OutageProgram, RecordStep, Reply, outage_programs
from deerflow_conformance.counter_steps import FIRST, expect_counts
from deerflow_conformance.expectations import expect_same, refused


class Unreliable:
    """Counters whose `record_many` fails as told: the world of a buffer during an outage.

    Attributes:
        replies: What becomes of the next calls; given when there is no more.
        out: Whether calls fail as long as this is set, whatever *replies* says.
        batches: The token and number of counts of each call.
        at_once: The most calls that ran at the same time.
    """

    def __init__(self, counters: ModelCounters) -> None:
        self._counters = counters
        self._running = 0
        self.replies: list[Reply] = []
        self.out: Reply | None = None
        self.batches: list[tuple[str | None, int]] = []
        self.at_once = 0
        self.pause_seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._counters, name)

    async def record(self, *_: Any, **__: Any) -> None:
        """Refuse: ages would be lost."""
        raise AssertionError("the buffer must flush by record_many")

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        """Record as the real counters do, and then fail if told to, or the other way round."""
        self.batches.append((token, len(counts)))
        self._running += 1
        self.at_once = max(self.at_once, self._running)
        try:
            await asyncio.sleep(self.pause_seconds)
            reply = self.out or (self.replies.pop(0) if self.replies else Reply.GIVEN)
            if reply is not Reply.NOT_COUNTED:
                await self._counters.record_many(counts, token=token)
            if reply is not Reply.GIVEN:
                raise BackendUnavailable("out, as the check wants it", maybe_written=reply is Reply.LOST)
        finally:
            self._running -= 1


@asynccontextmanager
async def _buffer(
    bench: Bench, *, flush_seconds: float = 0.05, max_models: int = 10_000, **options: Any
) -> AsyncIterator[tuple[BufferedCounters, Unreliable]]:
    # Outages are logged; without a handler Python would print that.
    logger, handler = logging.getLogger("deerflow_backends"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        async with _open_buffer(bench, flush_seconds, max_models, options) as opened:
            yield opened
    finally:
        logger.removeHandler(handler)


@asynccontextmanager
async def _open_buffer(
    bench: Bench, flush_seconds: float, max_models: int, options: dict[str, Any]
) -> AsyncIterator[tuple[BufferedCounters, Unreliable]]:
    async with bench.open(**options) as counters:
        unreliable = Unreliable(counters)
        async with buffered(unreliable, flush_seconds=flush_seconds, max_models=max_models) as buffer:
            try:
                yield buffer, unreliable
            finally:
                unreliable.out = None  # or closing would fail, too, and hide why the check does
                unreliable.replies.clear()


def _at_once(call: Any) -> None:
    """Run a coroutine that must end without waiting for anything."""
    try:
        call.send(None)
    except StopIteration:
        return
    call.close()
    unkept("record on the buffer to return without waiting", "it waits")


@check("C5")
def recording_on_the_buffer_is_no_io(bench: Bench) -> None:
    """Recordings on the buffer return at once, call nobody, refuse tokens and bad counts, and go out together."""

    async def body() -> None:
        async with _buffer(bench, flush_seconds=30) as (buffer, unreliable):
            for number in range(500):
                _at_once(buffer.record(f"m{number % 5}", calls=1, successes=1))
            _at_once(buffer.record_many([Recorded("m0", 1, 1), Recorded("m1", 1, 1)]))
            expect_same("calls of the backend while recording", [], unreliable.batches)
            await refused(buffer.record("m0", calls=1, token=FIRST), InvalidArgument, "a token on the buffer")
            await refused(
                buffer.record_many([Recorded("m0", 1)], token=FIRST), InvalidArgument, "a token on the buffer"
            )
            bad_figures: list[dict[str, Any]] = [{"calls": -1}, {"calls": 1.5}, {"positive": "1"}, {"failures": True}]
            for figures in bad_figures:
                await refused(buffer.record("m0", **figures), InvalidArgument, f"{figures} on the buffer")
            await refused(buffer.record("", calls=1), InvalidArgument, "an empty name on the buffer")
            wanted = {f"m{n}": Counts(101, 101) if n < 2 else Counts(100, 100) for n in range(5)}
            await expect_counts(buffer, wanted)
            expect_same("batches of the backend", 1, len(unreliable.batches))
            expect(unreliable.batches[0][0], "a token with the flush", unreliable.batches)

    bench.run(body)


@check("C5")
def reads_and_closing_flush(bench: Bench) -> None:
    """Every read of the buffer has what was recorded before it, reset takes it too, and closing leaves nothing."""

    async def body() -> None:
        async with bench.open() as counters:
            async with buffered(counters, flush_seconds=30) as buffer:
                reads: list[Callable[[], Awaitable[Counts]]] = [
                    lambda: buffer.totals("gpt"),
                    lambda: buffer.window("gpt", seconds=60),
                    lambda: _only(buffer.all_totals()),
                    lambda: _only(buffer.all_windows(seconds=60)),
                ]
                for calls, read in enumerate(reads, 1):
                    await buffer.record("gpt", calls=1)
                    expect_same(f"read number {calls}", Counts(calls), await read())
                await buffer.record("gpt", calls=1)
                await buffer.reset("gpt")
                expect_same("the total after reset", Counts(), await buffer.totals("gpt"))
                await buffer.record("gpt", calls=7)
                await counters.record("GPT", calls=1)
                expect_same("what the backend has before closing", Counts(), await counters.totals("gpt"))
            expect_same("what the backend has after closing", Counts(7), await counters.totals("gpt"))

    bench.run(body)


async def _only(counts: Awaitable[dict[str, Counts]]) -> Counts:
    return (await counts).get("gpt", Counts())


@check("C5")
def it_flushes_by_itself_one_at_a_time(bench: Bench) -> None:
    """What is recorded reaches the backend without a read, each flush alone and with a token of its own."""

    async def body() -> None:
        async with _buffer(bench) as (buffer, unreliable):
            unreliable.pause_seconds = 0.02
            for turn in range(3):
                await buffer.record("gpt", calls=1)
                await bench.soon(_until_counted(bench, unreliable, turn + 1))
            reads = [buffer.all_totals() if n % 2 else buffer.totals("gpt") for n in range(10)]
            await buffer.record("gpt", calls=1)
            await asyncio.gather(*reads)
            expect_same("flushes at the same time, at most", 1, unreliable.at_once)
            tokens = [token for token, _ in unreliable.batches]
            expect(None not in tokens and len(set(tokens)) == len(tokens) >= 4, "a token for each flush", tokens)
            expect_same("the total", 4, (await buffer.totals("gpt")).calls)

    bench.run(body)


async def _until_counted(bench: Bench, counters: Any, calls: int) -> None:
    """Wait until the backend itself has counted so many calls."""
    while (await counters.totals("gpt")).calls != calls:
        await bench.sleep(0.01)


async def _outage_over(bench: Bench, buffer: BufferedCounters) -> None:
    """Wait until a read can flush: one that waits for a flush which began in the outage fails with it."""

    async def flushed() -> None:
        while True:
            try:
                await buffer.all_totals()
            except BackendUnavailable:
                await bench.sleep(0.001)
            else:
                return

    await bench.soon(flushed())


@check("C5")
def outages_lose_and_double_nothing(bench: Bench) -> None:
    """However flushes fail, before they were counted or after, everything recorded is counted once in the end."""

    async def body(program: OutageProgram) -> None:
        model = CounterSums()
        async with _buffer(bench, flush_seconds=0.02) as (buffer, unreliable):
            unreliable.replies = list(program.replies)
            for recording, pause in program.recordings:
                await buffer.record_many([Recorded(recording.model_name, *recording.figures)])
                model.record(RecordStep((recording,), False, None, 0))
                await bench.sleep(pause / 100)
            await _outage_over(bench, buffer)
            for _ in program.replies:
                await buffer.record("gpt")  # something to flush, so that the next reply is used
                await _outage_over(bench, buffer)
            expect_same("replies that no read's flush used up", [], unreliable.replies)
            await expect_counts(buffer, model.totals())
            expect_same("refused", 0, buffer.refused)

    bench.explore(outage_programs(), body)


@check("C5", waits=True)
def an_outage_is_counted_where_it_happened(bench: Bench) -> None:
    """What an outage held back is counted at its own time afterwards, in the window of then and not of now."""

    async def outage(reply: Reply) -> None:
        async with _buffer(bench, bucket_seconds=1, keep_buckets=30) as (buffer, unreliable):
            unreliable.out = reply
            await buffer.record("then", calls=1)
            await bench.sleep(0.5)
            await refused(buffer.totals("then"), BackendUnavailable, "a read that cannot flush")
            await bench.sleep(2.3)
            unreliable.out = None
            await buffer.record("now", calls=1)
            await _outage_over(bench, buffer)
            recent = await buffer.all_windows(seconds=1)
            expect_same(f"the models of the last second, after an outage ({reply.value})", ["now"], list(recent))
            expect_same("the last 20 s", 1, (await buffer.window("then", seconds=20)).calls)

    async def body() -> None:
        await asyncio.gather(outage(Reply.NOT_COUNTED), outage(Reply.LOST))

    bench.run(body)


@check("C5")
def a_full_buffer_refuses_other_models(bench: Bench) -> None:
    """In an outage at most max_models are held, all of their counts; what is refused is counted, and only that lost."""

    async def body() -> None:
        async with _buffer(bench, max_models=3) as (buffer, unreliable):
            unreliable.out = Reply.NOT_COUNTED
            for turn in range(4):
                for number in range(5):
                    await buffer.record(f"m{number}", calls=1 + turn)
                await bench.sleep(0.06)
            expect_same("refused recordings", 8, buffer.refused)
            unreliable.out = None
            await _outage_over(bench, buffer)
            await expect_counts(buffer, {f"m{number}": Counts(10) for number in range(3)})
            await buffer.record("m4", calls=1)
            expect_same("a model refused before, after the outage", Counts(1), await buffer.totals("m4"))
            expect_same("refused in the end", 8, buffer.refused)

    bench.run(body)
