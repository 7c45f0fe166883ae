"""Every kind of call that writes to memories, thread indexes and counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from deerflow_backends.counters import Counts, Recorded
from deerflow_backends.memories import ABSENT, Applied, DeleteFact, Memory, PutBody, PutFact
from deerflow_backends.threads import ANY_USER, NewThread, Thread
from deerflow_conformance.expectations import alike
from deerflow_conformance.faces import USER
from deerflow_conformance.writes import UNHEARD, Action, Write, Writes, marked

# ----------------------------------------------------------------------------------------------------------- memory


async def _memory(store: Any, user_id: str) -> Memory:
    memory: Memory = await store.load(user_id)
    return memory


async def _remember(store: Any, name: str) -> None:
    await store.apply(name, [PutFact(None, "f", {"n": 1}), PutBody(None, {"n": 1})])


async def _remember_later(store: Any, name: str) -> None:
    await store.apply(name, [PutFact(None, one, {"later": True}) for one in ("f", "g")] + [PutBody(None, {"n": 2})])


def _shape(memory: Memory) -> tuple[Any, ...]:
    """What of a memory does not depend on the time."""
    facts = {fact.fact_id: (fact.revision, fact.value) for fact in memory.facts}
    return memory.revision, memory.body_revision, memory.body, facts


def _became(
    *, revision: int = 2, body: tuple[int, Any] = (1, {"n": 1}), **facts: tuple[int, Any]
) -> Callable[[str, Memory, Memory, Any], bool]:
    """What a memory that `_remember` made is afterwards: revisions and values, ``"*"`` standing for the marked one."""

    def once(name: str, _before: Memory, after: Memory, answer: Any) -> bool:
        values = {fact: (number, marked(name) if value == "*" else value) for fact, (number, value) in facts.items()}
        contents = (body[0], marked(name) if body[1] == "*" else body[1])
        if not alike(_shape(after), (revision, *contents, values)):
            return False
        if isinstance(answer, Applied):
            return _tells(answer, after)
        return answer is UNHEARD or answer is None or answer == revision

    return once


def _tells(answer: Applied, after: Memory) -> bool:
    """Whether an answer tells of a change that led to *after*: also that a fact that is gone was deleted by it."""
    kept = {fact.fact_id: fact for fact in after.facts}
    gone = () if "f" in kept else ((None, "f"),)
    return (
        (answer.revision, answer.changed) == (after.revision, True)
        and alike(answer.deleted, gone)
        and all(alike(fact, kept.get(fact.fact_id)) for fact in answer.facts)
    )


def _apply(*make: Callable[[str], Any], expected_revision: int | None = None) -> Action:
    return lambda store, name: store.apply(name, [one(name) for one in make], expected_revision=expected_revision)


def _applying(name: str, once: Callable[[str, Any, Any, Any], bool], call: Action) -> Write:
    return Write(f"apply of {name}", call, once, _remember, _remember_later)


_OLD: Final = (1, {"n": 1})
_NEW_FACT: Final = _became(f=_OLD, g=(1, "*"))
_NEW_BODY: Final = _became(f=_OLD, body=(2, "*"))
_DELETED: Final = _became()

MEMORY_WRITES: Final = Writes(
    _memory,
    (
        _applying("a new fact", _NEW_FACT, _apply(lambda name: PutFact(None, "g", marked(name)))),
        _applying(
            "a fact that must be absent", _NEW_FACT, _apply(lambda name: PutFact(None, "g", marked(name), ABSENT))
        ),
        _applying(
            "a fact that must be at its revision",
            _became(f=(2, "*")),
            _apply(lambda name: PutFact(None, "f", marked(name), 1)),
        ),
        _applying(
            "a body, at the user's revision",
            _NEW_BODY,
            _apply(lambda name: PutBody(None, marked(name)), expected_revision=1),
        ),
        _applying(
            "a body that must be at its revision", _NEW_BODY, _apply(lambda name: PutBody(None, marked(name), 1))
        ),
        _applying("a deletion", _DELETED, _apply(lambda name: DeleteFact(None, "f"))),
        _applying(
            "a deletion of what must be at its revision", _DELETED, _apply(lambda name: DeleteFact(None, "f", 1))
        ),
        _applying(
            "many changes",
            _became(g=(1, "*"), h=(1, "*"), body=(2, "*")),
            _apply(
                lambda name: PutFact(None, "g", marked(name)),
                lambda name: PutFact(None, "h", marked(name)),
                lambda name: DeleteFact(None, "f"),
                lambda name: PutBody(None, marked(name)),
            ),
        ),
        Write("clear", lambda store, name: store.clear(name), _became(body=(0, {})), _remember, _remember_later),
        Write(
            "clear of the user-wide part",
            lambda store, name: store.clear(name, agent_name=None),
            _became(body=(0, {})),
            _remember,
            _remember_later,
        ),
        Write(
            "erase",
            lambda store, name: store.erase(name),
            _became(revision=0, body=(0, {})),
            _remember,
            _remember_later,
        ),
    ),
)


# ----------------------------------------------------------------------------------------------------- thread index


async def _thread(index: Any, thread_id: str) -> Thread | None:
    thread: Thread | None = await index.get(thread_id, user_id=ANY_USER)
    return thread


async def _begin_thread(index: Any, name: str) -> None:
    await index.create(NewThread(name, USER, metadata={"n": 1}))


async def _delete_later(index: Any, name: str) -> None:
    await index.delete(name, user_id=USER)


async def _create_later(index: Any, name: str) -> None:
    if await _thread(index, name) is None:
        await index.create(NewThread(name, USER, metadata={"later": True}))


async def _update_later(index: Any, name: str) -> None:
    await index.update(name, user_id=ANY_USER, status="idle", metadata={"marker": "later"}, remove=["n"])


async def _move_later(index: Any, name: str) -> None:
    await index.move(name, user_id=ANY_USER, to_user_id=USER)


def _thread_is(
    *, user_id: str = USER, status: str = "idle", metadata: Callable[[str], Any], is_new: bool = False
) -> Callable[[str, Any, Any, Any], bool]:
    def once(name: str, before: Thread | None, after: Thread | None, answer: Any) -> bool:
        if after is None or (before is None) != is_new:
            return False
        return (
            (after.user_id, after.status) == (user_id, status)
            and alike(after.metadata, metadata(name))
            and (before is None or after.updated_at > before.updated_at)
            and (answer is UNHEARD or alike(answer, after))
        )

    return once


THREAD_WRITES: Final = Writes(
    _thread,
    (
        Write(
            "create",
            lambda index, name: index.create(NewThread(name, USER, metadata=marked(name))),
            _thread_is(metadata=marked, is_new=True),
            later=_delete_later,
        ),
        Write(
            "update",
            lambda index, name: index.update(name, user_id=USER, metadata={"marker": name}),
            _thread_is(metadata=lambda name: marked(name, 1)),
            _begin_thread,
            _update_later,
        ),
        Write(
            "update with an expected status",
            lambda index, name: index.update(
                name, user_id=USER, status="running", metadata={"marker": name}, expected_status="idle"
            ),
            _thread_is(status="running", metadata=lambda name: marked(name, 1)),
            _begin_thread,
            _update_later,
        ),
        Write(
            "update that replaces",
            lambda index, name: index.update(name, user_id=USER, metadata={"marker": name}, replace=True),
            _thread_is(metadata=lambda name: {"marker": name}),
            _begin_thread,
            _update_later,
        ),
        Write(
            "move",
            lambda index, name: index.move(name, user_id=USER, to_user_id="another"),
            _thread_is(user_id="another", metadata=lambda _: {"n": 1}),
            _begin_thread,
            _move_later,
        ),
        Write(
            "delete",
            lambda index, name: index.delete(name, user_id=USER),
            lambda name, before, after, answer: after is None and answer in (UNHEARD, True),
            _begin_thread,
            _create_later,
        ),
    ),
)


# --------------------------------------------------------------------------------------------------------- counters


async def _counts(counters: Any, model_name: str) -> tuple[Counts, ...]:
    names = (model_name, f"{model_name}, too")
    totals = [await counters.totals(name) for name in names]
    return (*totals, *[await counters.window(name, seconds=3600) for name in names])


async def _count(counters: Any, name: str) -> None:
    await counters.record(name, calls=7, positive=2)


async def _count_later(counters: Any, name: str) -> None:
    await counters.record(name, calls=5)


def _counted(first: Counts, second: Counts) -> Callable[[str, Any, Any, Any], bool]:
    """Whether what is counted under the name, and beside it, became this, in the totals and in the window alike."""
    return lambda name, before, after, answer: after == (first, second, first, second)


def _many(name: str) -> list[Recorded]:
    return [Recorded(name, calls=2, successes=1), Recorded(f"{name}, too", calls=3)]


_MORE: Final = _counted(Counts(8, 1, positive=2), Counts())
_MANY: Final = _counted(Counts(9, 1, positive=2), Counts(3))

COUNTER_WRITES: Final = Writes(
    _counts,
    (
        Write(
            "record",
            lambda counters, name: counters.record(name, calls=1, successes=1),
            _MORE,
            _count,
            _count_later,
        ),
        Write(
            "record with a token",
            lambda counters, name: counters.record(name, calls=1, successes=1, token=f"token of {name}"),
            _MORE,
            _count,
            _count_later,
        ),
        Write("record_many", lambda counters, name: counters.record_many(_many(name)), _MANY, _count, _count_later),
        Write(
            "record_many with a token",
            lambda counters, name: counters.record_many(_many(name), token=f"token of {name}"),
            _MANY,
            _count,
            _count_later,
        ),
        Write(
            "reset",
            lambda counters, name: counters.reset(name),
            _counted(Counts(), Counts()),
            _count,
            _count_later,
        ),
    ),
)
