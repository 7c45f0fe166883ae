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
    """Load ``lua/<name>.lua``."""
    source = (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
