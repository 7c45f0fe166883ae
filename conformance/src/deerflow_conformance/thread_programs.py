"""What is done to threads, drawn as data before a backend is touched; names collide as in `memory_programs`."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hypothesis.strategies import SearchStrategy

from deerflow_backends.threads import ANY_USER, KEEP, PINNED_KEY, Keep, Scope
from deerflow_conformance import programs
from deerflow_conformance.digits import Digits, from_steps
from deerflow_conformance.programs import KEYS, LOOKALIKES, USERS

THREAD_IDS = ("t", "T", "t:", "é", "e\u0301", "10", "9")
STATUSES = ("idle", "running", "Idle")


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


def metadata_lists() -> SearchStrategy[list[dict[str, Any]]]:
    """Draw the metadata of several threads."""
    return from_steps(lambda _, steps: [step.pick(_METADATA) for step in steps], most=6)


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


_NEW_OWNERS: tuple[str | None, ...] = (*USERS[:2] * 3, *USERS, None)


def _create(digits: Digits) -> CreateStep:
    thread_id, user_id, via = digits.pick(_NEW)
    assistant_id, display_name, status = digits.pick(_FIELDS)
    return CreateStep(thread_id, user_id, assistant_id, display_name, status, digits.pick(_METADATA), via)


def _update(digits: Digits) -> UpdateStep:
    (thread_id, scope, via), (display_name, status, expected, touch) = digits.pick(_PLACES), digits.pick(_CHANGED)
    remove, replace = digits.pick(_REMOVALS)
    metadata = digits.pick(_METADATA) if digits.upto(1) else None
    step = UpdateStep(thread_id, scope, display_name, status, metadata, remove, replace, expected, touch=touch, via=via)
    return _allowed(step)


def _step(digits: Digits) -> ThreadStep:
    match digits.pick(("create", "update", "update", "move", "delete")):
        case "create":
            return _create(digits)
        case "move":
            thread_id, scope, via = digits.pick(_PLACES)
            return MoveStep(thread_id, scope, digits.pick(_NEW_OWNERS), via)
        case "delete":
            return DeleteStep(*digits.pick(_PLACES))
    return _update(digits)


def _program(digits: Digits, steps: list[Digits]) -> list[ThreadStep]:
    first = 2 + digits.upto(2)
    created = [*map(_create, steps[:first])]
    return [*created, *(_aimed(_step(step), step, created) for step in steps[first:])]


def _aimed(step: ThreadStep, digits: Digits, created: list[CreateStep]) -> ThreadStep:
    """Aim three of four steps at a thread that the program made, mostly as its owner: any other one is seldom there."""
    if isinstance(step, CreateStep) or not digits.upto(3):
        return step
    made = digits.pick(created)
    scope = step.scope if not digits.upto(3) else ANY_USER if made.user_id is None else made.user_id
    return dataclasses.replace(step, thread_id=made.thread_id, scope=scope)


def thread_programs(*, max_steps: int = 10) -> SearchStrategy[list[ThreadStep]]:
    """Draw what several users do to each other's threads, one call after the other; creations come first."""
    return from_steps(_program, most=4 + max_steps)


def _allowed(step: UpdateStep) -> UpdateStep:
    """Take out of an update what contradicts itself: replacing by nothing, removing what it sets or replaces."""
    replace = step.replace and step.metadata is not None
    removed = () if replace else tuple(key for key in step.remove if key not in (step.metadata or {}))
    return dataclasses.replace(step, replace=replace, remove=removed)
