"""Memory changes, checked and judged: the pure part of M2 to M5."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends import codec
from deerflow_backends.changes import (
    FactKey,
    State,
    StoredBody,
    StoredFact,
    applied,
    check_changes,
    conflict,
    judge,
)
from deerflow_backends.errors import InvalidArgument, RevisionConflict
from deerflow_backends.memories import ABSENT, ANY, Change, DeleteFact, PutBody, PutFact

NOTHING = State(0, {}, {})
NOW = 2_000

agent_names = st.sampled_from([None, "a", "None"])
keys = st.tuples(agent_names, st.sampled_from(["f", "g"]))
objects = st.sampled_from([{}, {"x": 1}, {"x": 1.0}, {"x": True}, {"y": 0.0, "x": 1}, {"y": -0.0, "x": 1}])
revisions = st.integers(1, 3)
encoded = objects.map(codec.canonical)
states = st.builds(
    State,
    st.integers(0, 3),
    st.dictionaries(agent_names, st.builds(StoredBody, revisions, encoded)),
    st.dictionaries(keys, st.builds(StoredFact, revisions, encoded, st.just(10), st.just(20))),
)
expectations = st.just(ANY) | st.just(ABSENT) | st.integers(0, 3)


def change_for(target: FactKey | tuple[str | None]) -> st.SearchStrategy[Change]:
    if len(target) == 1:
        return st.builds(PutBody, st.just(target[0]), objects, expectations)
    put = st.builds(PutFact, st.just(target[0]), st.just(target[1]), objects, expectations)
    return put | st.builds(DeleteFact, st.just(target[0]), st.just(target[1]), expectations)


change_lists = st.lists(keys | st.tuples(agent_names), unique=True, max_size=5).flatmap(
    lambda targets: st.tuples(*map(change_for, targets))
)


def found_revision(change: Change, state: State) -> int:
    if isinstance(change, PutBody):
        body = state.bodies.get(change.agent_name)
        return body.revision if body else 0
    fact = state.facts.get((change.agent_name, change.fact_id))
    return fact.revision if fact else 0


def holds(change: Change, state: State) -> bool:
    wanted = 0 if change.expected is ABSENT else change.expected
    return wanted is ANY or wanted == found_revision(change, state)


def changes_something(change: Change, state: State) -> bool:
    if isinstance(change, DeleteFact):
        return found_revision(change, state) > 0
    if isinstance(change, PutFact):
        fact = state.facts.get((change.agent_name, change.fact_id))
        return fact is None or fact.value != codec.canonical(change.value)
    body = state.bodies.get(change.agent_name)
    return codec.canonical(change.body) != (body.body if body else b"{}")


@given(states, change_lists, st.none() | st.integers(0, 3))
def test_judged_as_the_contract_says(state: State, changes: tuple[Change, ...], expected: int | None) -> None:
    """M3, M4: each guard is held against the state before; what changes rises by one, what does not is not written."""
    checked = check_changes(changes, expected)
    if (expected is not None and expected != state.revision) or not all(holds(change, state) for change in changes):
        with pytest.raises(RevisionConflict):
            judge(checked, state, now=NOW)
        return
    effects = judge(checked, state, now=NOW)
    effective = [change for change in changes if changes_something(change, state)]
    assert effects.changed == bool(effective)
    assert effects.revision == state.revision + bool(effective)
    assert len(effects.bodies) + len(effects.facts) == len(effective)
    for change in effective:
        before = found_revision(change, state)
        if isinstance(change, PutBody):
            assert effects.bodies[change.agent_name] == (before + 1, codec.canonical(change.body))
        elif isinstance(change, DeleteFact):
            assert effects.facts[change.agent_name, change.fact_id] is None
        else:
            created = 10 if before else NOW
            wanted = StoredFact(before + 1, codec.canonical(change.value), created, NOW)
            assert effects.facts[change.agent_name, change.fact_id] == wanted


@given(states, change_lists)
def test_what_the_caller_is_told(state: State, changes: tuple[Change, ...]) -> None:
    """M1: every fact that was put is returned as stored, unchanged ones too; deleted are those that were there."""
    checked = check_changes(changes)
    try:
        effects = judge(checked, state, now=NOW)
    except RevisionConflict:
        return
    told = applied(checked, state, effects)
    puts = [change for change in changes if isinstance(change, PutFact)]
    assert [(fact.agent_name, fact.fact_id) for fact in told.facts] == [(put.agent_name, put.fact_id) for put in puts]
    for put, fact in zip(puts, told.facts, strict=True):
        assert codec.canonical(fact.value) == codec.canonical(put.value)
        assert fact.revision == found_revision(put, state) + changes_something(put, state)
    gone = [change for change in changes if isinstance(change, DeleteFact) and found_revision(change, state)]
    assert told.deleted == tuple((change.agent_name, change.fact_id) for change in gone)
    assert (told.revision, told.changed) == (effects.revision, effects.changed)


def test_only_what_is_touched_must_be_looked_up() -> None:
    """M9: the cost of a change does not grow with the memory."""
    checked = check_changes([PutBody("a", {}), PutFact(None, "f", {}), DeleteFact("a", "f")])
    assert checked.bodies == ("a",)
    assert checked.facts == ((None, "f"), ("a", "f"))


@pytest.mark.parametrize(
    ("change", "expected", "where", "wanted", "found"),
    [
        (PutBody(None, {}), 4, "the user", 4, 3),
        (PutBody(None, {}, ABSENT), None, "the user-wide body", None, 2),
        (PutBody("a", {}, 1), None, "the body of agent 'a'", 1, None),
        (PutFact(None, "f", {}, 7), None, "fact 'f'", 7, 5),
        (PutFact("a", "f", {}, 7), None, "fact 'f' of agent 'a'", 7, None),
        (DeleteFact(None, "f", ABSENT), None, "fact 'f'", None, 5),
        (DeleteFact(None, "f", 0), None, "fact 'f'", None, 5),
    ],
)
def test_a_conflict_tells_what_was_expected_and_found_where(
    change: Change, expected: int | None, where: str, wanted: int | None, found: int | None
) -> None:
    """M4: a conflict says enough to decide what to read again."""
    state = State(3, {None: StoredBody(2, b"{}")}, {(None, "f"): StoredFact(5, b"{}", 1, 1)})
    changes = check_changes([change], expected)
    with pytest.raises(RevisionConflict) as caught:
        judge(changes, state, now=NOW)
    assert (caught.value.where, caught.value.expected, caught.value.found) == (where, wanted, found)
    assert str(conflict(changes, 0 if expected is None else None, found)) == str(caught.value)


def test_the_users_revision_is_judged_first() -> None:
    """M4: with several guards that do not hold, it is the user's that is told."""
    with pytest.raises(RevisionConflict, match="the user: expected revision 1, found revision 0"):
        judge(check_changes([PutFact(None, "f", {}, 9)], 1), NOTHING, now=NOW)


def test_an_empty_body_put_on_an_absent_one_changes_nothing() -> None:
    """M3: an absent body is {} at revision 0."""
    assert not judge(check_changes([PutBody("a", {})]), NOTHING, now=NOW).changed


def test_no_changes_at_all_still_judge_the_revision() -> None:
    """M4: an apply without changes keeps everything, but its guard counts."""
    assert judge(check_changes([], 0), NOTHING, now=NOW).revision == 0
    with pytest.raises(RevisionConflict):
        judge(check_changes([], 1), NOTHING, now=NOW)


@pytest.mark.parametrize(
    "changes",
    [
        [PutFact(None, "f", {"a": 1}), PutFact(None, "f", {"a": 1})],
        [PutFact("a", "f", {}), PutBody("a", {}), DeleteFact("a", "f")],
        [PutBody(None, {}), PutBody(None, {"a": 1})],
    ],
)
def test_the_same_thing_twice_is_refused(changes: list[Change]) -> None:
    """M2: two changes of one fact or body in one call contradict each other."""
    with pytest.raises(InvalidArgument, match=rf"changes\[{len(changes) - 1}\] changes what an earlier change"):
        check_changes(changes)


def test_names_that_look_alike_are_not_the_same() -> None:
    """G1: the user-wide part is no agent's, and a body is no fact, whatever they are called."""
    changes = [
        PutBody(None, {}),
        PutBody("None", {}),
        PutFact(None, "f", {}),
        PutFact("None", "f", {}),
        PutBody("f", {}),
    ]
    assert len(check_changes(changes).in_order) == 5


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        (None, "changes"),
        ("ab", "changes"),
        ({1}, "changes"),
        ([1], "changes[0]"),
        ([PutBody(None, {}), PutBody("", {})], "changes[1].agent_name"),
        ([PutFact(None, "", {})], "changes[0].fact_id"),
        ([PutFact(None, "f", {"a": [float("nan")]})], "changes[0].value.a[0]"),
        ([PutFact(None, "f", [])], "changes[0].value"),  # type: ignore[arg-type]  # what is refused
        ([PutBody(None, None)], "changes[0].body"),  # type: ignore[arg-type]  # what is refused
        ([DeleteFact(None, "f", True)], "changes[0].expected"),
        ([DeleteFact(None, "f", -1)], "changes[0].expected"),
        ([DeleteFact(None, "f", None)], "changes[0].expected"),  # type: ignore[arg-type]  # what is refused
        ([DeleteFact(None, "f", 1.0)], "changes[0].expected"),  # type: ignore[arg-type]  # what is refused
    ],
)
def test_what_is_no_change_is_refused_with_its_place(changes: Any, place: str) -> None:
    """G2, M2: the error names which change, and what of it."""
    with pytest.raises(InvalidArgument) as caught:
        check_changes(changes)
    assert caught.value.place == place


@pytest.mark.parametrize("revision", [-1, True, 1.0, "1", 2**63])
def test_what_is_no_revision_is_refused(revision: Any) -> None:
    """A revision is an int from 0."""
    with pytest.raises(InvalidArgument, match="expected_revision"):
        check_changes([], revision)


def test_all_changes_together_to_8_mib() -> None:
    """G3: the values of one apply are accepted up to 8 MiB together, not a byte more."""
    half = {"x": "x" * (codec.MAX_BYTES // 2 - 8)}
    assert len(codec.canonical(half)) == codec.MAX_BYTES // 2
    assert check_changes([PutFact(None, "f", half), PutBody(None, half), DeleteFact(None, "g")]).facts
    with pytest.raises(InvalidArgument, match="changes must be at most"):
        check_changes([PutFact(None, "f", half), PutBody(None, half), PutFact(None, "g", {})])
