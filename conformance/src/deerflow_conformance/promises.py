"""The numbered promises of contract 1.0: what each says, at which level it is tested, and what it builds on.

The set is frozen with the contract's version.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from deerflow_backends.streams import Reach

#: The contract version that these promises belong to.
CONTRACT_VERSION: Final = "1.0"

Capability: TypeAlias = Literal["stream_bridge", "memory", "thread_index", "counters"]
Level: TypeAlias = Literal["L0", "L1", "L2", "L3", "load"]

CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
#: What is asked for where nothing is: the highest level that the backend's reach allows, and load.
EVERYTHING: Final[Level] = "load"

#: The promise of each capability without which nothing else about it can be judged.
FIRST: Final[dict[Capability, str]] = {
    "stream_bridge": "S1",
    "memory": "M1",
    "thread_index": "T1",
    "counters": "C1",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """One numbered promise.

    Attributes:
        number: Such as ``S3``.
        capabilities: Whose promise it is.
        sentence: What it says, in short.
        level: The lowest level that tests it, and so counts it.
        counted: Whether a verdict counts it.
        needs: Promises without which it cannot be judged: when one of them fails, this one *could not run*.
    """

    number: str
    capabilities: tuple[Capability, ...]
    sentence: str
    level: Level = "L1"
    counted: bool = True
    needs: tuple[str, ...] = ()

    def needed_for(self, capability: Capability) -> tuple[str, ...]:
        """Return the numbers that this promise builds on when tested for *capability*."""
        if self.number[0] == "G" and self.number not in STANDALONE:
            return (FIRST[capability], *self.needs)
        return self.needs


#: General promises that can be judged even of a backend that stores nothing.
STANDALONE: Final = frozenset({"G9", "G13"})

#: What a backend may declare as not applying to it, since the contract says so, in its attribute ``exempt``: a mapping
#: of numbers to reasons. Everything else it keeps, or it does not offer the capability.
EXEMPTIBLE: Final = frozenset({"M9"})

#: Why a general promise never applies to a capability, whatever the backend: known without running anything.
NEVER_APPLIES: Final[dict[tuple[str, Capability], str]] = {("G3", "counters"): "counters take no values"}

#: General promises that a capability gives nothing to test by, and the level from which on some check of it applies all
#: the same: nothing of memories and threads expires.
_NOTHING_BELOW: Final[dict[tuple[str, Capability], Level | None]] = {
    **dict.fromkeys(NEVER_APPLIES),
    ("G11", "memory"): "load",
    ("G11", "thread_index"): "load",
}

#: The harness check that comes before every promise: it is the author's function that is tested, not the backend.
HARNESS: Final = Promise(
    "L0",
    CAPABILITIES,
    "The function opens, keeps two spaces apart, finds its data again on reopening, lets errors through, and closes "
    "without leftovers.",
    "L0",
    counted=False,
)


def _of(capability: Capability, *rows: tuple[str, str, tuple[str, ...]]) -> list[Promise]:
    return [Promise(number, (capability,), sentence, needs=needs) for number, sentence, needs in rows]


def _general(number: str, sentence: str, level: Level = "L1") -> Promise:
    return Promise(number, CAPABILITIES, sentence, level)


_ALL: list[Promise] = [
    _general("G1", "Every str of 1 to 512 UTF-8 bytes is an identifier, and no two ever collide; others are refused."),
    _general(
        "G2", "JSON values come back as they were written, types told apart; what is no JSON is refused by place."
    ),
    _general("G3", "A value or a batch of up to 8 MiB is accepted; a larger one is refused and nothing is written."),
    _general("G4", "What belongs to one user, run, thread or namespace is never seen or changed through another."),
    _general("G5", "A write takes effect at most once, and an error says whether it may have.", "L2"),
    _general("G6", "Promises hold over all replicas within reach: a finished write is visible to the next read."),
    _general("G7", "In an outage calls fail in bounded time, and the same object works again afterwards.", "L3"),
    _general("G8", "A cancelled call leaves the object usable and no task behind."),
    _general("G9", "After closing, calls and open iterators raise Closed, and no task, thread or handle is left."),
    _general("G10", "Expiry, order and windows go by the server's clock."),
    _general("G11", "What expires is hidden at once and freed soon after; what is stored is bounded."),
    _general("G12", "An acknowledged write survives the kills that the backend says it survives.", "L3"),
    _general("G13", "Ping answers, or raises BackendUnavailable in bounded time."),
    *_of(
        "stream_bridge",
        ("S1", "All subscribers of a run see the same events in the same order; a batch stays together.", ()),
        ("S2", "Ids are <epoch>-<seq>, seq counting 1, 2, 3 without holes; no id ever names two events.", ("S1",)),
        ("S3", "From subscribing to END every event arrives exactly once, through any reconnects.", ("S1",)),
        ("S4", "Without a cursor a subscriber gets everything retained, then the live tail, and no gap.", ("S1",)),
        ("S5", "With the id of a retained event a subscriber gets exactly what comes after it.", ("S1",)),
        ("S6", "A cursor whose event is not retained gives one gap and the end, never a partial replay.", ("S1",)),
        ("S7", "A malformed cursor never raises: it gives the live tail, or all of an ended stream.", ("S1",)),
        ("S8", "END is durable, idempotent, last and seen once; publishing after it stores nothing.", ("S1",)),
        ("S9", "A heartbeat comes after every interval spent waiting; a bad interval is refused.", ()),
        ("S10", "Exactly the last max_events, or those within max_bytes, replay; a stream expires whole.", ("S1",)),
        ("S11", "Subscribing to an unknown run waits, or gives an empty gap, and creates nothing.", ()),
        ("S12", "A slow subscriber delays neither the publisher nor another subscriber.", ("S1",)),
        (
            "S13",
            "Cleanup hides the events, now or when due, and leaves a trace that answers subscribers.",
            ("S1", "S8"),
        ),
        ("S14", "A waiting subscriber learns in time that its stream ended or is gone.", ("S1",)),
        ("S15", "Connections, threads and handles do not grow with subscribers, runs or publishers.", ("S1",)),
    ),
    Promise(
        "S16",
        ("stream_bridge",),
        "Through an outage a subscriber stays, hears heartbeats, and goes on without loss or gets a gap.",
        "L3",
        needs=("S3",),
    ),
    *_of(
        "memory",
        ("M1", "What apply wrote is read next; reading creates nothing and an absent part is empty.", ()),
        ("M2", "All changes of one apply happen or none; one thing changed twice in a call is refused.", ("M1",)),
        ("M3", "Revisions rise by exactly 1 for what changed, and stay for what did not.", ("M1",)),
        ("M4", "An expectation that does not hold is a RevisionConflict that tells, and nothing changed.", ("M1",)),
        (
            "M5",
            "Of rivals on one revision exactly one wins; unconditional changes of different facts all land.",
            ("M1",),
        ),
        ("M6", "Facts keep unknown fields, order by id, and page without loss or repetition.", ("M1",)),
        ("M7", "Search finds exactly the facts that contain every part of the query, in one stated rank.", ("M1",)),
        ("M8", "Clear removes exactly the part it names; erase leaves no trace of the user.", ("M1",)),
        ("M9", "The cost of load and apply does not grow with the size of the memory.", ("M1",)),
        ("M11", "Load shows body, facts and revision of one and the same revision.", ("M1",)),
        (
            "M12",
            "Restoring an export makes every read equal; a different record of the same id is a Conflict.",
            ("M1",),
        ),
    ),
    Promise(
        "M10",
        ("memory",),
        "The files backend commits through a journal and reads DeerFlow's own layouts (tested with that backend).",
        counted=False,
    ),
    *_of(
        "thread_index",
        ("T1", "Listing a user gives exactly that user's threads as soon as a write returned.", ()),
        ("T2", "Pinned threads come first, then the latest updated, then by id, descending.", ("T1",)),
        (
            "T3",
            "Following the cursor visits every unchanged thread exactly once; a bad cursor is refused.",
            ("T1", "T2"),
        ),
        (
            "T4",
            "Another user's thread looks like no thread; only ANY_USER sees all, and access follows owners.",
            ("T1",),
        ),
        ("T5", "Creating a taken id is a Conflict that keeps the first; of rivals exactly one wins.", ("T1",)),
        ("T6", "Metadata merges key by key, None is a value, remove removes, and rivals' keys all land.", ("T1",)),
        ("T7", "updated_at grows strictly with each touch; expected_status guards against late writers.", ("T1",)),
        ("T8", "Filters match metadata values exactly, type included, and reach nothing else.", ("T1",)),
        ("T9", "A page costs the same for a user with many threads as for one with few.", ("T1",)),
        ("T10", "The namespace view keeps keys as threads: put replaces, another's key is a Conflict.", ("T1",)),
        (
            "T11",
            "Restoring an export makes every read equal; a different record of the same id is a Conflict.",
            ("T1",),
        ),
    ),
    *_of(
        "counters",
        ("C1", "Totals are the sum of everything recorded, under any concurrency; bad counts are refused.", ()),
        ("C2", "A token seen within token_seconds is not counted again.", ("C1",)),
        ("C3", "One recording is atomic: no reader sees a call without its outcome.", ("C1",)),
        ("C4", "A window is every bucket that intersects the last seconds, the current one included.", ("C1",)),
        ("C5", "The buffer records without I/O, flushes once and in time, and refuses what it cannot hold.", ("C1",)),
        ("C6", "Reset removes a model, buckets too; later recordings count from zero.", ("C1",)),
        ("C7", "Any model name counts, ten thousand models in one call.", ("C1",)),
    ),
]

#: Every promise by its number, general ones first.
PROMISES: Final[dict[str, Promise]] = {
    promise.number: promise
    for promise in sorted(_ALL, key=lambda one: ("GSMTC".index(one.number[0]), int(one.number[1:])))
}


def levels_of(asked: Level, reach: Reach) -> tuple[Level, ...]:
    """Return the levels that run when *asked* for, of a backend of this *reach*; what is above it needs more reach.

    L3 puts faults between processes, so it needs a reach beyond one. Asked for by name it is in the answer all the
    same: a verdict must not look whole without it.
    """
    wanted = LEVELS[: LEVELS.index(asked) + 1]
    return tuple(one for one in wanted if one != "L3" or asked == "L3" or reach != "process")


def may_not_apply(number: str, capability: Capability, levels: Collection[Level]) -> bool:
    """Say whether a promise can be *not applicable* as a whole, where these *levels* ran.

    That is so of what a backend may declare, of what needs more reach than it has, and of the few general promises that
    a capability gives nothing to test by. Of every other some check applies to every backend.
    """
    if number in EXEMPTIBLE:
        return True
    if (number, capability) in _NOTHING_BELOW:
        return _NOTHING_BELOW[number, capability] not in levels
    return number in PROMISES and PROMISES[number].level not in levels


def promises_of(capability: Capability, level: Level | None = None) -> list[Promise]:
    """Return the counted promises of *capability*, its own before the general ones, the needed before the needing.

    Args:
        capability: Whose.
        level: Only those that count when it is asked for; None for all.
    """
    found = [
        promise
        for promise in PROMISES.values()
        if capability in promise.capabilities
        and promise.counted
        and (level is None or LEVELS.index(promise.level) <= LEVELS.index(level))
    ]
    return sorted(found, key=lambda promise: promise.number[0] == "G")
