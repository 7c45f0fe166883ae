"""The search for an order: known histories, good and bad, and drawn ones, judged as brute force judges them."""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends import (
    ABSENT,
    ANY_USER,
    Conflict,
    Counts,
    DeleteFact,
    InvalidArgument,
    NewThread,
    PutBody,
    PutFact,
    Recorded,
    RevisionConflict,
)
from deerflow_conformance.histories import Call, Impossible, Outcome
from deerflow_conformance.history_models import (
    CounterModel,
    Loaded,
    MemoryModel,
    Refused,
    StoredThread,
    ThreadModel,
    Written,
)
from deerflow_conformance.linearizability import Undecided, expect_linearizable, kind_of, shortest


class Registers:
    """Named numbers: ``write(name, value)``, ``read(name)``, and ``swap(name, value)``, which gives what was there."""

    initial: frozenset[tuple[str, int]] = frozenset()

    def objects(self, call: Call) -> frozenset[Hashable] | None:
        return frozenset([call.arguments["name"]]) if "name" in call.arguments else None

    def kind(self, call: Call) -> Hashable:
        return kind_of(call)

    def observes(self, call: Call) -> bool:
        return call.name in {"read", "read_all"} or call.outcome is Outcome.REFUSED

    def answer(self, call: Call) -> Any:
        return call.value

    def after(self, state: frozenset[tuple[str, int]], call: Call) -> tuple[frozenset[tuple[str, int]], Hashable]:
        values = dict(state)
        if call.name == "read_all":
            return state, state
        before = values.get(call.arguments["name"], 0)
        if call.name == "read":
            return state, before
        values[call.arguments["name"]] = call.arguments["value"]
        return frozenset(values.items()), before if call.name == "swap" else None

    def passed(self, state: frozenset[tuple[str, int]], call: Call) -> bool:
        return False


REGISTERS: Final = Registers()


def history(text: str) -> list[Call]:
    """Draw a history: a line a client, whose calls are ``[`` ... ``]``, each at the columns where it stands.

    ``w1``, ``r1`` and ``s10`` write 1, read 1, and swap 1 for 0; one that ends with ``?`` is a maybe.
    """
    calls = []
    for number, line in enumerate(filter(None, text.splitlines())):
        start = line.find("[")
        while start >= 0:
            end = line.index("]", start)
            content = line[start + 1 : end].strip()
            names = {"w": "write", "r": "read", "s": "swap"}
            given: dict[str, Any] = {"name": "x"}
            if content[0] != "r":
                given["value"] = int(content[1])
            value = None if content[0] == "w" else int(content.rstrip("?")[-1])
            maybe = content.endswith("?")
            outcome = Outcome.MAYBE if maybe else Outcome.RETURNED
            # Two brackets in one column are told apart: who starts there starts before anybody ends.
            began, ended = start + number / 100, end + 0.5 + number / 100
            calls.append(
                Call(f"client {number}", names[content[0]], given, began, ended, outcome, None if maybe else value)
            )
            start = line.find("[", end)
    return calls


def possible(calls: Iterable[Call], model: Any = REGISTERS) -> bool:
    try:
        expect_linearizable(calls, model)
    except Impossible:
        return False
    return True


GOOD: Final = {
    "nothing": "",
    "one after the other": "[w1] [r1] [w2] [r2]",
    "a read beside a write sees the old or the new": "[  w1  ]\n [r0]\n  [ r1 ]",
    "a read that began before a write returned, and ended after it": "[w1]      [ w2 ]\n      [   r1   ]",
    "writes at once, in the other order": "[ w1 ] [r1]\n [ w2 ]",
    "two readers, both during one write": "[    w1    ]\n[r0] [r1]\n [r0]  [r1]",
    "a maybe that never came": "[w1] [w2?] [r1] [r1]",
    "a maybe that came at once": "[w1] [w2?] [r2] [r2]",
    "a maybe that came late": "[w1] [w2?] [r1] [r1] [r2]",
    "a maybe that came after a later write": "[w2?] [w1] [r1] [r2]",
    "one maybe of two alike came": "[w1?] [w1?] [w2] [r2] [r1] [r1]",
    "both of two alike came": "[w1?] [w1?] [w2] [r2] [r1] [w2] [r1]",
    "swaps at once, one after the other": "[ s10 ]\n[ s21 ] [r2]",
    "a swap that saw a maybe": "[w1?] [s21] [r2]",
    "only maybes": "[w1?]\n[s2?]",
}
BAD: Final = {
    "a value from nowhere": "[w1] [r2]",
    "a read of what was there before": "[w1] [w2] [r1]",
    "a write that is not there yet": "[w1] [r0]",
    "an old value after a new one": "[    w1    ]\n[r1] [r0]",
    "two readers that see two writes in two orders": "[    w1    ]\n[    w2    ]\n  [r1]  [r2]\n  [r2]  [r1]",
    "a read before the write began": "[r1] [w1]",
    "two swaps that saw the same": "[ s10 ]\n[ s20 ]",
    "a lost swap": "[s10] [s20]",
    "a maybe that came before it began": "[r2] [w2?]",
    "a maybe that came twice": "[w2?] [w1] [r2] [w1] [r2]",
    "two alike that came three times": "[w2?] [w2?] [w1] [r2] [w1] [r2] [w1] [r2]",
    "a maybe that was there and is gone": "[w1] [w2?] [r2] [r1]",
    "a swap that saw neither": "[w1?] [s23] [r2]",
}


@pytest.mark.parametrize("name", GOOD)
def test_known_good(name: str) -> None:
    """Histories that an order explains are accepted."""
    assert possible(history(GOOD[name]))


@pytest.mark.parametrize("name", BAD)
def test_known_bad(name: str) -> None:
    """Histories that no order explains are refused."""
    assert not possible(history(BAD[name]))


def test_what_did_nothing_says_nothing() -> None:
    """Refused for its arguments, or a read without an answer, a call says nothing; refused for the state, it does."""
    before = Call("a", "write", {"name": "x", "value": 1}, 0, 1, Outcome.RETURNED)
    refused = Call("a", "write", {"name": "x", "value": 9}, 2, 3, Outcome.REFUSED, InvalidArgument("value", "is 9"))
    unread = Call("a", "read", {"name": "x"}, 4, 5, Outcome.MAYBE, TimeoutError())
    after = Call("a", "read", {"name": "x"}, 6, 7, Outcome.RETURNED, 1)
    conflict = dataclasses.replace(refused, value=Conflict("it is 1"))
    assert possible([before, refused, unread, after])
    assert not possible([before, conflict, unread, after])


def test_objects_are_judged_apart() -> None:
    """Calls with nothing in common are judged apart: a failure shows those of its object alone."""
    bad = history("[w1] [w2] [r1]")
    others = [dataclasses.replace(call, arguments={**call.arguments, "name": "y"}) for call in history("[w1] [r1]")]
    with pytest.raises(Impossible) as failed:
        expect_linearizable([*bad, *others], REGISTERS)
    assert "name='x'" in failed.value.timeline
    assert "name='y'" not in failed.value.timeline
    assert possible(others)


def test_what_reads_everything_joins_all() -> None:
    """Two objects that one call reads together are judged together: no order has one write first and the other too."""
    writes = [
        Call("a", "write", {"name": "x", "value": 1}, 0, 10, Outcome.RETURNED),
        Call("b", "write", {"name": "y", "value": 1}, 0.1, 10.1, Outcome.RETURNED),
    ]
    first = Call("c", "read_all", {}, 1, 2, Outcome.RETURNED, frozenset([("x", 1)]))
    other = Call("d", "read_all", {}, 1.1, 2.1, Outcome.RETURNED, frozenset([("y", 1)]))
    assert possible([*writes, first])
    assert possible([*writes, other])
    assert not possible([*writes, first, other])


def test_a_failure_says_what_could_have_been() -> None:
    """It names the call that nothing explains, what that could have given and what it gave, and shows no more."""
    calls = history("[w1] [r1] [w2] [r2] [r1] [w3] [r3]\n  [r0] [w4?]    [r2]        [r3]")
    with pytest.raises(Impossible) as failed:
        expect_linearizable(calls, REGISTERS)
    assert failed.value.wanted == "read(name='x') of client 0 to give 2 or 4"
    assert failed.value.got == "1"
    shown = [line.split("  ")[-1] for line in failed.value.timeline.splitlines()[1:]]
    assert [line.rpartition(" -> ")[2] for line in shown] == ["None", "maybe: None", "None", "1"]
    assert "value=3" not in failed.value.timeline


def test_giving_up_is_neither() -> None:
    """A history that takes more states than allowed is undecided, which is an error of its own."""
    calls = [
        Call(f"client {i}", "write", {"name": "x", "value": i}, i / 100, 10 + i / 100, Outcome.RETURNED)
        for i in range(20)
    ]
    calls.append(Call("a", "read", {"name": "x"}, 9, 9.5, Outcome.RETURNED, -1))
    with pytest.raises(Undecided, match="gave up after 1000 states"):
        expect_linearizable(calls, REGISTERS, max_states=1_000)
    assert not issubclass(Undecided, AssertionError)


# -------------------------------------------------------------------------------------------------------- brute force


def brute_force(calls: Sequence[Call], model: Any) -> bool:
    """Try every order of the calls with every choice of maybes."""
    required = [call for call in calls if call.outcome is not Outcome.MAYBE]
    maybes = [call for call in calls if call.outcome is Outcome.MAYBE]
    chosen = itertools.chain.from_iterable(itertools.combinations(maybes, n) for n in range(len(maybes) + 1))
    return any(_explained(order, model) for some in chosen for order in itertools.permutations([*required, *some]))


def _explained(order: Sequence[Call], model: Any) -> bool:
    latest_start = -math.inf
    for call in order:
        if call.latest < latest_start:
            return False  # it was over before one that comes before it began
        latest_start = max(latest_start, call.started)
    state = model.initial
    for call in order:
        state, answer = model.after(state, call)
        if call.outcome is not Outcome.MAYBE and answer != model.answer(call):
            return False
    return True


class Simulated:
    """A model whose calls gave what it answers, and not what a backend returns."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def answer(self, call: Call) -> Any:
        return call.value if call.outcome is Outcome.RETURNED else self._model.answer(call)


def over(call: Call, answer: Any) -> Call:
    """Let a call have given *answer*."""
    if not isinstance(answer, Refused):
        return dataclasses.replace(call, outcome=Outcome.RETURNED, value=answer)
    error = Conflict("it is taken")
    if answer.error == "RevisionConflict":
        error = RevisionConflict("the user", expected=answer.expected, found=answer.found)
    return dataclasses.replace(call, outcome=Outcome.REFUSED, value=error)


_registers = st.one_of(
    st.builds(lambda value: ("write", {"name": "x", "value": value}), st.integers(1, 2)),
    st.builds(lambda value: ("swap", {"name": "x", "value": value}), st.integers(1, 2)),
    st.just(("read", {"name": "x"})),
)
_expected = st.one_of(st.none(), st.integers(0, 2))
_changes = st.one_of(
    st.builds(PutFact, st.none(), st.sampled_from("fg"), st.sampled_from([{"n": 1}, {"n": 1.0}])),
    st.builds(PutFact, st.none(), st.just("f"), st.just({"n": 2}), st.sampled_from([ABSENT, 1, 2])),
    st.builds(PutBody, st.none(), st.sampled_from([{}, {"b": 1}])),
    st.builds(DeleteFact, st.none(), st.sampled_from("fg")),
)
_memory = st.one_of(
    st.builds(
        lambda change, expected: ("apply", {"user_id": "u", "changes": [change], "expected_revision": expected}),
        _changes,
        _expected,
    ),
    st.sampled_from(
        [
            ("load", {"user_id": "u"}),
            ("get_fact", {"user_id": "u", "agent_name": None, "fact_id": "f"}),
            ("clear", {"user_id": "u"}),
        ]
    ),
)
_threads = st.one_of(
    st.builds(lambda user: ("create", {"thread": NewThread("t", user)}), st.sampled_from("uv")),
    st.builds(lambda user: ("get", {"thread_id": "t", "user_id": user}), st.sampled_from([ANY_USER, "u"])),
    st.builds(lambda user: ("delete", {"thread_id": "t", "user_id": user}), st.sampled_from("uv")),
    st.builds(
        lambda status, given: ("update", {"thread_id": "t", "user_id": "u", "status": status, **given}),
        st.sampled_from(["idle", "running"]),
        st.sampled_from([{}, {"expected_status": "idle"}, {"metadata": {"k": 1}}, {"remove": ["k"]}]),
    ),
)
_counters = st.one_of(
    st.builds(
        lambda name, token: ("record", {"model_name": name, "calls": 1, "positive": -1, "token": token}),
        st.sampled_from("ab"),
        st.sampled_from([None, "t", "v"]),
    ),
    st.just(("record_many", {"counts": [Recorded("a", 1), Recorded("b", 2, positive=2)]})),
    st.sampled_from([("totals", {"model_name": "a"}), ("totals", {"model_name": "b"}), ("all_totals", {})]),
    st.just(("reset", {"model_name": "a"})),
)
MODELS: Final[dict[str, tuple[Callable[[Sequence[Call]], Any], st.SearchStrategy[Any]]]] = {
    "registers": (lambda _: REGISTERS, _registers),
    "memory": (lambda _: MemoryModel(), _memory),
    "threads": (lambda _: ThreadModel(), _threads),
    "counters": (CounterModel, _counters),
}
#: Calls of a drawn history: all orders of so many are tried in no time.
_MOST: Final = 6


@st.composite
def executions(draw: st.DrawFn, operations: st.SearchStrategy[Any], make: Callable[..., Any]) -> tuple[Any, list[Call]]:
    """Draw what a backend did, one call after the other, as its callers saw it: overlapping, some without an answer."""
    done = draw(st.lists(operations, min_size=2, max_size=_MOST))
    moments = draw(st.permutations(range(2 * len(done))))
    maybes = draw(
        st.lists(st.sampled_from(["no", "no", "no", "came", "late", "never"]), min_size=_MOST, max_size=_MOST)
    )
    begun = []
    for i, (name, arguments) in enumerate(done):
        start, end = sorted(moments[2 * i : 2 * i + 2])
        inside = start + draw(st.sampled_from([0.1, 0.5, 0.9])) * (end - start) + i / 1000
        at = {"no": inside, "came": inside, "late": end + inside, "never": math.inf}[maybes[i]]
        begun.append((at, Call(f"client {i}", name, arguments, start, end), maybes[i] == "no"))
    model = make([call for _, call, _ in begun])
    state, calls = model.initial, []
    for at, call, answered in sorted(begun, key=lambda one: one[0]):
        if at < math.inf:
            state, answer = model.after(state, call)
        calls.append(over(call, answer) if answered else call)
    return Simulated(model), calls


@pytest.mark.parametrize("name", MODELS)
def test_what_happened_in_some_order_is_accepted(name: str) -> None:
    """Whatever was done one after the other is accepted, however the calls overlapped and whichever had no answer."""
    make, operations = MODELS[name]

    @settings(database=None, deadline=None, max_examples=150)
    @given(executions(operations, make))
    def accepted(drawn: tuple[Any, list[Call]]) -> None:
        model, calls = drawn
        expect_linearizable(calls, model)

    accepted()


@pytest.mark.parametrize("name", MODELS)
def test_brute_force_agrees(name: str) -> None:
    """With an answer changed, a history is refused exactly if no order of all explains it; what is shown is, too."""
    make, operations = MODELS[name]
    seen = {True: 0, False: 0}

    @settings(database=None, deadline=None, max_examples=150)
    @given(executions(operations, make), st.data())
    def agrees(drawn: tuple[Any, list[Call]], data: st.DataObject) -> None:
        model, calls = drawn
        returned = [call for call in calls if call.outcome is Outcome.RETURNED]
        if returned:
            victim = data.draw(st.sampled_from(returned))
            values = [call.value for call in returned if call.name == victim.name and call.value != victim.value]
            value = data.draw(st.sampled_from([*values, *_wrong(victim.value)]))
            calls = [dataclasses.replace(victim, value=value) if call is victim else call for call in calls]
        wanted = brute_force(_judged(calls, model), model)
        seen[wanted] += 1
        assert possible(calls, model) == wanted
        if not wanted:
            few = shortest(_judged(calls, model), model)
            assert len(few) <= len(calls)
            assert not brute_force(few, model)

    agrees()
    assert min(seen.values()) > 5, f"the drawn histories say too little: {seen}"


def _judged(calls: Sequence[Call], model: Any) -> list[Call]:
    return [call for call in calls if call.outcome is not Outcome.MAYBE or not model.observes(call)]


def _wrong(value: Any) -> list[Any]:
    """Return what a careless backend gives in place of *value*."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1]
        case None:
            return [0]
        case Loaded() | Written():
            return [value._replace(revision=value.revision + more) for more in (1, -1)]
        case StoredThread():
            return [value._replace(status="idle"), value._replace(status="running"), None]
        case Counts():
            return [dataclasses.replace(value, calls=value.calls + 1), Counts()]
        case frozenset():
            return [frozenset(), frozenset([("a", Counts(calls=2))])]
    return [None, (*value[:2], value[2] + 1, value[3])]  # a fact: agent, id, revision, value


@pytest.mark.parametrize("name", MODELS)
def test_the_shortest_history_is_of_calls_that_were_made(name: str) -> None:
    """Every call shown is one of the history; what had not ended by then has no result, and no write is left out."""
    make, operations = MODELS[name]

    @settings(database=None, deadline=None, max_examples=60)
    @given(executions(operations, make), st.data())
    def shown(drawn: tuple[Any, list[Call]], data: st.DataObject) -> None:
        model, calls = drawn
        returned = [call for call in calls if call.outcome is Outcome.RETURNED]
        victim = data.draw(st.sampled_from(returned)) if returned else None
        if victim is None:
            return
        wrong = dataclasses.replace(victim, value=data.draw(st.sampled_from(_wrong(victim.value))))
        calls = _judged([wrong if call is victim else call for call in calls], model)
        if possible(calls, model):
            return
        few = shortest(calls, model)
        last = max(call.ended for call in few if call.outcome is not Outcome.MAYBE)
        known = {(call.client, call.started): call for call in calls}
        for call in few:
            made = known.pop((call.client, call.started))
            assert (made.name, made.arguments) == (call.name, call.arguments)
            assert call.outcome is (Outcome.MAYBE if made.ended > last else made.outcome)
        for left_out in known.values():
            assert model.observes(left_out) or left_out.started > last

    shown()


# --------------------------------------------------------------------------------------------------- long histories


def _long(seed: int, model: Any, operation: Callable[[random.Random, Any], Any], *, clients: int = 6) -> list[Call]:
    """Simulate 200 calls of so many clients on one object, a dozen of which nobody knows the result of."""
    drawn = random.Random(seed)  # a seed makes the same history again
    free = [0.0] * clients
    plan = []
    for i in range(200):
        client = min(range(clients), key=free.__getitem__)
        start = free[client] + drawn.random() * 0.3
        end = free[client] = start + 0.01 + drawn.random() * 2
        at = start + drawn.random() * (end - start)
        maybe = i % 16 == 5
        if maybe:
            at = drawn.choice([math.inf, at, at + 10 * drawn.random()])
        plan.append((at, start, end, client, maybe))
    state, calls = model.initial, []
    for at, start, end, client, maybe in sorted(plan):
        name, arguments = operation(drawn, state)
        call = Call(f"client {client}", name, arguments, start, end)
        if at < math.inf:
            state, answer = model.after(state, call)
        calls.append(call if maybe else over(call, answer))
    return _judged(calls, model)


def _memory_call(drawn: random.Random, state: Any) -> tuple[str, dict[str, Any]]:
    name = drawn.choice(["load", "get_fact", "apply", "apply", "apply", "delete"])
    fact_id = f"fact {drawn.randrange(4)}"
    if name == "load":
        return name, {"user_id": "u"}
    if name == "get_fact":
        return name, {"user_id": "u", "agent_name": None, "fact_id": fact_id}
    change = DeleteFact(None, fact_id) if name == "delete" else PutFact(None, fact_id, {"n": drawn.randrange(5)})
    expected = drawn.choice([None, None, state.revision, max(0, state.revision - 1)])
    return "apply", {"user_id": "u", "changes": [change], "expected_revision": expected}


def _thread_call(drawn: random.Random, _: Any) -> tuple[str, dict[str, Any]]:
    name = drawn.choice(["create", "get", "get", "delete", "update", "update"])
    if name == "create":
        return name, {"thread": NewThread("t", "u", display_name=str(drawn.randrange(1000)))}
    given = {"thread_id": "t", "user_id": "u"}
    if name != "update":
        return name, given
    status = {"status": drawn.choice(["idle", "running"])}
    return name, {**given, **status, **drawn.choice([{}, {"expected_status": "idle"}])}


def _counter_call(drawn: random.Random, _: Any) -> tuple[str, dict[str, Any]]:
    if drawn.random() < 0.2:
        return "totals", {"model_name": "m"}
    return "record", {"model_name": "m", "calls": 1, drawn.choice(["successes", "failures"]): 1}


@pytest.mark.parametrize(
    ("model", "operation"),
    [(MemoryModel(), _memory_call), (ThreadModel(), _thread_call), (CounterModel([]), _counter_call)],
    ids=["memory", "threads", "counters"],
)
@pytest.mark.parametrize("seed", range(4))
def test_long_histories_are_judged(model: Any, operation: Any, seed: int) -> None:
    """Two hundred calls of six clients with a dozen maybes take few states, whether they are good or bad."""
    simulated = Simulated(model)
    calls = _long(seed, model, operation)
    expect_linearizable(calls, simulated, max_states=5_000)
    reads = [call for call in calls if call.name in {"load", "get", "totals"} and call.value != calls[0].value]
    victim = reads[len(reads) // 2]
    stale = next(call.value for call in reads if call.value not in {victim.value, None})
    bad = [dataclasses.replace(victim, value=stale) if call is victim else call for call in calls]
    with pytest.raises(Impossible):
        expect_linearizable(bad, simulated, max_states=20_000)
