"""``deerflow-backends demo``: two gateway replicas, a worker and ten clients, as real processes over real HTTP."""

from __future__ import annotations

from importlib.util import find_spec


def require_libraries() -> None:
    """Raise `ModuleNotFoundError` for the first library of the extra ``demo`` that is missing.

    Only the replicas import some of them, and they are not who should find that out.
    """
    for library in ("httpx", "starlette", "uvicorn"):
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
