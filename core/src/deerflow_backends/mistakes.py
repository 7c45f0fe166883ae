"""What is wrong with a configuration: one line a mistake, naming the key, its origin and what is allowed, no secret."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

from deerflow_backends.errors import ConfigError, PluginError

#: A key's place, such as ``("connections", "redis", "url")``.
Place: TypeAlias = tuple[str, ...]

#: ``user:password@`` in front of a host, in whatever text; with a password, also one that should have been encoded.
_USERINFO = re.compile(r"(://+)(?:[^\s/@:]*:\S+|[^\s/@'\"]*(?:@[^\s/@'\"]+)*)(?=@)|(:/)[^\s/@:]*:\S+(?=@)")
_PASSWORD = re.compile(r"://[^\s/@]*?:([^\s/]*)@")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake, which `str` turns into its line.

    Attributes:
        key: Where, dotted, such as ``connections.redis.url``; empty for a whole file.
        origin: The file, the variable or ``arguments``; empty for a default.
        problem: What is wrong and what is allowed.
        in_plugin: It is the installation that must be fixed, not the configuration.
    """

    key: str
    origin: str
    problem: str
    in_plugin: bool = False

    def __str__(self) -> str:
        place = f"{self.key} ({self.origin})" if self.key and self.origin else self.key or self.origin
        return scrub(one_line(f"{place}: {self.problem}"), ())


def refuse(mistakes: Collection[Mistake]) -> None:
    """Raise all *mistakes* as one error, if there are any.

    Raises:
        PluginError: All of them are the installation's.
        ConfigError: Not all of them are.
    """
    if mistakes:
        kind = PluginError if all(mistake.in_plugin for mistake in mistakes) else ConfigError
        raise kind("\n".join(map(str, mistakes)))


def one_line(text: str) -> str:
    """Return *text* with every run of white space made one space."""
    return " ".join(text.split())


def unknown(what: str, name: str, allowed: Iterable[str], *, these: str = "allowed") -> str:
    """Say that *name* is no *what* (such as ``"unknown key"``), what is allowed, and what was perhaps meant."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{what}; {meant}{these}: {', '.join(names) if names else 'nothing'}"


def secrets_in(values: Any) -> frozenset[str]:
    """Return every text in a connection's *values*, and the passwords of URLs in them: none of it may be shown."""
    found: set[str] = set()
    for text in _texts(values):
        found |= {text, unquote(text), repr(text)[1:-1]}
        for password in _PASSWORD.findall(text):
            found |= {password, unquote(password)}
    return frozenset(found - {""})


def is_url(text: str) -> bool:
    """Whether *text* looks like a URL, also like a mistyped one: where a name belongs, it may hold a password."""
    return ":/" in text


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _texts(value)
    elif isinstance(values, list | tuple | set | frozenset):
        for value in values:
            yield from _texts(value)


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return *text* with ``***`` for each of *secrets*, and for the user and password of any URL."""
    if secrets:
        longest_first = sorted(secrets, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), "***", text)
    return _USERINFO.sub(lambda found: f"{found[1] or found[2]}***", text)
