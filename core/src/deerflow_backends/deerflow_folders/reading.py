"""Reading a folder of DeerFlow's, user by user.

A folder may be of both layouts at once: a later DeerFlow takes over what an earlier one left when it first needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deerflow_backends.changes import StoredFact
from deerflow_backends.deerflow_folders import markdown
from deerflow_backends.deerflow_folders.documents import Found, read_document, read_object
from deerflow_backends.deerflow_folders.places import (
    ADDING,
    AGENTS,
    DOCUMENT,
    FACTS,
    JOURNAL,
    SUFFIX,
    Damaged,
    Layout,
    Unread,
    fact_files_in,
    folders_in,
    homes_in,
    read_file,
)
from deerflow_backends.errors import InvalidArgument
from deerflow_backends.records import Part


def memory_in(folder: Path) -> Iterator[Path]:
    """Give the files of memory in *folder*, damaged ones too, and what may hide some: links and unreadable folders."""
    for home in homes_in(folder):
        if isinstance(home, Damaged):
            yield home.path
            continue
        if _is_there(home / JOURNAL):
            yield home / JOURNAL
        for part in (home, *folders_in(home / AGENTS)):
            if isinstance(part, Damaged):
                yield part.path
                continue
            if _is_there(part / DOCUMENT):
                yield part / DOCUMENT
            if part is not home:
                yield from (file.path if isinstance(file, Damaged) else file for file in fact_files_in(part / FACTS))


def find_layout(folder: Path) -> Layout | None:
    """Say how the memory in *folder* is laid out; None if there is none, or no such folder.

    ``markdown`` if anything is in that layout: then a later DeerFlow was here.
    """
    layout: Layout | None = None
    for path in memory_in(folder):
        if path.suffix == SUFFIX or (path.name == DOCUMENT and _holds_summaries(path)):
            return "markdown"
        layout = "documents" if path.name == DOCUMENT else layout
    return layout


def _holds_summaries(path: Path) -> bool:
    try:
        contents = read_file(path)
        return contents is not None and markdown.is_summaries(read_object(contents))
    except Unread:
        return False


def read_folder(folder: Path) -> Iterator[Part | Damaged]:
    """Read all memory in *folder*, changing nothing: what DeerFlow keeps without a user first, then user by user.

    A user's first part is the user-wide one, there or not, as `MemoryStore.restore` wants it. Nothing is given for a
    folder that is not there. What is damaged is given as `Damaged` and not read at all, neither half a document nor a
    home that DeerFlow was killed in while it changed several files; all else is read.
    """
    if _is_there(folder / ADDING):
        yield Damaged(folder / ADDING, "was left by a write that was killed; write to the folder again to finish it")
    for home in homes_in(folder):
        if isinstance(home, Damaged):
            yield home
        else:
            yield from _read_home(home, None if home is folder else home.name)


def _read_home(home: Path, name: str | None) -> Iterator[Part | Damaged]:
    if _is_there(home / JOURNAL):
        yield Damaged(home / JOURNAL, "is of a change that DeerFlow has not finished; start DeerFlow, it finishes it")
        return
    reading = _Reading(home, name)
    for folder in (home, *folders_in(home / AGENTS)):
        if isinstance(folder, Damaged):
            yield folder
        elif folder is home:
            yield from reading.read_document(home, None)
        else:
            yield from reading.read_facts(folder)
            yield from reading.read_document(folder, folder.name)
    yield from reading.parts()


@dataclass(slots=True)
class _Reading:
    """What was found of one user so far.

    Attributes:
        home: Of the user.
        name: Of that folder; None for what is kept without a user.
        owner: The id that facts state, where the folder's name tells less.
        found: By agent; None is the user-wide part.
    """

    home: Path
    name: str | None
    owner: str | None = None
    found: dict[str | None, Found] = field(default_factory=dict)

    def read_document(self, folder: Path, agent_name: str | None) -> Iterator[Damaged]:
        """Read the ``memory.json`` in *folder*, if there is one."""
        path = folder / DOCUMENT
        try:
            contents = read_file(path)
            if contents is None:
                return
            if agent_name in self.found:
                raise Unread("has facts in Markdown files beside it; let DeerFlow take it over, or remove one of both")
            document = read_object(contents)
            is_summaries = agent_name is None and markdown.is_summaries(document)
            read = markdown.read_summaries if is_summaries else read_document
            self.found[agent_name] = read(document, contents.changed_at)
        except (Unread, InvalidArgument) as error:
            yield Damaged(path, str(error))

    def read_facts(self, folder: Path) -> Iterator[Damaged]:
        """Read an agent's Markdown files, if there are any; each stands for itself."""
        facts: dict[str, StoredFact] = {}
        for path in fact_files_in(folder / FACTS):
            if isinstance(path, Damaged):
                yield path
                continue
            try:
                contents = read_file(path)
                if contents is None:
                    continue
                if path.stem in facts:
                    raise Unread("has the name of a fact in another folder")
                facts[path.stem] = self._fact(markdown.read_fact(contents, path.stem), folder.name)
            except (Unread, InvalidArgument) as error:
                yield Damaged(path, str(error))
        if facts:
            changed_at = max(fact.updated_at for fact in facts.values())
            self.found[folder.name] = Found(None, facts, changed_at, max(fact.revision for fact in facts.values()))

    def _fact(self, read: markdown.MarkdownFact, agent_name: str) -> StoredFact:
        """Check whose *read* is: DeerFlow does not read a fact in another's folder either."""
        if read.agent_name is not None and str(read.agent_name).lower() != agent_name.lower():
            raise Unread(f"states another agent than its folder: {read.agent_name!r:.80}")
        if read.owner is not markdown.NO_OWNER and read.owner not in (self.owner or self.name, self.name):
            if self.owner or not isinstance(read.owner, str) or markdown.safe_user_id(read.owner) != self.name:
                raise Unread(f"states another user than its folder: {read.owner!r:.80}")
            self.owner = read.owner
        return read.fact

    def parts(self) -> Iterator[Part]:
        """Give the parts, of one revision and time; nothing if nothing was found."""
        if not self.found:
            return
        wide = self.found.setdefault(None, Found(None, {}, 0))
        revision = wide.revision or max(1, *(found.revision for found in self.found.values()))
        changed_at = wide.changed_at if wide.revision else max(found.changed_at for found in self.found.values())
        for agent_name in sorted(self.found, key=lambda name: (name is not None, name or "")):
            body, facts = self.found[agent_name].body, self.found[agent_name].facts
            body = body._replace(revision=revision) if body and agent_name is None else body
            yield Part(self.owner or self.name, agent_name, revision, changed_at, body, facts)


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()
