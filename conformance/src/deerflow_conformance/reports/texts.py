"""Texts of backends and of other people's reports, made fit to be shown: no secret, and nothing that steers."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, Final

from deerflow_conformance.results import Result

#: ``user:password@`` in front of a host.
_USERINFO: Final = re.compile(r"(://)[^\s/@'\"]*@")
#: What of a failure is in the kit's own words, whatever was tested.
_OWN: Final = ("check", "check_sentence", "cause")


def without_secrets(text: str, secrets: Collection[str]) -> str:
    """Return *text* with ``***`` for each of *secrets*, and for the user and password of any URL."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USERINFO.sub(r"\1***@", text)


def scrubbed(result: Result, secrets: Collection[str]) -> Result:
    """Return *result* without *secrets* in any of its texts, but those that are the kit's own words."""
    return _with_texts(result, lambda text: without_secrets(text, secrets), but=_OWN)


def portable(result: Result) -> Result:
    """Return *result* fit to travel: files are named as seen from here or from where they are imported."""
    folders = sorted({os.getcwd(), *sys.path} - {"", os.sep}, key=len, reverse=True)
    places = [folder.rstrip(os.sep) + os.sep for folder in folders]

    def placeless(text: str) -> str:
        for place in places:
            text = text.replace(place, "")
        return whole(text)

    return _with_texts(result, placeless)


def whole(text: str) -> str:
    """Return *text* with halves of characters as escapes: UTF-8 has none, and most readers of JSON refuse them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _with_texts(result: Result, change: Callable[[str], str], but: Collection[str] = ()) -> Result:
    """Return *result* with every text of it changed, but those fields of its failure."""
    failure = result.failure
    if failure is not None:
        texts: dict[str, Any] = {
            field.name: change(text)
            for field in dataclasses.fields(failure)
            if field.name not in ("kind", *but) and (text := getattr(failure, field.name)) is not None
        }
        failure = dataclasses.replace(failure, **texts)
    return dataclasses.replace(result, reason=change(result.reason), failure=failure)


def visible(text: str) -> str:
    """Return *text* with every character that does not show, but line breaks, as an escape.

    Such characters steer terminals, reverse what is read, or may not be in XML.
    """
    return "".join(
        mark if mark.isprintable() or mark == "\n" else mark.encode("unicode_escape").decode() for mark in text
    )
