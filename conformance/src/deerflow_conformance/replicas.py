"""A capability in another process."""

from __future__ import annotations

from typing import Any


class Pool:
    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    def close(self) -> None: ...
    def open(self, space: Any) -> Any:
        raise NotImplementedError
