"""Histories of streams: those of a bridge that is right have no fault, and each wrong one has its own."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from deerflow_backends import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    BackendUnavailable,
    StreamEnded,
    StreamEvent,
    StreamGap,
    inprocess,
)
from deerflow_conformance.histories import Call, History, Impossible, Outcome, Subscription
from deerflow_conformance.isolation import run_isolated
from deerflow_conformance.stream_histories import events_of, expect_stream, faults

REFUSALS: Final[dict[str, BaseException]] = {
    "!": StreamEnded("over"),
    "~": BackendUnavailable("no answer"),
    "?": BackendUnavailable("no answer", maybe_written=True),
}


def told(story: str) -> History:
    """Write a history down: calls and subscriptions, one after the other, with semicolons between them.

    ``a publish 1 2`` publishes a batch, whose ids are ``5-1`` and ``5-2`` unless it says ``1=6-1``, or ``1=-`` for none
    and ``1=5-1,5-2`` for two; ``a end`` ends the run. With ``?`` nobody knows whether it did, with ``!`` it met
    StreamEnded, with ``~`` it did nothing. ``r read: 1 END`` is a subscription, ``r read 5-1:`` one with a cursor; it
    was left after its last item unless that is END or a gap, such as ``GAP(4-1,5-1,5-2)``, or says ``(open)``,
    ``(exhausted)``, ``(raised)`` or ``(killed)``. What stands behind ``>`` began together with the one before.
    """
    history = History("stream_bridge")
    began = 0.0
    for number, part in enumerate(filter(None, map(str.strip, story.split(";"))), 1):
        began = began + 0.001 if part.startswith(">") else float(number)
        client, _, rest = part.removeprefix(">").strip().partition(" ")
        if rest.startswith("read"):
            history.subscriptions.append(_read(client, rest, began, float(number)))
        else:
            history.calls.append(_called(client, rest, began, number + 0.5))
    return history


def _called(client: str, text: str, started: float, ended: float) -> Call:
    name, *data = text.split()
    doubt = name[-1] if name[-1] in REFUSALS else ""
    given: dict[str, Any] = {"run_id": "run"}
    ids = [given for one in data for given in (one.partition("=")[2] or f"5-{one}").split(",") if given != "-"]
    value: Any = None
    if name.startswith("end"):
        name = "publish_end"
    elif len(data) == 1:
        given |= {"event": "n", "data": data[0].partition("=")[0]}
        name, value = "publish", ids[0]
    else:
        given["events"] = [("n", one.partition("=")[0]) for one in data]
        name, value = "publish_many", ids
    if doubt:
        outcome = Outcome.MAYBE if doubt == "?" else Outcome.REFUSED
        return Call(client, name, given, started, ended, outcome, REFUSALS[doubt])
    return Call(client, name, given, started, ended, Outcome.RETURNED, value)


def _read(client: str, text: str, started: float, last: float) -> Subscription:
    head, _, content = text.partition(":")
    words = content.split()
    end = words.pop()[1:-1] if words and words[-1].startswith("(") else None
    items = [(last + place / 100, _item(word)) for place, word in enumerate(words, 1)]
    over = bool(words) and words[-1].startswith(("END", "GAP"))
    state: Any = end or ("exhausted" if over else "left")
    return Subscription(client, "run", head.removeprefix("read").strip() or None, started, last + 0.9, items, state)


def _item(word: str) -> Any:
    if word == "END":
        return END_SENTINEL
    if word.startswith("GAP"):
        return StreamGap(*(one or None for one in (word[4:-1] or ",,").split(",")))
    data, _, event_id = word.partition("=")
    return StreamEvent(event_id or f"5-{data}", "n", data)


def _table(text: str) -> dict[str, list[str]]:
    """Return the stories of a table by their names, each with what stands beside its name."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    heads = [[part.strip() for part in line.split("|")] for line in lines[::2]]
    return {head[0]: [story, *head[1:]] for head, story in zip(heads, lines[1::2], strict=True)}


GOOD: Final = _table("""
    nothing but END
        a end; z read: END
    one reader
        a publish 1; a publish 2; a end; r read: 1 2 END; z read: 1 2 END
    a reader that left
        a publish 1; a publish 2; r read: 1; a end; z read: 1 2 END
    a reader that came back
        a publish 1; r read: 1; a publish 2; r read 5-1: 2; a end; r read 5-2: END; z read: 1 2 END
    a batch beside an event
        a publish 2 3; > b publish 1; a end; z read: 1 2 3 END
    two at once, in the other order
        a publish 2; > b publish 1; a end; z read: 1 2 END
    a maybe that came
        a publish? 1; b publish 2; a end; z read: 1 2 END
    a maybe that came late
        a publish? 2; b publish 1; a end; z read: 1 2 END
    a maybe that never came
        a publish? 9; b publish 1; a end; z read: 1 END
    a batch that never came
        a publish? 8 9; b publish 1; a end; z read: 1 END
    END by two, and a maybe
        a publish 1; a end?; > b end; b end; z read: 1 END
    a maybe END that came between
        a publish 1; b end?; a publish 2; a publish! 3; z read: 1 2 END
    beside END
        a publish 1; a end; > b publish! 2; > c publish? 3; z read: 1 END
    a maybe after END, that never came
        a publish 1; a end; b publish? 2; b publish? 3 4; z read: 1 END
    cursors from before the first
        a publish 1; a end; r read 5-0: 1 END; s read 0-0: 1 END; z read: 1 END
    malformed cursors
        a publish 1; > a publish 2; > a end; > r read abc: 2 END; > s read -1: END; > t read 007-1: 1; z read: 1 2 END
    malformed cursors of an ended stream
        a publish 1; a publish 2; a end; r read abc: 1 2 END; t read 007-1: 1; z read: 1 2 END
    a cursor of another stream
        a publish 1; a end; r read 4-1: GAP(4-1,5-1,5-1); z read: 1 END
    a gap before the first event
        r read 4-1: GAP(4-1,,); > s read 4-1: GAP(4-1,,5-0); a publish 1; a end; z read: 1 END
    a gap with what came meanwhile
        a publish 1; > r read 4-1: GAP(4-1,5-1,5-2); > a publish 2; a end; z read: 1 2 END
    a reader whose process was killed
        a publish 1; r read: 1 (killed); a end; z read: 1 END
    two subscriptions of one reader
        a publish 1; > a end; > r read: 1 END; > r read: 1; z read: 1 END
    refused, and nothing stored
        a publish~ 9; a publish 1; a end; z read: 1 END
""")

#: Beside the name: which promises are broken, a part of what is wanted, and a part of what came.
BAD: Final = _table("""
    two orders | S1 | the order that the replay has | 5-1 after 5-2
        a publish 1; > b publish 2; a end; r read: 2 1 END; z read: 1 2 END
    a batch that is not together | S1 | in a row | 5-1, 5-3
        a publish 1 3; > b publish 2; a end; z read: 1 2 3 END
    a batch in another order | S1 | in a row | 5-2, 5-1
        a publish 2 1; a end; z read: 1 2 END
    half a batch | S1 | all of publish_many | 1 of 2
        a publish? 1 2; a end; z read: 1 END
    half an acknowledged batch | S1 | all of publish_many | 1 of 2
        a publish 1 2; a end; z read: 1 END
    a publisher's events turned round | S1 | before what was published after it | 5-1 before 5-2
        a publish 2; a publish 1; a end; z read: 1 2 END
    a maybe before what was acknowledged | S1 | before what was published after it | 5-1 before 5-2
        a publish 2; b publish? 1; a end; z read: 1 2 END
    an id of two events | S2 | 5-1 to name one event | n "1" and n "2"
        a publish 1; a publish 2=5-1; a end; z read: 1 END
    an id that a reader has for another event | S2 | 5-1 to name one event | n "1" and n "2"
        a publish 1; a publish 2; a end; r read: 2=5-1 2 END; z read: 1 2 END
    an id that came again | S2 | 5-1 to name one event | n "1" and n "2"
        a publish? 2; r read: 2=5-1; b publish 1; a end; z read: 1 END
    a hole | S2 | the seq 2 after 5-1 | 5-3
        a publish 1; a publish 3; a end; z read: 1 3 END
    no first | S2 | the seq 1 first | 5-2
        a publish 2; a end; z read: 2 END
    an epoch that falls | S2 | the seq 2 after 5-1, in the same epoch | 4-2
        a publish 1; a publish 2=4-2; a end; z read: 1 2=4-2 END
    an epoch that rises | S2 | the seq 2 after 5-1, in the same epoch | 6-2
        a publish 1; a publish 2=6-2; a end; z read: 1 2=6-2 END
    too few ids | S2 | 2 ids from publish_many | 1: 5-1
        a publish 1 2=-; a end; z read: 1 2 END
    no ids | S2 | 2 ids from publish_many | 0:
        a publish 1=- 2=-; a end; z read: 1 2 END
    too many ids | S2 | 2 ids from publish_many | 3: 5-1, 5-2, 5-3
        a publish 1 2=5-2,5-3; a end; z read: 1 2 END
    no id at all | S2 | the seq 1 first | x
        a publish 1=x; a end; z read: 1=x END
    another id than was told | S2 | under 5-7, as its publisher was told | 5-1
        a publish 1=5-7; a end; z read: 1 END
    an acknowledged event lost | S3 | data='2'), which was acknowledged | it is not there
        a publish 1; a publish 2; a end; z read: 1 END
    an event from nowhere | S3 | events that were published | 5-2
        a publish 1; a end; z read: 1 2 END
    stored twice | S3 | stored once | 2 times
        a publish 1; a end; z read: 1 1=5-2 END
    one missing in between | S3 | 5-2 next | 5-3
        a publish 1; a publish 2; a publish 3; a end; r read: 1 3 END; z read: 1 2 3 END
    the last one missing | S3 S8 | 5-2 next | END
        a publish 1; a publish 2; a end; r read: 1 END; z read: 1 2 END
    one twice | S3 | 5-1 once | it 2 times
        a publish 1; a end; r read: 1 1 END; z read: 1 END
    one twice, later | S3 | 5-1 once | it 2 times
        a publish 1; a publish 2; a end; r read: 1 2 1 END; z read: 1 2 END
    what is not there any more | S3 | only what the replay has | 5-2
        a publish 1; b publish? 2; r read: 1 2; a end; z read: 1 END
    a gap for nothing | S3 S6 | what follows 5-1, which is there | a gap
        a publish 1; a publish 2; r read: 1 GAP; a end; z read: 1 2 END
    one missing at the start | S4 S3 | 5-1 first | 5-2
        a publish 1; a publish 2; a end; r read: 2 END; z read: 1 2 END
    a gap without a cursor | S4 S3 | what comes first, which is there | a gap
        a publish 1; r read: GAP; a end; z read: 1 END
    one missing after a cursor | S5 | 5-2 after the cursor 5-1 | 5-3
        a publish 1; a publish 2; a publish 3; a end; r read 5-1: 3 END; z read: 1 2 3 END
    one missing after a reconnect | S5 S3 | 5-2 after the cursor 5-1 | 5-3
        a publish 1; a publish 2; a publish 3; a end; r read: 1; r read 5-1: 3 END; z read: 1 2 3 END
    the cursor's event again | S5 | 5-2 after the cursor 5-1 | 5-1
        a publish 1; a publish 2; a end; r read 5-1: 1 2 END; z read: 1 2 END
    all again after a reconnect | S5 S3 | END after the cursor 5-2 | 5-1
        a publish 1; a publish 2; a end; r read: 1 2; r read 5-2: 1 2 END; z read: 1 2 END
    one missing after a malformed cursor of an ended stream | S7 S3 | 5-1 after the cursor abc | 5-2
        a publish 1; a publish 2; a end; r read abc: 2 END; z read: 1 2 END
    END alone after a malformed cursor | S7 S3 S8 | 5-1 after the cursor | END
        a publish 1; a end; r read -1: END; z read: 1 END
    read before it was published | S3 | 5-1 after it was published | before
        r read: 1; a publish 1; a end; z read: 1 END
    END in place of what follows | S5 S8 | 5-1 after the cursor 5-0 | END
        a publish 1; a end; r read 5-0: END; z read: 1 END
    a gap after a cursor that is there | S5 | what comes after the cursor 5-1, which is there | a gap
        a publish 1; a publish 2; a end; r read 5-1: GAP; z read: 1 2 END
    a gap at the start | S5 | what comes after the cursor 5-0 | a gap
        a publish 1; a end; r read 5-0: GAP; z read: 1 END
    a replay after a cursor that is not there | S6 | a gap, for 4-1 is not in the replay | no gap
        a publish 1; a end; r read 4-1: 1 END; z read: 1 END
    END after a cursor that is not there | S6 | a gap, for 5-7 is not in the replay | no gap
        a publish 1; a end; r read 5-7: END; z read: 1 END
    a gap after another cursor | S6 | a gap after 4-1 | one after 5-1
        a publish 1; a end; r read 4-1: GAP(5-1,5-1,5-1); z read: 1 END
    a gap of nothing | S6 | a gap from 5-1 to 5-2 or later | one from None to None
        a publish 1; a publish 2; a end; r read 4-1: GAP(4-1,,); z read: 1 2 END
    a gap with another first event | S6 | a gap from 5-1 to 5-2 or later | one from 5-2 to 5-2
        a publish 1; a publish 2; a end; r read 4-1: GAP(4-1,5-2,5-2); z read: 1 2 END
    a gap that ends too early | S6 | a gap from 5-1 to 5-2 or later | one from 5-1 to 5-1
        a publish 1; a publish 2; a end; r read 4-1: GAP(4-1,5-1,5-1); z read: 1 2 END
    a gap with an id that never was | S6 | a gap from 5-1 to 5-1 or later | one from 5-1 to 9-9
        a publish 1; a end; r read 4-1: GAP(4-1,5-1,9-9); z read: 1 END
    a gap of another stream before the first event | S6 | a gap of no events | one from None to 9-0
        r read 4-1: GAP(4-1,,9-0); a publish 1; a end; z read: 1 END
    more after a gap | S6 | nothing after a gap | 2 more
        a publish 1; a end; r read 4-1: GAP 1 END; z read: 1 END
    END twice | S8 | nothing after END | 1 more
        a end; r read: END END; z read: END
    an event after END | S8 | nothing after END | 1 more
        a publish 1; a end; r read: END 1; z read: 1 END
    an end without END | S8 S3 | END before the iterator ends | its end
        a publish 1; a end; r read: 1 (exhausted); z read: 1 END
    a reader that failed | S3 S8 | to go on until END or a gap | an error
        a publish 1; r read: 1 (raised); a end; z read: 1 END
    a reader that failed at once | S3 S8 | to go on until END or a gap | an error
        a publish 1; r read: (raised); a end; z read: 1 END
    a reader that failed after END | S3 S8 | to go on until END or a gap | an error
        a publish 1; a end; r read: 1 END (raised); z read: 1 END
    no END for who waits and reads again | S8 | END for r, which goes on reading | nothing
        a publish 1; r read: 1 (open); r read: 1; a end; z read: 1 END
    no END for who waits | S8 | END for r, which goes on reading | nothing
        a publish 1; a end; r read: 1 (open); z read: 1 END
    published after END | S8 | StreamEnded from publish | the id 5-1
        a end; b publish 1; z read: 1 END
    published after a reader's END | S8 | StreamEnded from publish | the id 5-1
        a end?; r read: END; b publish 1; z read: 1 END
    published after a refusal | S8 | StreamEnded from publish | the id 5-1
        a end?; b publish! 2; b publish 1; z read: 1 END
    stored after END, by a maybe | S8 | StreamEnded from publish | it is in the replay
        a end; b publish? 1; z read: 1 END
    refused and stored | S8 | nothing stored by publish | it is in the replay
        a end; > b publish! 1; z read: 1 END
    ended by nobody | S8 | no sign of END before publish_end was called | one
        b publish! 1; a end; z read: END
    END before it was called | S8 | no sign of END before publish_end was called | one
        r read: END; a end; z read: END
    END refused | S8 | publish_end(run_id='run') to be idempotent | StreamEnded('over')
        a end; b end!; z read: END
    no END for who comes last | S8 S4 | everything and END | 5-1
        a publish 1; a end; z read: 1 (open)
    a gap for who comes last | S8 S4 | everything and END | StreamGap
        a publish 1; a end; z read: GAP
    a maybe twice | G5 | stored once | it 2 times
        a publish? 1; a end; z read: 1 1=5-2 END
    refused for want of an answer, and half of it stored | G5 | nothing stored by publish | it is in the replay
        a publish~ 1 2; a end; z read: 1 END
    refused for want of an answer, and stored | G5 | nothing stored by publish | it is in the replay
        a publish~ 1; a end; z read: 1 END
""")


@pytest.mark.parametrize("name", GOOD)
def test_known_good(name: str) -> None:
    """What a bridge that keeps its promises may give has no fault."""
    (story,) = GOOD[name]
    assert faults(told(story), "run") == []


@pytest.mark.parametrize("name", BAD)
def test_known_bad(name: str) -> None:
    """What it never gives is a fault, of the promise that it breaks, and says what was wanted and what came."""
    story, promises, wanted, got = BAD[name]
    found = faults(told(story), "run")
    assert found
    assert " ".join(found[0].promises) == promises
    assert wanted in found[0].wanted
    assert got in found[0].got
    assert found[0].about


#: Where the server was started anew.
RESTARTED_GOOD: Final = _table("""
    a higher epoch
        a publish 1; a publish 2=6-2; a end; r read 5-1: 2=6-2 END; z read: 1 2=6-2 END
    a higher epoch for a batch
        a publish 1; a publish 2=6-2 3=6-3; a end; z read: 1 2=6-2 3=6-3 END
""")
RESTARTED_BAD: Final = _table("""
    an epoch that falls | S2 | the seq 2 after 5-1, in no lower epoch | 4-2
        a publish 1; a publish 2=4-2; a end; z read: 1 2=4-2 END
    a batch in two epochs | S2 | the seq 2 after 5-1, in the same epoch | 6-2
        a publish 1 2=6-2; a end; z read: 1 2=6-2 END
    a higher epoch and no next seq | S2 | the seq 2 after 5-1, in no lower epoch | 6-1
        a publish 1; a publish 2=6-1; a end; z read: 1 2=6-1 END
""")


@pytest.mark.parametrize("name", RESTARTED_GOOD)
def test_the_epoch_may_rise_with_a_restart(name: str) -> None:
    """Where the server was started anew a higher epoch is no fault; elsewhere it is."""
    history = told(RESTARTED_GOOD[name][0])
    assert faults(history, "run", restarts=True) == []
    assert [fault.promises for fault in faults(history, "run")] == [("S2",)]


@pytest.mark.parametrize("name", RESTARTED_BAD)
def test_the_epoch_may_not_fall_nor_part_a_batch(name: str) -> None:
    """There, too, no epoch falls, no batch has two, and seq counts on."""
    story, promises, wanted, got = RESTARTED_BAD[name]
    found = faults(told(story), "run", restarts=True)
    assert found
    assert " ".join(found[0].promises) == promises
    assert wanted in found[0].wanted
    assert got in found[0].got


LOSSES_GOOD: Final = _table("""
    lost before anybody saw it
        a publish 1; a publish 2; a end; z read: 1 END
    lost, and a gap
        a publish 1; a publish 2; r read: 1 2 GAP(5-2,,); b publish 3=6-2; a end; z read: 1 3=6-2 END
    lost, and a gap after a reconnect
        a publish 1; r read: 1; b publish 2=6-1; r read 5-1: GAP(5-1,6-1,6-1); a end; z read: 2=6-1 END
    lost while nobody reads
        a publish 1; r read: 1; a end; z read: END
""")
LOSSES_BAD: Final = _table("""
    lost, and it goes on | S6 S3 | a gap after 5-2, which was lost | it goes on
        a publish 1; a publish 2; b publish 3=6-2; a end; r read: 1 2 3=6-2 END; z read: 1 3=6-2 END
    lost, and END | S6 S3 | a gap after 5-1, which was lost | it goes on
        a publish 1; a end; r read: 1 END; z read: END
    a gap for what is there | S3 S6 | what follows 5-1, which is there | a gap
        a publish 1; r read: 1 GAP; a end; z read: 1 END
    half a batch lost | S1 | all of publish_many | 1 of 2
        a publish 1 2; a end; z read: 1 END
    one left out that is there | S3 | 5-2 next | 5-3
        a publish 1; a publish 2; a publish 3; a end; r read: 1 3 END; z read: 1 2 3 END
""")


@pytest.mark.parametrize("name", LOSSES_GOOD)
def test_what_may_be_lost_is_no_fault(name: str) -> None:
    """Where acknowledged events may be lost, losing some is no fault if nobody who saw them goes on without a gap."""
    history = told(LOSSES_GOOD[name][0])
    assert faults(history, "run", may_lose=True) == []
    assert faults(history, "run") != []


@pytest.mark.parametrize("name", LOSSES_BAD)
def test_what_may_not_be_lost_is_one(name: str) -> None:
    """There, too, batches stay whole, nothing that is kept is left out, and what was lost is told by a gap."""
    story, promises, wanted, got = LOSSES_BAD[name]
    found = faults(told(story), "run", may_lose=True)
    assert found
    assert " ".join(found[0].promises) == promises
    assert wanted in found[0].wanted
    assert got in found[0].got


def test_a_check_asks_for_its_own_promises() -> None:
    """A fault is raised where one of its promises was asked for, or none was; its timeline has what shows it alone."""
    story, *_ = BAD["one missing after a reconnect"]
    history = told(f"{story}; q read: 1 2")
    expect_stream(history, "run", "S1", "S8")
    for promises in ((), ("S3",), ("S1", "S5")):
        with pytest.raises(Impossible) as failed:
            expect_stream(history, "run", *promises)
        assert (failed.value.wanted, failed.value.got) == ("S5, S3: 5-2 after the cursor 5-1", "5-3")
        assert [line[25:27].strip() for line in failed.value.timeline.splitlines()[1:]] == ["a", "r", "z"]


def test_other_runs_are_not_looked_at() -> None:
    """What happens to another run is no fault of this one."""
    history, other = told(GOOD["one reader"][0]), told(BAD["END twice"][0])
    for subscription in other.subscriptions:
        subscription.run_id = "other"
    history.subscriptions += other.subscriptions
    assert faults(history, "run") == []


@pytest.mark.parametrize(
    ("story", "problem"),
    [
        ("a publish 1; a end", "the history has no replay"),
        ("z read: END; a publish 1; a end", "the history has no replay"),
        ("a publish 1; a end; z read 5-0: 1 END", "the history has no replay"),
        ("a publish 1; b publish 1; a end; z read: 1 END", "two events are"),
    ],
)
def test_a_history_that_cannot_be_judged_is_a_mistake(story: str, problem: str) -> None:
    """Without a replay, or with two events of one content, there is no verdict: that is a mistake of the check."""
    with pytest.raises(ValueError, match=problem):
        faults(told(story), "run")


# --------------------------------------------------------------------------------------------------- against a bridge


@asynccontextmanager
async def bridge() -> AsyncIterator[Any]:
    async with inprocess.connect(os.urandom(8).hex()) as connection, inprocess.open_stream_bridge(connection) as opened:
        yield opened


class Careless:
    """A bridge that does something wrong: calls *wrong* in place of the methods that are named there."""

    reach = "process"

    def __init__(self, found: Any, **wrong: Callable[..., Any]) -> None:
        self._found, self._wrong = found, wrong

    def __getattr__(self, name: str) -> Any:
        wrong = self._wrong.get(name)
        return getattr(self._found, name) if wrong is None else (lambda *a, **k: wrong(self._found, *a, **k))


class _Scene:
    """Publishers that are cancelled now and then, and readers that come and go, all of them recorded."""

    def __init__(self, found: Any, seed: int) -> None:
        self.history = History("stream_bridge")
        self._found, self._drawn = found, random.Random(seed)

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self._read(f"reader {number}"))
            publishing = [group.create_task(self._publish(f"pod {number}")) for number in range(3)]
            await asyncio.wait(publishing)
            ending = [group.create_task(self._far(self._client(f"pod {n}").publish_end("run"))) for n in range(2)]
            await asyncio.wait(ending)
            with suppress(StreamEnded):
                await self._client("pod 0").publish("run", "n", "too late")
        await self._read_on(self._client("replay"), None, 1_000)

    def _client(self, name: str) -> Any:
        return self.history.client(name, self._found)

    async def _far(self, call: Any) -> None:
        """Take a while on the way there and back."""
        await asyncio.sleep(self._drawn.random())
        await call
        await asyncio.sleep(self._drawn.random())

    async def _publish(self, name: str) -> None:
        for number in range(self._drawn.randrange(12)):
            data = [("n", f"{name} {number} {part}") for part in range(self._drawn.choice([1, 1, 1, 3]))]
            client = Careless(self._found, publish=self._slow("publish"), publish_many=self._slow("publish_many"))
            recorded = self.history.client(name, client)
            call = recorded.publish_many("run", data) if len(data) > 1 else recorded.publish("run", *data[0])
            with suppress(TimeoutError):
                await asyncio.wait_for(call, self._drawn.choice([0.5, 5, 5]))

    def _slow(self, method: str) -> Callable[..., Any]:
        async def call(found: Any, *arguments: Any) -> Any:
            await asyncio.sleep(self._drawn.random())
            value = await getattr(found, method)(*arguments)
            await asyncio.sleep(self._drawn.random())
            return value

        return call

    async def _read(self, name: str) -> None:
        seen: str | None = None
        over = False
        while not over:
            await asyncio.sleep(self._drawn.random())
            seen, over = await self._read_on(self._client(name), seen, self._drawn.randrange(1, 9))

    async def _read_on(self, client: Any, cursor: str | None, count: int) -> tuple[str | None, bool]:
        """Read so many items after the cursor; return the last id and whether that was all."""
        iterator = client.subscribe("run", last_event_id=cursor, heartbeat_interval=0.5)
        try:
            async for item in iterator:
                if item is END_SENTINEL or isinstance(item, StreamGap):
                    return cursor, True
                if item is not HEARTBEAT_SENTINEL:
                    cursor = item.id
                count -= 1
                if count <= 0:
                    return cursor, False
        finally:
            await iterator.aclose()
        return cursor, True


def played(seed: int, **wrong: Callable[..., Any]) -> History:
    history = History("stream_bridge")

    async def body() -> None:
        nonlocal history
        async with bridge() as found:
            scene = _Scene(Careless(found, **wrong), seed)
            history = scene.history
            await scene.play()

    run_isolated(body, virtual=True)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_a_bridge_that_is_right_has_no_fault(seed: int) -> None:
    """Whatever publishers and readers do at once, and give up, nothing of what the in-process bridge gives is wrong."""
    history = played(seed)
    assert faults(history, "run") == []
    assert len(history.subscriptions) > 3


def test_the_scenes_have_something_in_them() -> None:
    """The histories of the seeds have maybes of both kinds, batches, refusals, reconnects and events enough."""
    came = never = 0
    for history in (histories := [played(seed) for seed in range(20)]):
        stored = {event.data for event in events_of(history.subscriptions[-1])}
        maybes = [call for call in history.calls if call.outcome is Outcome.MAYBE and call.name == "publish"]
        came += sum(call.arguments["data"] in stored for call in maybes)
        never += sum(call.arguments["data"] not in stored for call in maybes)
    assert min(came, never) > 5
    calls = [call for history in histories for call in history.calls]
    assert sum(isinstance(call.value, StreamEnded) for call in calls) == 20
    assert sum(call.name == "publish_many" for call in calls) > 20
    assert sum(one.cursor is not None for history in histories for one in history.subscriptions) > 50


def _resumes_late(found: Any, run_id: str, *, last_event_id: str | None = None, **named: Any) -> Any:
    async def items() -> AsyncIterator[Any]:
        skip = last_event_id is not None
        async for item in found.subscribe(run_id, last_event_id=last_event_id, **named):
            if skip and item is not HEARTBEAT_SENTINEL and item is not END_SENTINEL:
                skip = False
                continue
            yield item

    return items()


def _forgets_while_it_goes_on(found: Any, run_id: str, **named: Any) -> Any:
    async def items() -> AsyncIterator[Any]:
        async for item in found.subscribe(run_id, **named):
            status = await found.status(run_id)
            if status is None or status.ended or not item.id.endswith("-4"):
                yield item

    return items()


async def _publishes_one_by_one(found: Any, run_id: str, events: Any) -> list[str]:
    ids = []
    for event in events:
        ids.append(await found.publish(run_id, *event))
        await asyncio.sleep(0.2)
    return ids


async def _takes_more_after_end(found: Any, run_id: str, event: str, data: Any) -> str:
    try:
        published: str = await found.publish(run_id, event, data)
    except StreamEnded:
        return "1-1"
    return published


@pytest.mark.parametrize(
    ("promise", "wrong"),
    [
        ("S1", {"publish_many": _publishes_one_by_one}),
        ("S3", {"subscribe": _forgets_while_it_goes_on}),
        ("S5", {"subscribe": _resumes_late}),
        ("S8", {"publish": _takes_more_after_end}),
    ],
)
def test_a_careless_bridge_is_found_out(promise: str, wrong: dict[str, Callable[..., Any]]) -> None:
    """A bridge that breaks a promise breaks it in most scenes, and is told by that promise."""
    found = [faults(played(seed, **wrong), "run") for seed in range(10)]
    assert sum(any(promise in fault.promises for fault in one) for one in found) > 5


# ------------------------------------------------------------------------------------------------------- drawn faults


def _drop(items: list[Any], place: int) -> list[Any]:
    return items[:place] + items[place + 1 :]


def _repeat(items: list[Any], place: int) -> list[Any]:
    return items[: place + 1] + items[place:]


def _swap(items: list[Any], place: int) -> list[Any]:
    return [*items[:place], items[place + 1], items[place], *items[place + 2 :]]


@pytest.mark.parametrize("change", [_drop, _repeat, _swap])
@pytest.mark.parametrize("seed", range(10))
def test_one_thing_changed_is_found(seed: int, change: Callable[..., list[Any]]) -> None:
    """An event less, one twice, or two in the other order is a fault of the reader that got it so, and of no other."""
    history, drawn = played(seed), random.Random(seed)
    victim = drawn.choice([one for one in history.subscriptions[:-1] if len(events_of(one)) > 1])
    victim.items[:] = change(victim.items, drawn.randrange(len(events_of(victim)) - 1))
    (fault,) = faults(history, "run")
    assert victim in fault.about
    assert fault.promises[0] in (("S1",) if change is _swap else ("S3",) if change is _repeat else ("S3", "S4", "S5"))
