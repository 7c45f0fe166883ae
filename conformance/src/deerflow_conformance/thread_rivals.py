"""Checks of rivals on the same threads, by whether what they got can be put in one order: T1 and T5 to T7."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from deerflow_backends.threads import ANY_USER, NewThread, Thread
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.digits import Digits
from deerflow_conformance.histories import Call, Outcome
from deerflow_conformance.history_models import StoredThread, ThreadModel
from deerflow_conformance.linearizability import expect_linearizable
from deerflow_conformance.rivalries import Ask, Rivalry, explore_rivals
from deerflow_conformance.strikes import disturb_network, kill_rivals, restart_server

_IDS: Final = ("t", "t", "t", "T", "t:")
_USERS: Final = ("ann", "Ann")
_KEYS: Final = ("k", "K", "a.b")
_STATUSES: Final = ("idle", "running")
_FIRST: Final = [
    Ask("create", (NewThread(thread_id, "ann", metadata={"old": 0}),)) for thread_id in dict.fromkeys(_IDS)
]
_EVERYTHING: Final = [Ask("get", (thread_id,), {"user_id": ANY_USER}) for thread_id in dict.fromkeys(_IDS)]


def _ask(digits: Digits, kind: str, place: int) -> Ask:
    thread_id, user_id = digits.pick(_IDS), digits.pick(_USERS)
    match kind:
        case "create":
            return Ask("create", (NewThread(thread_id, user_id, metadata={"by": place}),))
        case "delete":
            return Ask("delete", (thread_id,), {"user_id": digits.pick((ANY_USER, ANY_USER, user_id))})
        case "move":
            return Ask("move", (thread_id,), {"user_id": ANY_USER, "to_user_id": user_id})
        case "list":
            return Ask("list", (user_id,), {"limit": 1_000})
        case "merge":
            return Ask("update", (thread_id,), {"user_id": "ann", "metadata": {digits.pick(_KEYS): place}})
        case "remove":
            named = {"remove": (digits.pick((*_KEYS, "old")),), "touch": digits.pick((True, False))}
            return Ask("update", (thread_id,), {"user_id": "ann", **named})
        case "replace":
            return Ask("update", (thread_id,), {"user_id": "ann", "metadata": {"by": place}, "replace": True})
        case "guarded":
            named = {"status": digits.pick(_STATUSES), "expected_status": digits.pick(_STATUSES)}
            return Ask(
                "update", (thread_id,), {"user_id": ANY_USER, "touch": digits.pick((True, True, False)), **named}
            )
    return Ask("get", (thread_id,), {"user_id": digits.pick((ANY_USER, user_id))})


def _judge(calls: Sequence[Call]) -> None:
    expect_linearizable(calls, ThreadModel())


def _rivalry(*kinds: str, first: Sequence[Ask] = _FIRST, judge: Callable[[Sequence[Call]], None] = _judge) -> Rivalry:
    """Let all of them do all kinds of calls."""
    return Rivalry(lambda digits, _, place: _ask(digits, digits.pick(kinds), place), _EVERYTHING, judge, first)


# ------------------------------------------------------------------------------------------------------------- lists


def _judge_lists(calls: Sequence[Call]) -> None:
    """Judge a list as one `get` of each thread: what it says of several need not be of the same moment."""
    apart: list[Call] = []
    for call in calls:
        apart += _gets(call) if call.name == "list" else [call]
    expect_linearizable(apart, ThreadModel())


def _gets(call: Call) -> Iterator[Call]:
    if call.outcome is not Outcome.RETURNED:
        return
    listed = [thread.thread_id for thread in call.value.items]
    expect(len(set(listed)) == len(listed), f"each thread once in {call} of {call.client}", listed)
    for thread_id in set(_IDS):
        found = [thread for thread in call.value.items if thread.thread_id == thread_id]
        arguments = {"thread_id": thread_id, "user_id": call.arguments["user_id"]}
        client = f"{call.client} (list)"
        yield dataclasses.replace(
            call, client=client, name="get", arguments=arguments, value=found[0] if found else None
        )


# ------------------------------------------------------------------------------------------------------------- times


class _Timed(NamedTuple):
    """One thread, and when it was updated: at that time exactly, or later if a call of which nobody heard came."""

    thread: StoredThread | None
    at: datetime | None
    exactly: bool


class TimedThreadModel:
    """`ThreadModel`, and `updated_at`: growing strictly with every touching call, and with no other."""

    initial = _Timed(None, None, True)

    def __init__(self) -> None:
        self._threads = ThreadModel()

    def objects(self, call: Call) -> frozenset[Hashable]:
        """Name the thread."""
        return self._threads.objects(call)

    def kind(self, call: Call) -> Hashable:
        """Name what it does, and the time that it told."""
        return self._threads.kind(call), _told(call)

    def observes(self, call: Call) -> bool:
        """Whether it reads, was refused, or says that there was no such thread."""
        return self._threads.observes(call)

    def answer(self, call: Call) -> Hashable:
        """Return what a call gave, and the time that it told."""
        return self._threads.answer(call), _told(call)

    def after(self, state: _Timed, call: Call) -> tuple[_Timed, Hashable]:
        """Return the thread after the call, and its answer."""
        thread, answer = self._threads.after(state.thread, call)
        if thread is None:
            return self.initial, (answer, None)
        if not isinstance(answer, StoredThread):
            return state._replace(thread=thread), (answer, None)
        told, touches = _told(call), _touches(call)
        if told is None:  # nobody heard
            return _Timed(thread, state.at, state.exactly and not touches), (answer, None)
        if state.at is None or (
            told > state.at if touches else told == state.at or (told > state.at and not state.exactly)
        ):
            return _Timed(thread, told, True), (answer, told)
        return _Timed(thread, state.at, state.exactly), (answer, f"{'later than ' if touches else ''}{state.at}")

    def passed(self, state: _Timed, call: Call) -> bool:
        """Return False: what a thread was once it may be again."""
        return False


def _told(call: Call) -> datetime | None:
    return call.value.updated_at if isinstance(call.value, Thread) else None


def _touches(call: Call) -> bool:
    return call.name in {"create", "move"} or (call.name == "update" and bool(call.arguments.get("touch", True)))


def _judge_times(calls: Sequence[Call]) -> None:
    expect_linearizable(calls, TimedThreadModel())


# ------------------------------------------------------------------------------------------------------------- checks


@check("T1", level="L2")
def lists_among_rivals_are_the_users_threads(bench: Bench) -> None:
    """While rivals create, move and delete, a list has each thread that was the user's throughout, and no other's."""
    explore_rivals(bench, _rivalry("list", "create", "list", "move", "list", "delete", first=(), judge=_judge_lists))


@check("T5", level="L2")
def any_rival_creations_have_an_order(bench: Bench) -> None:
    """Whatever rivals create and delete at once, each id has one creator at a time, and the others are told."""
    explore_rivals(bench, _rivalry("create", "delete", "create", "get", "delete", first=()))


@check("T6", level="L2")
def any_rival_merges_all_land(bench: Bench) -> None:
    """Whatever keys rivals merge, remove and replace at once, it is as if they had done it one by one."""
    explore_rivals(bench, _rivalry("merge", "merge", "remove", "get", "replace"))


@check("T7", level="L2")
def rivals_updates_have_one_order_and_its_times(bench: Bench) -> None:
    """Whatever statuses rivals expect and set, one order explains who was told no, and updated_at grows along it."""
    explore_rivals(bench, _rivalry("guarded", "merge", "guarded", "get", "guarded", judge=_judge_times))


_CREATORS: Final = _rivalry("create", "get", "create", "delete", "get", "delete", first=())
_MERGERS: Final = _rivalry("merge", "merge", "remove", "get")


@check("T5", level="L3")
def killed_creators_have_an_order(bench: Bench) -> None:
    """Though a rival is killed and one stopped in the middle of creating, each id has one creator at a time."""
    kill_rivals(bench, _CREATORS)


@check("T5", level="L3")
def creators_on_a_bad_network_have_an_order(bench: Bench) -> None:
    """Though requests, replies and connections are lost, each id has one creator at a time, and the others are told."""
    disturb_network(bench, _CREATORS)


@check("T5", level="L3")
def creators_through_a_restart_have_an_order(bench: Bench) -> None:
    """What was created before the server was killed is there and taken; of rivals meanwhile one wins at most."""
    restart_server(bench, _CREATORS)


@check("T6", level="L3")
def killed_rivals_merges_land_or_not(bench: Bench) -> None:
    """Of the keys that a killed rival was merging all are there or none, and the others' all land."""
    kill_rivals(bench, _MERGERS)


@check("T6", level="L3")
def merges_over_a_bad_network_land_or_not(bench: Bench) -> None:
    """Though requests, replies and connections are lost, what rivals merge is as if they had done it one by one."""
    disturb_network(bench, _MERGERS)


@check("T6", level="L3")
def merges_through_a_restart_land_or_not(bench: Bench) -> None:
    """What was merged before the server was killed is there, whatever was going on meanwhile."""
    restart_server(bench, _MERGERS)
