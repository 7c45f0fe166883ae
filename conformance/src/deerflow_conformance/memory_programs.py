"""What is done to memories, drawn as data before a backend is touched.

Names come from small pools whose members differ only by case, normal form or separator, so that programs collide;
expectations are drawn as guesses about the state, since revisions are known only when the program runs.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from hypothesis.strategies import SearchStrategy

from deerflow_backends.memories import ALL, All
from deerflow_conformance import programs
from deerflow_conformance.digits import Digits, from_steps
from deerflow_conformance.programs import KEYS, LOOKALIKES, USERS

AGENTS = (None, "planner", "Planner", "None", "planner:f")
FACT_IDS = ("f", "F", "f:", "é", "e\u0301", "10", "9")


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


_VALUES: tuple[dict[str, Any] | None, ...] = (*_FACT_VALUES, *(None,) * (len(_FACT_VALUES) // 2))
_PARTS: tuple[str | Literal[All.ALL] | None, ...] = (ALL, *AGENTS, None, "planner")
_VIA = (0, 1)


def _change(digits: Digits, guesses: tuple[Guess, ...]) -> DrawnChange:
    (agent_name, fact_id), value = digits.pick(_TARGETS), digits.pick(_VALUES)
    guess = digits.pick(guesses)
    return DrawnChange(agent_name, fact_id, {} if fact_id is None and value is None else value, guess)


def _apply(digits: Digits, guesses: tuple[Guess, ...]) -> ApplyStep:
    user_id, via = digits.pick(_USERS), digits.pick(_VIA)
    user_guess = digits.pick([guess for guess in guesses if guess is not Guess.ABSENT])
    changes: dict[tuple[str | None, str | None], DrawnChange] = {}
    for _ in range(1 + digits.upto(2)):
        change = _change(digits, guesses)
        changes.setdefault(change.target, change)
    return ApplyStep(user_id, tuple(changes.values()), user_guess, via)


def _step(digits: Digits, guesses: tuple[Guess, ...], *, removals: bool) -> MemoryStep:
    match digits.pick(("apply", "apply", "clear", "erase")) if removals else "apply":
        case "clear":
            return ClearStep(digits.pick(_USERS), digits.pick(_PARTS), digits.pick(_VIA))
        case "erase":
            return EraseStep(digits.pick(_USERS), digits.pick(_VIA))
    return _apply(digits, guesses)


def memory_programs(
    *, guesses: tuple[Guess, ...] = (Guess.NONE,), removals: bool = False, max_steps: int = 8
) -> SearchStrategy[list[MemoryStep]]:
    """Draw what several writers do to several users, one call after the other.

    Args:
        guesses: The expectations that changes and applies may have.
        removals: Whether there are `clear` and `erase` among the steps.
        max_steps: The most calls.
    """
    decode = partial(_step, guesses=guesses, removals=removals)
    return from_steps(lambda _, steps: [decode(step) for step in steps], most=max_steps)


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


_SPACED = (*_PIECES, *_PIECES, " ", "\u3000", "\xa0")


def _text(digits: Digits) -> str:
    return "".join(digits.pick(_SPACED) for _ in range(digits.upto(8)))


def _value(digits: Digits) -> dict[str, Any]:
    """Contents and categories are absent now and then, or no text."""
    value: dict[str, Any] = {}
    if digits.upto(3):
        value["category"] = digits.pick(("x", "x", "X", "", 1))
    kind = digits.upto(9)
    if kind:
        value["content"] = digits.pick((None, 1, ["a"])) if kind == 1 else _text(digits)
    return value


def _search(digits: Digits, steps: list[Digits]) -> SearchProgram:
    category, limit = digits.pick((None, None, "x", "X")), digits.pick((1_000, 10, 2, 1))
    queries = 1 + digits.upto(3)
    return SearchProgram(
        tuple(_value(step) for step in steps[queries:][: len(FACT_IDS)]),
        tuple(_text(step) if step.upto(1) else step.pick(_PIECES) for step in steps[:queries]),
        category,
        limit,
    )


def search_programs() -> SearchStrategy[SearchProgram]:
    """Draw texts and queries of pieces that fold into each other, with spaces of several kinds between them."""
    return from_steps(_search, least=5, most=4 + len(FACT_IDS))
