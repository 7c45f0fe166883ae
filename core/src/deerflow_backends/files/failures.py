"""What the system reports of files, turned into this project's errors: the only place that does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from deerflow_backends.errors import BackendUnavailable


@contextmanager
def translating(*, maybe_written: bool = False) -> Iterator[None]:
    """Raise `BackendUnavailable` for an `OSError` in the block.

    Args:
        maybe_written: Whether the write has happened, or may still happen, whatever failed.
    """
    try:
        yield
    except OSError as error:
        outcome = "; the write may have happened" if maybe_written else ""
        raise BackendUnavailable(
            f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error}){outcome}",
            maybe_written=maybe_written,
        ) from error
