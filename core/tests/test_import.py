"""`import deerflow_backends` costs next to nothing, and every public name is there when it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import deerflow_backends

#: Distributions that only some users need, or only once something is opened.
HEAVY = ("pydantic", "pydantic_settings", "yaml", "pluggy", "importlib_metadata", "packaging", "anyio")
COMMANDS = ("typer", "click", "rich", "starlette", "uvicorn", "httpx")
DRIVERS = ("sqlite3", "redis", "psycopg", "psycopg_pool", "pymongo", "sqlalchemy", "aiosqlite")


def run(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Neither configuration, nor plugins, nor the command line, nor a driver is loaded before it is used."""
    loaded = run("import sys, deerflow_backends; print(*sys.modules)")
    assert "deerflow_backends" in loaded
    found = {name.partition(".")[0] for name in loaded} & {*HEAVY, *COMMANDS, *DRIVERS}
    assert found == set()


def test_using_errors_and_contracts_loads_no_machinery() -> None:
    """Code that only speaks the contracts, as callers and libraries do, stays light too."""
    program = """
import sys
from deerflow_backends import CONTRACT_VERSION, BackendUnavailable, ModelCounters, PutFact, StreamEvent, Thread, health
print(*sys.modules)
"""
    found = {name.partition(".")[0] for name in run(program)} & {*HEAVY, *COMMANDS, *DRIVERS}
    assert found == set()


def test_opening_loads_no_command_line_and_no_driver_of_another_backend() -> None:
    """In process needs neither the extras nor a database."""
    program = """
import asyncio, sys
from deerflow_backends import open_backends
async def main():
    async with open_backends({}):
        pass
asyncio.run(main())
print(*sys.modules)
"""
    found = {name.partition(".")[0] for name in run(program)} & {*COMMANDS, *DRIVERS}
    assert found == set()


@pytest.mark.parametrize("name", deerflow_backends.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """What is listed can be had."""
    assert getattr(deerflow_backends, name) is not None
    assert name in dir(deerflow_backends)


def test_public_names_are_sorted_and_where_they_are_said_to_be() -> None:
    """The list, the lazy table and the imports that type checkers see agree."""
    assert sorted(deerflow_backends.__all__) == sorted({*deerflow_backends.__all__})
    assert deerflow_backends.__all__ == sorted(deerflow_backends.__all__, key=_constants_then_classes)
    assert {"CONTRACT_VERSION", *deerflow_backends._HOME} == {*deerflow_backends.__all__}
    tree = ast.parse(Path(inspect.getfile(deerflow_backends)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.name: (node.module or "").removeprefix("deerflow_backends.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is None
    }
    assert seen == deerflow_backends._HOME


def _constants_then_classes(name: str) -> tuple[int, str]:
    """The order that ruff keeps ``__all__`` in."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_no_public_name_is_also_a_modules() -> None:
    """Importing a submodule sets an attribute of its name here, and would replace a public name that is called so."""
    modules = {module.name for module in pkgutil.iter_modules(deerflow_backends.__path__)}
    assert modules & {*deerflow_backends.__all__} == set()


def test_everything_public_in_errors_is_public_here() -> None:
    """A caller can catch every error by its short name."""
    errors = importlib.import_module("deerflow_backends.errors")
    public = {name for name, value in vars(errors).items() if inspect.isclass(value) and not name.startswith("_")}
    assert public <= {*deerflow_backends.__all__}


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as it does on any module."""
    with pytest.raises(AttributeError, match=r"^module 'deerflow_backends' has no attribute 'open_backend'$"):
        deerflow_backends.open_backend  # type: ignore[attr-defined]  # noqa: B018  # that is the mistake
