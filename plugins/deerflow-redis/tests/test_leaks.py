"""The look at what tests leave on a server finds what it is for, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import redis_leaks
from redis_servers import GIVEN, Cluster, Server

LEAKING = """
def test_leaks(valkey):
    valkey.execute("SET", "leaked", 1)

def test_of_other_keys(valkey):
    valkey.execute("SET", "expiring", 1, "EX", 60)
    valkey.execute("SET", "acme:c:{counters}:totals", 1)

def test_without_a_server():
    pass
"""


def declared(key: bytes) -> bool:
    return key.startswith(b"kept:")


@pytest.mark.drivers
def test_a_key_for_good_is_found_in_every_database() -> None:
    """Whatever its type and database, a key without expiry that is not declared is named."""
    with Server() as server:
        with server.client(database=3) as client:
            client.execute_command("XADD", "events", "1-1", "a", "b")
        server.execute("SET", "kept:totals", 1)
        server.execute("SET", "soon", 1, "PX", 600_000)
        (fault,) = redis_leaks.leaked([server], declared)
        assert fault == "b'events' in database 3 has no expiry, and layout.py does not declare it permanent"


def test_a_key_is_found_on_any_node(valkey_cluster: Cluster) -> None:
    """Of a cluster, every primary is looked at."""
    before = redis_leaks.keys_without_expiry(valkey_cluster.primaries)  # other tests use the cluster, too
    nodes = {key: valkey_cluster.nodes[share] for key, share in (("{a}", 2), ("{b}", 0), ("{c}", 1))}
    try:
        for key, node in nodes.items():
            node.execute("SET", key, 1)
        found = redis_leaks.keys_without_expiry(valkey_cluster.primaries)
        assert found - before == {(0, key.encode()) for key in nodes}
    finally:
        for key, node in nodes.items():
            node.execute("DEL", key)


def test_a_test_that_leaks_a_key_fails(tmp_path: Path) -> None:
    """The test that left the key is in error, and names it; those after it, and those that leave others, are not."""
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    here = Path(__file__).parent
    with Server() as server:
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rA", str(tmp_path)]
        environment = {**os.environ, GIVEN: server.url, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    lines = run.stdout.splitlines()
    assert "b'leaked' in database 0 has no expiry, and layout.py does not declare it permanent" in lines
    assert [line.split()[1] for line in lines if line.startswith("ERROR ")] == ["test_leaking.py::test_leaks"]
    assert "3 passed, 1 error" in lines[-1]
