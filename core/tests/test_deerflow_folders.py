"""Folders of DeerFlow with one document a part: read whole, and written back equal."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deerflow_backends import (
    BackendUnavailable,
    ConfigError,
    DeleteFact,
    InvalidArgument,
    PutBody,
    PutFact,
    codec,
    open_backends,
)
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import Damaged, find_layout, read_folder, write_folder
from deerflow_backends.records import Part, read_part

SUMMARY = {"summary": "", "updatedAt": ""}
DOCUMENT: dict[str, Any] = {
    "version": "1.0",
    "lastUpdated": "2026-01-02T03:04:05.000006Z",
    "user": {"workContext": {"summary": "Écrit", "updatedAt": ""}, "personalContext": SUMMARY, "topOfMind": SUMMARY},
    "history": {"recentMonths": SUMMARY, "earlierContext": SUMMARY, "longTermBackground": SUMMARY},
    "facts": [
        {"id": "z", "content": "Tea", "category": "preference", "confidence": 0.9, "createdAt": "2026-01-01T00:00:00Z"},
        {"id": "a", "content": "Second", "source": "thread-1", "odd": [1, 1.0, True, -0.0, None]},
    ],
}
AT = 1_767_323_045_000_006  # its lastUpdated

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, 1, 1.0, True, -0.0, 1e-320, 10**3999, "\0", {"": [{"a.b": "$x"}]}, [[]]]
)
times = odd_values | st.sampled_from(
    ["2026-01-02T03:04:05.000006Z", "2026-01-02T03:04:05", "2026-01-02", "0001-01-01T00:00:00+14:00", "9999-12-31", ""]
)


def mappings(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings that have some of the *known* keys, and others."""
    return st.tuples(st.dictionaries(texts, odd_values, max_size=2), st.fixed_dictionaries({}, optional=known)).map(
        lambda pair: {
            **{key: value for key, value in pair[0].items() if key not in {"id", "facts", "version"}},
            **pair[1],
        }
    )


facts = st.lists(
    st.tuples(texts.filter(bool), mappings(createdAt=times, updatedAt=times, content=texts)),
    max_size=4,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: [{**value, "id": fact_id} for fact_id, value in pairs])
documents = mappings(version=st.just("1.0"), lastUpdated=times, user=odd_values, facts=facts)
homes = st.sampled_from([".", "users/bob", "users/Bob_2"])
places = st.tuples(homes, st.sampled_from(["", "agents/researcher/", "agents/-/"])).map(
    lambda pair: f"{pair[0]}/{pair[1]}memory.json"
)


def write_files(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_documents(folder: Path) -> dict[str, bytes]:
    """The documents in *folder*, each as bytes that are equal if exactly the documents are, but for order of keys."""
    return {name: codec.canonical(json.loads(data)) for name, data in read_files(folder).items()}


def read_parts(folder: Path) -> list[Part]:
    found = list(read_folder(folder))
    assert [item for item in found if isinstance(item, Damaged)] == []
    return [item for item in found if isinstance(item, Part)]


def stored(parts: Iterable[Part]) -> Iterator[Part]:
    """What is left of *parts* on their way through any store: they become records, and facts are ordered by id."""
    for part in parts:
        yield read_part(codec.decode(codec.encode(part.to_record())), "records[0]")


@settings(max_examples=60)
@given(st.dictionaries(places, documents, max_size=5))
def test_documents_come_back_equal(files: dict[str, Any]) -> None:
    """Read, carried through records and written out, every document is equal: order of facts, times, odd values."""
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name, "before"), Path(name, "new", "after")
        before.mkdir()
        write_files(before, files)
        originals = read_files(before)
        parts = read_parts(before)
        assert find_layout(before) == ("documents" if files else None)
        assert write_folder(after, stored(parts)) == len(files)
        assert read_documents(after) == read_documents(before)
        assert read_files(before) == originals


def test_what_is_read(tmp_path: Path) -> None:
    """A user's parts come together, the user-wide one first, there or not; values, times and revisions are as said."""
    write_files(
        tmp_path,
        {
            "memory.json": {"facts": []},
            "users/bob/agents/b/memory.json": DOCUMENT,
            "users/bob/agents/a/memory.json": {**DOCUMENT, "lastUpdated": "2026-01-02T03:04:05.000007Z"},
            "users/bob/agents/c/config.yaml": b"name: c",
            "users/bob/threads/t/memory.json": b"not memory",
            "users/empty/agents/a/SOUL.md": b"soul",
            "config.yaml": b"x",
        },
    )
    os.utime(tmp_path / "memory.json", ns=(0, 5_000))
    shared, wide, a, b = read_parts(tmp_path)
    assert shared == Part(None, None, 1, 5, StoredBody(1, b'{"facts":[]}'), {})
    assert wide == Part("bob", None, 1, AT + 1, None, {})
    assert (a.user_id, a.agent_name, b.user_id, b.agent_name) == ("bob", "a", "bob", "b")
    assert {(part.user_revision, part.user_updated_at) for part in (a, b)} == {(1, AT + 1)}
    assert b.body == StoredBody(1, codec.canonical({**DOCUMENT, "facts": ["z", "a"]}))
    tea = {key: value for key, value in DOCUMENT["facts"][0].items() if key != "id"}
    assert b.facts["z"] == StoredFact(1, codec.canonical(tea), 1_767_225_600_000_000, 1_767_225_600_000_000)
    assert b.facts["a"][2:] == (AT, AT)


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    """A folder without memory, or none at all, has no layout and no parts."""
    write_files(tmp_path, {"threads/t/x": b"", "agents/a/config.yaml": b"", "users": b"a file"})
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "users"):
        assert find_layout(folder) is None
        assert list(read_folder(folder)) == []


async def _change(folder: Path, data: Path, *changes: Any) -> list[Part]:
    settings = {"memory": "sqlite", "connections": {"sqlite": {"path": str(data)}}}
    async with open_backends(settings) as backends:
        await backends.memory.restore(part.to_record() for part in read_parts(folder))
        if changes:
            await backends.memory.apply("bob", changes)
        return [read_part(record, "record") async for record in backends.memory.export()]


FILES = {"users/bob/memory.json": DOCUMENT, "users/bob/agents/a/memory.json": DOCUMENT, "memory.json": DOCUMENT}


def test_a_store_between_changes_nothing(tmp_path: Path, unconfigured: Path) -> None:
    """What SQLite was given and gave back is written as it was."""
    write_files(tmp_path / "before", FILES)
    write_folder(tmp_path / "after", asyncio.run(_change(tmp_path / "before", tmp_path / "data")))
    assert read_documents(tmp_path / "after") == read_documents(tmp_path / "before")


def test_changes_are_written(tmp_path: Path, unconfigured: Path) -> None:
    """New facts follow and state their time, deleted ones are gone, a changed document is younger, others are equal."""
    write_files(tmp_path / "before", FILES)
    parts = asyncio.run(
        _change(
            tmp_path / "before",
            tmp_path / "data",
            PutFact(None, "b", {"content": "New"}),
            DeleteFact(None, "z"),
            PutFact("new", "only", {"content": "Of an agent without a document"}),
        )
    )
    write_folder(tmp_path / "after", parts)
    written = {name: json.loads(data) for name, data in read_files(tmp_path / "after").items()}
    changed, new = written.pop("users/bob/memory.json"), written.pop("users/bob/agents/new/memory.json")
    assert written == {name: document for name, document in FILES.items() if name != "users/bob/memory.json"}
    assert [fact["id"] for fact in changed["facts"]] == ["a", "b"]
    assert changed["facts"][1]["content"] == "New"
    assert changed["facts"][1]["createdAt"] == changed["lastUpdated"] == new["lastUpdated"] > "2026-11"
    assert {**changed, "lastUpdated": 0, "facts": 0} == {**DOCUMENT, "lastUpdated": 0, "facts": 0}
    assert new.keys() == DOCUMENT.keys()
    assert new["user"].keys() == DOCUMENT["user"].keys()


@pytest.mark.parametrize(
    "changes",
    [
        [PutFact("a", "z", {"content": "Other"})],
        [DeleteFact("a", "z")],
        [DeleteFact("a", "z"), PutBody(None, {})],
        [PutBody("a", {**DOCUMENT, "user": {}, "facts": ["z", "a"]})],
        [PutBody("a", {"user": {}})],
    ],
)
def test_every_change_moves_the_time(changes: list[Any], tmp_path: Path, unconfigured: Path) -> None:
    """Whatever changed in a document, it says so with a later time."""
    write_files(tmp_path / "before", FILES)
    write_folder(tmp_path / "after", asyncio.run(_change(tmp_path / "before", tmp_path / "data", *changes)))
    document = json.loads((tmp_path / "after/users/bob/agents/a/memory.json").read_bytes())
    assert document["lastUpdated"] > "2026-11"
    assert document.keys() == DOCUMENT.keys()


def test_a_fact_put_again_moves_the_time(tmp_path: Path) -> None:
    """A fact that was deleted and put again is young, though it is its first revision."""
    write_files(tmp_path / "before", FILES)
    parts = read_parts(tmp_path / "before")
    (part,) = (part for part in parts if part.agent_name == "a")
    again = {**part.facts, "z": part.facts["z"]._replace(created_at=AT + 5, updated_at=AT + 5)}
    write_folder(tmp_path / "after", [Part("bob", "a", 3, AT + 5, part.body, again)])
    document = json.loads((tmp_path / "after/users/bob/agents/a/memory.json").read_bytes())
    assert document == {**DOCUMENT, "lastUpdated": "2026-01-02T03:04:05.000011Z"}


def test_a_changed_fact_gives_a_document_its_first_time(tmp_path: Path) -> None:
    """A document that states no time of its own gets one when a fact of it was changed, and not before."""
    body = StoredBody(1, codec.canonical({"facts": ["f"]}))
    for revision, document in ((1, {}), (2, {"lastUpdated": "2026-01-02T03:04:05.000006Z"})):
        folder = tmp_path / str(revision)
        write_folder(folder, [Part(None, None, 5, AT, body, {"f": StoredFact(revision, b"{}", AT, AT)})])
        assert json.loads((folder / "memory.json").read_bytes()) == {"facts": [{"id": "f"}], **document}


def part(user_id: str | None = "bob", agent_name: str | None = None, body: Any = None, **values: Any) -> Part:
    facts = {fact_id: StoredFact(1, codec.canonical(value), AT, AT) for fact_id, value in values.items()}
    return Part(user_id, agent_name, 1, AT, StoredBody(1, codec.canonical(body or {})), facts)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([part("a/b")], "user_id 'a/b' is no name"),
        ([part("..")], "user_id '..' is no name"),
        ([part("a\0")], r"user_id 'a\x00' is no name"),
        ([part("bob@example.com")], "user_id 'bob@example.com' is no name"),
        ([part("bob\n")], r"user_id 'bob\n' is no name"),
        ([part("b" * 256)], "user_id gives the name 'bbb"),
        ([part(None, "a_b")], "agent_name 'a_b' is no name"),
        ([part(None, "../a")], "agent_name '../a' is no name"),
        ([part("bob", "Coder"), part("bob", "coder")], "agent 'coder', would be kept where that of user 'bob'"),
        ([part(), part()], "of user 'bob', agent None, would be kept where"),
        ([part(body={"facts": [{}]})], "of user 'bob', agent None, has something else than fact ids under 'facts'"),
        ([part(x={"id": "y"})], "fact 'x' of user 'bob', agent None, has another 'id' in its value, 'y'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_what_deerflow_cannot_have_is_refused(parts: list[Part], told: str, there: bool, tmp_path: Path) -> None:
    """A name that DeerFlow does not have, or folds into another's, is named with a remedy; nothing is written."""
    if there:
        write_files(tmp_path / "home", {"config.yaml": b"x"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidArgument, match=r"take|rename|put") as refusal:
        write_folder(tmp_path / "home", [part("fine"), *parts])
    assert told in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("agent_name", ["Coder", None])
def test_other_names_are_written(agent_name: str | None, tmp_path: Path) -> None:
    """An agent has a folder in lower case, as DeerFlow looks for it."""
    assert write_folder(tmp_path / "home", [part("A-z_0", agent_name), part("A-z_0", "-")]) == 2
    folder = "agents/coder/" if agent_name else ""
    assert (tmp_path / f"home/users/A-z_0/{folder}memory.json").is_file()


@pytest.mark.parametrize(
    "name",
    ["memory.json", "agents/a/memory.json", "users/u/memory.json", "users/u/agents/a/memory.json",
     "users/u/agents/a/facts/ab/x.md", "users/u/.memory.journal.json"],
)  # fmt: skip
def test_a_folder_with_memory_is_refused(name: str, tmp_path: Path) -> None:
    """What holds memory, be it damaged, is not written to, and the file is named."""
    write_files(tmp_path, {name: b"damaged", "config.yaml": b"x"})
    with pytest.raises(ConfigError) as refusal:
        write_folder(tmp_path, [part()])
    assert str(tmp_path / name) in str(refusal.value)
    assert read_files(tmp_path) == {name: b"damaged", "config.yaml": b"x"}


@pytest.mark.parametrize(("name", "link"), [("users", True), ("agents/a", True), ("users", False), (".", False)])
def test_a_folder_that_is_in_the_way_is_refused(name: str, link: bool, tmp_path: Path) -> None:
    """A link that may hide memory, and a file where a folder must be, are named; nothing is written."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "home" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if link:
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as refusal:
        write_folder(tmp_path / "home", [part("bob"), part(None, "a")])
    assert str(path) in str(refusal.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_unrelated_content_stays(tmp_path: Path) -> None:
    """A home of DeerFlow without memory gets new files beside what is there."""
    there = {"config.yaml": b"x", "users/bob/threads/t/y": b"y", "agents/a/SOUL.md": b"soul"}
    write_files(tmp_path, there)
    write_folder(tmp_path, [part("bob"), part(None, "a"), part("new")])
    files = read_files(tmp_path)
    assert files.items() >= there.items()
    new = {"users/bob/memory.json", "users/new/memory.json", "agents/a/memory.json"}
    assert files.keys() - there.keys() == new


def test_a_disk_that_refuses_is_told_of(tmp_path: Path) -> None:
    """Where no folder can be made, the error names it and says that nothing was written."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(BackendUnavailable, match=r"file/home cannot be written") as refusal:
        write_folder(tmp_path / "file" / "home", [part()])
    assert not refusal.value.maybe_written
    assert read_files(tmp_path) == {"file": b"x"}


#: Forks a writer for each of its steps, kills it before that one, and says what a reader then finds.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from deerflow_backends import ConfigError
from deerflow_backends.changes import StoredBody
from deerflow_backends.deerflow_folders import Damaged, read_folder, write_folder
from deerflow_backends.records import Part

parts = [Part(user, None, 1, 5, StoredBody(1, b"{}"), {}) for user in ("a", "b", "c")]
step = 0
for there in (False, True):
    for last in range(10_000):
        folder = Path(sys.argv[1], f"{there}-{last}")
        if there:
            (folder / "users/b").mkdir(parents=True)
        child = os.fork()
        if not child:
            def count(event, arguments):
                global step
                if event in ("open", "os.mkdir", "os.rename", "os.utime", "os.rmdir", "os.remove", "shutil.rmtree"):
                    if step == last:
                        os.kill(os.getpid(), signal.SIGKILL)
                    step += 1
            sys.addaudithook(count)
            write_folder(folder, parts)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = list(read_folder(folder))
        whole = [item.user_id for item in found if isinstance(item, Part)]
        told = any(isinstance(item, Damaged) for item in found)
        try:
            again = write_folder(folder, parts)
        except ConfigError:
            again = 0
        healed = [item.user_id for item in read_folder(folder)]
        print(json.dumps([there, os.WIFSIGNALED(status), whole, told, again, healed]))
        if not status:
            break
"""


def test_a_killed_write_is_whole_or_finished_by_the_next(tmp_path: Path) -> None:
    """Killed before any of its steps, a write is not there, or there, or told of and finished by the next one."""
    run = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, timeout=300, check=True
    )
    results = [tuple(json.loads(line)) for line in run.stdout.splitlines()]
    everyone = ["a", "b", "c"]
    states = set()
    for there, was_killed, whole, told, again, healed in results:
        assert healed == everyone
        assert again == (3 if not told and not whole else 0)
        assert told or whole in ([], everyone)
        states.add((there, was_killed, len(whole), told))
    assert {(False, True, 0, False), (False, True, 3, False), (False, False, 3, False)} <= states
    assert {(True, True, 0, False), (True, True, 1, True), (True, True, 3, True), (True, False, 3, False)} <= states
