"""Texts of backends and of other people's reports, made fit to be shown: no secret, and nothing that steers."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Final

from deerflow_conformance.results import Failure, Result

#: ``user:password@`` in front of a host.
_USERINFO: Final = re.compile(r"(://)[^\s/@'\"]*@")
#: Names of settings whose values are never repeated, whatever they look like.
_PRIVATE: Final = re.compile("pass|pwd|secret|token|credential|key|auth|cookie|dsn", re.IGNORECASE)
#: Values that show nothing but what a reader needs: a number, a folder or file, a server's address without user.
_PLAIN: Final = re.compile(
    r"-?\d+(\.\d+)?|true|false|on|off|\.{0,2}/[^\s@?]*|\.{1,2}|[\w.-]+\.(db|sqlite3?)"
    r"|[a-z][a-z0-9+]*://[\w.\[\]:-]*(/\w*)?",
    re.IGNORECASE,
)


def shown_settings(settings: Mapping[str, str]) -> dict[str, str | None]:
    """Return a connection's *settings* with None for each value that is not surely harmless."""
    return {
        name: value if _PLAIN.fullmatch(value) and not _PRIVATE.search(name) else None
        for name, value in settings.items()
    }


def secrets_in(settings: Mapping[str, str]) -> frozenset[str]:
    """Return the values of *settings* that are not to be shown, and the passwords in them."""
    shown = shown_settings(settings)
    hidden = [value for name, value in settings.items() if shown[name] is None]
    passwords = [found for value in hidden for found in re.findall(r"://[^\s/@]*?:([^\s/]*)@", value)]
    # One or two characters stand in every text, and nothing else would be left of it.
    return frozenset(value for value in (*hidden, *passwords) if len(value) > 2)


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Return *text* with ``***`` for each of *secrets*, and for the user and password of any URL."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USERINFO.sub(r"\1***@", text)


def scrubbed(result: Result, secrets: Collection[str]) -> Result:
    """Return *result* without *secrets* in any of its texts."""

    def clean(text: str) -> str:
        return without_secrets(text, secrets)

    def clean_or_none(text: str | None) -> str | None:
        return None if text is None else clean(text)

    failure = result.failure
    if failure is not None:
        failure = Failure(
            failure.kind,
            failure.check,
            failure.check_sentence,
            clean(failure.message),
            clean_or_none(failure.program),
            clean(failure.trace),
            clean_or_none(failure.history),
            failure.cause,
            clean(failure.snippet),
        )
    return dataclasses.replace(result, reason=clean(result.reason), failure=failure)


def placeless(result: Result) -> Result:
    """Return *result* with files named as seen from where they are imported or from here: a report travels."""
    if result.failure is None:
        return result
    failure = result.failure
    for folder in sorted({os.getcwd(), *sys.path} - {"", "/"}, key=len, reverse=True):
        place = folder.rstrip(os.sep) + os.sep
        trace, snippet = failure.trace.replace(place, ""), failure.snippet.replace(place, "")
        failure = dataclasses.replace(failure, trace=trace, snippet=snippet)
    return dataclasses.replace(result, failure=failure)


def visible(text: str) -> str:
    """Return *text* with every character that does not show, but line breaks, as an escape.

    Such characters steer terminals, reverse what is read, or may not be in XML.
    """
    return "".join(
        mark if mark.isprintable() or mark == "\n" else mark.encode("unicode_escape").decode() for mark in text
    )
