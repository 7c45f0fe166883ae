"""The backends that are measured, by the names that configuration knows them by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deerflow_backends import Backends, open_backends, plugins
from deerflow_backends.capabilities import CAPABILITIES

#: The backends that need nothing but a folder, or not even that; measured unless others are named.
EMBEDDED = ("inprocess", "files", "sqlite")


@dataclass(frozen=True, slots=True)
class Subject:
    """One backend.

    Attributes:
        name: In configuration.
        settings: Of its connection.
        capabilities: What it offers.
    """

    name: str
    settings: Mapping[str, str]
    capabilities: frozenset[str]

    def configuration(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what `open_backends` takes: this backend for all that it offers, else the in-process one.

        Args:
            options: Of the stream bridge, where defaults will not do.
        """
        made: dict[str, Any] = {
            capability: {"backend": self.name if capability in self.capabilities else "inprocess"}
            for capability in CAPABILITIES
        }
        made["stream_bridge"].update(options or {})
        if self.settings:
            made["connections"] = {self.name: {"backend": self.name, **self.settings}}
        return made

    def open(self, options: Mapping[str, Any] | None = None) -> AbstractAsyncContextManager[Backends]:
        """Open it as a user would."""
        return open_backends(self.configuration(options))


def subject(name: str, settings: Mapping[str, str], folder: Path) -> Subject:
    """Load a backend.

    Args:
        settings: Of its connection; embedded ones have their files in *folder* if no path is given.

    Raises:
        PluginError: It is not installed, or broken.
    """
    plugin = plugins.load(name)
    if name in EMBEDDED and name != "inprocess":
        settings = {"path": str(folder), **settings}
    return Subject(name, settings, frozenset(plugin.capabilities))


def forget_environment() -> None:
    """Drop from this process what would configure backends: a measurement is configured by its arguments alone."""
    for name in tuple(os.environ):
        if name.startswith(("DEERFLOW_BACKENDS_", "DEER_FLOW_")):
            del os.environ[name]
