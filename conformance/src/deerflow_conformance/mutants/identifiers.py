"""Faults of identifiers, in all four capabilities: G1."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any
from unittest import mock

from deerflow_backends import arguments
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.inprocess.memories import InProcessMemoryStore
from deerflow_backends.inprocess.streams import InProcessStreamBridge
from deerflow_backends.thread_changes import StoredThread
from deerflow_conformance.mutants import Patched, methods, mutant
from deerflow_conformance.promises import CAPABILITIES

_text = arguments._text
_find = InProcessStreamBridge._find
_create = InProcessStreamBridge._create
_user = InProcessMemoryStore._user
_store = InProcessMemoryStore._store
_agents = InProcessMemoryStore.agents
_to_thread = StoredThread.to_thread


def _identifiers(changed: Callable[[str], str]) -> Patched:
    """Take identifiers for others: of a stream bridge those of its events, of the rest all."""

    def text(place: str, value: Any, least: int, most: int) -> str:
        checked = _text(place, value, least, most)
        return changed(checked) or "?" if (least, most) == (1, arguments.MAX_IDENTIFIER_BYTES) else checked

    return mock.patch.object(arguments, "_text", text)


@mutant("G1", *CAPABILITIES, by="no_two_identifiers_collide")
def ids_end_at_u_0000() -> Patched:
    """An identifier ends where U+0000 is in it."""
    return _identifiers(lambda text: text.partition("\x00")[0])


@mutant("G1", *CAPABILITIES, by="no_two_identifiers_collide")
def space_around_ids_is_cut_off() -> Patched:
    """White space around an identifier is no part of it."""
    return _identifiers(str.strip)


@mutant("G1", "thread_index", "counters", by="no_two_identifiers_collide")
def ids_fold() -> Patched:
    """Identifiers that differ only by case are one."""
    return _identifiers(str.casefold)


@mutant("G1", "stream_bridge", by="no_two_identifiers_collide")
def run_ids_are_case_folded() -> Patched:
    """Runs whose ids differ only by case are one."""

    def find(self: InProcessStreamBridge, run_id: str, now: int) -> Any:
        return _find(self, run_id.casefold(), now)

    def create(self: InProcessStreamBridge, run_id: str, now: int, trace: Any) -> Any:
        return _create(self, run_id.casefold(), now, trace)

    return methods(InProcessStreamBridge, _find=find, _create=create)


@mutant("G1", "memory", by="no_two_identifiers_collide")
def user_ids_are_normalised() -> Patched:
    """Users whose ids differ only by normal form are one."""

    def normal(user_id: str | None) -> str | None:
        return user_id and unicodedata.normalize("NFC", user_id)

    def user(self: InProcessMemoryStore, user_id: str | None) -> Any:
        return _user(self, normal(user_id))

    def store(self: InProcessMemoryStore, user_id: str | None, *rest: Any) -> None:
        _store(self, normal(user_id), *rest)

    return methods(InProcessMemoryStore, _user=user, _store=store)


@mutant("G1", "memory", by="no_two_identifiers_collide")
def agents_order_as_utf_16() -> Patched:
    """Agents are named in the order of their UTF-16 units."""

    async def agents(self: InProcessMemoryStore, user_id: Any) -> list[str]:
        return sorted(await _agents(self, user_id), key=lambda name: name.encode("utf-16-be"))

    return methods(InProcessMemoryStore, agents=agents)


@mutant("G1", *CAPABILITIES, by=("any_characters_make_an_identifier", "no_two_identifiers_collide"))
def only_what_is_printable_is_taken() -> Patched:
    """An identifier with control characters, or of no assigned character, is refused."""

    def text(place: str, value: Any, least: int, most: int) -> str:
        checked = _text(place, value, least, most)
        if not checked.isprintable() and most == arguments.MAX_IDENTIFIER_BYTES:
            raise InvalidArgument(place, "must be printable")
        return checked

    return mock.patch.object(arguments, "_text", text)


@mutant("G1", *CAPABILITIES, by="no_two_identifiers_collide")
def ids_have_255_characters() -> Patched:
    """An identifier of more than 255 bytes is refused."""
    return mock.patch.object(arguments, "MAX_IDENTIFIER_BYTES", 255)


@mutant("G1", *CAPABILITIES, by="bad_identifiers_are_refused")
def ids_have_any_length() -> Patched:
    """An identifier of more than 512 bytes is taken."""
    return mock.patch.object(arguments, "MAX_IDENTIFIER_BYTES", 10**9)


@mutant("G1", *CAPABILITIES, by="bad_identifiers_are_refused")
def anything_makes_an_id() -> Patched:
    """What is no str is an identifier as it is shown."""
    return mock.patch.object(
        arguments,
        "_text",
        lambda place, value, least, most: _text(
            place, value if value is None or isinstance(value, str) else str(value), least, most
        ),
    )


@mutant("G1", "thread_index", by="display_names_are_any_text")
def long_names_are_cut() -> Patched:
    """A display name is cut after 255 characters."""

    def to_thread(self: StoredThread) -> Any:
        thread = _to_thread(self)
        object.__setattr__(thread, "display_name", thread.display_name and thread.display_name[:255])
        return thread

    return methods(StoredThread, to_thread=to_thread)


@mutant("G1", "thread_index", by="display_names_are_any_text")
def an_empty_name_is_no_name() -> Patched:
    """A display name that is empty is none."""

    def to_thread(self: StoredThread) -> Any:
        thread = _to_thread(self)
        object.__setattr__(thread, "display_name", thread.display_name or None)
        return thread

    return methods(StoredThread, to_thread=to_thread)


@mutant("G1", "thread_index", by="display_names_are_any_text")
def names_have_any_length() -> Patched:
    """A display name of more than 8 KiB is taken."""
    return mock.patch.object(arguments, "MAX_TEXT_BYTES", 10**9)
