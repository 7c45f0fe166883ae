"""The command ``memory``: what is remembered of a user, or what a search finds in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from deerflow_backends.backends import open_capability
from deerflow_backends.cli.output import (
    cell,
    console,
    moment,
    print_json,
    printable,
    quoted,
    remark,
    table,
    warn_of_reach,
)
from deerflow_backends.configuration import Configuration
from deerflow_backends.memories import Fact, FactMatch, Memory
from deerflow_backends.search import fact_category


async def show_memory(
    configuration: Configuration, user_id: str | None, *, agent_name: str | None, as_json: bool
) -> None:
    """Print one part of a user's memory: body, facts, revision, and which agents have parts of their own.

    Args:
        user_id: Whose; None is the shared memory.
        as_json: One JSON document.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does.
    """
    async with open_capability(configuration, "memory") as store:
        memory = await store.load(user_id, agent_name=agent_name)
        agents = await store.agents(user_id)
        _warn(configuration, store)
    if as_json:
        print_json({**asdict(memory), "agents": agents})
        return
    part = _part(user_id, agent_name)
    if memory.body_revision or memory.facts:
        _print_memory(memory, part)
    elif memory.revision:
        remark(f"There is nothing in {part}; the user's revision is {memory.revision}.")
    else:
        remark(
            "There is no shared memory."
            if user_id is None
            else f"There is no memory of the user {printable(user_id)!r}."
        )
    if agents:
        console().print(cell(f"agents with memory: {', '.join(map(printable, agents))}", "dim"), soft_wrap=True)


async def search_memory(
    configuration: Configuration,
    user_id: str | None,
    query: str,
    *,
    agent_name: str | None,
    category: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print the facts of one part that match *query*, the best first, with their scores.

    Args:
        as_json: One JSON document.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does.
    """
    async with open_capability(configuration, "memory") as store:
        matches = await store.search(user_id, query, agent_name=agent_name, category=category, limit=limit)
        _warn(configuration, store)
    if as_json:
        asked = {"user_id": user_id, "agent_name": agent_name, "query": query, "category": category}
        print_json({**asked, "matches": [asdict(match) for match in matches]})
    elif matches:
        _print_matches(matches)
    else:
        of_category = "" if category is None else f" of the category {printable(category)!r}"
        remark(f"No fact{of_category} matches {printable(query)!r} in {_part(user_id, agent_name)}.")


def _warn(configuration: Configuration, store: Any) -> None:
    backend = configuration.choices["memory"].backend
    warn_of_reach(store.reach, f"the memory {backend!r}", "nothing that another process remembers is seen here")


def _part(user_id: str | None, agent_name: str | None) -> str:
    whose = "the shared memory" if user_id is None else f"the memory of the user {printable(user_id)!r}"
    return whose if agent_name is None else f"{whose}, agent {printable(agent_name)!r}"


def _print_memory(memory: Memory, part: str) -> None:
    out = console()
    updated = "" if memory.updated_at is None else f", updated {moment(memory.updated_at)} UTC"
    out.print(Text(part, "bold"), soft_wrap=True)
    out.print(Text(f"revision {memory.revision}{updated}", "dim"), soft_wrap=True)
    out.print()
    if memory.body_revision:
        out.print(Text(f"body, revision {memory.body_revision}", "bold"))
        for line in json.dumps(memory.body, ensure_ascii=False, indent=2).splitlines():
            out.print(cell(line), soft_wrap=not out.is_terminal)
    else:
        out.print(Text("no body", "dim"))
    if memory.facts:
        _print_facts(memory.facts)
    else:
        out.print(Text("no facts", "dim"))


def _print_facts(facts: Sequence[Fact]) -> None:
    listing = table("fact", "category", "content", "revision", "updated (UTC)")
    listing.columns[-2].justify = "right"
    listing.columns[-1].no_wrap = True
    for fact in facts:
        listing.add_row(*_columns(fact), str(fact.revision), moment(fact.updated_at))
    console().print(listing)


def _print_matches(matches: Sequence[FactMatch]) -> None:
    listing = table("score", "fact", "category", "content")
    listing.columns[0].no_wrap = True
    for match in matches:
        listing.add_row(f"{match.score:.3f}", *_columns(match.fact))
    console().print(listing)


def _columns(fact: Fact) -> tuple[Text, Text, Text]:
    """Return a fact's id, category and text; of a text that is no ``str``, its JSON."""
    category, content = fact_category(fact.value), fact.value.get("content")
    text = cell(content) if isinstance(content, str) else Text(quoted(content), "dim")
    return cell(printable(fact.fact_id)), Text("-", "dim") if category is None else cell(printable(category)), text
