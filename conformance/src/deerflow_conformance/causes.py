"""What usually lies behind a failure of each promise: where to look first."""

from __future__ import annotations

from typing import Final

CAUSES: Final[dict[str, str]] = {}
