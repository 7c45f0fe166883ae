"""The models that histories are judged by: they agree with real backends, and refuse what backends get wrong."""

import asyncio
import dataclasses
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends import (
    ABSENT,
    ALL,
    ANY,
    ANY_USER,
    BackendsError,
    Conflict,
    DeleteFact,
    InvalidArgument,
    NewThread,
    PutBody,
    PutFact,
    Recorded,
    inprocess,
)
from deerflow_conformance.histories import Call, History, Impossible, Outcome
from deerflow_conformance.history_models import CounterModel, MemoryModel, ThreadModel
from deerflow_conformance.isolation import run_isolated
from deerflow_conformance.linearizability import expect_linearizable
from deerflow_conformance.promises import Capability

#: A method and its arguments.
Operation = tuple[str, dict[str, Any]]

_expected = st.sampled_from([ANY, ANY, ABSENT, 1, 2])
_agents = st.sampled_from([None, "a"])
_changes = st.one_of(
    st.builds(PutFact, _agents, st.sampled_from("fg"), st.sampled_from([{"n": 1}, {"n": 1.0}, {"n": True}]), _expected),
    st.builds(DeleteFact, _agents, st.sampled_from("fg"), _expected),
    st.builds(PutBody, _agents, st.sampled_from([{}, {"b": [1]}]), _expected),
)
_users = st.sampled_from(["u", None])
_memory: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda user, changes, expected: (
            "apply",
            {"user_id": user, "changes": changes, **({} if expected is None else {"expected_revision": expected})},
        ),
        _users,
        st.lists(_changes, min_size=1, max_size=3),
        st.sampled_from([None, None, 0, 1, 2]),
    ),
    st.builds(lambda user, agent: ("load", {"user_id": user, "agent_name": agent}), _users, _agents),
    st.builds(lambda agent: ("get_fact", {"user_id": "u", "fact_id": "f", "agent_name": agent}), _agents),
    st.builds(lambda agent: ("clear", {"user_id": "u", "agent_name": agent}), st.sampled_from([None, "a", ALL])),
    st.just(("clear", {"user_id": "u"})),
)
_scopes = st.sampled_from(["u", "v", ANY_USER])
_threads: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda name, user, metadata: ("create", {"thread": NewThread(name, user, "helper", metadata=metadata)}),
        st.sampled_from("st"),
        st.sampled_from(["u", "v", None]),
        st.sampled_from([{}, {"k": 1, "l": None}]),
    ),
    st.builds(lambda name, user: ("get", {"thread_id": name, "user_id": user}), st.sampled_from("st"), _scopes),
    st.builds(lambda name, user: ("delete", {"thread_id": name, "user_id": user}), st.sampled_from("st"), _scopes),
    st.builds(
        lambda name, user, to: ("move", {"thread_id": name, "user_id": user, "to_user_id": to}),
        st.sampled_from("st"),
        _scopes,
        st.sampled_from(["u", "v", None]),
    ),
    st.builds(
        lambda name, user, given: ("update", {"thread_id": name, "user_id": user, **given}),
        st.sampled_from("st"),
        _scopes,
        st.sampled_from(
            [
                {"status": "running"},
                {"status": "idle", "expected_status": "running"},
                {"display_name": "a name", "expected_status": ANY},
                {"display_name": None, "touch": False},
                {"metadata": {"k": 1.0, "m": {"n": []}}},
                {"metadata": {"k": True}, "replace": True},
                {"metadata": {"k": 2}, "remove": ["l"]},
            ]
        ),
    ),
)
_models = st.sampled_from("ab")
_tokens = st.sampled_from([{}, {}, {"token": "t"}, {"token": "v"}, {"token": None}])
_counters: st.SearchStrategy[Operation] = st.one_of(
    st.builds(
        lambda name, figures, token: ("record", {"model_name": name, **figures, **token}),
        _models,
        st.sampled_from([{"calls": 1, "failures": 1}, {"calls": 2, "successes": 1}, {"positive": -1}, {"negative": 2}]),
        _tokens,
    ),
    st.builds(
        lambda token: ("record_many", {"counts": [Recorded("a", 1), Recorded("b", positive=2)], **token}), _tokens
    ),
    st.builds(lambda name: ("totals", {"model_name": name}), _models),
    st.just(("all_totals", {})),
    st.builds(lambda name: ("reset", {"model_name": name}), _models),
)

CAPABILITIES: Final[dict[Capability, tuple[st.SearchStrategy[Operation], Callable[[Sequence[Call]], Any], Any]]] = {
    "memory": (_memory, lambda _: MemoryModel(), inprocess.open_memory),
    "thread_index": (_threads, lambda _: ThreadModel(), inprocess.open_thread_index),
    "counters": (_counters, CounterModel, inprocess.open_counters),
}


@asynccontextmanager
async def opened(capability: Capability) -> AsyncIterator[Any]:
    async with (
        inprocess.connect(os.urandom(8).hex()) as connection,
        CAPABILITIES[capability][2](connection) as found,
    ):
        yield found


class Far:
    """Has the methods of *opened*, as from far away: a call takes a while to get there, and so does its answer."""

    reach = "process"

    def __init__(self, opened: Any, drawn: random.Random) -> None:
        self._opened, self._drawn = opened, drawn

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*positional: Any, **named: Any) -> Any:
            await asyncio.sleep(self._drawn.random())
            try:
                return await getattr(self._opened, name)(*positional, **named)
            finally:
                await asyncio.sleep(self._drawn.random())

        return call


async def _do(client: Any, operation: Operation, patience_seconds: float = 100.0) -> None:
    name, arguments = operation
    with suppress(Conflict, InvalidArgument, TimeoutError):
        await asyncio.wait_for(getattr(client, name)(**arguments), patience_seconds)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_model_says_what_a_backend_does(capability: Capability) -> None:
    """Whatever is called one after the other on a backend that is right, a model explains."""
    operations, make, _ = CAPABILITIES[capability]

    @settings(database=None, deadline=None, max_examples=100)
    @given(st.lists(operations, max_size=16))
    def explained(program: list[Operation]) -> None:
        history = History(capability)

        async def body() -> None:
            async with opened(capability) as found:
                for operation in program:
                    await _do(history.client("client", found), operation)

        run_isolated(body, virtual=True)
        assert len(history.calls) == len(program)
        expect_linearizable(history.calls, make(history.calls))

    explained()


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_clients_at_once_are_explained(capability: Capability) -> None:
    """Whatever four clients call at once, and give up now and then, a backend that is right is never refused."""
    operations, make, _ = CAPABILITIES[capability]
    maybes = 0

    @settings(database=None, deadline=None, max_examples=40)
    @given(st.lists(st.lists(operations, max_size=8), min_size=4, max_size=4), st.integers(0, 2**32))
    def explained(programs: list[list[Operation]], seed: int) -> None:
        nonlocal maybes
        history, drawn = History(capability), random.Random(seed)

        async def client(name: str, found: Any, program: list[Operation]) -> None:
            for operation in program:
                await _do(history.client(name, Far(found, drawn)), operation, drawn.choice([0.5, 1.0, 5.0, 5.0]))

        async def body() -> None:
            async with opened(capability) as found, asyncio.TaskGroup() as group:
                for number, program in enumerate(programs):
                    group.create_task(client(f"client {number}", found, program))

        run_isolated(body, virtual=True)
        expect_linearizable(history.calls, make(history.calls))
        maybes += sum(call.outcome is Outcome.MAYBE for call in history.calls)

    explained()
    assert maybes > 100


# ------------------------------------------------------------------------------------------------------ what is wrong


class Careless:
    """A backend that does something wrong: calls *wrong* in place of the methods that are named there."""

    reach = "process"

    def __init__(self, found: Any, **wrong: Callable[..., Any]) -> None:
        self._found, self._wrong = found, wrong

    def __getattr__(self, name: str) -> Any:
        wrong = self._wrong.get(name)
        return getattr(self._found, name) if wrong is None else (lambda *a, **k: wrong(self._found, *a, **k))


def refused(capability: Capability, play: Callable[[Any], Awaitable[None]], **wrong: Callable[..., Any]) -> Impossible:
    """Play on a careless backend and return why its history is refused; on a careful one it is not."""
    failed: Impossible | None = None
    for faults in ({}, wrong):
        history = History(capability)

        async def body(history: History = history, faults: dict[str, Any] = faults) -> None:
            async with opened(capability) as found:
                await play(history.client("pod 1", Careless(found, **faults)))

        run_isolated(body, virtual=True)
        failed = None
        try:
            expect_linearizable(history.calls, CAPABILITIES[capability][1](history.calls))
        except Impossible as error:
            failed = error
        assert (failed is not None) == bool(faults)
    assert failed is not None
    return failed


async def _on_one_revision(client: Any) -> None:
    memory = await client.load("u")
    for number in range(2):
        with suppress(Conflict):
            await client.apply("u", [PutFact(None, f"f{number}", {})], expected_revision=memory.revision)
    await client.load("u")


def test_two_winners_of_one_revision_are_refused() -> None:
    """Of two applies against one revision, one must meet a conflict."""

    async def apply(store: Any, user_id: str, changes: Any, expected_revision: int | None = None) -> Any:
        return await store.apply(user_id, changes)

    failed = refused("memory", _on_one_revision, apply=apply)
    assert failed.wanted.startswith(
        "apply(user_id='u', changes=[PutFact(fact_id='f1', value={})], expected_revision=0)"
    )
    assert failed.wanted.endswith("to give Refused(error='RevisionConflict', expected=0, found=1)")
    assert failed.got.startswith("Written(revision=2, changed=True")


def test_a_conflict_for_nothing_is_refused() -> None:
    """A conflict must have found another revision than was expected."""

    async def apply(store: Any, user_id: str, changes: Any, expected_revision: int | None = None) -> Any:
        return await store.apply(user_id, changes, expected_revision=(expected_revision or 0) + 1)

    assert refused("memory", _on_one_revision, apply=apply).got.startswith("Refused(error='RevisionConflict'")


def test_a_lost_update_is_refused() -> None:
    """A write that was acknowledged is read."""

    async def play(client: Any) -> None:
        await client.apply("u", [PutFact("a", "f", {"n": 1})])
        await client.load("u", agent_name="a")

    async def apply(store: Any, user_id: str, changes: Any) -> Any:
        return await store.apply(f"not {user_id}", changes)

    failed = refused("memory", play, apply=apply)
    assert failed.wanted == (
        "load(user_id='u', agent_name='a') of pod 1 to give "
        "Loaded(user_id='u', agent_name='a', revision=1, body_revision=0, body='{}', "
        "facts=(('a', 'f', 1, '{\"n\": 1}'),))"
    )
    assert failed.got == "Loaded(user_id='u', agent_name='a', revision=0, body_revision=0, body='{}', facts=())"


def test_wrong_revisions_are_refused() -> None:
    """A fact's revision grows by one with each change, and with none that changes nothing."""

    async def play(client: Any) -> None:
        await client.apply("u", [PutFact(None, "f", {"n": 1})])
        await client.apply("u", [PutFact(None, "f", {"n": 2})])
        await client.get_fact("u", "f", agent_name=None)

    async def get_fact(store: Any, *positional: Any, **named: Any) -> Any:
        return dataclasses.replace(await store.get_fact(*positional, **named), revision=1)

    assert refused("memory", play, get_fact=get_fact).got == "(None, 'f', 1, '{\"n\": 2}')"


@pytest.mark.parametrize("wrong", [{"agent_name": "b"}, {"fact_id": "g"}], ids=["agent", "id"])
def test_another_fact_than_was_asked_for_is_refused(wrong: dict[str, Any]) -> None:
    """A fact says whose it is and which, by itself and in what load gives."""

    async def play(client: Any) -> None:
        await client.apply("u", [PutFact("a", "f", {"n": 1})])
        await client.get_fact("u", "f", agent_name="a")
        await client.load("u", agent_name="a")

    async def get_fact(store: Any, *positional: Any, **named: Any) -> Any:
        return dataclasses.replace(await store.get_fact(*positional, **named), **wrong)

    async def load(store: Any, *positional: Any, **named: Any) -> Any:
        memory = await store.load(*positional, **named)
        return dataclasses.replace(memory, facts=tuple(dataclasses.replace(fact, **wrong) for fact in memory.facts))

    (name,) = wrong.values()
    assert f"'{name}'" in refused("memory", play, get_fact=get_fact).got
    assert f"'{name}'" in refused("memory", play, load=load).got


@pytest.mark.parametrize("wrong", [{"agent_name": "b"}, {"user_id": "v"}], ids=["agent", "user"])
def test_another_memory_than_was_asked_for_is_refused(wrong: dict[str, Any]) -> None:
    """A memory says whose it is, the user's and the agent's."""

    async def play(client: Any) -> None:
        await client.load("u", agent_name="a")

    async def load(store: Any, *positional: Any, **named: Any) -> Any:
        return dataclasses.replace(await store.load(*positional, **named), **wrong)

    (name, value), *_ = wrong.items()
    assert f"{name}='{value}'" in refused("memory", play, load=load).got


def test_a_clear_that_leaves_something_is_refused() -> None:
    """After clear nothing is there."""

    async def play(client: Any) -> None:
        await client.apply("u", [PutFact(None, "f", {}), PutBody("a", {"b": 1})])
        await client.clear("u")
        await client.load("u", agent_name="a")

    async def clear(store: Any, user_id: str) -> Any:
        return await store.clear(user_id, agent_name=None)

    assert "body_revision=1" in refused("memory", play, clear=clear).got


async def _create_twice(client: Any) -> None:
    for user in "uv":
        with suppress(Conflict):
            await client.create(NewThread("t", user))
    await client.get("t", user_id=ANY_USER)


def test_two_winners_of_one_id_are_refused() -> None:
    """Of two that create a thread of one id, one must meet a conflict."""

    async def create(index: Any, thread: NewThread) -> Any:
        await index.delete(thread.thread_id, user_id=ANY_USER)
        return await index.create(thread)

    failed = refused("thread_index", _create_twice, create=create)
    assert failed.wanted.endswith("to give Refused(error='Conflict', expected=0, found=0)")
    assert failed.got.startswith("StoredThread(thread_id='t', user_id='v'")


@pytest.mark.parametrize("method", ["create", "get", "update", "move"])
def test_another_thread_than_was_asked_for_is_refused(method: str) -> None:
    """Whatever gives a thread gives the one of that id."""

    async def play(client: Any) -> None:
        await client.create(NewThread("t", "u"))
        await client.get("t", user_id="u")
        await client.update("t", user_id="u", status="running")
        await client.move("t", user_id="u", to_user_id="v")

    async def other(index: Any, *positional: Any, **named: Any) -> Any:
        return dataclasses.replace(await getattr(index, method)(*positional, **named), thread_id="t2")

    assert refused("thread_index", play, **{method: other}).got.startswith("StoredThread(thread_id='t2'")


def test_a_late_status_is_refused() -> None:
    """An update that expects another status than there is must not take effect."""

    async def play(client: Any) -> None:
        await client.create(NewThread("t", "u", status="running"))
        with suppress(Conflict):
            await client.update("t", user_id="u", status="idle", expected_status="waiting")
        await client.get("t", user_id="u")

    async def update(index: Any, thread_id: str, **named: Any) -> Any:
        return await index.update(thread_id, **{**named, "expected_status": ANY})

    assert "status='idle'" in refused("thread_index", play, update=update).got


def test_what_is_deleted_and_comes_back_is_refused() -> None:
    """A thread whose deletion was acknowledged is not read again, and not deleted twice."""

    async def play(client: Any) -> None:
        await client.create(NewThread("t", "u"))
        await client.delete("t", user_id="u")
        await client.delete("t", user_id="u")

    async def delete(index: Any, thread_id: str, user_id: str) -> bool:
        return await index.get(thread_id, user_id=user_id) is not None

    assert refused("thread_index", play, delete=delete).got == "True"


def test_a_token_counted_twice_is_refused() -> None:
    """What was recorded under one token counts once, also in different models."""

    async def play(client: Any) -> None:
        await client.record("a", calls=1, token="t")
        await client.record_many([Recorded("b", 1)], token="t")
        await client.all_totals()

    async def record_many(counters: Any, counts: Any, token: str) -> None:
        await counters.record_many(counts)

    failed = refused("counters", play, record_many=record_many)
    assert failed.wanted.endswith(
        "to give frozenset({('a', Counts(calls=1, successes=0, failures=0, positive=0, negative=0))})"
    )


def test_a_torn_record_is_refused() -> None:
    """Nobody sees a call without its outcome, nor a total that is too low or below zero."""

    async def play(client: Any) -> None:
        await client.record("a", calls=1, successes=1, positive=-3)
        await client.totals("a")

    async def totals(counters: Any, model_name: str) -> Any:
        return dataclasses.replace(await counters.totals(model_name), successes=0)

    assert refused("counters", play, totals=totals).got == "Counts(calls=1)"


def test_a_reset_that_resets_nothing_is_refused() -> None:
    """After a reset a model counts from zero, and without one no total falls."""

    async def play(client: Any) -> None:
        await client.record("a", calls=1)
        await client.reset("a")
        await client.record("a", calls=1)
        await client.totals("a")

    async def reset(counters: Any, model_name: str) -> None:
        await counters.totals(model_name)

    assert refused("counters", play, reset=reset).got == "Counts(calls=2)"


@pytest.mark.parametrize(
    ("capability", "call"),
    [
        ("memory", lambda client: client.erase("u")),
        ("memory", lambda client: client.agents("u")),
        ("thread_index", lambda client: client.list("u")),
        ("thread_index", lambda client: client.can_access("t", "u")),
        ("counters", lambda client: client.window("a", seconds=60)),
    ],
)
def test_what_a_model_does_not_know_is_no_verdict(capability: Capability, call: Callable[[Any], Any]) -> None:
    """A history with a call that the model does not know is not judged: that is a mistake of the check."""
    history = History(capability)

    async def body() -> None:
        async with opened(capability) as found:
            with suppress(BackendsError):
                await call(history.client("pod 1", found))

    run_isolated(body, virtual=True)
    assert history.calls
    with pytest.raises(ValueError, match=r"does not know \w+\(\)"):
        expect_linearizable(history.calls, CAPABILITIES[capability][1](history.calls))
