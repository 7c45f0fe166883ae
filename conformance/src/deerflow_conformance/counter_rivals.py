"""Checks of rivals on the same counters, by whether what they read can be put in one order: C1 to C3 and C6."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from deerflow_backends.counters import Recorded
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check
from deerflow_conformance.digits import Digits
from deerflow_conformance.histories import Call
from deerflow_conformance.history_models import CounterModel
from deerflow_conformance.linearizability import expect_linearizable
from deerflow_conformance.rivalries import Ask, Rivalry, explore_rivals
from deerflow_conformance.strikes import disturb_network, kill_rivals, restart_server

_MODELS: Final = ("gpt", "GPT")
_TOKENS: Final = ("one", "two")
#: Longer than any check takes, and not longer than what is kept.
_WINDOW_SECONDS: Final = 3_600
_EVERYTHING: Final = [
    *(Ask("totals", (name,)) for name in _MODELS),
    *(Ask("window", (name,), {"seconds": _WINDOW_SECONDS}) for name in _MODELS),
    Ask("all_totals"),
]


def _judge(calls: Sequence[Call]) -> None:
    """Judge totals and windows apart: nobody promises that both change at the same moment."""
    totals = [call for call in calls if call.name != "window"]
    windows = [_as_totals(call) for call in calls if "totals" not in call.name]
    for history in (totals, windows):
        expect_linearizable(history, CounterModel(history))


def _as_totals(call: Call) -> Call:
    """Take a window, in which everything is, for totals."""
    if call.name != "window":
        return call
    arguments = {"model_name": call.arguments["model_name"]}
    return dataclasses.replace(call, client=f"{call.client} (window)", name="totals", arguments=arguments)


def _figures(digits: Digits) -> dict[str, int]:
    calls = 1 + digits.upto(2)
    successes = digits.upto(calls)
    thumbs = {"positive": digits.pick((0, 1, -1, 2)), "negative": digits.pick((0, 1, -1))}
    return {"calls": calls, "successes": successes, "failures": calls - successes, **thumbs}


def _ask(digits: Digits, kind: str) -> Ask:
    name = digits.pick((*_MODELS[:1] * 7, *_MODELS))
    token = {"token": digits.pick(_TOKENS)} if kind.startswith("tokened") else {}
    match kind.removeprefix("tokened "):
        case "record":
            return Ask("record", (name,), {**_figures(digits), **token})
        case "both":
            return Ask("record_many", ([Recorded(one, **_figures(digits)) for one in _MODELS],), token)
        case "reset":
            return Ask("reset", (name,))
        case "window":
            return Ask("window", (name,), {"seconds": _WINDOW_SECONDS})
        case "all":
            return Ask("all_totals")
    return Ask("totals", (name,))


def _rivalry(*kinds: str, first: Sequence[Ask] = ()) -> Rivalry:
    """Let all of them do all kinds of calls."""
    return Rivalry(lambda digits, _client, _place: _ask(digits, digits.pick(kinds)), _EVERYTHING, _judge, first)


@check("C1", level="L2")
def rivals_recordings_add_up(bench: Bench) -> None:
    """Whatever rivals record at once, every read shows a sum that was true at one moment, and none is missing."""
    explore_rivals(bench, _rivalry("record", "both", "totals", "record", "window"))


@check("C2", level="L2")
def rivals_with_few_tokens_count_each_once(bench: Bench) -> None:
    """Of all recordings that rivals send under one token, other models and cancelled ones among them, one counts."""
    explore_rivals(bench, _rivalry("tokened record", "tokened both", "record", "totals"))


@check("C3", level="L2")
def recordings_among_rivals_are_whole(bench: Bench) -> None:
    """Whatever models are recorded together by rivals, no read shows one with its outcome and the other without."""
    explore_rivals(bench, _rivalry("both", "all", "totals", "window"))


@check("C6", level="L2")
def resets_among_rivals_have_a_moment(bench: Bench) -> None:
    """A reset among rivals' recordings removes exactly what was recorded before one moment, from totals and windows."""
    explore_rivals(bench, _rivalry("record", "totals", "totals", "record", "totals", "reset", "totals", "window"))


_COUNTING: Final = _rivalry("record", "both", "totals", "record")
_RETRYING: Final = _rivalry("tokened record", "tokened both", "tokened record", "totals")


@check("C1", level="L3")
def killed_rivals_recordings_add_up(bench: Bench) -> None:
    """What a killed rival was recording counts once or not at all, and what anybody was told is counted all counts."""
    kill_rivals(bench, _COUNTING)


@check("C1", level="L3")
def recordings_over_a_bad_network_add_up(bench: Bench) -> None:
    """Though requests, replies and connections are lost, no recording is counted twice, and none is missing."""
    disturb_network(bench, _COUNTING)


@check("C1", level="L3")
def recordings_through_a_restart_add_up(bench: Bench) -> None:
    """What was recorded before the server was killed is counted, and what was going on once or not at all."""
    restart_server(bench, _COUNTING)


@check("C2", level="L3")
def a_killed_rivals_token_counts_once(bench: Bench) -> None:
    """A token under which a killed rival was recording counts once, whoever sends it again."""
    kill_rivals(bench, _RETRYING)


@check("C2", level="L3")
def a_token_over_a_bad_network_counts_once(bench: Bench) -> None:
    """A recording whose reply was lost is not counted again when it is sent again under its token."""
    disturb_network(bench, _RETRYING)


@check("C2", level="L3")
def a_token_is_remembered_through_a_restart(bench: Bench) -> None:
    """A token that was counted before the server was killed is not counted again."""
    restart_server(bench, _RETRYING)
