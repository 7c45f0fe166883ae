"""Search (M7): what matches, how it ranks, the same on every backend."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deerflow_backends.errors import InvalidArgument
from deerflow_backends.memories import Fact, FactMatch
from deerflow_backends.search import has_category, query_parts, rank, search_facts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
words = st.sampled_from(["tea", "Tea", "ＴＥＡ", "green", "straße", "STRASSE", "お茶", "東京", "e\u0301", "é", "ﬁne"])
phrases = st.lists(words, max_size=4).map(" ".join)


def fact(fact_id: str, content: Any = None, **more: Any) -> Fact:
    value = more if content is None else {"content": content, **more}
    return Fact(None, fact_id, value, 1, NOW, NOW)


def found(query: str, *facts: Fact, category: str | None = None, limit: int = 10) -> list[str]:
    return [match.fact.fact_id for match in search_facts(facts, query_parts(query), category=category, limit=limit)]


@given(phrases | texts, phrases | texts)
def test_every_part_must_be_a_substring(query: str, content: str) -> None:
    """M7: NFKC, then casefold, then each part of the query split on white space is a substring of the text."""
    folded = unicodedata.normalize("NFKC", query).casefold()
    text = unicodedata.normalize("NFKC", content).casefold()
    if not folded.split():
        with pytest.raises(InvalidArgument, match="query must not be empty"):
            query_parts(query)
        return
    matches = found(query, fact("f", content))
    assert matches == (["f"] if all(part in text for part in folded.split()) else [])


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("TEA", "green tea"),
        ("straße", "STRASSE 7"),
        ("ｔｅａ", "tea"),
        ("東京", "彼は東京に住んでいる"),
        ("é", "cafe\u0301"),
        ("fi", "ﬁne"),
        ("a.*", "a.*b"),
        ("\0", "a\0b"),
        ("tea green", "green tea"),
    ],
)
def test_what_people_expect_to_find(query: str, content: str) -> None:
    """M7: case, width, normal form and text without spaces are no obstacle; nothing is a pattern."""
    assert found(query, fact("f", content)) == ["f"]


@pytest.mark.parametrize("content", [None, 1, True, ["tea"], {"text": "tea"}, ""])
def test_a_text_that_is_absent_or_none_never_matches(content: Any) -> None:
    """M7: only a str is a text."""
    assert found("tea", fact("f", content), fact("g", category="tea")) == []


def test_category_is_filtered_before_the_limit() -> None:
    """M7: better matches of other categories take no place; a category is compared as it is."""
    facts = [fact("a", "tea"), fact("b", "tea and cake", category="x"), fact("c", "tea", category="X")]
    assert found("tea", *facts, category="x", limit=1) == ["b"]
    assert found("tea", *facts, category="1") == []
    assert not has_category({"category": 1}, "1")
    assert not has_category({}, "None")


def test_rank_is_the_share_of_the_text_that_is_covered() -> None:
    """M7: one formula, ties by id, then the limit."""
    facts = [fact("b", "tea tea"), fact("c", "teatea"), fact("a", "teatea"), fact("d", "tea, long ago, in China")]
    assert found("tea", *facts) == ["a", "c", "b", "d"]
    assert found("tea", *facts, limit=2) == ["a", "c"]
    (match,) = search_facts([facts[0]], query_parts("tea TEA tea"), category=None, limit=1)
    assert match.score == 6 / 7


def test_a_part_may_be_searched_some_facts_at_a_time() -> None:
    """M7: the best of several searches are the best of one search over all."""
    facts = [fact(name, text) for name, text in zip("dbca", ("tea", "tea!", "tea", "tea tea"), strict=True)]
    parts = query_parts("tea")
    at_once = search_facts(facts, parts, category=None, limit=3)
    best: list[FactMatch] = []
    for one in facts:
        best = rank([*best, *search_facts([one], parts, category=None, limit=3)], limit=3)
    assert best == at_once


@pytest.mark.parametrize("query", ["", " \t\n\u3000", None, 1, "\ud800", "x" * 8193])
def test_what_is_no_query_is_refused(query: Any) -> None:
    """M7: an empty query finds nothing by mistake."""
    with pytest.raises(InvalidArgument, match="query"):
        query_parts(query)
