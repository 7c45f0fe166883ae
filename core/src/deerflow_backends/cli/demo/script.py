"""The run that the demo's worker streams: shaped like one of DeerFlow's, always the same. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Final

from deerflow_backends.codec import JSON, canonical

#: How many events the run has; END comes after them and is none.
EVENTS: Final = 500

_BRIEF = "Where do red deer spend the winter, and what does it cost the forest?"

_TEXT = (
    "Red deer leave the high pastures with the first lasting snow 🦌 and gather where wind keeps the ground bare . "
    "Their bark stripping costs a spruce stand years of growth , so keepers feed them away from young trees . "
    "马鹿 冬季 下山 觅食 ; 鹿は冬に谷へ下りる . Rangers count them at dawn , from the far side of the valley … "
    "Numbers differ by a third from year to year \u2028 and nobody knows why \u2029 . "
)


@dataclass(frozen=True, slots=True)
class Node:
    """One agent of the graph and what it says.

    Attributes:
        name: Its node in the graph.
        model: The model it calls, once.
        tokens: How many message chunks it streams.
    """

    name: str
    model: str
    tokens: int


NODES: Final = (
    Node("planner", "thinker", 90),
    Node("researcher", "reader", 150),
    Node("coder", "thinker", 80),
    Node("reporter", "writer", 170),
)


def run_events(run_id: str, thread_id: str) -> Iterator[tuple[str, JSON]]:
    """Yield the run's 500 events as ``(name, data)``: metadata, then message chunks, updates and values by node."""
    yield "metadata", {"run_id": run_id, "thread_id": thread_id, "attempt": 1}
    messages: list[JSON] = [{"type": "human", "id": f"{run_id}-brief", "content": _BRIEF}]
    yield "values", {"messages": list(messages), "title": None, "artifacts": []}
    words = cycle(_TEXT.split(" "))
    for step, node in enumerate(NODES, start=1):
        message_id = f"{run_id}-{node.name}"
        said = [f"{word} " for word in islice(words, node.tokens)]
        for word in said:
            chunk = {"type": "AIMessageChunk", "id": message_id, "content": word, "tool_calls": []}
            yield "messages", [chunk, {"langgraph_node": node.name, "langgraph_step": step, "thread_id": thread_id}]
        messages.append({"type": "ai", "id": message_id, "content": "".join(said)})
        yield "updates", {node.name: {"messages": messages[-1:], "usage": {"output_tokens": node.tokens}}}
        yield "values", {"messages": list(messages), "title": _BRIEF, "artifacts": []}


def digest(event: str, data: JSON) -> str:
    """Return what two events have in common exactly if their names and their data are the same, types included."""
    return hashlib.sha256(canonical([event, data])).hexdigest()
