"""Which of a plugin's settings may be repeated in reports, and what of them nothing that is printed may show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deerflow_backends.settings import ConnectionSettings
from deerflow_conformance import plugin_opening

#: Names of settings whose values are never repeated, whatever they look like.
_PRIVATE: Final = re.compile("pass|pwd|secret|token|credential|key|auth|cookie|dsn", re.IGNORECASE)
#: Values that show nothing but what a reader needs: a number, a folder or file, a server's address without user.
_PLAIN: Final = re.compile(
    r"-?\d+(\.\d+)?|true|false|on|off|\.{0,2}/[^\s@?]*|\.{1,2}|[\w.-]+\.(db|sqlite3?)"
    r"|[a-z][a-z0-9+]*://[\w.\[\]:-]*(/\w*)?",
    re.IGNORECASE,
)
#: Words, which stand in the kit's own sentences too. Nobody has one for a secret, unless its setting is private.
_WORDS: Final = re.compile(r"[a-z]+([-_./ ][a-z]+)*", re.IGNORECASE)


def shown_settings(plugin: str, connection: Mapping[str, Any]) -> dict[str, Any]:
    """Return *connection*, of an installed plugin, with None for each value that is not surely harmless."""
    settings = _settings(plugin, connection)
    return {name: value if is_harmless(name, value, settings) else None for name, value in connection.items()}


def secrets_in(plugin: str, connection: Mapping[str, Any]) -> frozenset[str]:
    """Return the texts in *connection*, of an installed plugin, that may be secrets, and the passwords in them."""
    settings = _settings(plugin, connection)
    return frozenset(text for name, value in connection.items() for text in secrets_of_one(name, value, settings))


def is_harmless(name: str, value: Any, settings: ConnectionSettings | None) -> bool:
    """Whether anybody may see a setting's *value*, by what it looks like, or by what it is in the plugin's *settings*.

    Folders, numbers, and choices from a list hold no secret.
    """
    if _PRIVATE.search(name):
        return False
    text = str(value)
    declared = settings is not None and plugin_opening.is_declared_harmless(name, value, settings)
    return (declared and "://" not in text) or _PLAIN.fullmatch(text) is not None


def secrets_of_one(name: str, value: Any, settings: ConnectionSettings | None) -> Iterator[str]:
    """Give the texts in one setting's *value* that may be secrets."""
    if is_harmless(name, value, settings):
        return
    private = _PRIVATE.search(name) or hasattr(getattr(settings, name, None), "get_secret_value")
    for text in plugin_opening.texts_in(value):
        # One or two characters stand in every text, and nothing else would be left of it.
        if len(text) > 2 and (private or not _WORDS.fullmatch(text)):
            yield text


def _settings(plugin: str, connection: Mapping[str, Any]) -> ConnectionSettings | None:
    return plugin_opening.settings_of(plugin, connection) if connection else None
