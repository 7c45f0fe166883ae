"""What the demo claims, judged by what was recorded. Pure, so that failures can be shown as well as successes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One event as the worker says it published it.

    Attributes:
        id: The id that the stream bridge gave it.
        digest: `deerflow_backends.cli.demo.script.digest` of its name and data.
        at: Seconds since 1970, just before it was published.
    """

    id: str
    digest: str
    at: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """One event as a client received it.

    Attributes:
        id: Its SSE id.
        digest: Of the name and data that arrived.
        at: Seconds since 1970, when it arrived.
        replica: Which replica sent it.
    """

    id: str
    digest: str
    at: float
    replica: str


@dataclass(frozen=True, slots=True)
class Reader:
    """What one client went through.

    Attributes:
        name: For people.
        delivered: In order of arrival.
        ends: How many ``end`` frames it got.
        gaps: How many ``gap`` frames it got.
        reconnect_seconds: For each lost connection, how long until the first event over the next one.
        full_speed: It never paused between events, so its delays are the backend's.
    """

    name: str
    delivered: Sequence[Delivered]
    ends: int
    gaps: int
    reconnect_seconds: Sequence[float]
    full_speed: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """How what arrived differs from what was published, in events. All zero is what is promised."""

    lost: int = 0
    duplicates: int = 0
    misordered: int = 0
    altered: int = 0
    foreign: int = 0

    def __add__(self, other: Comparison) -> Comparison:
        mine, theirs = asdict(self), asdict(other)
        return Comparison(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim of the demo, judged.

    Attributes:
        name: What it is about.
        ok: It held.
        detail: One sentence for people: what was seen, or what was wrong.
        figures: The same in numbers, for ``--json``.
    """

    name: str
    ok: bool
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def compare(published: Sequence[Published], delivered: Sequence[Delivered]) -> Comparison:
    """Count every way in which *delivered* is not exactly *published*, once each and in order."""
    position = {event.id: index for index, event in enumerate(published)}
    seen: set[str] = set()
    duplicates = misordered = altered = foreign = 0
    last = -1
    for event in delivered:
        index = position.get(event.id)
        if index is None:
            foreign += 1
            continue
        altered += event.digest != published[index].digest
        if event.id in seen:
            duplicates += 1
            continue
        seen.add(event.id)
        misordered += index < last
        last = max(last, index)
    return Comparison(len(position) - len(seen), duplicates, misordered, altered, foreign)


def judge_streams(published: Sequence[Published], readers: Sequence[Reader], expected: int) -> Verdict:
    """Every client has all *expected* events exactly once, in order and unaltered, then one END, and no gap."""
    total = sum((compare(published, reader.delivered) for reader in readers), Comparison())
    ends = sum(reader.ends == 1 for reader in readers)
    gaps = sum(reader.gaps for reader in readers)
    figures = {"events": len(published), "clients": len(readers), **asdict(total), "ends": ends, "gaps": gaps}
    problems = [f"{count} {name}" for name, count in asdict(total).items() if count]
    if len({event.id for event in published}) != expected:
        problems.append(f"{len({event.id for event in published})} events with ids of their own, not {expected}")
    if ends != len(readers):
        problems.append(f"END reached {ends} of {len(readers)} clients once")
    if gaps:
        problems.append(f"{gaps} gaps")
    if problems or not readers:
        return Verdict("streams", False, f"Not exactly once: {', '.join(problems) or 'nobody read'}.", figures)
    return Verdict(
        "streams",
        True,
        f"{len(published)} events, {len(readers)} clients: each has every event exactly once, in order, then END. "
        "Lost 0, duplicates 0.",
        figures,
    )


def judge_failover(readers: Sequence[Reader], first: str, second: str, killed_after: int) -> Verdict:
    """Every client had events from *first* until that was killed, and the rest from *second*."""
    stranded = [
        reader.name
        for reader in readers
        if {event.replica for event in reader.delivered} != {first, second} or len(reader.reconnect_seconds) != 1
    ]
    times = [seconds for reader in readers for seconds in reader.reconnect_seconds]
    figures: dict[str, Any] = {"killed_after_events": killed_after, "reconnects": len(times)}
    if stranded or not times:
        return Verdict("failover", False, f"Did not go from {first} to {second} once: {stranded}.", figures)
    figures |= {"reconnect_seconds_median": median(times), "reconnect_seconds_max": max(times)}
    return Verdict(
        "failover",
        True,
        f"Replica {first} got SIGKILL when {killed_after} events were published; the clients read on from "
        f"{second} after {median(times) * 1000:.0f} ms (median; the slowest after {max(times) * 1000:.0f} ms).",
        figures,
    )


def judge_threads(expected: Sequence[str], listings: Mapping[str, Sequence[str]]) -> Verdict:
    """Each replica lists exactly the *expected* thread ids, in that order."""
    wrong = [replica for replica, listed in listings.items() if list(listed) != list(expected)]
    figures = {"threads": len(expected)}
    if wrong or not listings:
        seen = ", ".join(f"{replica} lists {len(listings[replica])}" for replica in wrong)
        return Verdict("threads", False, f"Not the {len(expected)} threads, latest first: {seen}.", figures)
    return Verdict(
        "threads",
        True,
        f"{len(expected)} threads of one user, made on {', '.join(listings)} and the worker: "
        "both replicas list the same, latest first, page by page.",
        figures,
    )


@dataclass(frozen=True, slots=True)
class Rivalry:
    """What became of two memory updates that were sent at once, each expecting the same revision.

    Attributes:
        revision: The user's revision that both expected.
        statuses: The HTTP status of each first attempt.
        told: What the loser was told is stored, None if there was no loser.
        retry_status: The HTTP status of the loser's second attempt, None if there was none.
        facts: The two facts, by id.
        found: For each replica the revision and the facts it shows afterwards.
    """

    revision: int
    statuses: Sequence[int]
    told: int | None
    retry_status: int | None
    facts: Mapping[str, Any]
    found: Mapping[str, tuple[int, Mapping[str, Any]]]


def judge_memory(rivalry: Rivalry) -> Verdict:
    """One of the rivals won, the other was told and won with the fresh revision, and both facts are everywhere."""
    problems = []
    if sorted(rivalry.statuses) != [200, 409]:
        problems.append(f"the rivals got {list(rivalry.statuses)}, not one 200 and one 409")
    if rivalry.told != rivalry.revision + 1:
        problems.append(f"the loser was told of revision {rivalry.told}, not {rivalry.revision + 1}")
    if rivalry.retry_status != 200:
        problems.append(f"the second attempt got {rivalry.retry_status}")
    for replica, (revision, facts) in rivalry.found.items():
        if revision != rivalry.revision + 2 or facts != rivalry.facts:
            problems.append(f"{replica} shows revision {revision} with {len(facts)} facts")
    figures = {"revision": rivalry.revision, "statuses": list(rivalry.statuses), "facts": len(rivalry.facts)}
    if problems or not rivalry.found:
        return Verdict("memory", False, f"Rival writers: {'; '.join(problems)}.", figures)
    return Verdict(
        "memory",
        True,
        f"Two rival writers on revision {rivalry.revision}: one won, the other was told so and retried; "
        "both facts are there.",
        figures,
    )


def judge_counters(
    expected: Mapping[str, Mapping[str, int]], found: Mapping[str, Mapping[str, Mapping[str, int]]]
) -> Verdict:
    """Each replica shows, for each model, the sums of what all processes counted."""
    wrong = [
        f"{replica} shows {counts.get(model)} for {model}, not {wanted}"
        for replica, counts in found.items()
        for model, wanted in expected.items()
        if counts.get(model) != wanted
    ]
    calls = sum(wanted["calls"] for wanted in expected.values())
    figures = {"models": len(expected), "calls": calls}
    if wrong or not found:
        return Verdict("counters", False, f"{'; '.join(wrong) or 'No replica was asked'}.", figures)
    return Verdict(
        "counters",
        True,
        f"{calls} calls of {len(expected)} models, counted on {', '.join(found)} and the worker, "
        "before and after the kill: both replicas show the sums.",
        figures,
    )


def delivery_seconds(published: Sequence[Published], readers: Sequence[Reader]) -> tuple[float, float]:
    """Return the median and the 99th percentile from publish to arrival, over the clients that read at full speed.

    Raises:
        ValueError: Fewer than two such deliveries.
    """
    sent = {event.id: event.at for event in published}
    delays = [
        event.at - sent[event.id]
        for reader in readers
        if reader.full_speed
        for event in reader.delivered
        if event.id in sent
    ]
    if len(delays) < 2:
        raise ValueError(f"{len(delays)} deliveries are too few for a median")
    cuts = quantiles(delays, n=100)
    return cuts[49], cuts[98]
