"""Whether a history of concurrent calls can be put in one order: the search, and the shortest history that cannot.

A history is linearizable if each call can be given one moment between its start and its end such that, one after the
other, all give what they gave. It is the search of Wing and Gong with the memory of Lowe: depth first over what was
done so far and the state that it led to, none of which is looked at twice. What makes it quick:

- A call that changes nothing and gives what it gave is taken at once: nothing is gained by waiting.
- A maybe is taken only right before a call that it makes a difference to: earlier it could as well come later, and one
  that changes nothing could as well never come.
- Of calls that do and give the same, the one that must be done first comes first, and a maybe last: whose it was
  makes no difference.
- Of two ways to the same place, one that has used the more maybes is not followed: it can do nothing that the other
  cannot.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from deerflow_backends.errors import Conflict
from deerflow_conformance.histories import Call, Impossible, Outcome, brief, timeline

S = TypeVar("S", bound=Hashable)

#: How many states are looked at in a history of one object before giving up: some seconds.
MAX_STATES: Final = 100_000
#: How many of the answers that a call could have given are told.
_MAX_TOLD: Final = 4


class Undecided(Exception):
    """The search gave up. Says nothing about the backend: the check made a history that is too hard to judge."""


class Model(Protocol[S]):
    """What a capability ought to do, one call after the other: pure, and its states are values."""

    @property
    def initial(self) -> S:
        """Before the first call."""

    def objects(self, call: Call) -> frozenset[Hashable] | None:
        """Name what the call reads or changes, None for everything. Calls with nothing in common are judged apart."""

    def kind(self, call: Call) -> Hashable:
        """Return what is equal for two calls only if they do and give the same in every state; mostly `kind_of`."""

    def observes(self, call: Call) -> bool:
        """Whether the call changes nothing, by what it is or by what it gave, in any state where it gives that."""

    def answer(self, call: Call) -> Hashable:
        """Return what a call gave that is over, to be compared with what `after` says."""

    def after(self, state: S, call: Call) -> tuple[S, Hashable]:
        """Return the state after the call and what it must give."""

    def passed(self, state: S, call: Call) -> bool:
        """Whether a call that is over can no longer happen as it did, whatever comes; False where nobody knows."""


def expect_linearizable(calls: Iterable[Call], model: Model[Any], *, max_states: int = MAX_STATES) -> None:
    """Fail the check unless the calls can be put in one order.

    Raises:
        Impossible: They cannot; its timeline is of the shortest part that cannot.
        Undecided: More than *max_states* states were looked at.
    """
    for group in _apart([call for call in calls if _matters(call, model)], model):
        if not _Search(group, model, max_states).succeeds():
            raise _impossible(shortest(group, model, max_states), model, max_states)


def _matters(call: Call, model: Model[Any]) -> bool:
    """Whether a call says anything: not a read without an answer, nor what was refused for no reason of the state."""
    if call.outcome is Outcome.MAYBE:
        return not model.observes(call)
    return call.outcome is Outcome.RETURNED or isinstance(call.value, Conflict)


def _apart(calls: Sequence[Call], model: Model[Any]) -> list[list[Call]]:
    """Put calls together that have to do with each other: each group is linearizable if and only if all are."""
    groups: list[tuple[set[Hashable], list[Call]]] = []
    for call in calls:
        names = model.objects(call)
        if names is None:
            return [list(calls)]
        objects, members, others = set(names), [call], []
        for group in groups:
            if objects.isdisjoint(group[0]):
                others.append(group)
            else:
                objects, members = objects | group[0], [*group[1], *members]
        groups = [*others, (objects, members)]
    return [members for _, members in groups]


class _Node(NamedTuple):
    """A place in the search.

    Attributes:
        done: The calls that have come, as bits; maybes apart.
        used: The maybes that have come, as bits.
        state: Where that led to.
        maybe: If a maybe came last, the state before it and which one it was.
    """

    done: int
    used: int
    state: Any
    maybe: tuple[Any, int] | None


def kind_of(call: Call) -> Hashable:
    """Return the `Model.kind` of whatever is done by a method and its arguments alone."""
    return repr((call.name, sorted(call.arguments.items())))


class _Search:
    """One search.

    Attributes:
        told: What each call could have given where it gave something else, by the call's place.
    """

    def __init__(self, calls: Iterable[Call], model: Model[Any], max_states: int) -> None:
        in_order = sorted(calls, key=lambda call: call.started)
        self.told: dict[int, dict[Hashable, None]] = {}
        self.calls = [call for call in in_order if call.outcome is not Outcome.MAYBE]
        self._maybes = [call for call in in_order if call.outcome is Outcome.MAYBE]
        self._model, self._max_states = model, max_states
        self._answers = [model.answer(call) for call in self.calls]
        self._kinds = [model.kind(call) for call in self.calls]
        self._maybe_kinds = [model.kind(call) for call in self._maybes]
        self._starts = [call.started for call in self._maybes]
        self._visited: dict[tuple[int, Any, Any], list[int]] = {}
        self._states = 0

    def succeeds(self) -> bool:
        """Whether there is an order.

        Raises:
            Undecided: Too many states.
        """
        everything = (1 << len(self.calls)) - 1
        to_see = [_Node(0, 0, self._model.initial, None)]
        while to_see:
            node = to_see.pop()
            if node.done == everything:
                return True
            if self._is_new(node):
                to_see += self._following(node)
        return False

    def _is_new(self, node: _Node) -> bool:
        before = self._visited.setdefault((node.done, node.state, node.maybe), [])
        if any(used & node.used == used for used in before):
            return False
        before.append(node.used)
        self._states += 1
        if self._states > self._max_states:
            raise Undecided(
                f"gave up after {self._max_states} states: {len(self.calls)} calls and {len(self._maybes)} maybes of "
                "one object, so many at once and so different, are too many to judge"
            )
        return True

    def _following(self, node: _Node) -> list[_Node]:
        """Return where to go on, the most promising last."""
        model, found = self._model, []
        possible, until = self._possible(node.done)
        tried: dict[Hashable, set[Hashable]] = {}
        for index in possible:
            call, wanted = self.calls[index], self._answers[index]
            answers = tried.setdefault(self._kinds[index], set())
            if wanted in answers:
                continue
            state, answer = model.after(node.state, call)
            if answer != wanted:
                self.told.setdefault(index, {})[answer] = None
                if model.passed(node.state, call):
                    return []
                continue
            answers.add(wanted)
            done = node.done | 1 << index
            if model.observes(call):
                return [_Node(done, node.used, node.state, None)]
            if node.maybe is None or self._matters_to(node.maybe, index, state):
                found.append(_Node(done, node.used, state, None))
        found.reverse()
        return [*self._with_maybes(node, until, {kind for kind, answers in tried.items() if answers}), *found]

    def _possible(self, done: int) -> tuple[list[int], float]:
        """Return which calls can come next, those that end first first, and the end of the first of them."""
        until, found = math.inf, []
        index = ((done + 1) & ~done).bit_length() - 1  # the first that is not done
        while index < len(self.calls) and self.calls[index].started < until:
            if not done >> index & 1:
                found.append(index)
                until = min(until, self.calls[index].ended)
            index += 1
        found = [index for index in found if self.calls[index].started < until]
        return sorted(found, key=lambda index: self.calls[index].ended), until

    def _with_maybes(self, node: _Node, until: float, seen: set[Hashable]) -> list[_Node]:
        """Return where a maybe leads to, of each kind the first, and none of the kinds *seen* among the calls."""
        found = []
        for index in range(bisect.bisect_left(self._starts, until)):
            kind = self._maybe_kinds[index]
            if node.used >> index & 1 or kind in seen:
                continue
            seen.add(kind)
            state, _ = self._model.after(node.state, self._maybes[index])
            if state != node.state:
                found.append(_Node(node.done, node.used | 1 << index, state, (node.state, index)))
        return found

    def _matters_to(self, maybe: tuple[Any, int], index: int, after: Any) -> bool:
        """Whether the maybe that came last could not as well come after the call, which led to the state *after*."""
        before, which = maybe
        without, answer = self._model.after(before, self.calls[index])
        return bool(answer != self._answers[index] or self._model.after(without, self._maybes[which])[0] != after)


# ------------------------------------------------------------------------------------------------------- the shortest


def shortest(calls: Sequence[Call], model: Model[Any], max_states: int = MAX_STATES) -> list[Call]:
    """Return as few of the *calls*, which cannot be put in one order, as still cannot, for the same reason.

    Left out is only what no order could have missed: calls that began after the moment from which on there is none
    (what had not ended then has no result), and then calls that changed nothing.
    """

    def impossible(some: Sequence[Call]) -> bool:
        try:
            return not _Search(some, model, max_states).succeeds()
        except Undecided:
            return False

    ends = sorted(call.ended for call in calls if call.outcome is not Outcome.MAYBE)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if impossible(_until(calls, ends[middle], model)):
            high = middle
        else:
            low = middle + 1
    return _without_reads(_until(calls, ends[high], model), model, impossible)


def _until(calls: Sequence[Call], moment: float, model: Model[Any]) -> list[Call]:
    """Return what was known of the calls at that moment."""
    known = [
        call if call.ended <= moment else dataclasses.replace(call, ended=math.inf, outcome=Outcome.MAYBE, value=None)
        for call in calls
        if call.started <= moment
    ]
    return [call for call in known if _matters(call, model)]


def _without_reads(calls: list[Call], model: Model[Any], impossible: Callable[[Sequence[Call]], bool]) -> list[Call]:
    """Leave out as many calls that changed nothing as possible, many at once at first."""
    size = len(calls)
    while size:
        reads = [call for call in calls if call.outcome is not Outcome.MAYBE and model.observes(call)]
        for start in range(0, len(reads), size):
            without = set(reads[start : start + size])
            fewer = [call for call in calls if call not in without]
            if impossible(fewer):
                calls = fewer
        size //= 2
    return calls


def _impossible(calls: Sequence[Call], model: Model[Any], max_states: int) -> Impossible:
    search = _Search(calls, model, max_states)
    search.succeeds()
    # The last to end: without it there was an order.
    last = max(range(len(search.calls)), key=lambda index: search.calls[index].ended)
    call = search.calls[last]
    answers = list(search.told.get(last, ()))
    told = " or ".join(map(brief, answers[:_MAX_TOLD])) + (" or ..." if len(answers) > _MAX_TOLD else "")
    wanted = f"{call} of {call.client} to give {told or 'what an order of all calls explains'}"
    return Impossible(wanted, brief(model.answer(call)), timeline(calls))
