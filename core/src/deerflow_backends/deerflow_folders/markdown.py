"""The files of the markdown layout: a user's summaries in one ``memory.json``, and a Markdown file for each fact.

Summaries carry the user's revision, which is the body's too, since the layout has no other. A fact's value is what
DeerFlow makes of the file, without ``id``, ``revision``, and the user and agent that it states: those are where it is
kept. A folder's name tells less than a user's id that has other characters than ``A-Za-z0-9_-``; then the id is what
the facts state, and the name itself where there is no fact: DeerFlow keeps both in the same folder.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from deerflow_backends import codec
from deerflow_backends.changes import MAX_IMPORTED_REVISION, StoredBody, StoredFact
from deerflow_backends.deerflow_folders import times, yaml_text
from deerflow_backends.deerflow_folders.documents import LIST, UPDATED, Found
from deerflow_backends.deerflow_folders.places import Contents, Unread
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.records import Part

VERSION: Final = "2.0"
_BEGIN: Final = "---\n"
_END: Final = "\n---\n"
_TITLE: Final = "# "
_LONGEST_TITLE: Final = 160
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_\-]")


def safe_user_id(user_id: str) -> str:
    """Name a user's folder as DeerFlow does: other characters become ``-``, and then a digest keeps two ids apart."""
    name = _UNSAFE.sub("-", user_id)
    return name if name == user_id else f"{name}-{hashlib.sha256(user_id.encode()).hexdigest()[:16]}"


def shard(fact_id: str) -> str:
    """Name the folder in which DeerFlow keeps a fact's file."""
    return hashlib.sha256(fact_id.encode()).hexdigest()[:2]


def is_summaries(document: dict[str, Any]) -> bool:
    """Whether a ``memory.json`` is of this layout: it has no facts, and the later version."""
    return LIST not in document and document.get("version") == VERSION


def read_summaries(document: dict[str, Any], file_changed_at: int) -> Found:
    """Read a user's summaries; without any there is no body. *document* loses its revision.

    Raises:
        Unread: The revision is none.
        InvalidArgument: No store can hold it.
    """
    revision = _revision(document.pop("revision", 0), least=0)
    moment = times.to_moment(document.get(UPDATED))
    body = codec.canonical_object(document, "the document") if document.keys() - {"version", UPDATED} else None
    return Found(
        StoredBody(revision, body) if body else None, {}, file_changed_at if moment is None else moment, revision
    )


def make_summaries(part: Part) -> dict[str, Any]:
    """Write the user-wide part of a user, with the revision and time of all of the user's memory.

    Raises:
        InvalidArgument: It has facts, which the layout has no place for.
    """
    body = codec.decode(part.body.body) if part.body else {}
    if part.facts or body.pop(LIST, None):
        raise InvalidArgument(
            f"the user-wide part of user {part.user_id!r}", "has facts; only the layout 'documents' keeps them there"
        )
    if times.to_moment(body.get(UPDATED)) != part.user_updated_at:
        body[UPDATED] = times.to_text(part.user_updated_at)
    return {**body, "version": VERSION, "revision": part.user_revision}


class MarkdownFact(NamedTuple):
    """A fact as its file says.

    Attributes:
        owner: The user that it states (None: without a user), or `NO_OWNER`.
        agent_name: The agent that it states, if any.
    """

    owner: Any
    agent_name: Any
    fact: StoredFact


#: The file states no user.
NO_OWNER: Final = object()


def read_fact(contents: Contents, fact_id: str) -> MarkdownFact:
    """Read a Markdown file that is named after *fact_id*.

    Raises:
        Unread: It is not of DeerFlow's form.
        InvalidArgument: No store can hold it.
    """
    try:
        text = contents.data.decode()
    except UnicodeDecodeError as error:
        raise Unread(f"is not UTF-8: {error}") from error
    if text.startswith("---\r\n"):
        text = text.replace("\r\n", "\n")
    front, end, content = text.removeprefix(_BEGIN).partition(_END)
    if not text.startswith(_BEGIN) or not end:
        raise Unread("does not begin with YAML between two lines of ---")
    value = yaml_text.load_mapping(front)
    if str(value.pop("id", "")) != fact_id:
        raise Unread("states another id than its name")
    revision = _revision(value.pop("revision", 1), least=1)
    owner, agent_name = value.pop("user_id", NO_OWNER), value.pop("agent_name", None)
    for name in ("title", "scope"):
        value.pop(name, None)
    value |= _title_and_content(content)
    stored = codec.canonical_object(value, "the fact")
    return MarkdownFact(owner, agent_name, StoredFact(revision, stored, *times.of_fact(value, contents.changed_at)))


def _title_and_content(text: str) -> dict[str, str]:
    first, _, rest = text.lstrip("\n").partition("\n")
    if not first.startswith(_TITLE):
        return {"content": text.strip()}
    title = first.removeprefix(_TITLE).strip()
    return {"title": title, "content": rest.strip()} if title else {"content": rest.strip()}


def _revision(revision: Any, *, least: int) -> int:
    if not isinstance(revision, int) or isinstance(revision, bool) or not least <= revision <= MAX_IMPORTED_REVISION:
        raise Unread(f"has the revision {revision!r:.80}, which is no integer of {least} or more")
    return revision


class _Source(msgspec.Struct):
    type: str = ""
    threadId: str | None = None  # noqa: N815  # DeerFlow's name


class _Readable(msgspec.Struct):
    """What DeerFlow refuses to read a fact without, and with it all of the agent's."""

    content: Annotated[str, msgspec.Meta(pattern=r"\S")]
    category: str = ""
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    status: Literal["active"] = "active"
    topics: list[str] = []
    consolidatedFrom: list[str] = []  # noqa: N815
    lastConfirmedAt: str | None = None  # noqa: N815
    confirmationCount: Annotated[int, msgspec.Meta(ge=1)] | None = None  # noqa: N815
    createdAt: str = ""  # noqa: N815
    updatedAt: str = ""  # noqa: N815


def render_fact(user_id: str | None, agent_name: str, fact_id: str, fact: StoredFact) -> bytes:
    """Write a fact so that `read_fact` gives it back, if its file was changed when the fact was.

    Only a title may be added, where the text would be taken for one, and the ``scope`` of its value is left out.

    Raises:
        InvalidArgument: DeerFlow would not read it, or not as it is.
    """
    place = f"fact {fact_id!r} of user {user_id!r}, agent {agent_name!r},"
    value = codec.decode(fact.value)
    value.pop("scope", None)
    value.pop("revision", None)
    if value.pop("id", fact_id) != fact_id:
        raise InvalidArgument(place, "has another 'id' in its value; take it out")
    try:
        msgspec.convert(value, _Readable)
        if isinstance(value.get("source"), dict):
            msgspec.convert(value["source"], _Source)
    except msgspec.ValidationError as error:
        raise InvalidArgument(place, f"cannot be read by DeerFlow ({error}); {_REMEDY}") from error
    if times.of_fact(value, fact.updated_at) != (fact.created_at, fact.updated_at):
        value["createdAt"], value["updatedAt"] = times.to_text(fact.created_at), times.to_text(fact.updated_at)
    content, title = value.pop("content"), value.pop("title", None)
    if not title and content.startswith(_TITLE):
        title = content.splitlines()[0][:_LONGEST_TITLE].strip()
    front = {"id": fact_id, **value, "revision": fact.revision, "user_id": user_id, "agent_name": agent_name}
    head = f"{_TITLE}{title}\n\n" if title else ""
    data = f"{_BEGIN}{yaml_text.dump_mapping(front)}{_END}\n{head}{content}\n".encode()
    whole = {**value, "content": content} | ({"title": title} if title is not None else {})
    if not _reads_as(data, fact_id, fact._replace(value=codec.canonical(whole))):
        raise InvalidArgument(place, f"would be read differently from a Markdown file; {_REMEDY}")
    return data


_REMEDY = "the layout 'documents' keeps it"


def _reads_as(data: bytes, fact_id: str, fact: StoredFact) -> bool:
    try:
        return read_fact(Contents(data, fact.updated_at), fact_id).fact == fact
    except (Unread, InvalidArgument):
        return False
