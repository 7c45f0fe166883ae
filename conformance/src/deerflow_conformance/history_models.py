"""What memory, threads and counters ought to do, one call after the other: the models that histories are judged by.

Times are in none of them: whether they grow is for other checks. Arguments that the contract refuses are not either: a
refused call did nothing and is not asked about.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from deerflow_backends.counters import Counts
from deerflow_backends.errors import RevisionConflict
from deerflow_backends.memories import ABSENT, ALL, ANY, Change, DeleteFact, Fact, PutBody
from deerflow_backends.threads import ANY_USER, KEEP, Thread
from deerflow_conformance.histories import Call, Outcome
from deerflow_conformance.linearizability import kind_of


class Refused(NamedTuple):
    """The answer of a call that raised a conflict; revisions only of a `RevisionConflict`, 0 for what is absent."""

    error: str
    expected: int = 0
    found: int = 0


def _refusal(call: Call) -> Refused | None:
    error = call.value
    if call.outcome is not Outcome.REFUSED:
        return None
    if isinstance(error, RevisionConflict):
        return Refused("RevisionConflict", error.expected or 0, error.found or 0)
    return Refused(type(error).__name__)


def _text(value: Any) -> str:
    """Return a JSON value as a hashable one that is equal exactly if the value is the same, types and all."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _expect_known(call: Call, *names: str) -> None:
    if call.name not in names:
        raise ValueError(f"this model does not know {call.name}(): call it on an object that is not recorded")


# ------------------------------------------------------------------------------------------------------------- memory

#: A fact's agent and id; a body has no id.
_Place: TypeAlias = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Remembered:
    """One user's memory: its revision, and of each body and fact the revision and the value."""

    revision: int = 0
    stored: frozenset[tuple[_Place, tuple[int, str]]] = frozenset()


class Loaded(NamedTuple):
    """The answer of `load`, facts as agent, id, revision and value."""

    user_id: str | None
    agent_name: str | None
    revision: int
    body_revision: int
    body: str
    facts: tuple[tuple[str | None, str | None, int, str], ...]


class Written(NamedTuple):
    """The answer of `apply`, facts as agent, id, revision and value."""

    revision: int
    changed: bool
    facts: tuple[tuple[str | None, str | None, int, str], ...]
    deleted: tuple[_Place, ...]


class MemoryModel:
    """`load`, `get_fact`, `apply` and `clear`; each user is an object of their own."""

    initial = Remembered()

    def objects(self, call: Call) -> frozenset[Hashable]:
        """Name the user."""
        _expect_known(call, "load", "get_fact", "apply", "clear")
        return frozenset([call.arguments["user_id"]])

    def kind(self, call: Call) -> Hashable:
        """Name the method and its arguments."""
        return kind_of(call)

    def observes(self, call: Call) -> bool:
        """Whether it reads, was refused, or says that nothing changed."""
        if call.name in {"load", "get_fact"} or call.outcome is Outcome.REFUSED:
            return True
        return call.name == "apply" and call.outcome is Outcome.RETURNED and not call.value.changed

    def answer(self, call: Call) -> Hashable:
        """Return what a call gave."""
        value = call.value
        if refusal := _refusal(call):
            return refusal
        match call.name:
            case "load":
                facts = tuple(map(_told, value.facts))
                body = value.body_revision, _text(value.body)
                return Loaded(value.user_id, value.agent_name, value.revision, *body, facts)
            case "get_fact":
                return None if value is None else _told(value)
            case "apply":
                put = tuple(map(_told, value.facts))
                return Written(value.revision, value.changed, put, tuple(sorted(value.deleted, key=repr)))
        return int(value)

    def after(self, state: Remembered, call: Call) -> tuple[Remembered, Hashable]:
        """Return the memory after the call, and its answer."""
        stored, arguments = dict(state.stored), call.arguments
        match call.name:
            case "load":
                return state, _loaded(state, stored, arguments["user_id"], arguments.get("agent_name"))
            case "get_fact":
                place = arguments["agent_name"], arguments["fact_id"]
                return state, (*place, *stored[place]) if place in stored else None
            case "apply":
                changes, expected = arguments["changes"], arguments.get("expected_revision")
                refused = _conflict(state, stored, changes, expected)
                return (state, refused) if refused else _applied(state, stored, changes)
        cleared = arguments.get("agent_name", ALL)
        kept = frozenset(one for one in state.stored if cleared is not ALL and one[0][0] != cleared)
        revision = state.revision + (kept != state.stored)
        return Remembered(revision, kept), revision

    def passed(self, state: Remembered, call: Call) -> bool:
        """Whether the memory is past the revision that the call saw: revisions never go back."""
        value = call.value
        if call.outcome is Outcome.REFUSED:
            found = _refusal(call)
            plain = all(change.expected is ANY for change in call.arguments.get("changes", ()))
            return found is not None and plain and state.revision > found.found
        match call.name:
            case "load":
                return state.revision > int(value.revision)
            case "apply":
                return state.revision > int(value.revision) - bool(value.changed)
            case "clear":
                return state.revision > int(value)
        return False


def _told(fact: Fact) -> tuple[str | None, str | None, int, str]:
    return fact.agent_name, fact.fact_id, fact.revision, _text(fact.value)


def _loaded(
    state: Remembered, stored: Mapping[_Place, tuple[int, str]], user_id: str | None, agent_name: str | None
) -> Loaded:
    part = {fact_id: kept for (agent, fact_id), kept in stored.items() if agent == agent_name and fact_id is not None}
    facts = tuple((agent_name, fact_id, *part[fact_id]) for fact_id in sorted(part, key=str.encode))
    return Loaded(user_id, agent_name, state.revision, *stored.get((agent_name, None), (0, "{}")), facts)


def _place(change: Change) -> _Place:
    return change.agent_name, None if isinstance(change, PutBody) else change.fact_id


def _conflict(
    state: Remembered, stored: Mapping[_Place, tuple[int, str]], changes: Iterable[Change], expected: int | None
) -> Refused | None:
    """Return the first expectation that does not hold: the user's, then the changes' in order."""
    if expected is not None and expected != state.revision:
        return Refused("RevisionConflict", expected, state.revision)
    for change in changes:
        found, _ = stored.get(_place(change), (0, ""))
        wanted = 0 if change.expected is ABSENT else change.expected
        if wanted is not ANY and wanted != found:
            return Refused("RevisionConflict", int(wanted), found)
    return None


def _applied(
    state: Remembered, stored: dict[_Place, tuple[int, str]], changes: Iterable[Change]
) -> tuple[Remembered, Written]:
    """Make changes whose expectations hold."""
    put, deleted = [], []
    for change in changes:
        place = _place(change)
        if isinstance(change, DeleteFact):
            if stored.pop(place, None):
                deleted.append(place)
            continue
        value = _text(change.body if isinstance(change, PutBody) else change.value)
        revision, before = stored.get(place, (0, "{}" if isinstance(change, PutBody) else ""))
        if value != before:
            stored[place] = revision + 1, value
        if not isinstance(change, PutBody):
            put.append((*place, *stored[place]))
    kept = frozenset(stored.items())
    changed = kept != state.stored
    revision = state.revision + changed
    return Remembered(revision, kept), Written(revision, changed, tuple(put), tuple(sorted(deleted, key=repr)))


# ------------------------------------------------------------------------------------------------------------ threads


class StoredThread(NamedTuple):
    """One thread without its times, and the answer of whatever returns it; metadata as keys and values."""

    thread_id: str
    user_id: str | None
    assistant_id: str | None
    display_name: str | None
    status: str
    metadata: tuple[tuple[str, str], ...]


class ThreadModel:
    """`create`, `get`, `update`, `move` and `delete`; each id is an object of its own."""

    initial: StoredThread | None = None

    def objects(self, call: Call) -> frozenset[Hashable]:
        """Name the thread."""
        _expect_known(call, "create", "get", "update", "move", "delete")
        given = call.arguments
        return frozenset([given["thread"].thread_id if call.name == "create" else given["thread_id"]])

    def kind(self, call: Call) -> Hashable:
        """Name the method and its arguments."""
        return kind_of(call)

    def observes(self, call: Call) -> bool:
        """Whether it reads, was refused, or says that there was no such thread."""
        if call.name == "get" or call.outcome is Outcome.REFUSED:
            return True
        return call.name in {"update", "move", "delete"} and call.outcome is Outcome.RETURNED and not call.value

    def answer(self, call: Call) -> Hashable:
        """Return what a call gave."""
        if refusal := _refusal(call):
            return refusal
        return _stored(call.value) if isinstance(call.value, Thread) else call.value

    def after(self, state: StoredThread | None, call: Call) -> tuple[StoredThread | None, Hashable]:
        """Return the thread after the call, and its answer."""
        given = call.arguments
        if call.name == "create":
            new = _stored(given["thread"])
            return (new, new) if state is None else (state, Refused("Conflict"))
        seen = state if state is not None and given["user_id"] in {ANY_USER, state.user_id} else None
        match call.name:
            case "get":
                return state, seen
            case "delete":
                return (None, True) if seen else (state, False)
            case "move":
                moved = seen and seen._replace(user_id=given["to_user_id"])
                return moved or state, moved
        if seen is None:
            return state, None
        if given.get("expected_status", ANY) not in {ANY, seen.status}:
            return state, Refused("Conflict")
        changed = _updated(seen, given)
        return changed, changed

    def passed(self, state: StoredThread | None, call: Call) -> bool:
        """Return False: what a thread was once it may be again."""
        return False


def _stored(thread: Any) -> StoredThread:
    """Return a `Thread` or `NewThread` as it is compared."""
    metadata = tuple(sorted((key, _text(value)) for key, value in thread.metadata.items()))
    return StoredThread(
        thread.thread_id, thread.user_id, thread.assistant_id, thread.display_name, thread.status, metadata
    )


def _updated(thread: StoredThread, given: Mapping[str, Any]) -> StoredThread:
    display_name, status = given.get("display_name", KEEP), given.get("status", KEEP)
    metadata = {} if given.get("replace") else dict(thread.metadata)
    for key in given.get("remove", ()):
        metadata.pop(key, None)
    metadata.update({key: _text(value) for key, value in (given.get("metadata") or {}).items()})
    return thread._replace(
        display_name=thread.display_name if display_name is KEEP else display_name,
        status=thread.status if status is KEEP else status,
        metadata=tuple(sorted(metadata.items())),
    )


# ----------------------------------------------------------------------------------------------------------- counters

_NOTHING: Final = (0, 0, 0, 0, 0)
_NONE: Final = Counts()
#: The figures that only a reset makes smaller; the others are signed.
_NEVER_FALL: Final = ("calls", "successes", "failures")
_FIGURES: Final = (*_NEVER_FALL, "positive", "negative")


@dataclass(frozen=True, slots=True)
class Counted:
    """Signed sums of each model that was recorded, in the order of the fields of `Counts`, and the tokens seen."""

    sums: frozenset[tuple[str, tuple[int, ...]]] = frozenset()
    tokens: frozenset[str] = frozenset()


class CounterModel:
    """`record`, `record_many`, `totals`, `all_totals` and `reset`, in a history that no token is forgotten in.

    A model is an object, and so is a token: what is recorded together, or under one token, is judged together.

    Args:
        calls: The history: without a reset no total falls, and a token that comes once means nothing.
    """

    initial = Counted()

    def __init__(self, calls: Iterable[Call]) -> None:
        calls = list(calls)
        self._resets = any(call.name == "reset" for call in calls)
        tokens = Counter(call.arguments.get("token") for call in calls)
        self._repeated = {token for token, count in tokens.items() if token is not None and count > 1}

    def objects(self, call: Call) -> frozenset[Hashable] | None:
        """Name the models and the token; `all_totals` reads everything."""
        _expect_known(call, "record", "record_many", "totals", "all_totals", "reset")
        if call.name == "all_totals":
            return None
        if call.name in {"totals", "reset"}:
            return frozenset([("model", call.arguments["model_name"])])
        token = self._token(call)
        tokens = [] if token is None else [("token", token)]
        return frozenset([*tokens, *(("model", name) for name, _ in _recordings(call))])

    def kind(self, call: Call) -> Hashable:
        """Name the method and its arguments without a token that comes once."""
        if self._token(call) is not None:
            return kind_of(call)
        return kind_of(dataclasses.replace(call, arguments={**call.arguments, "token": None}))

    def _token(self, call: Call) -> str | None:
        token = call.arguments.get("token")
        return token if token in self._repeated else None

    def observes(self, call: Call) -> bool:
        """Whether it reads."""
        return call.name in {"totals", "all_totals"}

    def answer(self, call: Call) -> Hashable:
        """Return what a call gave."""
        if refusal := _refusal(call):
            return refusal
        return frozenset(call.value.items()) if call.name == "all_totals" else call.value

    def after(self, state: Counted, call: Call) -> tuple[Counted, Hashable]:
        """Return the sums after the call, and its answer."""
        sums = dict(state.sums)
        match call.name:
            case "totals":
                return state, _shown(sums.get(call.arguments["model_name"], _NOTHING))
            case "all_totals":
                return state, frozenset((name, _shown(figures)) for name, figures in sums.items())
            case "reset":
                sums.pop(call.arguments["model_name"], None)
                return dataclasses.replace(state, sums=frozenset(sums.items())), None
        token = self._token(call)
        if token in state.tokens:
            return state, None
        for name, more in _recordings(call):
            before = sums.get(name, _NOTHING)
            sums[name] = tuple(a + b for a, b in zip(before, more, strict=True))
        tokens = state.tokens if token is None else state.tokens | {token}
        return Counted(frozenset(sums.items()), tokens), None

    def passed(self, state: Counted, call: Call) -> bool:
        """Whether more calls, successes or failures were counted than the call saw, and no reset can undo that."""
        if self._resets or not self.observes(call):
            return False
        seen = dict(call.value) if call.name == "all_totals" else {call.arguments["model_name"]: call.value}
        return any(
            counted > getattr(seen.get(model_name, _NONE), name)
            for model_name, figures in state.sums
            if call.name == "all_totals" or model_name in seen
            for name, counted in zip(_NEVER_FALL, figures, strict=False)
        )


def _shown(figures: tuple[int, ...]) -> Counts:
    return Counts(*(max(0, figure) for figure in figures))


def _recordings(call: Call) -> list[tuple[str, tuple[int, ...]]]:
    """Return the model and the figures of each that `record` or `record_many` was given."""
    given = call.arguments
    if call.name == "record_many":
        return [(one.model_name, tuple(getattr(one, name) for name in _FIGURES)) for one in given["counts"]]
    return [(given["model_name"], tuple(given.get(name, 0) for name in _FIGURES))]
