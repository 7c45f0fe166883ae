"""What `MemoryStore.apply` is given, checked, and judged against what is stored. Pure; every memory store shares it.

A backend looks up the user's revision and the bodies and facts that `Changes` touches, calls `judge`, and stores the
`Effects`, all in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from deerflow_backends import codec
from deerflow_backends.arguments import check_identifier, check_integer, check_optional_identifier
from deerflow_backends.clocks import to_datetime
from deerflow_backends.errors import InvalidArgument, RevisionConflict
from deerflow_backends.memories import ANY, Applied, DeleteFact, Expected, Fact, Guard, Memory, PutBody, PutFact

#: The greatest revision that may be imported, far from what counting reaches.
MAX_IMPORTED_REVISION = 2**61
#: The greatest that may be expected: room for what an imported one grows to, below 64 bits.
MAX_REVISION = 2**62

#: Which fact of a user: the agent's name (None: the user-wide part) and the fact's id.
FactKey: TypeAlias = tuple[str | None, str]


class StoredBody(NamedTuple):
    """A body as a backend keeps it: a revision of 1 or more, and canonical JSON."""

    revision: int
    body: bytes


class StoredFact(NamedTuple):
    """A fact as a backend keeps it: a revision of 1 or more, canonical JSON, times in microseconds since 1970."""

    revision: int
    value: bytes
    created_at: int
    updated_at: int

    def to_fact(self, key: FactKey) -> Fact:
        """Give it to a caller: freshly decoded, the caller's own."""
        return Fact(
            agent_name=key[0],
            fact_id=key[1],
            value=codec.decode(self.value),
            revision=self.revision,
            created_at=to_datetime(self.created_at),
            updated_at=to_datetime(self.updated_at),
        )


def to_memory(
    user_id: str | None,
    agent_name: str | None,
    user: tuple[int, int],
    body: StoredBody | None,
    facts: Iterable[tuple[str, StoredFact]],
) -> Memory:
    """Give one part to a caller: freshly decoded, the caller's own.

    Args:
        user: The user's revision and time in microseconds; revision 0 if never written.
        body: None if absent.
        facts: By id, in order.
    """
    revision, updated_at = user
    return Memory(
        user_id=user_id,
        agent_name=agent_name,
        body=codec.decode(body.body) if body else {},
        body_revision=body.revision if body else 0,
        facts=tuple(fact.to_fact((agent_name, fact_id)) for fact_id, fact in facts),
        revision=revision,
        updated_at=to_datetime(updated_at) if revision else None,
    )


class BodyChange(NamedTuple):
    """A checked `PutBody`."""

    agent_name: str | None
    body: bytes
    expected: Expected


class FactChange(NamedTuple):
    """A checked `PutFact`, or with None as value a checked `DeleteFact`."""

    key: FactKey
    value: bytes | None
    expected: Expected


@dataclass(frozen=True, slots=True)
class Changes:
    """Checked arguments of one `apply`.

    Attributes:
        in_order: As given; each body and each fact at most once.
        expected_revision: The user's revision, or None for whatever it is.
    """

    in_order: tuple[BodyChange | FactChange, ...]
    expected_revision: int | None

    @property
    def bodies(self) -> tuple[str | None, ...]:
        """The parts whose bodies must be looked up before `judge`."""
        return tuple(change.agent_name for change in self.in_order if isinstance(change, BodyChange))

    @property
    def facts(self) -> tuple[FactKey, ...]:
        """The facts that must be looked up before `judge`."""
        return tuple(change.key for change in self.in_order if isinstance(change, FactChange))


@dataclass(frozen=True, slots=True)
class State:
    """What is stored of a user before the changes: of bodies and facts at least those that the changes touch.

    Attributes:
        revision: The user's, 0 if never written.
        bodies: Those that are there, by part.
        facts: Those that are there.
    """

    revision: int
    bodies: Mapping[str | None, StoredBody]
    facts: Mapping[FactKey, StoredFact]


@dataclass(frozen=True, slots=True)
class Effects:
    """What must be written, and nothing else (M9).

    Attributes:
        revision: The user's afterwards: one more if anything changes.
        bodies: To be stored, by part.
        facts: To be stored, or removed where None.
    """

    revision: int
    bodies: dict[str | None, StoredBody] = field(default_factory=dict)
    facts: dict[FactKey, StoredFact | None] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether there is anything to write; if not, neither revision nor time of the user changes."""
        return bool(self.bodies or self.facts)


def check_changes(changes: Any, expected_revision: Any = None) -> Changes:
    """Check and encode the arguments of `apply`.

    Raises:
        InvalidArgument: No such changes, two for one fact or body, together over 8 MiB, or no such revision.
    """
    if isinstance(changes, str | bytes) or not isinstance(changes, Sequence):
        raise InvalidArgument("changes", f"must be a sequence of changes, not {type(changes).__name__}")
    if expected_revision is not None:
        expected_revision = check_integer("expected_revision", expected_revision, least=0, most=MAX_REVISION)
    checked: list[BodyChange | FactChange] = []
    touched: set[str | FactKey | None] = set()
    size = 0
    for index, change in enumerate(changes):
        place = f"changes[{index}]"
        prepared, value = _checked(change, place)
        target = prepared.agent_name if isinstance(prepared, BodyChange) else prepared.key
        if target in touched:
            raise InvalidArgument(place, "changes what an earlier change of the same call changes; join the two")
        touched.add(target)
        size += len(value or b"")
        codec.check_size(size, "changes")
        checked.append(prepared)
    return Changes(tuple(checked), expected_revision)


def _checked(change: Any, place: str) -> tuple[BodyChange | FactChange, bytes | None]:
    if not isinstance(change, PutBody | PutFact | DeleteFact):
        raise InvalidArgument(place, f"must be a PutBody, PutFact or DeleteFact, not {type(change).__name__}")
    agent_name = check_optional_identifier(f"{place}.agent_name", change.agent_name)
    expected = _expected(change.expected, f"{place}.expected")
    if isinstance(change, PutBody):
        body = codec.canonical_object(change.body, f"{place}.body")
        return BodyChange(agent_name, body, expected), body
    key = (agent_name, check_identifier(f"{place}.fact_id", change.fact_id))
    value = codec.canonical_object(change.value, f"{place}.value") if isinstance(change, PutFact) else None
    return FactChange(key, value, expected), value


def _expected(expected: Any, place: str) -> Expected:
    if isinstance(expected, Guard):
        return expected
    if not isinstance(expected, int) or isinstance(expected, bool):
        raise InvalidArgument(place, f"must be ANY, ABSENT or a revision, not {type(expected).__name__}")
    return check_integer(place, expected, least=0, most=MAX_REVISION)


def judge(changes: Changes, state: State, *, now: int) -> Effects:
    """Say what *changes* do to *state*, all of it judged against the state before.

    Args:
        now: Microseconds since 1970 by the server's clock.

    Raises:
        RevisionConflict: An expectation does not hold: the user's is looked at first, then each change's in order.
    """
    wanted = changes.expected_revision
    if wanted is not None and wanted != state.revision:
        raise RevisionConflict("the user", expected=wanted, found=state.revision)
    bodies: dict[str | None, StoredBody] = {}
    facts: dict[FactKey, StoredFact | None] = {}
    for change in changes.in_order:
        if isinstance(change, BodyChange):
            body = state.bodies.get(change.agent_name)
            _expect(change, body.revision if body else None)
            if change.body != (body.body if body else b"{}"):
                bodies[change.agent_name] = StoredBody((body.revision if body else 0) + 1, change.body)
        else:
            fact = state.facts.get(change.key)
            _expect(change, fact.revision if fact else None)
            if change.value is None:
                if fact is not None:
                    facts[change.key] = None
            elif fact is None:
                facts[change.key] = StoredFact(1, change.value, created_at=now, updated_at=now)
            elif change.value != fact.value:
                facts[change.key] = StoredFact(fact.revision + 1, change.value, fact.created_at, now)
    return Effects(state.revision + bool(bodies or facts), bodies, facts)


def conflict(changes: Changes, index: int | None, found: int | None) -> RevisionConflict:
    """Say which expectation did not hold, for a backend whose server judges.

    Args:
        index: Which change's, or None for the user's.
        found: The revision that is stored; of a body or fact None if absent.
    """
    if index is None:
        return RevisionConflict("the user", expected=changes.expected_revision, found=found)
    change = changes.in_order[index]
    return RevisionConflict(_where(change), expected=_expected_revision(change), found=found)


def _expect(change: BodyChange | FactChange, found: int | None) -> None:
    if change.expected is not ANY and _expected_revision(change) != found:
        raise RevisionConflict(_where(change), expected=_expected_revision(change), found=found)


def _expected_revision(change: BodyChange | FactChange) -> int | None:
    """Return the revision that a change asks for, None if it is to be absent."""
    expected = change.expected
    return expected if isinstance(expected, int) and expected > 0 else None


def _where(change: BodyChange | FactChange) -> str:
    if isinstance(change, BodyChange):
        return "the user-wide body" if change.agent_name is None else f"the body of agent {change.agent_name!r}"
    agent_name, fact_id = change.key
    return f"fact {fact_id!r}" if agent_name is None else f"fact {fact_id!r} of agent {agent_name!r}"


def applied(changes: Changes, state: State, effects: Effects) -> Applied:
    """Tell the caller of `apply` what its changes did."""
    facts: list[Fact] = []
    for change in changes.in_order:
        if isinstance(change, FactChange) and change.value is not None:
            stored = effects.facts.get(change.key) or state.facts[change.key]
            facts.append(stored.to_fact(change.key))
    deleted = tuple(key for key, fact in effects.facts.items() if fact is None)
    return Applied(effects.revision, tuple(facts), deleted, effects.changed)
