"""The buffer in front of model counters (C5): nothing waits, nothing is lost in an outage, nothing is counted twice."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import buffering
from deerflow_backends.binding import Binding
from deerflow_backends.buckets import bucket_of
from deerflow_backends.buffering import BufferedCounters, buffered
from deerflow_backends.counters import MAX_COUNT, CounterOptions, Counts, Recorded
from deerflow_backends.errors import BackendUnavailable, Closed, Corrupt, InvalidArgument
from deerflow_backends.inprocess.connection import Connection, connect
from deerflow_backends.inprocess.counters import InProcessModelCounters

OPTIONS = CounterOptions(bucket_seconds=10, keep_buckets=1_000)
NEVER = 1e9


class Odd(str):
    """Text that is equal to no other text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return 1


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test can turn forward."""

    turned = 0.0

    def time(self) -> float:
        return super().time() + self.turned


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=TurnedLoop) as runner:
        runner.run(_awaited(test))


async def _awaited(test: Callable[[], Awaitable[None]]) -> None:
    await test()


def turn(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TurnedLoop)
    loop.turned += seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


class Flaky(InProcessModelCounters):
    """Real counters whose connection can be cut: before a write arrives, or on the way back of its reply."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, Binding("flaky counters"), OPTIONS)
        self.request_lost = self.reply_lost = False
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[tuple[str | None, list[Recorded]]] = []
        self.running = self.most_running = 0

    async def record_many(self, counts: Sequence[Recorded], *, token: str | None = None) -> None:
        self.batches.append((token, list(counts)))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            if self.request_lost:
                raise BackendUnavailable("no connection")
            await super().record_many(counts, token=token)
            if self.reply_lost:
                raise BackendUnavailable("no reply", maybe_written=True)
        finally:
            self.running -= 1


@asynccontextmanager
async def connection() -> AsyncIterator[Connection]:
    loop = asyncio.get_running_loop()
    began = loop.time()

    def clock() -> int:
        return 1_000_000_000_000_000 + round((loop.time() - began) * 1_000_000)

    async with connect(namespace=f"t{uuid.uuid4().hex}", clock=clock) as opened:
        yield opened


@asynccontextmanager
async def flaky(**options: Any) -> AsyncIterator[tuple[Flaky, BufferedCounters]]:
    options = {"flush_seconds": NEVER} | options
    async with connection() as opened:
        backend = Flaky(opened)
        async with buffered(backend, **options) as buffer:
            yield backend, buffer


def test_recording_returns_without_io_and_reads_see_it() -> None:
    """C5: recording sends nothing; a read flushes first; each flush is one call with a token of its own."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=2, successes=1, failures=1, positive=-1)
            await buffer.record("m", calls=3, negative=1)
            await buffer.record_many([Recorded("m", calls=5), Recorded("n", positive=1)])
            assert backend.batches == []
            assert await buffer.totals("m") == Counts(10, 1, 1, 0, 1)
            assert await buffer.window("n", seconds=10) == Counts(positive=1)
            assert len(backend.batches) == 1
            await buffer.record("m", positive=2)
            assert await buffer.all_totals() == {"m": Counts(10, 1, 1, 1, 1), "n": Counts(positive=1)}
            assert await buffer.all_windows(seconds=10) == await buffer.all_totals()
            tokens = [token for token, _ in backend.batches]
            assert None not in tokens
            assert len(set(tokens)) == len(tokens) == 2
            assert buffer.reach == "process"
            await buffer.ping()

    run(test)


def test_the_background_flushes_on_its_own() -> None:
    """C5: what is recorded arrives without anybody reading."""

    async def test() -> None:
        async with flaky(flush_seconds=0.01) as (backend, buffer):
            for _ in range(3):
                seen = len(backend.batches)
                await buffer.record("m", calls=1)
                await until(lambda: len(backend.batches) > seen)  # noqa: B023  # awaited in the same turn
            assert await backend.totals("m") == Counts(calls=3)

    run(test)


@given(
    st.lists(st.tuples(st.sampled_from(["up", "request", "reply", "record", "read"]), st.integers(1, 5)), max_size=30)
)
def test_nothing_is_lost_and_nothing_is_counted_twice(steps: list[tuple[str, int]]) -> None:
    """C5, G5: whatever is cut in between, in the end each count is there exactly once."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            recorded = 0
            for step, number in steps:
                backend.request_lost = step == "request"
                backend.reply_lost = step == "reply"
                if step == "read":
                    assert await buffer.totals("m") == Counts(calls=recorded)
                    continue
                await buffer.record("m", calls=number)
                recorded += number
                turn(number / 10)
                if step in {"request", "reply"}:
                    with pytest.raises(BackendUnavailable):
                        await buffer.totals("m")
            backend.request_lost = backend.reply_lost = False
            assert await buffer.totals("m") == Counts(calls=recorded)
            by_token: dict[str | None, set[tuple[str, int]]] = {}
            for token, counts in backend.batches:
                sums = {(one.model_name, one.calls) for one in counts}
                assert by_token.setdefault(token, sums) == sums, "a batch changed between two tries"

    run(test)


def test_the_counts_of_an_outage_land_in_their_own_buckets() -> None:
    """C5: each count bears its age at the moment it is sent, not when it was first tried."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            backend.request_lost = True
            for _ in range(6):
                await buffer.record("m", calls=1)
                with pytest.raises(BackendUnavailable):
                    await buffer.totals("m")
                turn(100)
            backend.request_lost = False
            await buffer.record("m", calls=1)
            seen = [(await buffer.window("m", seconds=age + 5)).calls for age in range(0, 700, 100)]
            assert seen == [1, 2, 3, 4, 5, 6, 7]

    run(test)


def test_recorded_ages_are_kept() -> None:
    """C5: what was recorded with an age is as old plus the time that it waited."""

    async def test() -> None:
        async with flaky() as (_, buffer):
            await buffer.record_many([Recorded("m", calls=1, age_seconds=age) for age in (0.0, 50.0, 100.0, 100.01)])
            turn(100)
            seen = [(await buffer.window("m", seconds=seconds)).calls for seconds in (85, 105, 155, 205)]
            assert seen == [0, 1, 2, 4]

    run(test)


def test_a_long_outage_leaves_no_bucket_empty() -> None:
    """C5: however long it lasts, each of its minutes has what was counted in it."""

    async def test() -> None:
        async with connection() as opened:
            options = CounterOptions(bucket_seconds=60)
            backend = InProcessModelCounters(opened, Binding("counters"), options)
            async with buffered(backend, flush_seconds=NEVER) as buffer:
                wanted: dict[int, int] = {}
                for _ in range(4 * 360):
                    await buffer.record("m", calls=1)
                    bucket = bucket_of(opened.clock(), options)
                    wanted[bucket] = wanted.get(bucket, 0) + 1
                    turn(10)
                await buffer.all_totals()
                found = {bucket: models["m"][0] for bucket, models in backend._table.buckets.items()}
                assert found.keys() == wanted.keys()
                # The clock runs between a count and the note of its bucket: one at an edge may fall on the other.
                assert all(abs(found[bucket] - calls) <= 1 for bucket, calls in wanted.items())

    run(test)


def test_memory_does_not_grow_with_calls_nor_linearly_with_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: with half of the room taken, slots grow: a day's outage fits, ages true to a few percent of it."""
    monkeypatch.setattr(buffering, "MAX_ENTRIES", 2_000)

    async def test() -> None:
        async with flaky() as (backend, buffer):
            backend.request_lost = True
            for second in range(86_400):
                await buffer.record("m", calls=1)
                turn(1)
                if second % 100 == 0:
                    with pytest.raises(BackendUnavailable):
                        await buffer.totals("m")
            backend.request_lost = False
            assert await buffer.totals("m") == Counts(calls=86_400)
            entries = [one for counts in dict(backend.batches).values() for one in counts]
            assert 1_000 < len(entries) < 2_000
            half = sum(one.calls for one in entries if one.age_seconds <= 43_200)
            assert abs(half - 43_200) < 864

    run(test)


def test_with_too_many_entries_counts_join_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """C5: memory is bounded, and still nothing is lost of a model that is held."""
    monkeypatch.setattr(buffering, "MAX_ENTRIES", 3)

    async def test() -> None:
        async with flaky() as (backend, buffer):
            for _ in range(50):
                await buffer.record("m", calls=1)
                turn(1)
            await buffer.record("n", calls=1)
            assert await buffer.all_totals() == {"m": Counts(calls=50), "n": Counts(calls=1)}
            ((_, counts),) = backend.batches
            assert len(counts) == 4
            assert buffer.refused == 0

    run(test)


def test_more_models_than_are_held_are_refused_and_counted() -> None:
    """C5: an outage loses nothing of up to ``max_models`` models; ``refused`` counts the recordings of others."""

    async def test() -> None:
        async with flaky(max_models=2) as (backend, buffer):
            backend.request_lost = True
            for name in ("a", "b", "c", "a", "c", "d"):
                await buffer.record(name, calls=10)
                with pytest.raises(BackendUnavailable):
                    await buffer.totals(name)
            assert buffer.refused == 3
            backend.request_lost = False
            assert await buffer.all_totals() == {"a": Counts(calls=20), "b": Counts(calls=10)}
            await buffer.record_many([Recorded(name, calls=1) for name in "cde"])
            assert buffer.refused == 4
            assert (await buffer.all_totals())["d"] == Counts(calls=1)

    run(test)


def test_ten_thousand_models_and_more_go_in_several_batches() -> None:
    """C7: no call grows without bound, and every model arrives."""

    async def test() -> None:
        async with flaky(max_models=30_000) as (backend, buffer):
            for _ in range(3):
                await buffer.record_many([Recorded(f"m{number}", calls=1) for number in range(9_000)])
                turn(1)
            totals = await buffer.all_totals()
            assert totals == {f"m{number}": Counts(calls=3) for number in range(9_000)}
            assert [len(counts) for _, counts in backend.batches] == [9_000] * 3

    run(test)


def test_sums_larger_than_one_recording_may_hold() -> None:
    """C1: many large counts of one model arrive, in parts."""

    async def test() -> None:
        async with flaky() as (_, buffer):
            for _ in range(3):
                await buffer.record("m", calls=MAX_COUNT, failures=1, positive=-MAX_COUNT)
            await buffer.record("m", positive=2 * 10**8)
            assert await buffer.totals("m") == Counts(3 * MAX_COUNT, 0, 3, 0, 0)
            await buffer.record_many([Recorded("m", positive=MAX_COUNT)] * 3)
            assert (await buffer.totals("m")).positive == 2 * 10**8

    run(test)


def test_one_flush_at_a_time_and_an_outage_is_waited_for_once() -> None:
    """C5, G7: readers that waited for a flush that failed fail with it, instead of each waiting as long again."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.gate.clear()
            backend.request_lost = True
            readers = [asyncio.create_task(buffer.totals("m")) for _ in range(20)]
            await until(lambda: backend.running == 1)
            await asyncio.sleep(0.01)
            backend.gate.set()
            errors = await asyncio.gather(*readers, return_exceptions=True)
            assert all(isinstance(error, BackendUnavailable) and not error.maybe_written for error in errors)
            assert len(backend.batches) == backend.most_running == 1
            backend.request_lost = False
            assert await buffer.totals("m") == Counts(calls=1)

    run(test)


def test_recording_goes_on_during_a_flush() -> None:
    """C5: a slow server makes no recording wait, and what came later comes with the next flush."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.gate.clear()
            reader = asyncio.create_task(buffer.totals("m"))
            await until(lambda: backend.running == 1)
            await buffer.record("m", calls=10)
            backend.gate.set()
            assert await reader == Counts(calls=1)
            assert await buffer.totals("m") == Counts(calls=11)

    run(test)


def test_a_cancelled_read_loses_nothing() -> None:
    """G8: its batch is kept, and sent again under the same token."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.gate.clear()
            reader = asyncio.create_task(buffer.totals("m"))
            await until(lambda: backend.running == 1)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            backend.gate.set()
            await buffer.record("m", calls=10)
            assert await buffer.totals("m") == Counts(calls=11)
            assert backend.batches[0][0] == backend.batches[1][0]

    run(test)


def test_a_batch_whose_token_may_be_forgotten_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """C5, C2: what may have been counted longer ago than a token lives is never sent again, but logged and refused."""

    async def test() -> None:
        async with flaky(token_seconds=100) as (backend, buffer):
            for _ in range(3):
                await buffer.record("m", calls=7)
            backend.request_lost = True
            with pytest.raises(BackendUnavailable):
                await buffer.totals("m")
            turn(1_000)  # never counted, so no reason to give it up
            backend.request_lost, backend.reply_lost = False, True
            with pytest.raises(BackendUnavailable):
                await buffer.totals("m")
            turn(80)
            with pytest.raises(BackendUnavailable):
                await buffer.totals("m")
            tries = len(backend.batches)
            turn(12)  # of the first try that was perhaps counted, not of the last
            await buffer.record("m", calls=1)
            await buffer.record("n", calls=1)
            backend.reply_lost = False
            assert await buffer.all_totals() == {"m": Counts(calls=22), "n": Counts(calls=1)}
            assert [token for token, _ in backend.batches[tries:]] != [backend.batches[0][0]]
            assert {token for token, _ in backend.batches[:tries]} == {backend.batches[0][0]}
            assert buffer.refused == 3

    run(test)
    (logged,) = caplog.records
    assert (logged.levelno, logged.getMessage()) == (logging.WARNING, "counters.batch_given_up")
    assert (logged.__dict__["recordings"], logged.__dict__["calls"]) == (3, 21)


def test_a_cancelled_batch_is_given_up_too() -> None:
    """C5, G8: of a try that was cancelled nobody knows the end either."""

    async def test() -> None:
        async with flaky(token_seconds=100) as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.gate.clear()
            reader = asyncio.create_task(buffer.totals("m"))
            await until(lambda: backend.running == 1)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            backend.gate.set()
            turn(100)
            assert await buffer.totals("m") == Counts()
            assert (len(backend.batches), buffer.refused) == (1, 1)

    run(test)


def test_a_short_lived_token_allows_another_try() -> None:
    """C5, G5: also with tokens of a second, a batch whose reply was lost is sent again at once, and counted once."""

    async def test() -> None:
        async with flaky(token_seconds=1) as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.reply_lost = True
            with pytest.raises(BackendUnavailable):
                await buffer.totals("m")
            backend.reply_lost = False
            assert await buffer.totals("m") == Counts(calls=1)
            assert (len(backend.batches), buffer.refused) == (2, 0)

    run(test)


def test_reset_counts_what_was_recorded_before_and_removes_it() -> None:
    """C6: recordings before a reset do not come back after it; if the flush fails nothing is removed."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=5)
            await buffer.record("n", calls=5)
            await buffer.reset("m")
            assert await buffer.all_totals() == {"n": Counts(calls=5)}
            await buffer.record("m", calls=1)
            backend.request_lost = True
            with pytest.raises(BackendUnavailable):
                await buffer.reset("n")
            backend.request_lost = False
            assert await buffer.all_totals() == {"m": Counts(calls=1), "n": Counts(calls=5)}

    run(test)


def test_leaving_flushes() -> None:
    """C5: closing loses nothing, and a batch of unknown fate is not counted twice."""

    async def test() -> None:
        async with connection() as opened:
            backend = Flaky(opened)
            async with buffered(backend, flush_seconds=NEVER) as buffer:
                await buffer.record("m", calls=1)
                backend.reply_lost = True
                with pytest.raises(BackendUnavailable):
                    await buffer.totals("m")
                backend.reply_lost = False
                await buffer.record("m", calls=10)
            assert await backend.totals("m") == Counts(calls=11)
            for call in (
                buffer.record("m"),
                buffer.record_many([]),
                buffer.totals("m"),
                buffer.reset("m"),
                buffer.ping(),
            ):
                with pytest.raises(Closed):
                    await call

    run(test)


@pytest.mark.parametrize(("first", "last", "maybe"), [("request", "request", False), ("reply", "request", True)])
def test_leaving_says_how_much_was_lost(first: str, last: str, maybe: bool) -> None:
    """C5: if the last flush fails, the error has the figures, and says whether some of it may have been counted."""

    async def test() -> None:
        async with flaky() as (backend, buffer):
            await buffer.record("m", calls=1)
            backend.request_lost, backend.reply_lost = first == "request", first == "reply"
            with pytest.raises(BackendUnavailable):
                await buffer.totals("m")
            backend.request_lost, backend.reply_lost = last == "request", last == "reply"
            await buffer.record("m", calls=1)
            await buffer.record("n", calls=10)

    with pytest.raises(BackendUnavailable, match="12 calls of 2 models are lost") as caught:
        run(test)
    assert caught.value.maybe_written == maybe


def test_an_error_in_the_block_stays_the_error() -> None:
    """G8: what is lost on leaving is a note on the error that the block was left by."""
    mine = KeyError("mine")

    async def test() -> None:
        async with flaky() as (backend, buffer):
            backend.request_lost = True
            await buffer.record("m", calls=7)
            raise mine

    with pytest.raises(KeyError) as caught:
        run(test)
    assert caught.value is mine
    assert "7 calls of 1 models are lost: no connection" in mine.__notes__[0]


def test_a_cancellation_stays_one_in_an_outage() -> None:
    """G8: a cancelled task ends cancelled, and `asyncio.timeout` in a `TimeoutError`, though the last flush fails."""

    async def work() -> None:
        async with flaky() as (backend, buffer):
            backend.request_lost = True
            await buffer.record("m", calls=1)
            await asyncio.Event().wait()

    async def test() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await work()

    run(test)


def test_leaving_that_is_cancelled_says_what_is_lost() -> None:
    """G8: also while it waits for a flush that was under way; no task stays behind."""

    async def work(backends: list[Flaky]) -> None:
        async with flaky() as (backend, buffer):
            backend.gate.clear()
            backends.append(backend)
            await buffer.record("m", calls=3)

    async def test() -> None:
        backends: list[Flaky] = []
        task = asyncio.create_task(work(backends))
        await until(lambda: bool(backends) and backends[0].running == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert "3 calls of 1 models are lost" in caught.value.__notes__[0]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(test)


def test_the_background_survives_outages_and_logs_each_once(caplog: pytest.LogCaptureFixture) -> None:
    """C5: however long an outage, it is one line at its beginning and one at its end."""
    caplog.set_level(logging.INFO, "deerflow_backends")

    async def test() -> None:
        async with flaky(flush_seconds=0.001) as (backend, buffer):
            for _ in range(2):
                backend.request_lost = True
                await buffer.record("m", calls=1)
                tried = len(backend.batches)
                await until(lambda: len(backend.batches) >= tried + 5)  # noqa: B023  # awaited in the same turn
                backend.request_lost = False
                await until(lambda: caplog.messages[-1] == "counters.flush_recovered")
            assert await backend.totals("m") == Counts(calls=2)

    run(test)
    assert caplog.messages == ["counters.flush_failed", "counters.flush_recovered"] * 2


def test_another_error_is_logged_and_told_to_readers(caplog: pytest.LogCaptureFixture) -> None:
    """C5: what is no outage does not silently end the flushing either: it is logged as an error, with its cause."""

    async def test() -> None:
        async with flaky(flush_seconds=0.001) as (backend, buffer):
            backend.error = Corrupt("a broken table")
            await buffer.record("m", calls=1)
            await until(lambda: len(backend.batches) >= 3)
            with pytest.raises(Corrupt):
                await buffer.totals("m")
            backend.error = None
            assert await buffer.totals("m") == Counts(calls=1)

    run(test)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "counters.flush_failed")
    assert record.exc_info is not None


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"model_name": "m", "token": "t"}, "token"),
        ({"model_name": ""}, "model_name"),
        ({"model_name": None}, "model_name"),
        ({"model_name": ["m"]}, "model_name"),
        ({"model_name": "m", "calls": -1}, "calls"),
        ({"model_name": "m", "calls": True}, "calls"),
        ({"model_name": "m", "successes": 1.0}, "successes"),
        ({"model_name": "m", "failures": MAX_COUNT + 1}, "failures"),
        ({"model_name": "m", "positive": "1"}, "positive"),
        ({"model_name": "m", "negative": -MAX_COUNT - 1}, "negative"),
    ],
)
def test_bad_figures_are_refused_for_known_models_too(arguments: dict[str, Any], place: str) -> None:
    """C1, C5: a bad argument counts nothing, and a token is refused."""

    async def test() -> None:
        async with flaky() as (_, buffer):
            await buffer.record("m", calls=1, successes=1)
            with pytest.raises(InvalidArgument) as caught:
                await buffer.record(**arguments)
            assert caught.value.place == place
            assert await buffer.all_totals() == {"m": Counts(1, 1)}

    run(test)


def test_only_a_str_names_a_model() -> None:
    """C5, C7: neither a tuple like those that the buffer keeps, nor a subclass of str that compares as it likes."""

    async def test() -> None:
        async with flaky() as (_, buffer):
            await buffer.record("m", calls=1)
            await buffer.record_many([Recorded("m", calls=1, age_seconds=3)])
            for key in list(buffer._slot):
                if key != "m":
                    name: Any = key
                    with pytest.raises(InvalidArgument, match="model_name"):
                        await buffer.record(name, calls=5)
            await buffer.record(Odd("m"), calls=10)
            await buffer.record(Odd("n"), calls=10)
            await buffer.record("n", calls=10)
            totals = await buffer.all_totals()
            assert totals == {"m": Counts(calls=12), "n": Counts(calls=20)}
            assert {type(name) for name in totals} == {str}

    run(test)


def test_bad_batches_are_refused_whole() -> None:
    """C1, C5: of several recordings with a bad one among them none is counted."""

    async def test() -> None:
        async with flaky() as (_, buffer):
            many: Any = [Recorded("m", calls=1), "m"]
            with pytest.raises(InvalidArgument, match=r"counts\[1\]"):
                await buffer.record_many(many)
            with pytest.raises(InvalidArgument, match="token"):
                await buffer.record_many([Recorded("m", calls=1)], token="t")
            assert await buffer.all_totals() == {}

    run(test)


@pytest.mark.parametrize(
    "options", [{"flush_seconds": 0}, {"flush_seconds": None}, {"max_models": 0}, {"token_seconds": 0}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """Nothing is opened with an option that cannot be meant."""

    async def test() -> None:
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            async with flaky(**options):
                pass

    run(test)
