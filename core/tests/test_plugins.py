"""Plugins: every way in which one can be missing or wrong is one clear line, and nothing is opened."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deerflow_backends import BackendsError, ConfigError, PluginError, open_backends, plugins

if TYPE_CHECKING:
    from core.tests.conftest import Site

pytestmark = pytest.mark.usefixtures("unconfigured")

CORE = "deerflow-backends>=1.0,<2"

#: Offers everything, by way of the in-process backend, and keeps a list of what was opened.
WITNESS = """
from contextlib import asynccontextmanager
from deerflow_backends import ConnectionSettings, hookimpl, inprocess

OPENED = []

@asynccontextmanager
async def opening(what, context):
    OPENED.append(what)
    try:
        async with context as opened:
            yield opened
    finally:
        OPENED.remove(what)

@hookimpl
def deerflow_settings():
    return ConnectionSettings

@hookimpl
def deerflow_connect(name, settings):
    return opening("connection", inprocess.connect(name))

@hookimpl
def deerflow_stream_bridge(connection, options):
    return opening("stream_bridge", inprocess.open_stream_bridge(connection, options))

@hookimpl
def deerflow_counters(connection, options):
    return opening("counters", inprocess.open_counters(connection, options))
"""

HEAD = "from deerflow_backends import ConnectionSettings, hookimpl, inprocess\n"
MEMORY = HEAD + "@hookimpl\ndef deerflow_memory(connection, options):\n    return inprocess.open_memory(connection)\n"
INPROCESS_MEMORY = """
from deerflow_backends import hookimpl, inprocess

@hookimpl
def deerflow_connect(name):
    return inprocess.connect(name)

@hookimpl
def deerflow_memory(connection):
    return inprocess.open_memory(connection)
"""
WHO = "memory.backend (arguments): acme 2.0, backend 'acme'"
IN_PROCESS = {"stream_bridge": "inprocess", "counters": "inprocess"}


async def opened(arguments: Mapping[str, Any]) -> None:
    async with open_backends(arguments):
        pass


def refused(site: Site, arguments: Mapping[str, Any]) -> BackendsError:
    """Return the error of opening *arguments* beside a working plugin, having checked that nothing was opened."""
    site.install(WITNESS, name="witness")
    with pytest.raises((ConfigError, PluginError)) as caught:
        asyncio.run(opened({"stream_bridge": "witness", "counters": "witness", **arguments}))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    witness = site.module("witness_plugin")
    assert witness is None or witness.OPENED == []
    return caught.value


@dataclass(frozen=True)
class Broken:
    """A defect of a plugin, and the whole line that it gives. Found from its metadata it is not even imported."""

    why: str
    line: str
    source: str = MEMORY
    imported: bool = True
    install: Mapping[str, Any] = field(default_factory=dict)


BROKEN = [
    Broken(
        "import of a missing module",
        f"{WHO} is installed but broken: importing acme_plugin raised ModuleNotFoundError in acme_plugin.py, line 2:"
        " No module named 'no_such_driver'",
        "\nimport no_such_driver\n",
        imported=False,
    ),
    Broken(
        "any exception at import",
        f"{WHO} is installed but broken: importing acme_plugin raised ZeroDivisionError in acme_plugin.py, line 1:"
        " division by zero",
        "1 / 0\n",
        imported=False,
    ),
    Broken(
        "a syntax error",
        f"{WHO} is installed but broken: importing acme_plugin raised SyntaxError: invalid syntax"
        " (acme_plugin.py, line 1)",
        "def def\n",
        imported=False,
    ),
    Broken(
        "a module that is not there",
        f"{WHO} is installed but broken: importing acme_plugn raised ModuleNotFoundError: No module named 'acme_plugn'",
        install={"offers": {"acme": "acme_plugn"}},
        imported=False,
    ),
    Broken(
        "an attribute that is not there",
        f"{WHO} is installed but broken: importing acme_plugin:offer raised AttributeError:"
        " module 'acme_plugin' has no attribute 'offer'",
        install={"offers": {"acme": "acme_plugin:offer"}},
    ),
    Broken(
        "a misspelt hook",
        f"{WHO}: there is no hook 'deerflow_memry'; did you mean 'deerflow_memory'? allowed: deerflow_check,"
        " deerflow_connect, deerflow_counters, deerflow_memory, deerflow_migrate, deerflow_settings,"
        " deerflow_stream_bridge, deerflow_thread_index",
        MEMORY.replace("deerflow_memory", "deerflow_memry"),
    ),
    Broken(
        "too many arguments",
        f"{WHO}: Plugin 'acme' for hook 'deerflow_memory' hookimpl definition: deerflow_memory(connection, options,"
        " user) Argument(s) {'user'} are declared in the hookimpl but can not be found in the hookspec",
        MEMORY.replace("options)", "options, user)"),
    ),
    Broken(
        "a keyword-only argument",
        f"{WHO}: 'options' of deerflow_memory is keyword-only; hooks take their arguments by position, without"
        " defaults",
        MEMORY.replace("connection, options", "connection, *, options"),
    ),
    Broken(
        "an argument with a default",
        f"{WHO}: 'options' of deerflow_memory has a default; hooks take their arguments by position, without defaults",
        MEMORY.replace("options)", "options=None)"),
    ),
    Broken(
        "no hook at all",
        f"{WHO}: acme_plugin has no hook; mark its functions with @deerflow_backends.hookimpl",
        HEAD,
    ),
    Broken(
        "a hook that is not marked",
        f"{WHO}: deerflow_check exists but is not marked with @deerflow_backends.hookimpl",
        MEMORY + "def deerflow_check(connection):\n    pass\n",
    ),
    Broken(
        "an exit at import",
        f"{WHO} is installed but broken: importing acme_plugin raised SystemExit in acme_plugin.py, line 1: 3",
        "raise SystemExit(3)\n",
        imported=False,
    ),
    Broken(
        "a secret at import",
        f"{WHO} is installed but broken: importing acme_plugin raised OSError in acme_plugin.py, line 1:"
        " no redis://***@h",
        "raise OSError('no redis://u:s3cr3tpw@h')\n",
        imported=False,
    ),
    Broken(
        "steps that are no texts",
        "acme 2.0, backend 'acme': deerflow_migrate returned a list with int in it; it must return an awaitable list"
        " of texts",
        MEMORY + "@hookimpl\nasync def deerflow_migrate():\n    return [1]\n",
    ),
    Broken(
        "no contract",
        f"{WHO} does not say which contract it is made for; its dependencies must include 'deerflow-backends>=1.0,<2'",
        imported=False,
        install={"requires": ["anyio"]},
    ),
    Broken(
        "a contract in an extra only",
        f"{WHO} does not say which contract it is made for; its dependencies must include 'deerflow-backends>=1.0,<2'",
        imported=False,
        install={"requires": [f"{CORE}; extra == 'test'", f"{CORE}; python_version < '3'", "not a requirement!"]},
    ),
    Broken(
        "another contract",
        f"{WHO} requires deerflow-backends<3,>=2, but deerflow-backends 1.0.0 with contract 1.0 is installed;"
        " install versions that go together",
        imported=False,
        install={"requires": ["Deerflow.Backends[cli] >=2,<3; python_version > '3'"]},
    ),
    Broken(
        "settings of another class",
        "connections.acme: acme 2.0, backend 'acme': deerflow_settings returned <class 'dict'>; it must return a"
        " subclass of deerflow_backends.ConnectionSettings",
        MEMORY + "@hookimpl\ndef deerflow_settings():\n    return dict\n",
    ),
    Broken(
        "settings that are None",
        "connections.acme: acme 2.0, backend 'acme': deerflow_settings returned None; it must return a"
        " subclass of deerflow_backends.ConnectionSettings",
        MEMORY + "@hookimpl\ndef deerflow_settings():\n    pass\n",
    ),
    Broken(
        "settings that fail",
        "connections.acme: acme 2.0, backend 'acme': deerflow_settings raised KeyError in acme_plugin.py, line 7: 'x'",
        MEMORY + "@hookimpl\ndef deerflow_settings():\n    {}['x']\n",
    ),
    Broken(
        "migrating that is None",
        "acme 2.0, backend 'acme': deerflow_migrate returned None; it must return an awaitable list of texts",
        MEMORY + "@hookimpl\ndef deerflow_migrate():\n    pass\n",
    ),
    Broken(
        "migrating to None",
        "acme 2.0, backend 'acme': deerflow_migrate returned None; it must return an awaitable list of texts",
        MEMORY + "@hookimpl\nasync def deerflow_migrate():\n    pass\n",
    ),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.why)
def test_a_broken_plugin_is_named_with_its_version_and_reason(site: Site, broken: Broken) -> None:
    """A chosen plugin with a defect is one line that names it and the fix; nothing is opened."""
    site.install(broken.source, **broken.install)
    error = refused(site, {"memory": "acme"})
    assert isinstance(error, PluginError)
    assert str(error) == broken.line
    assert (site.module("acme_plugin") is not None) == broken.imported


WRONG_CONTEXTS = {
    "return None": "returned None; it must return an async context manager, without awaiting anything",
    "return 7": "returned int; it must return an async context manager, without awaiting anything",
    "return open('x')": "raised FileNotFoundError in acme_plugin.py, line 4: [Errno 2] No such file or directory: 'x'",
}


@pytest.mark.parametrize("hook", ["connect", "memory"])
@pytest.mark.parametrize("body", WRONG_CONTEXTS)
def test_a_hook_that_gives_no_context_manager_is_refused(site: Site, hook: str, body: str) -> None:
    """A hook that returns nothing or the wrong thing, or fails, is named; what was opened before is closed again."""
    source = MEMORY if hook != "memory" else HEAD + "\n\n"
    arguments = "connection" if hook == "memory" else "name"
    broken = f"@hookimpl\ndef deerflow_{hook}({arguments}):\n    {body}\n"
    site.install(HEAD + broken + source.removeprefix(HEAD))
    error = refused(site, {"memory": "acme"})
    assert isinstance(error, PluginError)
    assert str(error) == f"acme 2.0, backend 'acme': deerflow_{hook} {WRONG_CONTEXTS[body]}"


def test_a_coroutine_function_is_no_hook_that_opens(site: Site) -> None:
    """``async def`` where a context manager is wanted is told, without a warning about what was never awaited."""
    site.install(MEMORY.replace("def deerflow", "async def deerflow"))
    error = refused(site, {"memory": "acme"})
    gc.collect()  # which would warn of it, and a warning is a failure
    wanted = "it must return an async context manager, without awaiting anything"
    assert str(error) == f"acme 2.0, backend 'acme': deerflow_memory returned coroutine; {wanted}"


def test_a_capability_that_is_none_is_refused(site: Site) -> None:
    """A context manager that gives None is no capability."""
    site.install(
        MEMORY.replace("return inprocess.open_memory(connection)", "import contextlib; return contextlib.nullcontext()")
    )
    error = refused(site, {"memory": "acme"})
    assert str(error) == "acme 2.0, backend 'acme': entering what deerflow_memory returned gave None"


@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        ("redis", "the backend 'redis' is not installed; pip install deerflow-redis"),
        ("postgres", "the backend 'postgres' is not installed; pip install deerflow-postgres"),
        ("mongo", "the backend 'mongo' is not installed; pip install deerflow-mongo"),
        (
            "sqllite",
            "no installed distribution offers the backend 'sqllite'; did you mean 'sqlite'?"
            " installed: files, inprocess, sqlite, witness",
        ),
        ("SQLite", "'SQLite' is no backend's name; such a name matches [a-z][a-z0-9_]*"),
        ("9", "'9' is no backend's name; such a name matches [a-z][a-z0-9_]*"),
        ("", "'' is no backend's name; such a name matches [a-z][a-z0-9_]*"),
    ],
)
def test_a_missing_backend_comes_with_the_fix(site: Site, backend: str, problem: str) -> None:
    """A name that nothing offers is told with what to install, or with what there is."""
    error = refused(site, {"memory": backend})
    assert isinstance(error, PluginError)
    assert str(error) == f"memory.backend (arguments): {problem}"


@pytest.mark.parametrize("backend", ["Acme", "9acme", "ac-me"])
def test_a_badly_named_backend_is_refused(site: Site, backend: str) -> None:
    """Environment variables could not name it: a plugin whose backend has such a name is never used."""
    site.install(MEMORY, offers={backend: "acme_plugin"})
    error = refused(site, {"memory": backend})
    assert isinstance(error, PluginError)
    problem = f"acme 2.0 offers a backend called {backend!r}; its name must match [a-z][a-z0-9_]*"
    assert str(error) == f"memory.backend (arguments): {problem}"
    assert site.module("acme_plugin") is None


def test_two_distributions_with_one_name_are_fatal_if_it_is_chosen(site: Site) -> None:
    """Which of two would be used is nobody's guess: both are named, and neither is imported."""
    site.install(MEMORY)
    site.install(MEMORY, name="acme-fork", version="0.3", offers={"acme": "acme_fork_plugin"})
    error = refused(site, {"memory": "acme"})
    assert isinstance(error, PluginError)
    assert (
        str(error) == "memory.backend (arguments): acme 2.0 and acme-fork 0.3 both offer the backend 'acme'; keep one"
    )
    assert site.module("acme_plugin") is None
    assert site.module("acme_fork_plugin") is None


def test_a_plugin_cannot_take_the_place_of_a_built_in_backend(site: Site) -> None:
    """The built-in backends are plugins like any other: a second ``sqlite`` is an error, not a replacement."""
    site.install(MEMORY, offers={"sqlite": "acme_plugin"})
    error = refused(site, {"memory": "sqlite"})
    rivals = "acme 2.0 and deerflow-backends 1.0.0 both offer the backend 'sqlite'; keep one"
    assert str(error) == f"memory.backend (arguments): {rivals}"


def test_one_distribution_found_twice_counts_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same distribution in two folders of ``sys.path`` is the first one, as for ``import``."""
    second = tmp_path / "second"
    second.mkdir()
    site.install(INPROCESS_MEMORY)
    site.install("1 / 0", version="1.0", folder=second)
    monkeypatch.setattr(sys, "path", [*sys.path, str(second)])
    assert plugins.load("acme").version == "2.0"
    asyncio.run(opened({"memory": "acme"}))


def test_a_capability_that_is_not_offered_is_told_with_who_does(site: Site) -> None:
    """A backend is asked only for what it offers; the error lists the backends that do."""
    site.install(INPROCESS_MEMORY)
    error = refused(site, {"thread_index": {"backend": "acme"}})
    assert isinstance(error, ConfigError)
    problem = "the backend 'acme' does not offer thread_index; offered by: inprocess, sqlite"
    assert str(error) == f"thread_index.backend (arguments): {problem}"


def test_all_mistakes_are_told_at_once_each_plugin_once(site: Site) -> None:
    """Several mistakes are as many lines; a plugin that is chosen twice and missing is one."""
    error = refused(site, {"memory": "redis", "thread_index": "redis", "connections": {"pg": {"backend": "postgres"}}})
    assert isinstance(error, PluginError)
    assert str(error).splitlines() == [
        "memory.backend (arguments): the backend 'redis' is not installed; pip install deerflow-redis",
        "connections.pg.backend (arguments): the backend 'postgres' is not installed; pip install deerflow-postgres",
    ]


def test_fewer_arguments_are_legal(site: Site) -> None:
    """A hook takes only the arguments that it needs."""
    site.install(INPROCESS_MEMORY)
    asyncio.run(opened({"memory": "acme"}))
    plugin = plugins.load("acme")
    assert (plugin.name, plugin.distribution, plugin.version) == ("acme", "acme", "2.0")
    assert plugin.capabilities == ("memory",)
    assert plugin.settings_model() is None


def test_a_plugin_without_connection_gets_none(site: Site) -> None:
    """Without ``deerflow_connect`` the connection is None."""
    site.install(
        MEMORY.replace("return inprocess.open_memory(connection)", "assert connection is None; raise KeyError")
    )
    with pytest.raises(PluginError, match="deerflow_memory raised KeyError"):
        asyncio.run(opened({"memory": "acme"}))


def test_only_chosen_plugins_are_loaded(site: Site) -> None:
    """A broken plugin that nobody chose does not stop the program, and no plugin is imported for nothing."""
    site.install("1 / 0")
    site.install(WITNESS, name="witness")
    program = """
import asyncio, sys
from deerflow_backends import open_backends
async def main():
    async with open_backends({"memory": "inprocess"}) as backends:
        print(backends.memory.reach)
asyncio.run(main())
print([name for name in sys.modules if name.endswith("_plugin") or "sqlite.plugin" in name])
"""
    command = [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {str(site.folder)!r})\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["process", "[]"]


def test_installed_tells_about_every_plugin_the_broken_ones_too(site: Site) -> None:
    """The listing loads each plugin and says what it offers, what it requires, or why it cannot be used."""
    site.install(INPROCESS_MEMORY, requires=[CORE, "anyio"])
    site.install("1 / 0", name="beta", version="1.1")
    site.install(MEMORY, name="gamma", requires=["deerflow-backends>=2"])
    site.install(MEMORY, name="delta", offers={"gamma": "delta_plugin"})
    found = {(one.name, one.distribution): one for one in plugins.installed()}
    acme = found["acme", "acme"]
    assert (acme.version, acme.capabilities, acme.requires, acme.error) == ("2.0", ("memory",), "<2,>=1.0", None)
    beta = found["beta", "beta"]
    assert beta.capabilities == ()
    assert beta.error == (
        "beta 1.1, backend 'beta' is installed but broken: importing beta_plugin raised ZeroDivisionError in"
        " beta_plugin.py, line 1: division by zero"
    )
    assert found["gamma", "gamma"].requires == ">=2"
    assert found["gamma", "gamma"].error == "delta 2.0 and gamma 2.0 both offer the backend 'gamma'; keep one"
    assert found["gamma", "delta"].error == found["gamma", "gamma"].error
    everything = ("stream_bridge", "memory", "thread_index", "counters")
    for built_in in ("inprocess", "sqlite"):
        one = found[built_in, "deerflow-backends"]
        assert (one.capabilities, one.error) == (everything, None)
    assert list(found) == sorted(found)


def test_one_plugin_never_answers_for_another(site: Site) -> None:
    """Two loaded plugins share no hooks: one without settings has none, though the other's has."""
    site.install(INPROCESS_MEMORY)
    site.install(WITNESS, name="witness")
    witness, acme = plugins.load("witness"), plugins.load("acme")
    assert witness.settings_model() is not None
    assert acme.settings_model() is None
    assert set(witness.capabilities) == {"stream_bridge", "counters"}


HALF = """
import contextlib
from deerflow_backends import Finding, hookimpl, inprocess

class Half:
    reach = REACH

    async def ping(self, *arguments, **keywords):
        pass

    record = all_totals = window = all_windows = reset = MORE

@hookimpl
def deerflow_counters(connection):
    return contextlib.nullcontext(Half())

@hookimpl
async def deerflow_check(connection):
    return FINDINGS
"""


@pytest.mark.parametrize(
    ("reach", "more", "problem"),
    [
        ("'host'", "ping", "lacks record_many, totals"),
        ("'host'", "None", "lacks record, record_many, totals, all_totals, window, all_windows, reset"),
        ("'moon'", "record_many = totals = ping", "has the reach 'moon'; allowed: process, host, network"),
    ],
)
def test_half_a_capability_is_refused_when_it_is_opened(site: Site, reach: str, more: str, problem: str) -> None:
    """What lacks a method, or says no such reach, is told at once, not at the first call."""
    site.install(HALF.replace("REACH", reach).replace("MORE", more))
    error = refused(site, {"counters": "acme"})
    assert isinstance(error, PluginError)
    assert str(error) == f"acme 2.0, backend 'acme': what deerflow_counters yielded {problem}"


@pytest.mark.parametrize("findings", ["['text']", "[Finding('fatal', 'x')]", "[Finding('info', None)]", "'text'"])
def test_findings_that_are_none_are_refused(site: Site, findings: str) -> None:
    """Whoever shows findings can rely on what they are."""
    site.install(HALF.replace("FINDINGS", findings).replace("REACH", "'host'").replace("MORE", "ping"))
    with pytest.raises(PluginError, match=r"must return an awaitable list of deerflow_backends\.Finding"):
        asyncio.run(plugins.load("acme").check(None))


TELLTALE = """
from deerflow_backends import *
from deerflow_backends import ConnectionSettings, Finding, hookimpl, inprocess

Error = ERROR

class Settings(ConnectionSettings):
    url: str
    token: str

@hookimpl
def deerflow_settings():
    return Settings

@hookimpl
def deerflow_connect(name, settings):
    if Error is None:
        return inprocess.connect(settings.token)
    try:
        raise OSError(settings.url)
    except OSError as cause:
        raise Error(f"no {settings.token} at {settings.url}") from cause

@hookimpl
def deerflow_memory(connection):
    return inprocess.open_memory(connection)

@hookimpl
async def deerflow_check(connection):
    return [Finding("error", "redis://u:s3cr3tpw@h and t0ken")]
"""
TOLD = {"memory": "acme", "connections": {"acme": {"url": "redis://u:s3cr3tpw@h", "token": "t0ken"}}}


@pytest.mark.parametrize("error", ["ConfigError", "PluginError", "BackendUnavailable", "Corrupt"])
def test_a_plugins_own_error_loses_its_secrets(site: Site, error: str) -> None:
    """Its class stays, and the host; settings and passwords do not, nor a cause that shows them."""
    site.install(TELLTALE.replace("ERROR", error))
    with pytest.raises(BackendsError) as caught:
        asyncio.run(opened(TOLD))
    assert type(caught.value).__name__ == error
    assert str(caught.value) == "no *** at redis://***@h"
    shown = "".join(traceback.format_exception(caught.value))
    assert "s3cr3tpw" not in shown
    assert "t0ken" not in shown


def test_a_plugins_findings_lose_its_secrets(site: Site) -> None:
    """What an operator is shown is not what an onlooker may not see."""
    site.install(TELLTALE.replace("ERROR", "None"))

    async def found() -> list[str]:
        async with open_backends(TOLD) as backends:
            return [finding.message for finding in (await backends.findings())["acme"]]

    assert asyncio.run(found()) == ["redis://***@h and ***"]
