"""DeerFlow itself, release 0.1.7 of `deerflow-kernel`: it writes a folder of memory, and reads what we write."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deerflow_backends import DeleteFact, PutFact, open_backends
from deerflow_backends.deerflow_folders import Damaged, find_layout, read_folder, write_folder
from deerflow_backends.records import Part, read_part

#: The user and agent of each memory that is saved. DeerFlow keeps an agent under its name in lower case.
SCOPES = [
    (None, None),
    (None, "shared"),
    ("default", None),
    ("default", "Researcher"),
    ("Ada_1-x", None),
    ("Ada_1-x", "coder"),
    ("Ada_1-x", "code-2"),
    ("only-agents", "coder"),
]

#: Saves memory through what DeerFlow's own gateway calls: whole documents, and single facts in an odd order.
SAVE = """
from deerflow.agents.memory import updater
from deerflow.agents.memory.storage import create_empty_memory
for number, (user_id, agent_name) in enumerate(SCOPES):
    document = create_empty_memory()
    document["user"]["workContext"] = {"summary": f"Écrit – 書く {number}", "updatedAt": document["lastUpdated"]}
    document["odd"] = [1, 1.0, True, None, -0.0, 1e-320, 10 ** 300, {"": "\\0\\u2028"}]
    document["facts"] = [
        {"id": f"fact_{name}", "content": f"{name} of {number}", "category": "context", "confidence": 0.5 + number / 20,
         "createdAt": "2026-01-0%dT00:00:00Z" % (number + 1), "source": "thread-1", "sourceError": "x" * number}
        for name in ("zeta", "alpha", "mid", "beta")
    ]
    updater.import_memory_data(document, agent_name, user_id=user_id)
    updater.create_memory_fact("Prefers tea", "preference", 0.9, agent_name, user_id=user_id)
    updater.update_memory_fact("fact_mid", "Changed", agent_name=agent_name, user_id=user_id)
    updater.delete_memory_fact("fact_beta", agent_name, user_id=user_id)
"""

#: Loads all of it from the files.
LOAD = """
import json
from deerflow.agents.memory.storage import FileMemoryStorage, get_memory_storage
storage = get_memory_storage()
assert type(storage) is FileMemoryStorage
documents = [storage.reload(agent_name, user_id=user_id) for user_id, agent_name in SCOPES]
print("RESULT", json.dumps(documents))
"""

#: Goes on with it.
ADD = """
from deerflow.agents.memory.updater import create_memory_fact
for user_id, agent_name in SCOPES:
    facts = create_memory_fact("More", agent_name=agent_name, user_id=user_id)["facts"]
    assert facts[-1]["content"] == "More" and len(facts) > 1, facts
"""


def run_deerflow(home: Path, *programs: str) -> list[Any]:
    """Run *programs* in a process of its own, as DeerFlow with its data in *home*; return what `LOAD` loads."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("DEERFLOW", "DEER_FLOW"))}
    work = home.parent / "work"
    work.mkdir(exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-c", "".join([f"SCOPES = {SCOPES!r}\n", *programs])],
        cwd=work,
        env={**clean, "DEER_FLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("RESULT "))
    documents: list[Any] = json.loads(line.removeprefix("RESULT "))
    return documents


async def through_sqlite(folder: Path, parts: Sequence[Part], *changes: Any) -> list[Part]:
    settings = {"memory": "sqlite", "connections": {"sqlite": {"path": str(folder)}}}
    async with open_backends(settings) as backends:
        assert await backends.memory.restore(part.to_record() for part in parts) == len(parts)
        found = await backends.memory.search("default", "prefers tea", agent_name="researcher")
        assert [match.fact.value["content"] for match in found] == ["Prefers tea"]
        if changes:
            await backends.memory.apply("default", changes)
        return [read_part(record, "record") async for record in backends.memory.export()]


def test_deerflow_reads_its_memory_again(tmp_path: Path) -> None:
    """What DeerFlow saved is read whole, and from a new folder, by way of SQLite, it loads the same.

    A fact that came in between is there, one that was deleted is not, and all other memories are as they were.
    """
    home = tmp_path / "home"
    saved = run_deerflow(home, SAVE, LOAD)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert [len(document["facts"]) for document in saved] == [4] * len(SCOPES)
    assert find_layout(home) == "documents"
    found = list(read_folder(home))
    assert [item for item in found if isinstance(item, Damaged)] == []
    parts = [item for item in found if isinstance(item, Part)]
    read = {(part.user_id, part.agent_name) for part in parts if part.facts}
    assert read == {(user_id, name.lower() if name else name) for user_id, name in SCOPES}

    copied = asyncio.run(through_sqlite(tmp_path / "same", parts))
    assert write_folder(tmp_path / "copy", copied) == len(SCOPES)
    assert run_deerflow(tmp_path / "copy", LOAD) == saved
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before

    new = {"content": "Drinks no coffee", "category": "preference", "confidence": 0.95}
    changes = [PutFact("researcher", "new", new), DeleteFact("researcher", "fact_zeta")]
    write_folder(tmp_path / "changed", asyncio.run(through_sqlite(tmp_path / "other", parts, *changes)))
    documents = run_deerflow(tmp_path / "changed", LOAD, ADD)
    index = SCOPES.index(("default", "Researcher"))
    changed, original = documents.pop(index), saved.pop(index)
    assert documents == saved
    *kept, came = changed["facts"]
    assert came == {"id": "new", **new, "createdAt": changed["lastUpdated"]}
    assert kept == [fact for fact in original["facts"] if fact["id"] != "fact_zeta"]
    assert changed["lastUpdated"] > original["lastUpdated"]
