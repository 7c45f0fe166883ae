"""Folders of the later DeerFlow: summaries in one document, and a Markdown file for each fact."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends import InvalidArgument, codec
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import Damaged, find_layout, read_folder, write_folder
from deerflow_backends.records import Part

AT = 1_767_323_045_000_006
SUMMARIES = {
    "version": "2.0",
    "revision": 7,
    "lastUpdated": "2026-01-02T03:04:05.000006Z",
    "user": {"workContext": {"summary": "Writes", "updatedAt": ""}},
    "history": {},
}
MARKDOWN = """---
id: fact_1
category: preference
confidence: 0.9
createdAt: '2026-01-01T00:00:00Z'
updatedAt: 2026-01-02T00:00:00Z
revision: 3
status: active
schemaVersion: 2
since: 2025-12-24
source:
  type: conversation
  threadId: null
topics: []
odd: {"1": [null, yes]}
user_id: bob@example.com
agent_name: Researcher
---

# Tea

Green tea,
every morning
---
and no coffee
"""
VALUE = {
    "category": "preference",
    "confidence": 0.9,
    "createdAt": "2026-01-01T00:00:00Z",
    "updatedAt": "2026-01-02T00:00:00Z",
    "status": "active",
    "schemaVersion": 2,
    "since": "2025-12-24",
    "source": {"type": "conversation", "threadId": None},
    "topics": [],
    "odd": {"1": [None, True]},
    "title": "Tea",
    "content": "Green tea,\nevery morning\n---\nand no coffee",
}
BOB = "users/bob-example-com-5ff860bf1190596c"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
odd_values = st.sampled_from(
    [None, 1, 1.0, True, -0.0, 1e-320, 10**3999, "\0\x85\u2028\ufeff", "2026-01-01", "1:30", "yes", "<<", " a\n---\nb "]
) | texts  # fmt: skip
#: DeerFlow means something by a key of a word.
keys = st.sampled_from(["", "<<", "yes", "1.0", "null", "- a", "\x85", "a: b"]) | texts.filter(
    lambda text: re.fullmatch("[A-Za-z_]+", text) is None
)
names = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
moments = st.integers(0, 2_000_000_000_000_000)
times = st.sampled_from(["2026-01-02T03:04:05.000006Z", "2026-01-02", ""])
values = st.tuples(
    st.dictionaries(keys, odd_values | st.dictionaries(texts, odd_values, max_size=2), max_size=3),
    st.fixed_dictionaries(
        {"content": texts.map(str.strip).filter(bool)},
        optional={
            "createdAt": times,
            "updatedAt": times,
            "title": texts.map(lambda text: " ".join(text.split())).filter(bool),
            "confidence": st.floats(0, 1),
            "source": st.just("thread-1") | st.just({"type": "manual", "x": 1}),
            "topics": st.lists(texts, max_size=2),
        },
    ),
).map(lambda pair: {**pair[0], **pair[1]})
stored_facts = st.builds(StoredFact, st.integers(1, 2**61), values.map(codec.canonical), moments, moments)
agents = st.dictionaries(
    st.from_regex(r"[a-z0-9-]{1,4}", fullmatch=True) | st.just("__default__"),
    st.dictionaries(names, stored_facts, min_size=1, max_size=3),
    min_size=1,
    max_size=2,
)
bodies = st.none() | st.fixed_dictionaries({"version": st.just("2.0"), "user": odd_values}).map(codec.canonical)


@st.composite
def users(draw: st.DrawFn, user_ids: st.SearchStrategy[str | None]) -> list[Part]:
    """Parts of one user, as the layout can hold them."""
    user_id, revision, at = draw(user_ids), draw(st.integers(1, 2**61)), draw(moments)
    body = draw(bodies)
    wide = Part(user_id, None, revision, at, StoredBody(revision, body) if body else None, {})
    return [wide, *(Part(user_id, name, revision, at, None, facts) for name, facts in sorted(draw(agents).items()))]


def read_parts(folder: Path) -> list[Part]:
    found = list(read_folder(folder))
    assert [item for item in found if isinstance(item, Damaged)] == []
    return [item for item in found if isinstance(item, Part)]


def known(part: Part) -> dict[str, Any]:
    """What must come back of a fact: all but its stated times, and a title that its text needs one for."""
    return {
        fact_id: (fact._replace(value=b""), {**codec.decode(fact.value), "createdAt": 0, "updatedAt": 0, "title": 0})
        for fact_id, fact in part.facts.items()
    }


@settings(max_examples=40)
@given(st.tuples(users(st.none()), users(names), users(st.just("a@b") | st.just("ä/..") | st.just("x\0"))))
def test_parts_come_back_equal(parts_of_users: tuple[list[Part], ...]) -> None:
    """What the layout can hold comes back from it: ids, revisions, times, odd values; and what was read, once more."""
    parts = [part for parts in parts_of_users for part in parts]
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name, "1"), Path(name, "2")
        assert write_folder(first, parts, layout="markdown") == sum(bool(part.body or part.facts) for part in parts)
        assert find_layout(first) == "markdown"
        read = read_parts(first)
        assert {(part.user_id, part.agent_name) for part in read} == {(part.user_id, part.agent_name) for part in parts}
        by_key = {(part.user_id, part.agent_name): part for part in read}
        for part in parts:
            came = by_key[part.user_id, part.agent_name]
            assert (came.user_revision, came.user_updated_at) == (part.user_revision, part.user_updated_at)
            assert (came.body is None) == (part.body is None)
            assert known(came) == known(part)
        write_folder(second, read, layout="markdown")
        assert read_parts(second) == read


def write_files(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")


def test_what_is_read(tmp_path: Path) -> None:
    """A file gives its fact, text that looks like a date included; facts tell the user's id, summaries the revision."""
    write_files(
        tmp_path,
        {
            f"{BOB}/memory.json": SUMMARIES,
            f"{BOB}/agents/researcher/facts/ab/fact_1.md": MARKDOWN,
            f"{BOB}/agents/researcher/facts/other.txt": "",
            f"{BOB}/agents/researcher/.metadata/fact-usage.json": "{}",
            f"{BOB}/.memory.lock": "",
        },
    )
    assert find_layout(tmp_path) == "markdown"
    wide, agent = read_parts(tmp_path)
    body = {key: value for key, value in SUMMARIES.items() if key != "revision"}
    assert wide == Part("bob@example.com", None, 7, AT, StoredBody(7, codec.canonical(body)), {})
    assert agent.agent_name == "researcher"
    assert (agent.user_id, agent.user_revision, agent.user_updated_at, agent.body) == ("bob@example.com", 7, AT, None)
    fact = StoredFact(3, codec.canonical(VALUE), 1_767_225_600_000_000, 1_767_312_000_000_000)
    assert agent.facts == {"fact_1": fact}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("---\nid: x\n---\nPlain", {"content": "Plain"}),
        ("---\r\nid: x\r\n---\r\n\r\n# T\r\n\r\na\r\nb\r\n", {"title": "T", "content": "a\nb"}),
        ("---\nid: x\ntitle: no\ncontent: no\nscope: no\n---\n# \n\n\n a \n\n", {"content": "a"}),
    ],
)
def test_files_from_other_hands_are_read(text: str, value: dict[str, Any], tmp_path: Path) -> None:
    """A file without a title, with Windows' line ends, or that states neither user nor agent is read as well."""
    write_files(tmp_path, {"agents/a/facts/x.md": text})
    wide, agent = read_parts(tmp_path)
    assert (wide.user_revision, wide.body) == (1, None)
    assert codec.decode(agent.facts["x"].value) == value


def test_summaries_without_a_revision_have_the_greatest_of_the_facts(tmp_path: Path) -> None:
    """A user's revision is never below what is known of it, and at least 1."""
    summaries = {"version": "2.0", "user": {}}
    write_files(tmp_path, {"memory.json": summaries, "users/bob/memory.json": summaries})
    write_files(tmp_path, {"agents/a/facts/x.md": "---\nid: x\nrevision: 4\n---\nTea"})
    wide, agent, bob = read_parts(tmp_path)
    assert [(part.user_revision, part.body and part.body.revision) for part in (wide, agent, bob)] == [
        (4, 4),
        (4, None),
        (1, 1),
    ]


def test_both_layouts_in_one_folder_are_read(tmp_path: Path) -> None:
    """A later DeerFlow takes over what an earlier one left when it needs it: until then both are there."""
    document = {"version": "1.0", "facts": [{"id": "f", "content": "Old"}]}
    write_files(
        tmp_path,
        {
            f"{BOB}/memory.json": SUMMARIES,
            f"{BOB}/agents/researcher/facts/ab/fact_1.md": MARKDOWN,
            f"{BOB}/agents/old/memory.json": document,
            f"{BOB}/agents/old/memory.json.v1.bak": document,
            "users/eve/memory.json": document,
        },
    )
    assert find_layout(tmp_path) == "markdown"
    parts = {(part.user_id, part.agent_name): part for part in read_parts(tmp_path)}
    assert [len(part.facts) for part in parts.values()] == [0, 1, 1, 1]
    assert parts["bob@example.com", "old"].body is not None
    assert {part.user_revision for key, part in parts.items() if key[0] == "bob@example.com"} == {7}


def fact(**value: Any) -> StoredFact:
    return StoredFact(1, codec.canonical({"content": "Tea", **value}), AT, AT)


def part(agent_name: str | None = "a", user_id: str | None = "bob", **facts: StoredFact) -> Part:
    return Part(user_id, agent_name, 1, AT, None, facts)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([part(x=fact(content=" Tea"))], "fact 'x' of user 'bob', agent 'a', would be read differently"),
        ([part(x=fact(content="Tea\r"))], "would be read differently"),
        ([part(x=fact(title="two\nlines"))], "would be read differently"),
        ([part(x=fact(user_id="eve"))], "would be read differently"),
        ([part(x=fact(id="y"))], "has another 'id' in its value; take it out"),
        ([part(x=fact(content=""))], "cannot be read by DeerFlow"),
        ([part(x=fact(content=None))], "cannot be read by DeerFlow"),
        ([part(x=fact(confidence=True))], "cannot be read by DeerFlow"),
        ([part(x=fact(confidence=1.5))], "cannot be read by DeerFlow"),
        ([part(x=fact(status="gone"))], "cannot be read by DeerFlow"),
        ([part(x=fact(topics=None))], "cannot be read by DeerFlow"),
        ([part(x=fact(source={"type": 1}))], "cannot be read by DeerFlow"),
        ([part("a", "bob", **{"a b": fact()})], "fact_id 'a b' is no name"),
        ([part("a", "bob", **{"a" * 253: fact()})], "fact_id gives the name 'aaa"),
        ([part("a_b")], "agent_name 'a_b' is no name"),
        ([part(None, "b@" + "x" * 250)], "user_id gives the name 'b-xxx"),
        ([part("A", x=fact()), part("a", x=fact())], "agent 'a', would be kept where that of user 'bob', agent 'A' is"),
        ([part(None, "a@b"), part(None, "a-b-7508d8b5018ea640")], "of user 'a@b', agent None is"),
        ([part(), part(None)], "of user 'bob', agent None is"),
        ([part(None, x=fact())], "the user-wide part of user 'bob' has facts; only the layout 'documents'"),
        ([Part("bob", "a", 1, AT, StoredBody(1, b"{}"), {})], "agent 'a' of user 'bob' has a body; only the layout"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(parts: list[Part], told: str, tmp_path: Path) -> None:
    """What DeerFlow would not read, or read differently, is named with a remedy; nothing is written."""
    with pytest.raises(InvalidArgument) as refusal:
        write_folder(tmp_path / "new" / "home", [part("fine", None, x=fact()), *parts], layout="markdown")
    assert told in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    """The layouts there are are named."""
    with pytest.raises(InvalidArgument, match="layout must be one of documents, markdown, not 'json'"):
        write_folder(tmp_path, [], layout="json")  # type: ignore[arg-type]  # the mistake itself


def test_changes_are_written(tmp_path: Path) -> None:
    """What a store changed states its new times and revisions."""
    old = {**VALUE, "scope": {"userId": "eve"}, "revision": 1, "id": "x"}
    body = {key: value for key, value in SUMMARIES.items() if key != "revision"}
    wide = Part("bob", None, 9, AT + 1, StoredBody(2, codec.canonical(body)), {})
    agent = Part("bob", "a", 9, AT + 1, None, {"x": StoredFact(4, codec.canonical(old), AT, AT + 1)})
    assert write_folder(tmp_path / "home", [wide, agent], layout="markdown") == 2
    summaries = json.loads((tmp_path / "home/users/bob/memory.json").read_bytes())
    assert summaries == {**SUMMARIES, "revision": 9, "lastUpdated": "2026-01-02T03:04:05.000007Z"}
    (path,) = tmp_path.rglob("*.md")
    assert path.relative_to(tmp_path) == Path("home/users/bob/agents/a/facts/2d/x.md")
    _, came = read_parts(tmp_path / "home")
    moved = {"createdAt": "2026-01-02T03:04:05.000006Z", "updatedAt": "2026-01-02T03:04:05.000007Z"}
    assert came.facts == {"x": StoredFact(4, codec.canonical({**VALUE, **moved}), AT, AT + 1)}
