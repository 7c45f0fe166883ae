"""Servers for the tests, one a worker of pytest-xdist, and a look at what each test leaves on them."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Under --import-mode=importlib no folder of tests is on the path; the kit's helper processes are given ours too.
sys.path.insert(0, str(Path(__file__).parent))

from redis_leaks import keys_without_expiry, leaked
from redis_servers import Cluster, Sentinels, Server, Started, standalone

# Tests never assert a time: a slow machine is no failure.
settings.register_profile("deerflow", deadline=None)
settings.load_profile("deerflow")

#: The fixtures that give a server. A further one, anywhere in these tests, belongs here: only these are looked at.
SERVER_FIXTURES = {"server", "valkey", "valkey_cluster", "valkey_replicated", "valkey_sentinels"}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of those tests that also run with older drivers and on every Python."""
    config.addinivalue_line(
        "markers", "drivers: depends on the driver or the Python; the other tests run with one of each"
    )


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A standalone server that all tests of a worker share; they use namespaces of their own."""
    with standalone() as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server for the tests of one file alone, which may disturb it and each leave it as it was."""
    with Server() as started:
        yield started


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"n{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[Cluster]:
    """A cluster of three that all tests of a worker share, and none disturbs."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def valkey_replicated() -> Iterator[Cluster]:
    """A cluster of three with a replica each for tests that disturb it, and leave it well again.

    While some slots have no home the others are served, which is not so by default.
    """
    config = {"cluster-node-timeout": "1000", "cluster-require-full-coverage": "no"}
    with Cluster(replicas=1, config=config) as cluster:
        yield cluster


@pytest.fixture
def valkey_sentinels() -> Iterator[Sentinels]:
    """A primary, a replica and three sentinels of the test's own."""
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture(autouse=True)
def no_key_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that used a server of the fixtures and left a key for good that `layout.py` does not declare.

    It uses the servers before all that the test opens on them, so it looks once all that is closed.
    """
    names = sorted(SERVER_FIXTURES & set(request.fixturenames))
    used: list[Started] = [request.getfixturevalue(name) for name in names]
    if not used:
        yield
        return
    from deerflow_redis.layout import is_permanent  # noqa: PLC0415  # tests of the servers alone need no plugin

    before = {key for server in used for _, key in keys_without_expiry(server.primaries)}
    yield
    faults = leaked(
        (primary for server in used for primary in server.primaries), lambda key: key in before or is_permanent(key)
    )
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)
