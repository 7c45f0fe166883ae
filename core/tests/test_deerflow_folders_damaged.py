"""Damage in a folder of DeerFlow: told of with its file, left as it is, and everything else is read."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from deerflow_backends.deerflow_folders import Damaged, read_folder
from deerflow_backends.records import Part

GOOD = json.dumps({"version": "1.0", "facts": [{"id": "f", "content": "Tea"}]}).encode()
FACT = b"---\nid: good\nuser_id: bob\nagent_name: a\n---\n\n# T\n\nTea\n"
DEEP = b'{"facts": [], "deep": ' + b"[" * 250 + b"]" * 250 + b"}"


def facts(*values: object) -> bytes:
    return json.dumps({"facts": values}).encode()


def read(folder: Path) -> tuple[dict[str, str], list[tuple[str | None, str | None]]]:
    """What is damaged, by its place in *folder*, and whose parts are read."""
    found = list(read_folder(folder))
    damaged = {str(item.path.relative_to(folder)): item.reason for item in found if isinstance(item, Damaged)}
    assert all(reason and "\n" not in reason for reason in damaged.values())
    return damaged, [(item.user_id, item.agent_name) for item in found if isinstance(item, Part)]


def bytes_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with memory of both layouts, none of it damaged."""
    for name in ("memory.json", "users/eve/memory.json", "users/eve/agents/a/memory.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "users/bob/agents/a/facts/ab").mkdir(parents=True)
    (tmp_path / "users/bob/agents/a/facts/ab/good.md").write_bytes(FACT)
    return tmp_path


ALL = [(None, None), ("bob", None), ("bob", "a"), ("eve", None), ("eve", "a")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is not JSON"),
        (b'{"facts": [', "is not JSON"),
        (b'{"facts": [NaN]}', "is not JSON"),
        (b'{"facts": [{"id": "a", "confidence": Infinity}]}', "is not JSON"),
        (b'{"a": 1e999}', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must be a JSON object, not list"),
        (b"null", "must be a JSON object, not NoneType"),
        (b'{"facts": {"f": {"path": "x.md"}}}', "facts must be a list, not dict"),
        (b'{"facts": null}', "facts must be a list, not NoneType"),
        (facts("text"), "facts[0] must be an object, not str"),
        (facts({"id": "a"}, {"content": "x"}), "facts[1] has no id"),
        (facts({"id": 5}), "facts[0].id must be a str"),
        (facts({"id": ""}), "facts[0].id must not be empty"),
        (facts({"id": "x" * 513}), "facts[0].id must be at most 512 UTF-8 bytes"),
        (facts({"id": "a"}, {"id": "a"}), "facts[1] has the id 'a' of an earlier one"),
        (b'{"facts": [{"id": "\\ud800"}]}', ""),
        (DEEP, "the document is nested more than 200 deep"),
        (b'{"a": ' + b"1" * 4_001 + b"}", "more than 4000 digits"),
        (facts({"id": "a", "content": "x" * (8 * 1024 * 1024)}), "facts[0] must be at most 8388608 bytes"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_damaged_document_is_not_read_at_all(data: bytes, reason: str, folder: Path) -> None:
    """No part of it is given, not even its good facts; the file stays as it is, and the others are read."""
    path = folder / "users/eve/agents/a/memory.json"
    path.write_bytes(data)
    before = bytes_in(folder)
    damaged, parts = read(folder)
    assert list(damaged) == ["users/eve/agents/a/memory.json"]
    assert reason in damaged["users/eve/agents/a/memory.json"]
    assert parts == ALL[:-1]
    assert bytes_in(folder) == before


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not begin with YAML"),
        (b"# T\n\nTea\n", "does not begin with YAML"),
        (b"---\nid: bad\nTea\n", "does not begin with YAML"),
        (b"---\nid: [\n---\nTea\n", "is no YAML"),
        (b"---\nid: " + b"[" * 100_000 + b"\n---\nTea\n", "is no YAML"),
        (b"---\n- id\n---\nTea\n", "is no mapping but list"),
        (b"---\nid: other\n---\nTea\n", "states another id than its name"),
        (b"---\ntitle: x\n---\nTea\n", "states another id than its name"),
        (b"---\nid: bad\nx: !!python/object:os.x {}\n---\nTea\n", "is no YAML"),
        (b"---\nid: bad\nx: !!bool maybe\n---\nTea\n", "is no YAML"),
        (b"---\nid: bad\nx: &x [1]\ny: *x\n---\nTea\n", "alias"),
        (b"---\nid: bad\nx: .nan\n---\nTea\n", "the fact.x is nan"),
        (b"---\nid: bad\nx: !!binary aGk=\n---\nTea\n", "the fact.x is a bytes"),
        (b"---\nid: bad\n5: x\n---\nTea\n", "has the key 5"),
        (b"---\nid: bad\nrevision: 0\n---\nTea\n", "has the revision 0"),
        (b"---\nid: bad\nrevision: yes\n---\nTea\n", "has the revision True"),
        (b"---\nid: bad\nuser_id: eve\n---\nTea\n", "states another user than its folder: 'eve'"),
        (b"---\nid: bad\nuser_id: null\n---\nTea\n", "states another user than its folder: None"),
        (b"---\nid: bad\nuser_id: [x]\n---\nTea\n", "states another user than its folder: ['x']"),
        (b"---\nid: bad\nagent_name: b\n---\nTea\n", "states another agent than its folder: 'b'"),
        (b"---\nid: bad\n---\n\xff\n", "is not UTF-8"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_damaged_fact_leaves_the_others(data: bytes, reason: str, folder: Path) -> None:
    """A Markdown file stands for itself: it stays as it is and is not read, the agent's other facts are."""
    (folder / "users/bob/agents/a/facts/ab/bad.md").write_bytes(data)
    before = bytes_in(folder)
    damaged, parts = read(folder)
    assert list(damaged) == ["users/bob/agents/a/facts/ab/bad.md"]
    assert reason in damaged["users/bob/agents/a/facts/ab/bad.md"]
    assert parts == ALL
    assert bytes_in(folder) == before


@pytest.mark.parametrize(
    ("name", "data", "reason", "parts"),
    [
        ("users/bob/memory.json", b'{"version": "2.0", "revision": -1}', "has the revision -1", ALL),
        ("users/bob/agents/a/facts/cd/good.md", FACT, "has the name of a fact in another folder", ALL),
        ("users/bob/agents/a/memory.json", GOOD, "has facts in Markdown files beside it", ALL),
        ("users/eve/.memory.journal.json", b"{}", "DeerFlow has not finished", ALL[:3]),
        (".deerflow-backends-adding/users/x/memory.json", GOOD, "left by a write that was killed", ALL),
        (f"users/{'x' * 100}\udcff/memory.json", GOOD, "its name has a lone surrogate", ALL),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_ambiguous_is_damage(
    name: str, data: bytes, reason: str, parts: list[tuple[str | None, str | None]], folder: Path
) -> None:
    """What DeerFlow or we left half-way, what is there twice and what has no true name is told of, not guessed at."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    before = bytes_in(folder)
    damaged, found = read(folder)
    (place,) = damaged
    assert name.startswith(place)
    assert reason in damaged[place]
    assert found == parts
    assert bytes_in(folder) == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("memory.json", ALL),
        ("users/eve/agents/a/memory.json", ALL[:-1]),
        ("users/eve/agents/a", ALL[:-1]),
        ("users/eve/agents", ALL[:-1]),
        ("users/eve", ALL[:-2]),
        ("users", ALL[:1]),
        ("users/bob/agents/a/facts/ab/good.md", [ALL[0], *ALL[3:]]),
        ("users/bob/agents/a/facts", [ALL[0], *ALL[3:]]),
    ],
)
def test_links_are_not_followed(name: str, parts: list[tuple[str | None, str | None]], folder: Path) -> None:
    """Neither a file nor a folder is read through a link, wherever it leads: it may be another's."""
    path = folder / name
    elsewhere = folder / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    damaged, found = read(folder)
    assert damaged == {name: "is a symbolic link, which is not followed"}
    assert found == [part for part in parts if name != "memory.json" or part != (None, None)]


def test_no_plain_file_is_not_opened(folder: Path) -> None:
    """A folder or a pipe of that name is told of; opening a pipe would wait for ever."""
    os.mkfifo(folder / "users/eve/agents/a/facts.md")
    (folder / "users/new/memory.json").mkdir(parents=True)
    os.mkfifo(folder / "users/bob/memory.json")
    damaged, parts = read(folder)
    assert damaged == dict.fromkeys(("users/bob/memory.json", "users/new/memory.json"), "is not a plain file")
    assert parts == ALL


def test_what_may_not_be_read_is_damage() -> None:
    """A file or folder that the system refuses to open is told of; the others are read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for user in ("bob", "eve", "old"):
            (folder / "users" / user).mkdir(parents=True)
            (folder / "users" / user / "memory.json").write_bytes(GOOD)
        (folder / "users/eve/agents").mkdir()
        folder.chmod(0o755)
        (folder / "users/bob/memory.json").chmod(0)
        (folder / "users/eve/agents").chmod(0)
        user_id = os.geteuid()
        os.seteuid(user_id or 65_534)  # nothing is refused to root
        try:
            damaged, parts = read(folder)
        finally:
            os.seteuid(user_id)
        assert damaged == dict.fromkeys(
            ["users/bob/memory.json", "users/eve/agents"], "cannot be read: Permission denied"
        )
        assert parts == [("eve", None), ("old", None)]
