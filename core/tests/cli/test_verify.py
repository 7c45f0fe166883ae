"""What the demo claims fails when it should: its judgements on good records and on bad ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from deerflow_backends.cli.demo.script import EVENTS, digest, run_events
from deerflow_backends.cli.demo.verify import (
    Comparison,
    Delivered,
    Published,
    Reader,
    Rivalry,
    compare,
    delivery_seconds,
    judge_counters,
    judge_failover,
    judge_memory,
    judge_streams,
    judge_threads,
)

PUBLISHED = [Published(f"7-{number}", f"digest {number}", float(number)) for number in range(1, 11)]
DELIVERED = [Delivered(event.id, event.digest, event.at + 0.25, "A" if event.at < 5 else "B") for event in PUBLISHED]
READER = Reader("client 1", DELIVERED, ends=1, gaps=0, reconnect_seconds=[0.1], full_speed=True)

Damage = Callable[[list[Delivered]], list[Delivered]]


def test_a_run_is_500_different_events_shaped_like_deerflows() -> None:
    """The run begins with its metadata, has 500 events of the four kinds, and is the same each time."""
    events = list(run_events("run", "thread"))
    assert len(events) == EVENTS == 500
    assert events[0] == ("metadata", {"run_id": "run", "thread_id": "thread", "attempt": 1})
    assert {event for event, _ in events} == {"metadata", "messages", "updates", "values"}
    assert events == list(run_events("run", "thread"))
    assert events != list(run_events("another run", "thread"))


def test_digests_tell_events_apart() -> None:
    """Two events have one digest exactly if name and data are the same, types included and whatever the key order."""
    assert digest("e", {"a": 1, "b": 2}) == digest("e", {"b": 2, "a": 1})
    different = [("e", 1), ("f", 1), ("e", 1.0), ("e", True), ("e", "1"), ("e", [1]), ("e", None)]
    assert len({digest(event, data) for event, data in different}) == len(different)


def test_what_arrived_as_published_compares_clean() -> None:
    """Every event once, in order: nothing to count."""
    assert compare(PUBLISHED, DELIVERED) == Comparison()
    assert judge_streams(PUBLISHED, [READER, READER], 10).ok


@pytest.mark.parametrize(
    ("damage", "counted"),
    [
        (lambda events: events[:3] + events[4:], {"lost": 1}),
        (lambda events: events[:-1], {"lost": 1}),
        (lambda events: [], {"lost": 10}),
        (lambda events: events[:5] + events[3:], {"duplicates": 2}),
        (lambda events: [*events, events[-1]], {"duplicates": 1}),
        (lambda events: [events[1], events[0], *events[2:]], {"misordered": 1}),
        (lambda events: [*events[:4], replace(events[4], digest="another"), *events[5:]], {"altered": 1}),
        (lambda events: [*events, replace(events[0], id="7-11")], {"foreign": 1}),
        (lambda events: [replace(events[0], id="8-1"), *events[1:]], {"lost": 1, "foreign": 1}),
    ],
)
def test_every_way_to_lose_or_repeat_is_counted(damage: Damage, counted: dict[str, int]) -> None:
    """A lost, repeated, swapped, altered or foreign event is counted as that, and the claim is refused."""
    damaged = damage(list(DELIVERED))
    comparison = compare(PUBLISHED, damaged)
    assert asdict(comparison) == asdict(Comparison(**counted))
    verdict = judge_streams(PUBLISHED, [READER, replace(READER, delivered=damaged)], 10)
    assert not verdict.ok
    for kind, count in counted.items():
        assert verdict.figures[kind] == count
        assert f"{count} {kind}" in verdict.detail


@pytest.mark.parametrize(
    ("readers", "expected"),
    [
        ([replace(READER, ends=0)], 10),
        ([replace(READER, ends=2)], 10),
        ([replace(READER, gaps=1)], 10),
        ([READER], 11),
        ([], 10),
    ],
)
def test_streams_need_one_end_no_gap_and_all_events(readers: list[Reader], expected: int) -> None:
    """No END, two ENDs, a gap, too few events published or nobody reading: refused."""
    assert not judge_streams(PUBLISHED, readers, expected).ok


def test_an_id_given_twice_is_refused() -> None:
    """If two events were published under one id, nobody can have both exactly once."""
    published = [*PUBLISHED[:-1], replace(PUBLISHED[-1], id="7-1")]
    assert not judge_streams(published, [replace(READER, delivered=DELIVERED[:-1])], 10).ok


def test_failover_needs_events_from_both_replicas_and_one_reconnect() -> None:
    """Who never had A, never came to B, or came more than once does not count as carried over."""
    assert judge_failover([READER, READER], "A", "B", 4).ok
    only_a = [replace(event, replica="A") for event in DELIVERED]
    only_b = [replace(event, replica="B") for event in DELIVERED]
    for delivered in (only_a, only_b, []):
        assert not judge_failover([READER, replace(READER, delivered=delivered)], "A", "B", 4).ok
    for times in ([], [0.1, 0.2]):
        assert not judge_failover([READER, replace(READER, reconnect_seconds=times)], "A", "B", 4).ok
    assert not judge_failover([], "A", "B", 4).ok


def test_threads_must_be_the_expected_ones_in_order_on_both() -> None:
    """A replica that misses, repeats, adds or swaps a thread is refused."""
    expected = ["t3", "t2", "t1"]
    assert judge_threads(expected, {"A": expected, "B": expected}).ok
    for listed in (["t3", "t2"], ["t3", "t2", "t2", "t1"], ["t4", *expected], ["t2", "t3", "t1"], []):
        assert not judge_threads(expected, {"A": expected, "B": listed}).ok
    assert not judge_threads(expected, {}).ok


def test_memory_needs_one_winner_one_told_and_both_facts() -> None:
    """Two winners, two losers, a failed retry, a wrong revision, a wrong report or a lost fact: each is refused."""
    facts = {"a": {"content": "one"}, "b": {"content": "two"}}
    good = Rivalry(3, [409, 200], told=4, retry_status=200, facts=facts, found={"A": (5, facts), "B": (5, facts)})
    assert judge_memory(good).ok
    for bad in (
        replace(good, statuses=[200, 200], told=None, retry_status=None),
        replace(good, statuses=[409, 409]),
        replace(good, statuses=[200, 503]),
        replace(good, told=3),
        replace(good, retry_status=409),
        replace(good, found={"A": (5, facts), "B": (4, facts)}),
        replace(good, found={"A": (5, facts), "B": (5, {"a": facts["a"]})}),
        replace(good, found={}),
    ):
        assert not judge_memory(bad).ok


def test_counters_must_be_the_sums_on_both() -> None:
    """One call too many or too few, on one replica, for one model, is refused."""
    expected = {"m": {"calls": 3, "successes": 2}, "n": {"calls": 1, "successes": 1}}
    assert judge_counters(expected, {"A": expected, "B": expected}).ok
    for calls in (2, 4):
        wrong = {**expected, "m": {"calls": calls, "successes": 2}}
        assert not judge_counters(expected, {"A": expected, "B": wrong}).ok
    assert not judge_counters(expected, {"A": expected, "B": {"m": expected["m"]}}).ok
    assert not judge_counters(expected, {}).ok


def test_delivery_times_are_of_readers_at_full_speed() -> None:
    """A reader that pauses says nothing about the backend; without any deliveries there is no median."""
    slow = replace(READER, delivered=[replace(event, at=event.at + 9) for event in DELIVERED], full_speed=False)
    assert delivery_seconds(PUBLISHED, [READER, slow]) == pytest.approx((0.25, 0.25))
    with pytest.raises(ValueError, match="0 deliveries"):
        delivery_seconds(PUBLISHED, [slow])
