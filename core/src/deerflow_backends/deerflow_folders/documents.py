"""One ``memory.json`` of the documents layout, and the body and facts that it holds.

The body is the document without its facts, under whose key it keeps their ids in order: the order means something to
DeerFlow, but no store keeps it. It is None there if the document had no such key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from deerflow_backends import codec
from deerflow_backends.arguments import check_identifier
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import times
from deerflow_backends.deerflow_folders.places import Contents, Unread
from deerflow_backends.errors import Corrupt

LIST: Final = "facts"
UPDATED: Final = "lastUpdated"


class Document(NamedTuple):
    """What a document says: the body and facts of one part, and when it was changed, in microseconds since 1970."""

    body: StoredBody
    facts: Mapping[str, StoredFact]
    changed_at: int


def read_object(contents: Contents) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        Unread: It is none.
    """
    try:
        document = codec.decode(contents.data)
    except Corrupt as error:
        raise Unread(f"is not JSON: {error.__cause__}") from error
    if not isinstance(document, dict):
        raise Unread(f"must be a JSON object, not {type(document).__name__}")
    return document


def read_document(document: dict[str, Any], changed_at: int) -> Document:
    """Take a document apart, all or nothing of it: what is left out here would be gone once it is written back.

    Args:
        document: It loses its facts.
        changed_at: When its file was changed, for what states no time itself.

    Raises:
        Unread: Its facts are no list of objects, or have no ids of their own.
        InvalidArgument: No store can hold it: a number that JSON cannot carry, an id too long, too deep, too large.
    """
    moment = times.to_moment(document.get(UPDATED))
    moment = changed_at if moment is None else moment
    listed = document.pop(LIST, None) if LIST not in document else _checked_list(document.pop(LIST))
    facts: dict[str, StoredFact] = {}
    for index, fact in enumerate(listed or []):
        fact_id = _fact_id(fact, f"facts[{index}]")
        if fact_id in facts:
            raise Unread(f"facts[{index}] has the id {fact_id!r:.80} of an earlier one")
        value = codec.canonical_object(fact, f"facts[{index}]")
        facts[fact_id] = StoredFact(1, value, *times.of_fact(fact, moment))
    body = {**document, LIST: None if listed is None else list(facts)}
    return Document(StoredBody(1, codec.canonical_object(body, "the document")), facts, moment)


def _checked_list(facts: Any) -> list[Any]:
    if not isinstance(facts, list):
        raise Unread(f"facts must be a list, not {type(facts).__name__}")
    return facts


def _fact_id(fact: Any, place: str) -> str:
    """Take the id out of *fact*."""
    if not isinstance(fact, dict):
        raise Unread(f"{place} must be an object, not {type(fact).__name__}")
    if "id" not in fact:
        raise Unread(f"{place} has no id")
    return check_identifier(f"{place}.id", fact.pop("id"))
