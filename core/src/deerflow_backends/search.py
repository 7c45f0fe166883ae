"""How facts are searched, the same on every backend: a backend's own index may only narrow what comes in here.

Text and query are NFKC-normalised, then casefolded. The query splits on white space; a fact matches if its text
contains every part as a substring, so text without spaces works. The score of a match is the share of the text that
the parts cover: for each different part its occurrences times its length, summed, divided by the length of the text.
The best come first, equal ones by id.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from deerflow_backends.arguments import check_text
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.memories import Fact, FactMatch


def query_parts(query: str) -> tuple[str, ...]:
    """Split a query into what must be found; each different part once.

    Raises:
        InvalidArgument: It is empty, over 8 KiB, or no text.
    """
    parts = tuple(dict.fromkeys(_folded(check_text("query", query)).split()))
    if not parts:
        raise InvalidArgument("query", "must not be empty")
    return parts


def search_facts(facts: Iterable[Fact], parts: tuple[str, ...], *, category: str | None, limit: int) -> list[FactMatch]:
    """Match and rank *facts* (of one part of one user); *category* is applied before *limit*."""
    matches = (
        FactMatch(fact, score)
        for fact in facts
        if category is None or has_category(fact.value, category)
        if (score := _score(fact.value.get("content"), parts)) > 0
    )
    return rank(matches, limit=limit)


def rank(matches: Iterable[FactMatch], *, limit: int) -> list[FactMatch]:
    """Put the best first, equal ones by id: for a backend that searches a part some facts at a time, too."""
    return sorted(matches, key=lambda match: (-match.score, match.fact.fact_id))[:limit]


def has_category(value: dict[str, object], category: str) -> bool:
    """Whether a fact's value bears *category*: a ``str``, equal as it is."""
    return fact_category(value) == category


def fact_category(value: dict[str, object]) -> str | None:
    """The category that a fact's value bears, None if it is absent or no ``str``."""
    category = value.get("category")
    return category if isinstance(category, str) else None


def _score(content: object, parts: tuple[str, ...]) -> float:
    if not isinstance(content, str):
        return 0.0
    text = _folded(content)
    covered = 0
    for part in parts:
        occurrences = text.count(part)
        if not occurrences:
            return 0.0
        covered += occurrences * len(part)
    return covered / len(text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
