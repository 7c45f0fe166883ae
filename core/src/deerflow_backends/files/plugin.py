"""The whole offer of the backend with memory in files."""
# ruff: noqa: D103  # hookspecs.py documents the hooks

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from deerflow_backends import Finding, MemoryOptions, MemoryStore, files, hookimpl
from deerflow_backends.files.checking import findings
from deerflow_backends.files.settings import Settings


@hookimpl
def deerflow_settings() -> type[Settings]:
    return Settings


@hookimpl
async def deerflow_migrate(settings: Settings, apply: bool) -> list[str]:
    return await files.migrate(settings.path, settings.namespace, import_from=settings.import_from, apply=apply)


@hookimpl
def deerflow_connect(name: str, settings: Settings) -> AbstractAsyncContextManager[files.Connection]:
    return files.connect(name, **settings.model_dump(exclude={"migrate", "publish_timeout_seconds"}), migrate=False)


@hookimpl
async def deerflow_check(connection: files.Connection) -> list[Finding]:
    return await findings(connection)


@hookimpl
def deerflow_memory(connection: files.Connection, options: MemoryOptions) -> AbstractAsyncContextManager[MemoryStore]:
    return files.open_memory(connection, options)
