"""Histories: what is recorded of calls and subscriptions, and how a reader sees it."""

import asyncio
import math
import os
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import (
    END_SENTINEL,
    BackendUnavailable,
    Closed,
    Conflict,
    Corrupt,
    InvalidArgument,
    NewThread,
    PutFact,
    RevisionConflict,
    StreamEnded,
    StreamEvent,
    StreamGap,
    inprocess,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import Unkept
from deerflow_conformance.conformances import conform_plugin
from deerflow_conformance.histories import Call, History, Impossible, Outcome, Subscription, brief, outcome_of, timeline
from deerflow_conformance.isolation import run_isolated
from deerflow_conformance.replicas import ReplicaDied


def run(body: Callable[[], Any]) -> None:
    """Run in virtual time, and see that nothing is left over."""
    run_isolated(body, virtual=True)


@asynccontextmanager
async def memory() -> AsyncIterator[Any]:
    async with inprocess.connect(os.urandom(8).hex()) as connection, inprocess.open_memory(connection) as store:
        yield store


@asynccontextmanager
async def bridge() -> AsyncIterator[Any]:
    async with inprocess.connect(os.urandom(8).hex()) as connection, inprocess.open_stream_bridge(connection) as opened:
        yield opened


async def given(value: Any, after: float = 0.0) -> Any:
    """Take a while, then return or raise *value*."""
    await asyncio.sleep(after)
    if isinstance(value, BaseException):
        raise value
    return value


FACT = PutFact(None, "f", {"n": 1})


def test_calls_are_recorded_as_they_were_made() -> None:
    """A recorded client answers as the object does; each call has its method, arguments by name, moments and value."""

    async def body() -> None:
        history = History("memory")
        async with memory() as store:
            client = history.client("pod 1", store)
            applied = await client.apply("u", [FACT], expected_revision=0)
            loaded = await client.load("u")
            with pytest.raises(RevisionConflict):
                await history.client("pod 2", store).apply(user_id="u", changes=[FACT], expected_revision=0)
            assert loaded == await store.load("u")
        first, second, third = history.calls
        assert (first.client, first.name, first.outcome, first.value) == ("pod 1", "apply", Outcome.RETURNED, applied)
        assert first.arguments == {"user_id": "u", "changes": [FACT], "expected_revision": 0}
        assert (second.name, second.arguments, second.value) == ("load", {"user_id": "u"}, loaded)
        assert (third.client, third.outcome, third.value.found) == ("pod 2", Outcome.REFUSED, 1)
        assert third.arguments == first.arguments
        moments = [moment for call in history.calls for moment in (call.started, call.ended)]
        assert moments == sorted(set(moments))

    run(body)


def test_moments_are_told_apart() -> None:
    """No two moments are equal, even where the clock stands still; they follow it where it does not."""

    async def body() -> None:
        history = History("memory")
        moments = [history.moment() for _ in range(1_000)]
        assert len(set(moments)) == 1_000
        assert moments == sorted(moments)
        await asyncio.sleep(5)
        assert history.moment() - moments[0] == pytest.approx(5)

    run(body)


NOTHING_DONE = [
    *(InvalidArgument("limit", "is 0"), Conflict("taken"), StreamEnded("over"), Corrupt("damaged")),
    *(RevisionConflict("the user", expected=1, found=2), BackendUnavailable("no answer")),
]
UNKNOWN = [
    *(BackendUnavailable("no answer", maybe_written=True), asyncio.CancelledError(), ReplicaDied("killed")),
    *(Closed("closed"), TimeoutError(), RuntimeError("a defect")),
]


@pytest.mark.parametrize("error", [*NOTHING_DONE, *UNKNOWN], ids=repr)
def test_what_an_error_says(error: BaseException) -> None:
    """What the contract calls harmless did nothing; of anything else nobody knows. Either is raised to the caller."""
    wanted = Outcome.REFUSED if error in NOTHING_DONE else Outcome.MAYBE

    async def body() -> None:
        history = History("memory")
        with pytest.raises(type(error)) as raised:
            await history.call("pod 1", "apply", {"user_id": "u"}, given(error))
        (call,) = history.calls
        assert raised.value is error
        assert (call.outcome, call.value) == (wanted, error)
        assert call.latest == (call.ended if wanted is Outcome.REFUSED else math.inf)
        assert call.ended < math.inf

    run(body)
    assert outcome_of(pickle.loads(pickle.dumps(error))) is wanted


def test_a_cancelled_call_is_a_maybe() -> None:
    """A call that is cancelled on its way is a maybe, and stays cancelled; one that never began is not there."""

    async def body() -> None:
        history = History("memory")
        async with memory() as store:

            class Slow:
                reach = "process"

                async def load(self, user_id: str) -> Any:
                    await asyncio.sleep(1)
                    return await store.load(user_id)

                def __getattr__(self, name: str) -> Any:
                    return getattr(store, name)

            client = history.client("pod 1", Slow())
            task = asyncio.create_task(client.load("u"))
            await asyncio.sleep(0.5)
            assert [call.outcome for call in history.calls] == [Outcome.MAYBE]
            assert history.calls[0].ended == math.inf
            task.cancel()
            unborn = asyncio.create_task(client.load("v"))
            unborn.cancel()
            await asyncio.wait([task, unborn])
            assert task.cancelled()
            assert unborn.cancelled()
        (call,) = history.calls
        assert (call.outcome, call.arguments, call.latest) == (Outcome.MAYBE, {"user_id": "u"}, math.inf)
        assert call.ended - call.started == pytest.approx(0.5)

    run(body)


def test_calls_that_overlap_keep_the_order_of_their_starts() -> None:
    """Calls stand in the order of their starts, whichever ends first; each has its own value."""

    async def body() -> None:
        history = History("memory")
        async with asyncio.TaskGroup() as group:
            group.create_task(history.call("a", "load", {"user_id": "u"}, given(1, 2.0)))
            group.create_task(history.call("b", "load", {"user_id": "u"}, given(2, 1.0)))
        assert [(call.client, call.value) for call in history.calls] == [("a", 1), ("b", 2)]
        assert history.calls[1].ended < history.calls[0].ended

    run(body)


def test_what_is_not_recorded_works_too() -> None:
    """`ping`, `reach`, exports and whatever else the object has pass through, and are not in the history."""

    async def body() -> None:
        history = History("memory")
        async with memory() as store:
            client = history.client("pod 1", store)
            await client.ping()
            assert client.reach == "process"
            assert [record async for record in client.export()] == []
            assert history.calls == []

    run(body)


def test_a_killed_process_leaves_a_maybe(tmp_path: Path) -> None:
    """What is under way in another process when it is killed is a maybe, and what it was told before is known."""
    (conformance,) = [
        one
        for one in conform_plugin("sqlite", connection={"path": str(tmp_path)}).conformances()
        if one.capability == "memory"
    ]
    bench = Bench(conformance)
    bench.declared("host", {})

    async def body() -> None:
        history = History("memory")
        async with bench.rival(bench.space()) as rival:
            client = history.client("pod 1", rival)
            await client.apply("u", [FACT])
            pending = asyncio.create_task(client.apply("u", [PutFact(None, "g", {"n": 2})]))
            await asyncio.sleep(0)
            bench.process_of(rival).kill()
            with pytest.raises(ReplicaDied):
                await pending
        assert [call.outcome for call in history.calls] == [Outcome.RETURNED, Outcome.MAYBE]

    try:
        bench.run(body)
    finally:
        bench.close()


# ------------------------------------------------------------------------------------------------------ subscriptions


def test_subscriptions_are_recorded_as_they_were_read() -> None:
    """A subscription has its cursor, moments and all items but heartbeats, in order, and how it ended."""

    async def body() -> None:
        history = History("stream_bridge")
        async with bridge() as opened:
            client = history.client("reader", opened)
            first = await client.publish("run", "n", 1)
            unread = client.subscribe("run")
            iterator = client.subscribe("run", last_event_id=first, heartbeat_interval=1.0)
            assert history.subscriptions == []
            await anext(iterator)  # a heartbeat
            second = await client.publish("run", "n", 2)
            assert (await anext(iterator)).id == second
            await client.publish_end("run")
            assert await anext(iterator) is END_SENTINEL
            with pytest.raises(StopAsyncIteration):
                await anext(iterator)
            await unread.aclose()
            left = client.subscribe("run")
            await anext(left)
            await left.aclose()
        whole, part = history.subscriptions
        assert (whole.client, whole.run_id, whole.cursor, whole.end) == ("reader", "run", first, "exhausted")
        assert [item for _, item in whole.items] == [StreamEvent(second, "n", 2), END_SENTINEL]
        publishing = next(call for call in history.calls if call.arguments.get("data") == 2)
        assert whole.started < publishing.started < publishing.ended < whole.items[0][0] < whole.ended
        assert (part.cursor, part.end, len(part.items)) == (None, "left", 1)

    run(body)


def test_a_subscription_ends_with_the_process_that_the_kit_kills() -> None:
    """That is not an error of the backend's, and is told from one."""

    class Killed:
        def subscribe(self, run_id: str, **named: Any) -> Any:
            return self

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            raise ReplicaDied("killed")

    async def body() -> None:
        history = History("stream_bridge")
        iterator = history.client("reader", Killed()).subscribe("run")
        with pytest.raises(ReplicaDied):
            await anext(iterator)
        (subscription,) = history.subscriptions
        assert (subscription.end, subscription.result) == ("killed", "(killed)")

    run(body)


def test_a_cancelled_next_item_leaves_a_subscription_open() -> None:
    """Cancelling ``__anext__`` ends nothing: the next one goes on with the same subscription; an error does end it."""

    async def body() -> None:
        history = History("stream_bridge")
        async with bridge() as opened:
            client = history.client("reader", opened)
            iterator = client.subscribe("run", heartbeat_interval=60)
            with suppress(TimeoutError):
                await asyncio.wait_for(anext(iterator), 1)
            (subscription,) = history.subscriptions
            assert (subscription.end, subscription.items) == ("open", [])
            await client.publish("run", "n", 1)
            await anext(iterator)
            assert len(subscription.items) == 1
            wrong = client.subscribe("run", heartbeat_interval=-1)
            with pytest.raises(InvalidArgument):
                await anext(wrong)
            assert history.subscriptions[1].end == "raised"
            await iterator.aclose()

    run(body)


# ---------------------------------------------------------------------------------------------------------- timelines


def test_a_timeline_is_read_from_top_to_bottom() -> None:
    """Calls come by their starts, in milliseconds from the first; maybes are marked, and what has not ended says so."""
    error = BackendUnavailable("no answer", maybe_written=True)
    calls = [
        Call("pod 12", "load", {"user_id": "u"}, 5.25, 5.5, Outcome.RETURNED, 7),
        Call("pod 1", "clear", {"user_id": "u"}, 5.0, 5.0125, Outcome.MAYBE, error),
        Call("pod 1", "load", {"user_id": "u"}, 6.0),
    ]
    assert timeline(calls).splitlines() == [
        "        from        to  ms",
        "?      0.000     12.500  pod 1   clear(user_id='u') -> maybe: BackendUnavailable('no answer')",
        "     250.000    500.000  pod 12  load(user_id='u') -> 7",
        "?   1000.000        …    pod 1   load(user_id='u') -> (not over yet)",
    ]
    assert timeline([]) == "(nothing was called)"


def test_a_timeline_has_limits() -> None:
    """Of a long history the last calls are shown, of a long call its beginning, and every line fits."""
    calls = [
        Call("pod", "get", {"thread_id": str(i)}, i, i + 0.5, Outcome.RETURNED, "x" * 50 * (i % 4)) for i in range(50)
    ]
    calls.append(Call("pod", "apply", {"changes": ["y" * 500]}, 60, 61, Outcome.RETURNED, "z" * 500))
    lines = timeline(calls, limit=10).splitlines()
    assert lines[1] == "(41 earlier calls)"
    assert sum("get(" in line for line in lines) == 9
    assert max(map(len, lines)) == 120
    assert lines[-2].endswith("yyy…")
    assert lines[-1].lstrip().startswith("-> 'zzz")


def test_a_subscription_is_shown_by_what_it_got() -> None:
    """Ids in a row are shown as the first and the last of them; END, gaps and an open end by their names."""
    items = [*(StreamEvent(f"5-{seq}", "n", seq) for seq in (1, 2, 3, 5)), StreamEvent("6-6", "n", 6), END_SENTINEL]
    whole = Subscription("reader", "run", None, 0.0, 1.0, [(0.5, item) for item in items])
    assert whole.result == "5-1 1 .. 5-3 3, 5-5 5, 6-6 6, END"
    gap = Subscription("reader", "run", "5-0", 0.0, 1.0, [(0.5, StreamGap("5-0", None, "5-2"))], "exhausted")
    assert gap.result == "StreamGap(requested_event_id='5-0', latest_available_event_id='5-2')"
    assert Subscription("reader", "run", None, 0.0, 1.0, end="left").result == "nothing"
    assert Subscription("reader", "run", None, 0.0, items=[(0.5, items[3])]).result == "5-5 5, (open)"
    assert Subscription("reader", "run", None, 0.0, 1.0, end="raised").result == "(raised)"
    assert "subscribe(run_id='run', last_event_id='5-0')" in timeline([gap])


def test_values_are_shown_in_short() -> None:
    """Of the contract's values, what is None, a default or a time is left out; other values are their repr."""

    async def body() -> None:
        async with memory() as store:
            await store.apply("u", [FACT])
            loaded = (
                "Memory(user_id='u', body={}, body_revision=0, facts=(Fact(fact_id='f', value={'n': 1}, revision=1),)"
            )
            assert brief(await store.load("u")) == f"{loaded}, revision=1)"

    run(body)
    assert brief([NewThread("t", None, metadata={"k": 1})]) == "[NewThread(thread_id='t', metadata={'k': 1})]"
    assert brief(("a", FACT)) == "('a', PutFact(fact_id='f', value={'n': 1}))"
    assert brief(Conflict("taken")) == "Conflict('taken')"


def test_an_impossible_history_is_an_unkept_promise() -> None:
    """It says what was wanted and what came as other findings do, and has its timeline beside them."""
    error = Impossible("revision 2", "revision 1", "a timeline")
    assert isinstance(error, Unkept)
    assert (error.wanted, error.got, error.timeline) == ("revision 2", "revision 1", "a timeline")
    assert "a timeline" not in str(error)
