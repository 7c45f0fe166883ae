"""The four capabilities seen alike: where each takes an identifier, where a value, and what its calls are.

The general promises (`general`, `lifecycles`) are checked through these, once for all four.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.memories import DeleteFact, Memory, PutBody, PutFact
from deerflow_backends.streams import END_SENTINEL, HEARTBEAT_SENTINEL, StreamEvent
from deerflow_backends.threads import ANY_USER, NewThread
from deerflow_conformance.promises import Capability

Call: TypeAlias = Callable[[], Awaitable[Any]]

RUN: Final = "run"
USER: Final = "user"


@dataclass(frozen=True, slots=True)
class Slot:
    """One kind of identifier, and how a number is kept under it.

    Attributes:
        name: The argument's name.
        put: Keep a number under an identifier; each identifier is used once.
        read: Return the numbers kept under these identifiers, without those that have none.
        calls: Every call that takes such an identifier, given one, named.
        remove: Remove what is kept under an identifier, if the capability can.
        listed: Name the identifiers there are, if the capability can.
        ordered: Whether `listed` is in the order of their UTF-8 bytes.
    """

    name: str
    put: Callable[[Any, str, int], Awaitable[Any]]
    read: Callable[[Any, Sequence[str]], Awaitable[dict[str, int]]]
    calls: Callable[[Any, Any], dict[str, Call]]
    remove: Callable[[Any, str], Awaitable[Any]] | None = None
    listed: Callable[[Any], Awaitable[list[str]]] | None = None
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """One place where a JSON value is kept.

    Attributes:
        name: What it is.
        write: Keep a value in place of the last one.
        read: Return the value that was kept last, None if none was.
        is_object: Whether only JSON objects are taken.
        levels: How many levels a value lies within what is kept.
    """

    name: str
    write: Callable[[Any, Any], Awaitable[Any]]
    read: Callable[[Any], Awaitable[Any]]
    is_object: bool = True
    levels: int = 1


@dataclass(frozen=True, slots=True)
class Face:
    """One capability.

    Attributes:
        slots: Its identifiers; `put` of the first one is also what the checks use for "a write".
        places: Where it keeps values, none if it keeps only numbers.
        few: Options with which what is kept stays few, for reading a value back quickly.
        is_empty: Whether nothing is stored that the checks could have stored.
        calls: One valid call of every coroutine of the Protocol, named; writes go under *identifier*.
        iterators: One of every async iterator of the Protocol, named.
    """

    slots: tuple[Slot, ...]
    is_empty: Callable[[Any], Awaitable[bool]]
    calls: Callable[[Any, str], dict[str, Call]]
    iterators: Callable[[Any], dict[str, AsyncIterator[Any]]]
    places: tuple[Place, ...] = ()
    few: Mapping[str, Any] = field(default_factory=dict)


def face_of(capability: Capability) -> Face:
    """Return the face of a capability."""
    return FACES[capability]


# ---------------------------------------------------------------------------------------------------- stream bridge


async def _events(bridge: Any, run_id: str) -> list[StreamEvent]:
    """Everything retained of a run: as many events as its status tells of."""
    status = await bridge.status(run_id)
    found: list[StreamEvent] = []
    if status is None or not status.length:
        return found
    iterator = bridge.subscribe(run_id, heartbeat_interval=1.0)
    try:
        async for item in iterator:
            if item is HEARTBEAT_SENTINEL:
                continue
            if item is END_SENTINEL or not isinstance(item, StreamEvent):
                break
            found.append(item)
            if len(found) >= status.length:
                break
    finally:
        await iterator.aclose()
    return found


async def _runs(bridge: Any, identifiers: Sequence[str]) -> dict[str, int]:
    return {one: events[-1].data for one in identifiers if (events := await _events(bridge, one))}


async def _event_names(bridge: Any, identifiers: Sequence[str]) -> dict[str, int]:
    kept = {event.event: event.data for event in await _events(bridge, RUN)}
    return {one: kept[one] for one in identifiers if one in kept}


async def _listed_event_names(bridge: Any) -> list[str]:
    return [event.event for event in await _events(bridge, RUN)]


def _run_calls(bridge: Any, run_id: Any) -> dict[str, Call]:
    return {
        "publish": lambda: bridge.publish(run_id, "n", 1),
        "publish_many": lambda: bridge.publish_many(run_id, [("n", 1), ("n", 2)]),
        "publish_end": lambda: bridge.publish_end(run_id),
        "status": lambda: bridge.status(run_id),
        "stream_exists": lambda: bridge.stream_exists(run_id),
        "cleanup": lambda: bridge.cleanup(run_id),
        "subscribe": lambda: anext(bridge.subscribe(run_id, heartbeat_interval=0.05)),
    }


async def _last_data(bridge: Any) -> Any:
    events = await _events(bridge, RUN)
    return events[-1].data if events else None


async def _no_stream(bridge: Any) -> bool:
    return not await bridge.stream_exists(RUN)


_STREAMS: Final = Face(
    slots=(
        Slot(
            "run_id",
            lambda bridge, run_id, number: bridge.publish(run_id, "n", number),
            _runs,
            _run_calls,
            remove=lambda bridge, run_id: bridge.cleanup(run_id),
        ),
        Slot(
            "event",
            lambda bridge, name, number: bridge.publish(RUN, name, number),
            _event_names,
            lambda bridge, name: {
                "publish": lambda: bridge.publish(RUN, name, 1),
                "publish_many": lambda: bridge.publish_many(RUN, [("n", 1), (name, 2)]),
            },
            listed=_listed_event_names,
        ),
    ),
    places=(
        Place("the data of publish", lambda bridge, value: bridge.publish(RUN, "n", value), _last_data, False, 0),
        Place(
            "the data of publish_many",
            lambda bridge, value: bridge.publish_many(RUN, [("n", 0), ("n", value)]),
            _last_data,
            False,
            0,
        ),
    ),
    few={"max_events": 2},
    is_empty=_no_stream,
    calls=lambda bridge, identifier: {**_run_calls(bridge, identifier), "ping": bridge.ping},
    iterators=lambda bridge: {"subscribe": bridge.subscribe(RUN, heartbeat_interval=0.05)},
)


# ----------------------------------------------------------------------------------------------------------- memory


async def _users(store: Any, identifiers: Sequence[str]) -> dict[str, int]:
    facts = {one: await store.get_fact(one, "f", agent_name=None) for one in identifiers}
    return {one: fact.value["n"] for one, fact in facts.items() if fact}


async def _agents(store: Any, identifiers: Sequence[str]) -> dict[str, int]:
    facts = {one: await store.get_fact(USER, "f", agent_name=one) for one in identifiers}
    return {one: fact.value["n"] for one, fact in facts.items() if fact}


async def _facts(store: Any, identifiers: Sequence[str]) -> dict[str, int]:
    memory: Memory = await store.load(USER)
    kept = {fact.fact_id: fact.value["n"] for fact in memory.facts}
    return {one: kept[one] for one in identifiers if one in kept}


async def _listed_facts(store: Any) -> list[str]:
    page = await store.list_facts(USER, agent_name=None, limit=1_000)
    return [fact.fact_id for fact in page.items]


def _user_calls(store: Any, user_id: Any) -> dict[str, Call]:
    return {
        "load": lambda: store.load(user_id),
        "apply": lambda: store.apply(user_id, [PutFact(None, "f", {"n": 1}), PutBody(None, {"n": 1})]),
        "get_fact": lambda: store.get_fact(user_id, "f", agent_name=None),
        "list_facts": lambda: store.list_facts(user_id, agent_name=None),
        "search": lambda: store.search(user_id, "tea", agent_name=None),
        "agents": lambda: store.agents(user_id),
        "clear": lambda: store.clear(user_id),
        "erase": lambda: store.erase(user_id),
    }


def _agent_calls(store: Any, agent_name: Any) -> dict[str, Call]:
    return {
        "load": lambda: store.load(USER, agent_name=agent_name),
        "apply of a fact": lambda: store.apply(USER, [PutFact(None, "g", {}), PutFact(agent_name, "f", {})]),
        "apply of a body": lambda: store.apply(USER, [PutFact(None, "g", {}), PutBody(agent_name, {"n": 1})]),
        "get_fact": lambda: store.get_fact(USER, "f", agent_name=agent_name),
        "list_facts": lambda: store.list_facts(USER, agent_name=agent_name),
        "search": lambda: store.search(USER, "tea", agent_name=agent_name),
        "clear": lambda: store.clear(USER, agent_name=agent_name),
    }


async def _body(store: Any) -> Any:
    return (await store.load(USER)).body


async def _fact_value(store: Any) -> Any:
    fact = await store.get_fact(USER, "f", agent_name=None)
    return fact and fact.value


async def _no_memory(store: Any) -> bool:
    async for _ in store.export():
        return False
    return True


_MEMORY: Final = Face(
    slots=(
        Slot(
            "user_id",
            lambda store, user_id, number: store.apply(user_id, [PutFact(None, "f", {"n": number})]),
            _users,
            _user_calls,
            remove=lambda store, user_id: store.erase(user_id),
        ),
        Slot(
            "agent_name",
            lambda store, name, number: store.apply(USER, [PutFact(name, "f", {"n": number})]),
            _agents,
            _agent_calls,
            remove=lambda store, name: store.clear(USER, agent_name=name),
            listed=lambda store: store.agents(USER),
            ordered=True,
        ),
        Slot(
            "fact_id",
            lambda store, fact_id, number: store.apply(USER, [PutFact(None, fact_id, {"n": number})]),
            _facts,
            lambda store, fact_id: {
                "apply": lambda: store.apply(USER, [PutFact(None, "g", {}), PutFact(None, fact_id, {})]),
                "apply of a deletion": lambda: store.apply(USER, [PutFact(None, "g", {}), DeleteFact(None, fact_id)]),
                "get_fact": lambda: store.get_fact(USER, fact_id, agent_name=None),
            },
            remove=lambda store, fact_id: store.apply(USER, [DeleteFact(None, fact_id)]),
            listed=_listed_facts,
            ordered=True,
        ),
    ),
    places=(
        Place("a body", lambda store, value: store.apply(USER, [PutBody(None, value)]), _body),
        Place("a fact", lambda store, value: store.apply(USER, [PutFact(None, "f", value)]), _fact_value),
    ),
    is_empty=_no_memory,
    calls=lambda store, identifier: {
        **_user_calls(store, identifier),
        "restore": lambda: store.restore([]),
        "ping": store.ping,
    },
    iterators=lambda store: {"export": store.export()},
)


# ----------------------------------------------------------------------------------------------------- thread index


async def _thread_ids(index: Any, identifiers: Sequence[str]) -> dict[str, int]:
    threads = {one: await index.get(one, user_id=USER) for one in identifiers}
    return {one: thread.metadata["n"] for one, thread in threads.items() if thread}


async def _owners(index: Any, identifiers: Sequence[str]) -> dict[str, int]:
    pages = {one: await index.list(one) for one in identifiers}
    return {one: page.items[0].metadata["n"] for one, page in pages.items() if page.items}


async def _threads(index: Any) -> list[Any]:
    return list((await index.list(USER, limit=1_000)).items)


async def _assistants(index: Any, identifiers: Sequence[str]) -> dict[str, int]:
    kept = {thread.assistant_id: thread.metadata["n"] for thread in await _threads(index)}
    return {one: kept[one] for one in identifiers if one in kept}


async def _statuses(index: Any, identifiers: Sequence[str]) -> dict[str, int]:
    pages = {one: await index.list(USER, status=one) for one in identifiers}
    return {one: page.items[0].metadata["n"] for one, page in pages.items() if len(page.items) == 1}


async def _listed_threads(index: Any) -> list[str]:
    return [thread.thread_id for thread in await _threads(index)]


async def _listed_assistants(index: Any) -> list[str]:
    return [thread.assistant_id for thread in await _threads(index)]


async def _listed_statuses(index: Any) -> list[str]:
    return [thread.status for thread in await _threads(index)]


def _create(index: Any, thread_id: Any, user_id: Any = USER, number: int = 1, **more: Any) -> Awaitable[Any]:
    created: Awaitable[Any] = index.create(NewThread(thread_id, user_id, metadata={"n": number}, **more))
    return created


async def _put_metadata(index: Any, value: Any) -> None:
    if await index.get("t", user_id=USER) is None:
        await index.create(NewThread("t", USER, metadata=value))
    else:
        await index.update("t", user_id=USER, metadata=value, replace=True)


async def _merge_metadata(index: Any, value: Any) -> None:
    if await index.get("t", user_id=USER) is None:
        await _create(index, "t")
    await index.update("t", user_id=USER, metadata={"value": value})


async def _metadata(index: Any) -> Any:
    thread = await index.get("t", user_id=USER)
    return thread and thread.metadata


async def _merged(index: Any) -> Any:
    return (await index.get("t", user_id=USER)).metadata["value"]


def _thread_calls(index: Any, thread_id: Any) -> dict[str, Call]:
    return {
        "create": lambda: _create(index, thread_id),
        "get": lambda: index.get(thread_id, user_id=USER),
        "update": lambda: index.update(thread_id, user_id=USER, metadata={"n": 2}),
        "move": lambda: index.move(thread_id, user_id=USER, to_user_id="another"),
        "delete": lambda: index.delete(thread_id, user_id=USER),
        "can_access": lambda: index.can_access(thread_id, USER),
    }


def _owner_calls(index: Any, user_id: Any) -> dict[str, Call]:
    return {
        "create": lambda: _create(index, "t", user_id),
        "get": lambda: index.get("t", user_id=user_id),
        "list": lambda: index.list(user_id),
        "count": lambda: index.count(user_id),
        "update": lambda: index.update("t", user_id=user_id, metadata={"n": 2}),
        "move": lambda: index.move("t", user_id=user_id, to_user_id="another"),
        "move to": lambda: index.move("t", user_id=USER, to_user_id=user_id),
        "delete": lambda: index.delete("t", user_id=user_id),
        "can_access": lambda: index.can_access("t", user_id),
    }


async def _no_thread(index: Any) -> bool:
    return not await index.count(ANY_USER)


_THREADS: Final = Face(
    slots=(
        Slot(
            "thread_id",
            lambda index, thread_id, number: _create(index, thread_id, number=number),
            _thread_ids,
            _thread_calls,
            remove=lambda index, thread_id: index.delete(thread_id, user_id=USER),
            listed=_listed_threads,
        ),
        Slot(
            "user_id",
            lambda index, user_id, number: _create(index, f"of user {number}", user_id, number),
            _owners,
            _owner_calls,
        ),
        Slot(
            "assistant_id",
            lambda index, name, number: _create(index, f"a{number}", number=number, assistant_id=name),
            _assistants,
            lambda index, name: {"create": lambda: _create(index, "t", assistant_id=name)},
            listed=_listed_assistants,
        ),
        Slot(
            "status",
            lambda index, status, number: _create(index, f"s{number}", number=number, status=status),
            _statuses,
            lambda index, status: {
                "create": lambda: _create(index, "t", status=status),
                "update": lambda: index.update("t", user_id=USER, status=status),
                "update, expected": lambda: index.update("t", user_id=USER, expected_status=status),
                "list": lambda: index.list(USER, status=status),
                "count": lambda: index.count(USER, status=status),
            },
            listed=_listed_statuses,
        ),
    ),
    places=(
        Place("metadata", _put_metadata, _metadata),
        Place("a merged metadata value", _merge_metadata, _merged, False),
    ),
    is_empty=_no_thread,
    calls=lambda index, identifier: {
        **_thread_calls(index, identifier),
        "list": lambda: index.list(USER),
        "count": lambda: index.count(USER),
        "restore": lambda: index.restore([]),
        "ping": index.ping,
    },
    iterators=lambda index: {"export": index.export()},
)


# --------------------------------------------------------------------------------------------------------- counters


async def _models(counters: Any, identifiers: Sequence[str]) -> dict[str, int]:
    counts = {one: await counters.totals(one) for one in identifiers}
    return {one: count.calls for one, count in counts.items() if count != Counts()}


async def _listed_models(counters: Any) -> list[str]:
    return list(await counters.all_totals())


async def _record_many(counters: Any, name: Any) -> None:
    await counters.record_many([Recorded("another", calls=1), Recorded(name, calls=1)])


async def _no_counts(counters: Any) -> bool:
    return not await counters.all_totals()


def _model_calls(counters: Any, name: Any) -> dict[str, Call]:
    return {
        "record": lambda: counters.record(name, calls=1),
        "record_many": lambda: _record_many(counters, name),
        "totals": lambda: counters.totals(name),
        "window": lambda: counters.window(name, seconds=60),
        "reset": lambda: counters.reset(name),
    }


_COUNTERS: Final = Face(
    slots=(
        Slot(
            "model_name",
            lambda counters, name, number: counters.record(name, calls=number),
            _models,
            _model_calls,
            remove=lambda counters, name: counters.reset(name),
            listed=_listed_models,
        ),
    ),
    is_empty=_no_counts,
    calls=lambda counters, identifier: {
        **_model_calls(counters, identifier),
        "all_totals": counters.all_totals,
        "all_windows": lambda: counters.all_windows(seconds=60),
        "ping": counters.ping,
    },
    iterators=lambda counters: {},
)

FACES: Final[dict[Capability, Face]] = {
    "stream_bridge": _STREAMS,
    "memory": _MEMORY,
    "thread_index": _THREADS,
    "counters": _COUNTERS,
}
