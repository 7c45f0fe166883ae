"""One ``memory.json`` of the documents layout, and the part of a user's memory that it holds.

The body is the document without its facts, under whose key it keeps their ids in order: the order means something to
DeerFlow, but no store keeps it. There it is None if the document had no such key. A fact's value is the fact without
its ``id``. The layout has no revisions, so all are 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from deerflow_backends import codec
from deerflow_backends.arguments import check_identifier
from deerflow_backends.changes import StoredBody, StoredFact
from deerflow_backends.deerflow_folders import times
from deerflow_backends.deerflow_folders.places import Contents, Unread
from deerflow_backends.errors import Corrupt, InvalidArgument
from deerflow_backends.records import Part

LIST: Final = "facts"
UPDATED: Final = "lastUpdated"

_USER = ("workContext", "personalContext", "topOfMind")
_HISTORY = ("recentMonths", "earlierContext", "longTermBackground")


class Found(NamedTuple):
    """What was found of one part of a user.

    Attributes:
        body: None if there is none.
        facts: By id.
        changed_at: Microseconds since 1970.
        revision: The user's, 0 if it says none.
    """

    body: StoredBody | None
    facts: Mapping[str, StoredFact]
    changed_at: int
    revision: int = 0


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


def read_document(document: dict[str, Any], file_changed_at: int) -> Found:
    """Take a document apart, all or nothing of it: what is left out here would be gone once it is written back.

    Args:
        document: It loses its facts.
        file_changed_at: When, for what states no time itself.

    Raises:
        Unread: Its facts are no list of objects, or have no ids of their own.
        InvalidArgument: No store can hold it: a number that JSON cannot carry, an id too long, too deep, too large.
    """
    moment = times.to_moment(document.get(UPDATED))
    moment = file_changed_at if moment is None else moment
    listed = _list_of_facts(document.pop(LIST)) if LIST in document else None
    facts: dict[str, StoredFact] = {}
    for index, fact in enumerate(listed or []):
        fact_id = _fact_id(fact, f"facts[{index}]")
        if fact_id in facts:
            raise Unread(f"facts[{index}] has the id {fact_id!r:.80} of an earlier one")
        facts[fact_id] = StoredFact(1, codec.canonical_object(fact, f"facts[{index}]"), *times.of_fact(fact, moment))
    body = {**document, LIST: None if listed is None else list(facts)}
    return Found(StoredBody(1, codec.canonical_object(body, "the document")), facts, moment)


def _list_of_facts(facts: Any) -> list[Any]:
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


def make_document(part: Part) -> dict[str, Any]:
    """Put a part together: the document that was read, if nothing changed since.

    A body that came from no document gets what DeerFlow needs in one. Facts that came later follow by the time of their
    creation, which they state; what was changed moves the document's time to that of the user.

    Raises:
        InvalidArgument: The body has something else under ``facts`` than ids, or a fact another id than its own.
    """
    body = codec.decode(part.body.body) if part.body else {}
    is_document = LIST in body
    listed = _ids(body.pop(LIST), part) if is_document else []
    order = [fact_id for fact_id in listed or [] if fact_id in part.facts]
    later = sorted(part.facts.keys() - set(order), key=lambda fact_id: (part.facts[fact_id].created_at, fact_id))
    facts = [_fact(part, fact_id, is_later=False) for fact_id in order]
    facts += [_fact(part, fact_id, is_later=True) for fact_id in later]
    document = body if is_document else {**_empty(), **body}
    if facts or listed is not None:
        document[LIST] = facts
    if not is_document or not _is_as_read(part, listed or [], document):
        moment = times.to_moment(document.get(UPDATED))
        if moment is None or moment < part.user_updated_at:
            document[UPDATED] = times.to_text(part.user_updated_at)
    return document


def dump_object(document: dict[str, Any]) -> bytes:
    """Write a JSON object as DeerFlow does."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def _empty() -> dict[str, Any]:
    """What DeerFlow begins a document with: it reads these sections without asking whether they are there."""
    return {
        "version": "1.0",
        "user": {name: {"summary": "", "updatedAt": ""} for name in _USER},
        "history": {name: {"summary": "", "updatedAt": ""} for name in _HISTORY},
    }


def _ids(listed: Any, part: Part) -> list[str] | None:
    if listed is None or (isinstance(listed, list) and all(isinstance(fact_id, str) for fact_id in listed)):
        return list(dict.fromkeys(listed)) if listed is not None else None
    raise InvalidArgument(
        f"the body of user {part.user_id!r}, agent {part.agent_name!r},",
        "has something else than fact ids under 'facts', where DeerFlow has its facts; put them as facts, or rename it",
    )


def _fact(part: Part, fact_id: str, *, is_later: bool) -> dict[str, Any]:
    fact = part.facts[fact_id]
    value = {"id": fact_id, **codec.decode(fact.value)}
    if value["id"] != fact_id:
        raise InvalidArgument(
            f"fact {fact_id!r} of user {part.user_id!r}, agent {part.agent_name!r},",
            f"has another 'id' in its value, {value['id']!r:.80}; take it out",
        )
    if is_later and times.to_moment(value.get("createdAt")) is None:
        value["createdAt"] = times.to_text(fact.created_at)
    return value


def _is_as_read(part: Part, listed: list[str], document: Mapping[str, Any]) -> bool:
    """Whether *part* is as `read_document` gave it. Only who changes something raises a revision above 1."""
    if part.facts.keys() != set(listed) or any(fact.revision > 1 for fact in part.facts.values()):
        return False
    if part.user_revision == 1:
        return True
    # A fact that was deleted and put again has revision 1, but is younger than the document.
    moment = times.to_moment(document.get(UPDATED))
    is_young = moment is not None and any(fact.updated_at > moment for fact in part.facts.values())
    return part.body is not None and part.body.revision == 1 and not is_young
