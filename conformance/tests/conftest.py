"""What several test modules use: the command as a process, and authors' files for it to run."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

# Ctrl-C reaches what the tests start, also where a shell has all of it in the background and ignores it there.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: What an author writes, for counters that work.
CONFORMED = """
from deerflow_backends import inprocess
from deerflow_conformance import conform, conform_plugin


@conform("counters", plugin="acme", virtual_time=True)
async def counters(space):
    async with (
        inprocess.connect("acme", namespace=space.name, clock=space.clock) as connection,
        inprocess.open_counters(connection, space.options) as opened,
    ):
        yield opened
"""
#: The same for counters that cannot be reset.
BROKEN = f"""{CONFORMED}

from deerflow_backends.inprocess.counters import InProcessModelCounters


async def nothing(*_, **__):
    pass


InProcessModelCounters.reset = nothing
"""
#: A kit that has lost the checks of a promise.
DEFECT = f"""{CONFORMED}

from deerflow_conformance import checks

checks.checks_of("C6")
checks._registry["C6"] = []
"""
#: Counters that forget what is recorded, which the harness check notices.
USELESS = BROKEN.replace(".reset", ".record")

#: A plugin that others could install, which says too much when it is told to fail.
ACME = """
from contextlib import asynccontextmanager
from typing import Literal

from pydantic import SecretStr

from deerflow_backends import BackendUnavailable, ConnectionSettings, Finding, hookimpl, inprocess


class AcmeSettings(ConnectionSettings):
    url: SecretStr
    retries: int = 0
    fails: Literal["", "refusing", "raising", "later"] = ""

    def words(self):
        return f"{self.url.get_secret_value()} refuses {self.url.get_secret_value()[10:17]}"


@hookimpl
def deerflow_settings():
    return AcmeSettings


@hookimpl
@asynccontextmanager
async def deerflow_connect(name, settings):
    if settings.fails == "refusing":
        raise BackendUnavailable(settings.words())
    if settings.fails == "raising":
        raise OSError(settings.words())
    async with inprocess.connect(name, namespace=settings.namespace) as connection:
        yield settings, connection


@hookimpl
async def deerflow_check(connection):
    return [Finding("warning", "it is slow"), Finding("info", "Acme 4"), Finding("info", "it has grown")]


@hookimpl
def deerflow_memory(connection, options):
    return inprocess.open_memory(connection[1], options)


@hookimpl
@asynccontextmanager
async def deerflow_counters(connection, options):
    if connection[0].fails == "later":
        raise BackendUnavailable(connection[0].words())
    async with inprocess.open_counters(connection[1], options) as counters:
        yield counters
"""


#: What makes that plugin useless: a piece of it, what stands there instead, and what is to be said of it.
USELESS_PLUGINS = {
    "its hook exits": ("return AcmeSettings", "raise SystemExit(0)", "'acme' is broken: it raised SystemExit: 0"),
    "its settings exit": (
        "retries: int = 0",
        "retries: int = 0\n\n    def model_post_init(self, context):\n        raise SystemExit(0)",
        "'acme' is broken: it raised SystemExit: 0",
    ),
    "its settings fail": (
        "retries: int = 0",
        "retries: int = 0\n\n    def model_post_init(self, context):\n        raise KeyError('region')",
        "'acme' is broken: it raised KeyError: 'region'",
    ),
    "it offers nothing": (
        ACME[ACME.index("@hookimpl\ndef deerflow_memory") :],
        "",
        "offers no capability",
    ),
}

#: What loses a conformance on the way from where it is made to where it would be run, and what is to be said of it.
LOSSES = {
    "its name is taken": (f"{CONFORMED}\n\ndef counters(): ...\n", ":6: counters (counters of 'acme') would never run"),
    "it has no name": (f"{CONFORMED}\n\nconform_plugin('a')\n", ":15: conform_plugin('a') would never run"),
    "its name is taken by another": (
        f"{CONFORMED}\n\nit = conform_plugin('a')\nit = conform_plugin('b')\n",
        ":15: conform_plugin('a') would never run",
    ),
    "a loop takes its name": (
        "for name in ('one', 'two'):\n"
        + textwrap.indent(CONFORMED.replace('"acme", virtual', "name, virtual"), "    "),
        ":7: counters (counters of 'one') would never run",
    ),
    "it is in a class": (
        "class TestAcme:\n" + textwrap.indent(CONFORMED, "    "),
        ":7: counters (counters of 'acme') would never run",
    ),
    "a function keeps it": (
        f"{CONFORMED}\n\ndef make():\n    conform_plugin('a')\n\n\nmake()\n",
        ":19: conform_plugin('a') would never run",
    ),
}


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A folder in which the plugin `acme` is installed."""
    folder = tmp_path / "installed"
    metadata = folder / "acme_backends-1.2.3.dist-info"
    metadata.mkdir(parents=True)
    requirement = "Requires-Dist: deerflow-backends>=1.0,<2"
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-backends\nVersion: 1.2.3\n{requirement}\n")
    (metadata / "entry_points.txt").write_text("[deerflow_backends]\nacme = acme_plugin\n")
    (folder / "acme_plugin.py").write_text(ACME)
    return folder


@pytest.fixture(params=list(USELESS_PLUGINS), ids=list(USELESS_PLUGINS))
def useless(request: pytest.FixtureRequest, acme: Path) -> str:
    """Make the plugin in the folder `acme` useless, and return what is to be said of it."""
    old, new, message = USELESS_PLUGINS[request.param]
    plugin = acme / "acme_plugin.py"
    plugin.write_text(plugin.read_text().replace(old, new))
    return message


@pytest.fixture(params=list(LOSSES), ids=list(LOSSES))
def loss(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a file that loses something that it conforms, and what is to be said of it."""
    return LOSSES[request.param]


@pytest.fixture
def authors_files(tmp_path: Path) -> Path:
    """A folder with files as authors write them: their backends are of all kinds."""
    texts = {"conformed": CONFORMED, "broken": BROKEN, "defect": DEFECT, "useless": USELESS}
    for name, text in texts.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def command(authors_files: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command in that folder, as a process of its own."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deerflow_conformance", *arguments],
            cwd=authors_files,
            env={**os.environ, "NO_COLOR": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that wait for processes over those that compute, so that several processes share both."""
    waiting = [item for item in items if item.get_closest_marker("served")]
    computing = [item for item in items if not item.get_closest_marker("served")]
    every = max(len(computing) // (len(waiting) + 1), 1)
    items[:] = computing
    for number, item in enumerate(waiting):
        items.insert(number * (every + 1), item)
