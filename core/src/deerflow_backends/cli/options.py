"""The options that commands share, and the configuration they come to."""
# ruff: noqa: PLC0415  # parsing a command line must not load pydantic

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deerflow_backends.cli.output import remark
from deerflow_backends.errors import PluginError

if TYPE_CHECKING:
    from deerflow_backends.configuration import Configuration

BackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="Use this backend for all four capabilities.")
]
OneBackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="Look at this backend, not at the configured one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of its connection, such as url=...; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


class UsageError(Exception):
    """The command was given arguments that do not go together; the message says which and what to do."""


def parse_settings(backend: str | None, pairs: Sequence[str] | None) -> dict[str, str]:
    """Read ``--set key=value``.

    Raises:
        UsageError: No ``=``, no key, a key twice, or no backend whose settings they are.
    """
    settings: dict[str, str] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError("--set takes key=value, such as --set namespace=trial")  # what it got may be a secret
        if key in settings:
            raise UsageError(f"--set {key} is given twice; give it once")
        settings[key] = value
    if settings and backend is None:
        raise UsageError("--set needs --backend NAME: whose settings are they?")
    return settings


def configured(backend: str | None, pairs: Sequence[str] | None) -> Configuration:
    """Load the configuration, with *backend* and its settings before everything else if they are given.

    What *backend* does not offer stays in process, and a remark says so.
    """
    from deerflow_backends.capabilities import CAPABILITIES
    from deerflow_backends.configuration import DEFAULT_BACKEND, load_configuration

    settings = parse_settings(backend, pairs)
    if backend is None:
        return load_configuration()
    offered = _offered(backend)
    chosen = {capability: backend if capability in offered else DEFAULT_BACKEND for capability in CAPABILITIES}
    arguments: dict[str, Any] = {
        capability: {"backend": name, "connection": name} for capability, name in chosen.items()
    }
    if rest := [capability for capability in CAPABILITIES if capability not in offered]:
        remark(f"{backend} does not offer {', '.join(rest)}: kept in this process")
    if settings:
        arguments["connections"] = {backend: {"backend": backend, **settings}}
    return load_configuration(arguments)


def configured_alone(capability: str, backend: str | None, pairs: Sequence[str] | None) -> Configuration:
    """Load the configuration of a command that opens *capability* only, with *backend* for it if that is given."""
    from deerflow_backends.configuration import load_configuration

    settings = parse_settings(backend, pairs)
    if backend is None:
        return load_configuration()
    arguments: dict[str, Any] = {capability: {"backend": backend, "connection": backend}}
    if settings:
        arguments["connections"] = {backend: {"backend": backend, **settings}}
    return load_configuration(arguments)


def _offered(backend: str) -> Sequence[str]:
    """Return what *backend* is to be used for: what it offers, or all if it cannot be used, which opening will tell."""
    from deerflow_backends import plugins
    from deerflow_backends.capabilities import CAPABILITIES

    try:
        return plugins.load(backend).capabilities or CAPABILITIES
    except PluginError:
        return CAPABILITIES
