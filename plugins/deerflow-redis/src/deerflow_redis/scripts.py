"""The Lua scripts, each a file in ``lua``: what the servers do in one step."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that servers cache it under.

    Attributes:
        name: Its file's, for messages.
        source: What is sent when a server does not have it (any more).
        sha: What is sent otherwise.
    """

    name: str
    source: str = field(repr=False)
    sha: str


@cache
def script(name: str) -> Script:
    """Load ``lua/<name>.lua``, with what the scripts of its capability share (``lua/<capability>.lua``) before it."""
    folder = files(__package__) / "lua"
    shared = folder / f"{name.partition('_')[0]}.lua"
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    if shared.is_file():
        source = f"{shared.read_text(encoding='utf-8')}\n{source}"
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
