"""Checks of rivals on one user's memory, by whether what they got can be put in one order: M1 to M5 and M11."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from deerflow_backends.memories import ABSENT, ALL, ANY, Change, DeleteFact, MemoryStore, PutBody, PutFact
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.digits import Digits
from deerflow_conformance.histories import Call
from deerflow_conformance.history_models import MemoryModel
from deerflow_conformance.linearizability import expect_linearizable
from deerflow_conformance.memory_programs import Guess
from deerflow_conformance.rivalries import RIVALS, Ask, Rivalry, explore_rivals
from deerflow_conformance.strikes import disturb_network, kill_rivals, restart_server

# Few of each, so that rivals meet.
_USERS: Final = ("ann", "ann", "ann", "ann", "Ann")
_AGENTS: Final = (None, "planner")
_FACTS: Final = ("f", "f", "F")
_PLACES: Final = tuple((agent, fact) for agent in _AGENTS for fact in _FACTS)


def _judge(calls: Sequence[Call]) -> None:
    expect_linearizable(calls, MemoryModel())


async def _take(store: MemoryStore, ask: Ask) -> None:
    """Make a call; where it guards what is stored, by what is read right before."""
    if ask.name != "apply":
        await getattr(store, ask.name)(*ask.positional, **ask.named)
        return
    user_id, changes = ask.positional
    named = dict(ask.named)
    if named.get("expected_revision") is Guess.CURRENT:
        named["expected_revision"] = (await store.load(user_id)).revision
    guarded = [await _guarded(store, user_id, change) for change in changes]
    await store.apply(user_id, guarded, **named)


async def _guarded(store: MemoryStore, user_id: str, change: Change) -> Change:
    expected: object = change.expected
    if expected is not Guess.CURRENT:
        return change
    if isinstance(change, PutBody):
        revision = (await store.load(user_id, agent_name=change.agent_name)).body_revision
    else:
        fact = await store.get_fact(user_id, change.fact_id, agent_name=change.agent_name)
        revision = fact.revision if fact else 0
    return dataclasses.replace(change, expected=revision or ABSENT)


def _change(digits: Digits, place: int, expected: Any = ANY) -> Change:
    """Put a fact mostly, or delete it, or put a body; a value is told from others by its place in the program."""
    agent_name, fact_id = digits.pick(_PLACES)
    value = {"n": digits.pick((place, place, place, 0))}
    match digits.pick(("put", "put", "delete", "body")):
        case "put":
            return PutFact(agent_name, fact_id, value, expected)
        case "delete":
            return DeleteFact(agent_name, fact_id, expected)
    return PutBody(agent_name, value, expected)


def _changes(digits: Digits, place: int) -> list[Change]:
    """Make up to four changes of different things."""
    changes = [_change(digits, place) for _ in range(4)]
    return list({(one.agent_name, getattr(one, "fact_id", None)): one for one in changes}.values())


def _ask(digits: Digits, kind: str, place: int) -> Ask:
    user_id = digits.pick(_USERS)
    match kind:
        case "load":
            return Ask("load", (user_id,), {"agent_name": digits.pick(_AGENTS)})
        case "get":
            return Ask("get_fact", (user_id, digits.pick(_FACTS)), {"agent_name": digits.pick(_AGENTS)})
        case "clear":
            return Ask("clear", (user_id,), {"agent_name": digits.pick((None, "planner", ALL))})
        case "several":
            return Ask("apply", (user_id, _changes(digits, place)))
        case "refused":
            # The last change, which nobody can miss, expects what never was.
            return Ask("apply", (user_id, [*_changes(digits, place), PutFact("critic", "f", {}, expected=99)]))
        case "guarded":
            return Ask("apply", (user_id, [_change(digits, place, Guess.CURRENT)]))
        case "against":
            return Ask("apply", (user_id, [_change(digits, place)]), {"expected_revision": Guess.CURRENT})
    return Ask("apply", (user_id, [_change(digits, place)]))


def _rivalry(*kinds: str) -> Rivalry:
    """Let all of them do all kinds of calls."""
    return Rivalry(lambda digits, _, place: _ask(digits, digits.pick(kinds), place), _EVERYTHING, _judge, take=_take)


_EVERYTHING: Final = [
    Ask("load", (user_id,), {"agent_name": agent_name}) for user_id in ("ann", "Ann") for agent_name in _AGENTS
]


@check("M5", level="L2")
def any_rivals_have_an_order(bench: Bench) -> None:
    """Whatever rivals apply, guarded or not, load, delete and clear, it is as if they had done it one by one."""
    explore_rivals(bench, _rivalry("put", "against", "guarded", "load", "several", "get", "clear"))


@check("M2", level="L2")
def an_apply_among_rivals_is_whole(bench: Bench) -> None:
    """Of changes made together, by any number of rivals and some of them refused, nobody ever reads a part."""
    explore_rivals(bench, _rivalry("several", "refused", "load", "several", "get"))


@check("M3", level="L2")
def revisions_count_every_rivals_effects(bench: Bench) -> None:
    """Whatever rivals apply and clear at once, each gets a revision of its own, one more than the one before."""
    explore_rivals(bench, _rivalry("put", "put", "clear", "several"))


@check("M4", level="L2")
def a_conflict_tells_what_was_there_then(bench: Bench) -> None:
    """Among rivals who write on what they have read, a conflict tells a revision that was there at that moment."""
    explore_rivals(bench, _rivalry("guarded", "against"))


@check("M11", level="L2")
def every_load_among_rivals_is_of_one_moment(bench: Bench) -> None:
    """While rivals change bodies and facts of both parts, all that a load shows was there at one moment."""
    explore_rivals(bench, _rivalry("several", "load", "load", "clear", "load"))


@check("M1", level="L2")
def no_reader_misses_what_was_applied(bench: Bench) -> None:
    """While one client writes, whoever begins to read a fact after an apply returned gets that, or what came later."""
    explore_rivals(bench, Rivalry(_write_or_read, _EVERYTHING, _judge, take=_take))


def _write_or_read(digits: Digits, client: int, place: int) -> Ask:
    """One rival writes, the others read: so nothing but reading can be wrong."""
    fact_id = digits.pick(_FACTS)
    if client != RIVALS[0]:
        return Ask("get_fact", ("ann", fact_id), {"agent_name": None})
    value = {"n": digits.pick((place, place, place, 0))}
    change = DeleteFact(None, fact_id) if digits.upto(4) == 4 else PutFact(None, fact_id, value)
    return Ask("apply", ("ann", [change]))


_RIVALS: Final = _rivalry("put", "against", "guarded", "load", "several", "get")
_WHOLE: Final = _rivalry("several", "refused", "load", "several", "get")


@check("M5", level="L3")
def killed_rivals_have_an_order(bench: Bench) -> None:
    """Though a rival is killed and one stopped in the middle of calls, what the others get is as if one by one."""
    kill_rivals(bench, _RIVALS)


@check("M5", level="L3")
def rivals_on_a_bad_network_have_an_order(bench: Bench) -> None:
    """Though requests, replies and connections are lost, what rivals get is as if they had done it one by one."""
    disturb_network(bench, _RIVALS)


@check("M5", level="L3")
def rivals_through_a_restart_have_an_order(bench: Bench) -> None:
    """Though the server is killed in the middle of calls, what rivals get is as if they had done it one by one."""
    restart_server(bench, _RIVALS)


@check("M2", level="L3")
def a_killed_rivals_apply_is_whole(bench: Bench) -> None:
    """Of the changes that a rival was making when it was killed, all are there or none."""
    kill_rivals(bench, _WHOLE)


@check("M2", level="L3")
def an_apply_over_a_bad_network_is_whole(bench: Bench) -> None:
    """Of changes whose request or reply was lost or late, all are there or none, and at most once."""
    disturb_network(bench, _WHOLE)


@check("M2", level="L3")
def an_apply_through_a_restart_is_whole(bench: Bench) -> None:
    """Of the changes that were being made when the server was killed all are there or none; earlier ones all are."""
    restart_server(bench, _WHOLE)
