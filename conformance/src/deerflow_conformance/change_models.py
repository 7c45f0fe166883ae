"""What the contract says memories, threads and counters must be after a program: plain dicts, a few lines each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from deerflow_backends.counters import Counts
from deerflow_backends.memories import ABSENT, ALL, ANY, All, Applied, Change, DeleteFact, Expected, PutBody, PutFact
from deerflow_backends.threads import ANY_USER, KEEP, PINNED_KEY, Scope, Thread
from deerflow_conformance import programs
from deerflow_conformance.counter_programs import RecordStep
from deerflow_conformance.expectations import expect_same
from deerflow_conformance.memory_programs import ApplyStep, DrawnChange, Guess
from deerflow_conformance.thread_programs import UpdateStep

Part: TypeAlias = str | None
#: A value and its revision.
Stored: TypeAlias = tuple[dict[str, Any], int]


@dataclass(frozen=True, slots=True)
class PredictedConflict:
    """The `RevisionConflict` that must come: where (``user``, ``body`` or a fact's id), what was wanted, what is there.

    An absent body may be reported as absent or as revision 0, which is what it reads as; and what was to have revision
    0 as what was to be absent.
    """

    kind: Literal["user", "body", "fact"]
    fact_id: str | None
    expected: int | None
    found: int | None


@dataclass(frozen=True, slots=True)
class PredictedApplied:
    """What `Applied` must say, times apart: ``facts`` as agent, id, value and revision."""

    revision: int
    facts: tuple[tuple[Part, str, dict[str, Any], int], ...]
    deleted: tuple[tuple[Part, str], ...]
    changed: bool

    def expect(self, got: Applied) -> None:
        """Fail the check unless *got* says this."""
        facts = tuple((fact.agent_name, fact.fact_id, fact.value, fact.revision) for fact in got.facts)
        expect_same("Applied.revision", self.revision, got.revision)
        expect_same("Applied.facts (agent, id, value, revision)", self.facts, facts)
        expect_same("Applied.deleted", sorted(self.deleted, key=repr), sorted(got.deleted, key=repr))
        expect_same("Applied.changed", self.changed, got.changed)


@dataclass(slots=True)
class UserMemory:
    """One user's memory. A body that was put and is ``{}`` again still has its revision, so it is there."""

    revision: int = 0
    bodies: dict[Part, Stored] = field(default_factory=dict)
    facts: dict[tuple[Part, str], Stored] = field(default_factory=dict)

    def changes(self, step: ApplyStep) -> tuple[list[Change], int | None]:
        """Work out a step's guesses against the state now: the changes, and the user's expected revision."""
        return [self._change(drawn) for drawn in step.changes], {
            Guess.CURRENT: self.revision,
            Guess.OLDER: max(self.revision - 1, 0),
            Guess.NEWER: self.revision + 1,
        }.get(step.guess)

    def _change(self, drawn: DrawnChange) -> Change:
        expected = self._expected(drawn)
        if drawn.fact_id is None:
            return PutBody(drawn.agent_name, drawn.value or {}, expected)
        if drawn.value is None:
            return DeleteFact(drawn.agent_name, drawn.fact_id, expected)
        return PutFact(drawn.agent_name, drawn.fact_id, drawn.value, expected)

    def _expected(self, drawn: DrawnChange) -> Expected:
        stored = self._stored(drawn.agent_name, drawn.fact_id)
        revision = stored[1] if stored else None
        if drawn.guess is Guess.NONE:
            return ANY
        if drawn.guess is Guess.ABSENT or (drawn.guess is Guess.CURRENT and revision is None):
            return ABSENT
        later = 1 if drawn.guess is Guess.NEWER else -1 if drawn.guess is Guess.OLDER else 0
        return max((revision or 0) + later, 1)

    def _stored(self, agent_name: Part, fact_id: str | None) -> Stored | None:
        return self.bodies.get(agent_name) if fact_id is None else self.facts.get((agent_name, fact_id))

    def conflict(self, changes: list[Change], expected_revision: int | None) -> PredictedConflict | None:
        """Predict the first expectation that does not hold: the user's, then the changes' in order."""
        if expected_revision is not None and expected_revision != self.revision:
            return PredictedConflict("user", None, expected_revision, self.revision)
        for change in changes:
            fact_id = None if isinstance(change, PutBody) else change.fact_id
            stored = self._stored(change.agent_name, fact_id)
            found = stored[1] if stored else None
            if change.expected is ANY or (change.expected is ABSENT and found is None) or change.expected == found:
                continue
            expected = change.expected if isinstance(change.expected, int) else None
            return PredictedConflict("body" if fact_id is None else "fact", fact_id, expected, found)
        return None

    def apply(self, changes: list[Change]) -> PredictedApplied:
        """Make the changes, whose expectations hold, and predict what `apply` says."""
        deleted, changed = [], False
        for change in changes:
            fact_id = None if isinstance(change, PutBody) else change.fact_id
            stored = self._stored(change.agent_name, fact_id)
            if isinstance(change, DeleteFact):
                if self.facts.pop((change.agent_name, change.fact_id), None):
                    deleted.append((change.agent_name, change.fact_id))
                    changed = True
                continue
            value = change.body if isinstance(change, PutBody) else change.value
            if programs.same(stored[0] if stored else {} if fact_id is None else None, value):
                continue
            changed = True
            now = (value, (stored[1] if stored else 0) + 1)
            if fact_id is None:
                self.bodies[change.agent_name] = now
            else:
                self.facts[change.agent_name, fact_id] = now
        self.revision += changed
        put = [(one.agent_name, one.fact_id) for one in changes if isinstance(one, PutFact)]
        return PredictedApplied(self.revision, tuple((*key, *self.facts[key]) for key in put), tuple(deleted), changed)

    def clear(self, agent_name: str | Literal[All.ALL] | None) -> int:
        """Remove a part or all; return the revision afterwards."""
        bodies = {part: body for part, body in self.bodies.items() if agent_name not in {ALL, part}}
        facts = {key: fact for key, fact in self.facts.items() if agent_name not in {ALL, key[0]}}
        self.revision += len(bodies) + len(facts) < len(self.bodies) + len(self.facts)
        self.bodies, self.facts = bodies, facts
        return self.revision

    def part(self, agent_name: Part) -> list[tuple[str, dict[str, Any], int]]:
        """Return a part's facts (id, value, revision) in order."""
        found = [(fact_id, *stored) for (part, fact_id), stored in self.facts.items() if part == agent_name]
        return sorted(found, key=lambda fact: fact[0].encode())

    def agents(self) -> list[str]:
        """Name the agents that have a body or facts, in order."""
        found = {part for part, _ in self.facts} | {part for part, (body, _) in self.bodies.items() if body}
        return sorted((name for name in found if name is not None), key=str.encode)

    def emptied(self) -> set[str]:
        """Name the agents of which only an emptied body is left: the contract leaves open whether they are named."""
        return {part for part in self.bodies if part is not None} - set(self.agents())


def thread_order(thread: Thread) -> tuple[bool, datetime, bytes]:
    """Sort key of T2, for sorting in reverse."""
    return thread.metadata.get(PINNED_KEY) is True, thread.updated_at, thread.thread_id.encode()


def in_scope(thread: Thread | None, scope: Scope) -> bool:
    """Whether a call scoped to *scope* may see the thread."""
    return thread is not None and (scope is ANY_USER or thread.user_id == scope)


def updated(thread: Thread, step: UpdateStep) -> Thread:
    """Predict the thread after an update that is neither out of scope nor a conflict, its `updated_at` apart."""
    metadata = {key: value for key, value in thread.metadata.items() if key not in step.remove}
    return dataclasses.replace(
        thread,
        display_name=thread.display_name if step.display_name is KEEP else step.display_name,
        status=thread.status if step.status is KEEP else step.status,
        metadata=(step.metadata or {}) if step.replace else {**metadata, **(step.metadata or {})},
    )


@dataclass(slots=True)
class CounterSums:
    """What was recorded, summed, signed; and the tokens seen."""

    sums: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tokens: set[int] = field(default_factory=set)

    def record(self, step: RecordStep) -> None:
        """Count a step, unless its token was seen."""
        if step.token is not None and step.token in self.tokens:
            return
        if step.token is not None:
            self.tokens.add(step.token)
        for recording in step.recordings:
            before = self.sums.get(recording.model_name, (0,) * 5)
            self.sums[recording.model_name] = tuple(a + b for a, b in zip(before, recording.figures, strict=True))

    def totals(self) -> dict[str, Counts]:
        """Return what readers must see: sums, thumbs never below 0."""
        return {name: Counts(*(max(0, figure) for figure in figures)) for name, figures in self.sums.items()}
