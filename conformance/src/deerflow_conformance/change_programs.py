"""What is done to memories, threads and counters, drawn as data before a backend is touched.

Names come from small pools whose members differ only by case, normal form or separator, so that programs collide;
expectations are drawn as guesses about the state, since revisions are known only when the program runs.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis import strategies as st

from deerflow_backends.memories import ALL, All
from deerflow_backends.threads import ANY_USER, KEEP, PINNED_KEY, Keep, Scope
from deerflow_conformance import programs

USERS = ("ann", "Ann", "ann:", "é", "e\u0301")
AGENTS = (None, "planner", "Planner", "None", "planner:f")
FACT_IDS = ("f", "F", "f:", "é", "e\u0301", "10", "9")
THREAD_IDS = ("t", "T", "t:", "é", "e\u0301", "10", "9")
STATUSES = ("idle", "running", "Idle")
MODELS = ("gpt", "GPT", "gpt:", "é", "e\u0301")
KEYS = ("k", "K", "a.b", "$set", "", "' OR 1=1 --", PINNED_KEY, "__proto__", "user_id")

#: Values of which a careless comparison takes some for equal.
LOOKALIKES: tuple[Any, ...] = (
    *(1, 1.0, True, "1", 0, 0.0, -0.0, False, "", None),
    *([], [1], [1.0], {}, {"a": 1}, {"a": True}),
)


class Guess(enum.Enum):
    """What a change expects of the stored state, to be worked out against the model."""

    NONE = "no expectation"
    CURRENT = "what is stored"
    ABSENT = "nothing stored"
    OLDER = "an earlier revision"
    NEWER = "a later revision"


@dataclass(frozen=True, slots=True)
class DrawnChange:
    """One change; *fact_id* is None for the body, *value* is None for a deletion."""

    agent_name: str | None
    fact_id: str | None
    value: dict[str, Any] | None
    guess: Guess

    @property
    def target(self) -> tuple[str | None, str | None]:
        """What it changes, unique within one apply."""
        return self.agent_name, self.fact_id


@dataclass(frozen=True, slots=True)
class ApplyStep:
    """Changes for one user through instance *via*."""

    user_id: str | None
    changes: tuple[DrawnChange, ...]
    guess: Guess
    via: int


@dataclass(frozen=True, slots=True)
class ClearStep:
    """Clear one part or all of a user through instance *via*."""

    user_id: str | None
    agent_name: str | Literal[All.ALL] | None
    via: int


@dataclass(frozen=True, slots=True)
class EraseStep:
    """Erase a user through instance *via*."""

    user_id: str | None
    via: int


MemoryStep: TypeAlias = ApplyStep | ClearStep | EraseStep

_instances = st.integers(0, 1)


#: Drawn whole, since drawing takes longer than what is tested: values of facts and bodies.
_FACT_VALUES: tuple[dict[str, Any], ...] = (
    *({"n": value} for value in LOOKALIKES),
    *({"n": value} for value in LOOKALIKES[:6]),
    *({}, {}, {"content": "tea"}, {"content": "Tea"}, {"content": "tea", "n": 1}, {"n": 1, "content": "tea"}),
    *({key: value} for key, value in zip(KEYS * 10, programs.VALUES, strict=False)),
)
#: Drawn whole, too: what is changed. Mostly the same few, or no change would meet an earlier one; None is the body.
_TARGETS: tuple[tuple[str | None, str | None], ...] = (
    *itertools.product((None, "planner"), ("f", "f", "f", "F", None)),
    *itertools.product((None, "planner"), ("f", "f", "f", "F", None)),
    *itertools.product(AGENTS, (*FACT_IDS[:2], None)),
    *((None, fact_id) for fact_id in (*FACT_IDS, *programs.IDENTIFIERS[::9])),
)
_USERS: tuple[str | None, ...] = ("ann",) * 12 + (None,) * 4 + USERS + programs.IDENTIFIERS[::11]


def _changes(guesses: tuple[Guess, ...]) -> st.SearchStrategy[DrawnChange]:
    values = st.sampled_from((*_FACT_VALUES, *(None,) * (len(_FACT_VALUES) // 2)))
    return st.tuples(st.sampled_from(_TARGETS), values, st.sampled_from(guesses)).map(_change)


def _change(drawn: tuple[tuple[str | None, str | None], dict[str, Any] | None, Guess]) -> DrawnChange:
    (agent_name, fact_id), value, guess = drawn
    return DrawnChange(agent_name, fact_id, {} if fact_id is None and value is None else value, guess)


def memory_programs(
    *, guesses: tuple[Guess, ...] = (Guess.NONE,), removals: bool = False, max_steps: int = 8
) -> st.SearchStrategy[list[MemoryStep]]:
    """Draw what several writers do to several users, one call after the other.

    Args:
        guesses: The expectations that changes and applies may have.
        removals: Whether there are `clear` and `erase` among the steps.
        max_steps: The most calls.
    """
    user_guesses = tuple(guess for guess in guesses if guess is not Guess.ABSENT)
    users = st.sampled_from(_USERS)
    changes = st.lists(_changes(guesses), min_size=1, max_size=3, unique_by=lambda change: change.target).map(tuple)
    applies = st.builds(ApplyStep, users, changes, st.sampled_from(user_guesses), _instances)
    steps: list[st.SearchStrategy[MemoryStep]] = [applies]
    if removals:
        parts = st.sampled_from((ALL, *AGENTS, None, "planner"))
        steps += [applies, st.builds(ClearStep, users, parts, _instances), st.builds(EraseStep, users, _instances)]
    return st.lists(st.one_of(steps), min_size=1, max_size=max_steps)


@dataclass(frozen=True, slots=True)
class CreateStep:
    """Create a thread through instance *via*."""

    thread_id: str
    user_id: str | None
    assistant_id: str | None
    display_name: str | None
    status: str
    metadata: dict[str, Any]
    via: int


@dataclass(frozen=True, slots=True)
class UpdateStep:
    """Update a thread in *scope* through instance *via*."""

    thread_id: str
    scope: Scope
    display_name: str | Literal[Keep.KEEP] | None
    status: str | Literal[Keep.KEEP]
    metadata: dict[str, Any] | None
    remove: tuple[str, ...]
    replace: bool
    expected_status: str | None
    touch: bool
    via: int


@dataclass(frozen=True, slots=True)
class MoveStep:
    """Give a thread to another owner, or to none."""

    thread_id: str
    scope: Scope
    to_user_id: str | None
    via: int


@dataclass(frozen=True, slots=True)
class DeleteStep:
    """Delete a thread."""

    thread_id: str
    scope: Scope
    via: int


ThreadStep: TypeAlias = CreateStep | UpdateStep | MoveStep | DeleteStep


#: Drawn whole: no, one, two or three keys, values that are almost equal, some at the edges of what stores keep.
_METADATA: tuple[dict[str, Any], ...] = (
    *({},) * 20,
    *({key: value} for key in KEYS for value in LOOKALIKES),
    *({PINNED_KEY: value} for value in (True, False) * 40),
    *({one: 1, two: value} for one in KEYS for two, value in zip(KEYS, LOOKALIKES, strict=False)),
    *({"k": value, "a.b": None, PINNED_KEY: True} for value in LOOKALIKES),
    *({key: value} for key, value in zip(KEYS * 10, programs.VALUES, strict=False)),
)
_metadata = st.sampled_from(_METADATA)


def metadata_lists() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Draw the metadata of several threads."""
    return st.lists(_metadata, min_size=1, max_size=6)


#: Drawn whole: which thread, mostly the same few; who asks; and through which instance.
_PLACES: tuple[tuple[str, Scope, int], ...] = tuple(
    itertools.product(("t", "t", "t", "T", "T", *THREAD_IDS), ("ann",) * 7 + (*USERS, ANY_USER, ANY_USER), (0, 1))
)
_NEW: tuple[tuple[str, str | None, int], ...] = (
    *itertools.product(("t", "t", "T", *THREAD_IDS), ("ann",) * 7 + (*USERS, None), (0, 1)),
    *((thread_id, user_id, 0) for thread_id in programs.IDENTIFIERS for user_id in USERS[:2]),
)
_FIELDS: tuple[tuple[str | None, str | None, str], ...] = (
    *itertools.product((None, "agent"), (None, "", "Trip\x00", "Ü" * 4_096), STATUSES),
    *((assistant_id, None, "idle") for assistant_id in programs.IDENTIFIERS[::9]),
)
#: Display name, status, expected status and touch of an update.
_CHANGED = tuple(
    itertools.product((KEEP, KEEP, None, "", "Plan"), (KEEP, KEEP, *STATUSES), (None,) * 5 + STATUSES, (True, False))
)
#: Keys to remove and whether to replace.
_REMOVALS = tuple(itertools.product([(), (), (), *((key,) for key in KEYS), KEYS[:2], KEYS[2:]], (False, False, True)))


def thread_programs(*, max_steps: int = 10) -> st.SearchStrategy[list[ThreadStep]]:
    """Draw what several users do to each other's threads, one call after the other; creations come first."""
    places, owners = st.sampled_from(_PLACES), st.sampled_from((*USERS[:2] * 3, *USERS, None))
    creates = st.tuples(st.sampled_from(_NEW), st.sampled_from(_FIELDS), _metadata).map(_create)
    updates = st.tuples(
        places, st.sampled_from(_CHANGED), st.one_of(_metadata, st.none()), st.sampled_from(_REMOVALS)
    ).map(_update)
    moves = st.tuples(places, owners).map(lambda drawn: MoveStep(*drawn[0][:2], drawn[1], drawn[0][2]))
    deletes = places.map(lambda place: DeleteStep(*place))
    steps: st.SearchStrategy[ThreadStep] = st.one_of(creates, updates, updates, moves, deletes)
    first = st.lists(creates, min_size=2, max_size=4)
    return st.tuples(first, st.lists(steps, max_size=max_steps)).map(lambda drawn: [*drawn[0], *drawn[1]])


def _create(
    drawn: tuple[tuple[str, str | None, int], tuple[str | None, str | None, str], dict[str, Any]],
) -> CreateStep:
    (thread_id, user_id, via), (assistant_id, display_name, status), metadata = drawn
    return CreateStep(thread_id, user_id, assistant_id, display_name, status, metadata, via)


def _update(drawn: tuple[Any, Any, dict[str, Any] | None, tuple[tuple[str, ...], bool]]) -> UpdateStep:
    (thread_id, scope, via), (display_name, status, expected, touch), metadata, (remove, replace) = drawn
    step = UpdateStep(thread_id, scope, display_name, status, metadata, remove, replace, expected, touch=touch, via=via)
    return _allowed(step)


def _allowed(step: UpdateStep) -> UpdateStep:
    """Take out of an update what contradicts itself: replacing by nothing, removing what it sets or replaces."""
    replace = step.replace and step.metadata is not None
    removed = () if replace else tuple(key for key in step.remove if key not in (step.metadata or {}))
    return dataclasses.replace(step, replace=replace, remove=removed)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens between two pages: item number *index* is made, touched or removed."""

    kind: Literal["create", "touch", "remove"]
    index: int


@dataclass(frozen=True, slots=True)
class PagingProgram:
    """A listing read page by page while others write.

    Attributes:
        present: The items stored before the first page.
        limit: Of each page.
        between: What happens after each page.
    """

    present: tuple[int, ...]
    limit: int
    between: tuple[tuple[Disturbance, ...], ...]

    @property
    def disturbed(self) -> frozenset[int]:
        """The items that the program creates, touches or removes at any moment."""
        return frozenset(action.index for actions in self.between for action in actions)


def paging_programs(*, most: int = 12) -> st.SearchStrategy[PagingProgram]:
    """Draw listings of up to *most* items, few a page, with writes between the pages."""
    indexes = st.integers(0, most - 1)
    actions = st.lists(st.builds(Disturbance, st.sampled_from(["create", "touch", "remove"]), indexes), max_size=2)
    return st.builds(
        PagingProgram,
        st.lists(indexes, unique=True, max_size=most).map(tuple),
        st.integers(1, 4),
        st.lists(actions.map(tuple), max_size=5).map(tuple),
    )


@dataclass(frozen=True, slots=True)
class SearchProgram:
    """Facts, by position in `FACT_IDS`, and what is searched in them."""

    values: tuple[dict[str, Any], ...]
    queries: tuple[str, ...]
    category: str | None
    limit: int


#: Pieces of text that fold into each other, or overlap.
_PIECES = (
    "a",
    "aa",
    "A",
    "b",
    "ß",
    "ss",
    "SS",
    "ﬁ",
    "fi",
    "İ",
    "i",
    "i\u0307",
    "茶",
    "お茶",
    "Ａ",
    "é",
    "e\u0301",
    "%",
    "_",
)


def search_programs() -> st.SearchStrategy[SearchProgram]:
    """Draw texts and queries of pieces that fold into each other, with spaces of several kinds between them."""
    texts = st.lists(st.sampled_from((*_PIECES, *_PIECES, " ", "\u3000", "\xa0")), max_size=8).map("".join)
    values = st.fixed_dictionaries(
        {},
        optional={
            "content": st.one_of(texts, texts, texts, st.sampled_from([None, 1, ["a"]])),
            "category": st.sampled_from(["x", "X", "", 1]),
        },
    )
    return st.builds(
        SearchProgram,
        st.lists(values, min_size=1, max_size=len(FACT_IDS)).map(tuple),
        st.lists(st.one_of(texts, st.sampled_from(_PIECES)), min_size=1, max_size=4).map(tuple),
        st.sampled_from([None, None, "x", "X"]),
        st.sampled_from([1, 2, 10, 1_000]),
    )


@dataclass(frozen=True, slots=True)
class Recording:
    """Counts for one model: calls, successes, failures, positive, negative."""

    model_name: str
    figures: tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class RecordStep:
    """One `record` (a single recording) or `record_many`, with the token of this number or none."""

    recordings: tuple[Recording, ...]
    many: bool
    token: int | None
    via: int


@dataclass(frozen=True, slots=True)
class ResetStep:
    """Reset a model."""

    model_name: str
    via: int


CounterStep: TypeAlias = RecordStep | ResetStep


def counter_programs(*, tokens: bool = False, resets: bool = False) -> st.SearchStrategy[list[CounterStep]]:
    """Draw recordings for few models, optionally with repeated tokens and with resets."""
    names = st.sampled_from((*MODELS[:2] * 8, *MODELS * 2, *programs.IDENTIFIERS[::5]))
    signed = st.integers(-2, 3)
    figures = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 10**12), signed, signed)
    recordings = st.builds(Recording, names, figures)
    token = st.one_of(st.none(), st.integers(0, 2)) if tokens else st.none()
    one = st.builds(RecordStep, recordings.map(lambda only: (only,)), st.just(False), token, _instances)
    several = st.lists(recordings, min_size=1, max_size=4).map(tuple)
    steps: list[st.SearchStrategy[CounterStep]] = [
        one,
        st.builds(RecordStep, several, st.just(True), token, _instances),
    ]
    if resets:
        steps.append(st.builds(ResetStep, st.sampled_from(MODELS), _instances))
    return st.lists(st.one_of(steps), min_size=1, max_size=8)


@dataclass(frozen=True, slots=True)
class WindowProgram:
    """Recordings of one model, each after a pause and with an age, and the windows read after each, in seconds.

    Attributes:
        bucket_seconds: The width of a bucket.
        keep_buckets: How many are kept besides the current one.
        moments: Pause before the recording and its age, in tenths of a bucket.
        shares: The windows read, as shares of the longest one.
    """

    bucket_seconds: int
    keep_buckets: int
    moments: tuple[tuple[int, int], ...]
    shares: tuple[float, ...]


def window_programs(*, pauses: bool) -> st.SearchStrategy[WindowProgram]:
    """Draw recordings around the edges of windows; *pauses* only where time costs nothing."""
    pause = st.sampled_from([0, 0, 1, 5, 9, 10, 11, 30]) if pauses else st.just(0)
    ages = st.integers(0, 70)
    return st.builds(
        WindowProgram,
        st.sampled_from([1, 7, 20]),
        st.sampled_from([1, 2, 5]),
        st.lists(st.tuples(pause, ages), min_size=1, max_size=8).map(tuple),
        st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9, 1.0]), min_size=1, max_size=3).map(tuple),
    )


class Reply(enum.Enum):
    """What becomes of a call to counters that are out now and then."""

    GIVEN = "counted, and the caller knows"
    NOT_COUNTED = "lost before it was counted"
    LOST = "counted, but the reply is lost"


@dataclass(frozen=True, slots=True)
class OutageProgram:
    """Recordings through a buffer, with pauses after them in hundredths of a second, and what becomes of flushes."""

    recordings: tuple[tuple[Recording, int], ...]
    replies: tuple[Reply, ...]


def outage_programs() -> st.SearchStrategy[OutageProgram]:
    """Draw recordings while flushes fail, before or after they were counted."""
    figures = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(-1, 2), st.integers(-1, 2))
    recordings = st.builds(Recording, st.sampled_from(MODELS[:3]), figures)
    return st.builds(
        OutageProgram,
        st.lists(st.tuples(recordings, st.sampled_from([0, 0, 1, 3])), min_size=1, max_size=8).map(tuple),
        st.lists(st.sampled_from(Reply), max_size=8).map(tuple),
    )
