"""The command ``copy``: everything arrives as it was, once, verified; and what it refuses, and how it goes on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from deerflow_backends import ABSENT, ANY_USER, DeleteFact, NewThread, PutBody, PutFact, sqlite
from deerflow_backends.memories import Record

Invoke = Callable[..., tuple[int, str, str]]
Plugin = Callable[[str, str], str]

ODD = ("Ada", "ada", "a\x00b", "é", "e\u0301", "鹿🦌", "' OR 1=1 --", "../../etc", "x" * 512, "\x1b[2J\n", " ")

OPENING: dict[str, Any] = {"memory": sqlite.open_memory, "thread_index": sqlite.open_thread_index}


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """Configure the connections `old` and `new`, each a folder of that name, and return where they are."""
    (tmp_path / "deerflow-backends.yaml").write_text(
        "connections:\n  old: {backend: sqlite, path: old}\n  new: {backend: sqlite, path: new}\n", encoding="utf-8"
    )
    return tmp_path


def in_store(folder: Path, capability: str, body: Callable[[Any], Any]) -> Any:
    """Do something in the SQLite store of a folder, as another program would."""

    async def opened() -> Any:
        async with sqlite.connect(path=folder) as connection, OPENING[capability](connection) as store:
            return await body(store)

    return asyncio.run(opened())


def exported(folder: Path, capability: str) -> list[Record]:
    async def everything(store: Any) -> list[Record]:
        return [record async for record in store.export()]

    found: list[Record] = in_store(folder, capability, everything)
    return found


def fill(folder: Path, capability: str, records: Iterable[Record]) -> None:
    in_store(folder, capability, lambda store: store.restore(records))


async def remember(memory: Any) -> None:
    for user in (*ODD, None):
        await memory.apply(user, [PutBody(None, {"-0.0": -0.0, "big": 2**90, "nul": "\x00"})])
        for agent in ODD[:3]:
            await memory.apply(user, [PutFact(agent, "f", {"content": user}), PutFact(agent, "gone", {})])
            await memory.apply(user, [DeleteFact(agent, "gone")])
    await memory.apply("cleared", [PutFact(None, "f", {}, expected=ABSENT)])
    await memory.clear("cleared")


async def converse(threads: Any) -> None:
    for number, name in enumerate(ODD):
        owner = None if number == 0 else name
        await threads.create(NewThread(name, owner, display_name=name, status=name, metadata={name: [1, 1.0, True]}))
    await threads.update(ODD[1], user_id=ANY_USER, metadata={"deerflow_pinned": True})


FILLING = {"memory": remember, "thread_index": converse}


@pytest.mark.parametrize("capability", ["memory", "thread_index"])
def test_everything_arrives_as_it_was(invoke: Invoke, configured: Path, capability: str) -> None:
    """Whatever the ids: every record with its revisions and times, verified; a second time nothing changes."""
    in_store(configured / "old", capability, FILLING[capability])
    records = exported(configured / "old", capability)
    code, shown, told = invoke("copy", capability, "--from", "old", "--to", "new", "--json")
    assert (code, told) == (0, "")
    summary = json.loads(shown)
    assert exported(configured / "new", capability) == records
    assert (summary["ok"], summary["verified"], summary["from"], summary["to"]) == (True, True, "old", "new")
    assert (summary["records"], summary["new"], summary["found"]) == (len(records), len(records), len(records))
    code, shown, told = invoke("copy", capability, "--from", "old", "--to", "new")
    assert (code, told) == (0, "")
    assert f"{len(records)} were there already" in shown
    assert f"verified: all {len(records)} read back equal" in shown
    assert exported(configured / "new", capability) == records


def test_an_empty_source_is_told(invoke: Invoke, configured: Path) -> None:
    """Nothing to copy is no success in silence."""
    code, shown, _ = invoke("copy", "memory", "--from", "old", "--to", "new")
    assert (code, shown) == (0, "There is nothing in old; nothing was copied.\n")


def thread(thread_id: str, **fields: Any) -> Record:
    record: Record = {"kind": "thread", "contract": "1.0", "thread_id": thread_id, "user_id": "ada", "status": "idle"}
    record |= {"assistant_id": None, "display_name": None, "metadata": {}}
    return record | dict.fromkeys(("created_at", "updated_at"), "2026-01-31T12:00:00.000000+00:00") | fields


def part(user_id: str, agent_name: str | None, **fields: Any) -> Record:
    record: Record = {"kind": "memory", "contract": "1.0", "user_id": user_id, "agent_name": agent_name}
    record |= {"user_revision": 9, "user_updated_at": "2026-01-31T12:00:00.000000+00:00"}
    return record | {"body": {"agent": agent_name}, "body_revision": 3, "facts": []} | fields


MANY = {
    "memory": [part(f"user {u:03}", agent) for u in range(140) for agent in (None, "a", "b", "c", "d", "e", "f")],
    "thread_index": [thread(f"thread {number:03}") for number in range(980)],
}

PAUSING = """
    import asyncio
    import os
    from deerflow_backends import BackendUnavailable
    from deerflow_backends.sqlite.memories import SqliteMemoryStore
    from deerflow_backends.sqlite.plugin import *
    from deerflow_backends.sqlite.threads import SqliteThreadIndex

    def paused(export):
        async def pausing(self):
            async for number, record in numbered(export(self)):
                if number == 650 and "OUTAGE" in os.environ:
                    raise BackendUnavailable("the moon does not answer")
                if number == 650:
                    await asyncio.sleep(1000)
                yield record
        return pausing

    async def numbered(records):
        number = 0
        async for record in records:
            yield number, record
            number += 1

    SqliteMemoryStore.export = paused(SqliteMemoryStore.export)
    SqliteThreadIndex.export = paused(SqliteThreadIndex.export)
"""


@pytest.mark.parametrize("capability", ["memory", "thread_index"])
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT, None])
def test_a_copy_that_was_ended_half_way_goes_on(
    program: str, invoke: Invoke, plugin: Plugin, configured: Path, *, capability: str, ended_by: signal.Signals | None
) -> None:
    """Killed, interrupted or cut off inside a user: the same command copies the rest and finds all of it."""
    fill(configured / "old", capability, MANY[capability])
    slow = {"backend": "acme", "path": "old"}
    environment = {
        **os.environ,
        **({} if ended_by else {"OUTAGE": "1"}),
        "PYTHONPATH": plugin("acme", PAUSING),
        "DEERFLOW_BACKENDS_CONNECTIONS__SLOW": json.dumps(slow),
    }
    command = [program, "copy", capability, "--from", "slow", "--to", "new"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        if ended_by is not None:
            while len(exported(configured / "new", capability)) < 500:
                assert process.poll() is None
            process.send_signal(ended_by)
        assert process.stderr is not None
        said = process.stderr.read().splitlines()
        code = process.wait(timeout=30)
    stays = "What was copied until now stays; the same command goes on from there."
    assert (code, said) == {
        signal.SIGKILL: (-signal.SIGKILL, []),
        signal.SIGINT: (130, [stays]),
        None: (1, [stays, "error: the moon does not answer"]),
    }[ended_by]
    there = exported(configured / "new", capability)
    assert 500 <= len(there) < 980
    code, shown, told = invoke("copy", capability, "--from", "old", "--to", "new", "--json")
    assert (code, told) == (0, "")
    summary = json.loads(shown)
    assert (summary["new"], summary["records"], summary["verified"]) == (980 - len(there), 980, True)
    assert exported(configured / "new", capability) == exported(configured / "old", capability)


def test_a_folder_is_not_begun_by_a_copy_that_was_interrupted(program: str, plugin: Plugin, configured: Path) -> None:
    """Ctrl-C, while the source keeps everybody waiting: at once, without a traceback, and no folder is left behind."""
    fill(
        configured / "old", "memory", [{**record, "user_id": "u" + record["user_id"][5:]} for record in MANY["memory"]]
    )
    environment = {
        **os.environ,
        "PYTHONPATH": plugin("acme", PAUSING),
        "DEERFLOW_BACKENDS_CONNECTIONS__SLOW": json.dumps({"backend": "acme", "path": "old"}),
    }
    command = [program, "copy", "memory", "--from", "slow", "--to", "deerflow:out"]
    before = sorted(configured.iterdir())
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while sum(len(files) for _, _, files in os.walk(configured)) < 600:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 130
    assert sorted(configured.iterdir()) == before


def test_a_target_that_holds_something_else_is_refused(invoke: Invoke, configured: Path) -> None:
    """What the source does not have, or has otherwise, refuses the copy: named, code 2, nothing written."""
    fill(configured / "old", "thread_index", [thread("a"), thread("b")])
    for other in (thread("c\x1b"), thread("a", status="busy")):
        folder = configured / "new" if other["thread_id"] == "c\x1b" else configured / "newer"
        with (configured / "deerflow-backends.yaml").open("a", encoding="utf-8") as file:
            file.write("  newer: {backend: sqlite, path: newer}\n" if folder.name == "newer" else "")
        fill(folder, "thread_index", [other])
        code, shown, told = invoke("copy", "thread_index", "--from", "old", "--to", folder.name)
        assert (code, shown) == (2, "")
        (line,) = told.splitlines()
        if folder.name == "new":
            assert f"new is not empty: old has nothing equal to the thread {other['thread_id']!r}" in line
        else:
            assert "the thread 'a' is in old and in newer, with other contents" in line
        assert ("--into-existing" in line) == (folder.name == "new")
        assert exported(folder, "thread_index") == [other]


def test_into_existing_leaves_what_is_there(invoke: Invoke, configured: Path) -> None:
    """With --into-existing other records stay, and are counted."""
    fill(configured / "old", "thread_index", [thread("a"), thread("b")])
    fill(configured / "new", "thread_index", [thread("b"), thread("c")])
    code, shown, told = invoke("copy", "thread_index", "--from", "old", "--to", "new", "--into-existing")
    assert (code, told) == (0, "")
    assert "copied 1 thread from old to new, 1 was there already" in shown
    assert "1 thread besides in new, left alone" in shown
    assert exported(configured / "new", "thread_index") == [thread("a"), thread("b"), thread("c")]


@pytest.mark.parametrize(
    ("capability", "records", "other", "said"),
    [
        ("thread_index", [thread(c) for c in "abc"], thread("b", status="busy"), "the thread 'b' is stored with other"),
        ("memory", [part(c, None) for c in "abc"], part("b", None, body={}), "user 'b' (agent None) is stored with"),
    ],
)
def test_a_conflict_stops_and_says_what_stays(
    invoke: Invoke, configured: Path, *, capability: str, records: list[Record], other: Record, said: str
) -> None:
    """The record that is there otherwise is named with the remedy, code 1; what came before it stays and is counted."""
    fill(configured / "old", capability, records)
    fill(configured / "new", capability, [other])
    code, shown, told = invoke("copy", capability, "--from", "old", "--to", "new", "--into-existing", "--json")
    assert code == 1
    error, stays = told.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert "first" in error
    assert stays.endswith(" of old read until then; 1 of them are in new.")
    summary = json.loads(shown)
    assert (summary["ok"], summary["verified"], summary["found"]) == (False, False, 1)
    assert exported(configured / "new", capability) == [records[0], other]


@pytest.mark.parametrize("path", ["old", "./old", "link"])
def test_one_store_under_two_names_is_refused(
    invoke: Invoke, configured: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """However the folder is written, and whatever else the connections say of durability and time."""
    (configured / "link").symlink_to(configured / "old")
    other = {"backend": "sqlite", "path": path, "synchronous": "NORMAL", "timeout_seconds": 9}
    monkeypatch.setenv("DEERFLOW_BACKENDS_CONNECTIONS__OTHER", json.dumps(other))
    code, shown, told = invoke("copy", "memory", "--from", "old", "--to", "other")
    assert (code, shown) == (2, "")
    assert told == "error: --from old and --to other are the same store; there is nothing to copy\n"
    for name, origin in (("F", {}), ("G", {"import_from": "old"})):
        block = {"backend": "files", "path": "files", **origin}
        monkeypatch.setenv(f"DEERFLOW_BACKENDS_CONNECTIONS__{name}", json.dumps(block))
    code, shown, told = invoke("copy", "memory", "--from", "f", "--to", "g")
    assert (code, shown) == (2, "")
    assert "are the same store" in told
    other["namespace"] = "another"
    monkeypatch.setenv("DEERFLOW_BACKENDS_CONNECTIONS__OTHER", json.dumps(other))
    assert invoke("copy", "memory", "--from", "old", "--to", "other")[0] == 0


def test_what_does_not_read_back_equal_is_told(
    invoke: Invoke, configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that loses one record and alters another has the copy fail: both are named, code 1."""
    restore = sqlite.threads.SqliteThreadIndex.restore

    async def careless(self: Any, records: AsyncIterator[Record]) -> int:
        kept = [record async for record in records if record["thread_id"] != "a"]
        kept[0]["metadata"] = {"altered": 1.0}
        return await restore(self, kept)

    fill(configured / "old", "thread_index", [thread(c, metadata={"altered": 1}) for c in "abc"])
    monkeypatch.setattr(sqlite.threads.SqliteThreadIndex, "restore", careless)
    code, shown, told = invoke("copy", "thread_index", "--from", "old", "--to", "new")
    assert (code, shown) == (1, "")
    assert told.splitlines() == [
        "error: reading back: the thread 'b' differs",
        "error: reading back: the thread 'a' is missing",
        "1 of 3 threads are in new as they were copied.",
    ]


def document(**fields: Any) -> str:
    fact = {"id": "fact_1", "content": "Prefers short answers", "category": "preference", "confidence": 0.9}
    sections = {"user": {"workContext": {"summary": "s", "updatedAt": ""}}, "history": {}}
    whole = {"version": "1.0", "lastUpdated": "2026-01-31T12:00:00.123456Z", **sections, "facts": [fact]}
    return json.dumps({**whole, **fields}, indent=2)


@pytest.fixture
def host(configured: Path) -> Path:
    """A folder of DeerFlow 2.0-rc with three parts of memory, and something that is none."""
    folder = configured / "host"
    for home in ("", "agents/coder", "users/ada"):
        (folder / home).mkdir(parents=True)
        (folder / home / "memory.json").write_text(document(home=home), encoding="utf-8")
    (folder / "config.yaml").write_text("x: 1\n", encoding="utf-8")
    return folder


def test_a_folder_of_deerflow_comes_in_and_goes_out_again(invoke: Invoke, configured: Path, host: Path) -> None:
    """Copied into a store and out again each document is equal as JSON; a second time nothing changes."""
    code, shown, _ = invoke("copy", "memory", "--from", "deerflow:host", "--to", "new", "--json")
    assert (code, json.loads(shown)["records"], json.loads(shown)["verified"]) == (0, 3, True)
    for new in (3, 0):
        code, shown, told = invoke("copy", "memory", "--from", "new", "--to", "deerflow:out", "--json")
        assert (code, told) == (0, "")
        summary = json.loads(shown)
        assert (summary["records"], summary["new"], summary["verified"]) == (3, new, True)
    written = {path.relative_to(configured / "out"): path for path in (configured / "out").rglob("*.*")}
    assert {str(path) for path in written} == {f"{home}memory.json" for home in ("", "agents/coder/", "users/ada/")}
    for path, file in written.items():
        assert json.loads(file.read_bytes()) == json.loads((host / path).read_bytes())


def test_a_user_with_any_name_goes_out_in_the_later_layout(invoke: Invoke, configured: Path) -> None:
    """The layout with a Markdown file for each fact takes what its users are called, and is verified too."""
    fact = {"fact_id": "fact_1", "value": {"content": "Short", "category": "c", "confidence": 0.5}, "revision": 4}
    fact |= dict.fromkeys(("created_at", "updated_at"), "2026-01-31T12:00:00.000000+00:00")
    records = [
        part("ada@example.com", None, body={"user": {}, "history": {}}),
        part("ada@example.com", "coder", body={}, body_revision=0, facts=[fact]),
        part("no facts@here", None, body={"user": {}, "history": {}}),
    ]
    fill(configured / "old", "memory", records)
    code, shown, told = invoke("copy", "memory", "--from", "old", "--to", "deerflow:out", "--layout", "markdown")
    assert (code, told) == (0, "")
    assert "verified: all 3 read back equal" in shown
    assert len(list((configured / "out").rglob("fact_1.md"))) == 1


def test_damaged_files_are_listed_and_all_else_is_copied(invoke: Invoke, configured: Path, host: Path) -> None:
    """A damaged file is named with the reason, and left; the rest arrives, verified; the exit code is 1."""
    (host / "users/ada/memory.json").write_text("{\x1b", encoding="utf-8")
    code, shown, told = invoke("copy", "memory", "--from", "deerflow:host", "--to", "new", "--json")
    assert code == 1
    summary = json.loads(shown)
    assert (summary["ok"], summary["records"], summary["verified"]) == (False, 2, True)
    (damaged,) = summary["damaged"]
    assert damaged["path"] == "host/users/ada/memory.json"
    (line,) = told.splitlines()
    assert line.startswith("damaged, not copied: host/users/ada/memory.json: is not JSON")
    assert (host / "users/ada/memory.json").read_text(encoding="utf-8") == "{\x1b"
    assert len(exported(configured / "new", "memory")) == 2
    code, shown, _ = invoke("copy", "memory", "--from", "deerflow:host", "--to", "new")
    assert code == 1
    assert "verified" in shown


def test_the_store_of_files_is_no_folder_of_deerflow(
    invoke: Invoke, configured: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeerFlow's memory beside a store of `files` would keep that from opening, so it is not put there."""
    monkeypatch.setenv("DEERFLOW_BACKENDS_CONNECTIONS__FILES__PATH", "files")
    assert invoke("copy", "memory", "--from", "deerflow:host", "--to", "files")[0] == 0
    before = sorted((configured / "files").iterdir())
    code, shown, told = invoke("copy", "memory", "--from", "deerflow:host", "--to", "deerflow:files")
    assert (code, shown) == (2, "")
    assert "a store of the backend 'files' is in there" in told
    assert sorted((configured / "files").iterdir()) == before
    assert invoke("memory", "nobody", "--backend", "files")[0] == 0


def test_a_folder_that_holds_other_memory_is_refused(invoke: Invoke, configured: Path, host: Path) -> None:
    """A folder as target is empty, or holds this copy whole; what DeerFlow cannot hold is named and nothing written."""
    fill(configured / "old", "memory", [part("ada", None)])
    code, shown, told = invoke("copy", "memory", "--from", "old", "--to", "deerflow:host")
    assert (code, shown) == (2, "")
    assert "host is not empty" in told
    assert "--into-existing" not in told
    fill(configured / "new", "memory", [part("ada", None), part("b@d", None)])
    code, shown, told = invoke("copy", "memory", "--from", "new", "--to", "deerflow:out")
    assert (code, shown) == (1, "")
    error, nothing = told.splitlines()
    assert "'b@d' is no name in DeerFlow" in error
    assert nothing == "2 parts of new read until then; 0 of them are in deerflow:out."
    assert not (configured / "out").exists()
    code, _, told = invoke("copy", "memory", "--from", "old", "--to", "deerflow:out")
    assert (code, told) == (0, "")
    (configured / "out/users/ada/memory.json").write_text("{", encoding="utf-8")
    code, shown, told = invoke("copy", "memory", "--from", "old", "--to", "deerflow:out")
    assert (code, shown) == (2, "")
    assert "out holds memory already" in told
    assert invoke("copy", "memory", "--from", "deerflow:host", "--to", "deerflow:./host")[0] == 2
