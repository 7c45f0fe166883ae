"""Every error of this project, sorted by what the caller does next.

::

    BackendsError
    ├── ConfigError            fix the settings
    ├── PluginError            fix the installation
    ├── BackendUnavailable     try again; ``maybe_written`` says whether the write may have happened
    ├── Conflict               the stored state does not allow it
    │   └── RevisionConflict   read again, then decide
    ├── InvalidArgument        fix the call (also a ValueError); nothing was written
    ├── StreamEnded            the run is over; nothing was stored
    ├── Corrupt                stored data cannot be read; nothing was changed
    └── Closed                 used after close, after a fork, or from another event loop

A backend translates its driver's exceptions in one place, with ``raise ... from``.
"""

from __future__ import annotations


class BackendsError(Exception):
    """Whatever goes wrong here is one of these."""


class ConfigError(BackendsError):
    """The configuration is wrong: the message names the key, where it came from, and what is allowed.

    Nothing was opened. No message shows a secret.
    """


class PluginError(BackendsError):
    """A plugin is missing, broken or made for another contract: the message names it and the fix."""


class BackendUnavailable(BackendsError):
    """No answer in time, or none at all. The same object works again once the backend does.

    Attributes:
        maybe_written: True if the write may have happened, or may still happen, at most once.
            False if it certainly did not and will not; reads are always False.
    """

    def __init__(self, message: str, *, maybe_written: bool = False) -> None:
        super().__init__(message)
        self.maybe_written = maybe_written


class Conflict(BackendsError):
    """What is stored does not allow this call (a taken id, another status). Nothing was changed."""


class RevisionConflict(Conflict):
    """Somebody else changed it first. Nothing was changed; read again, then decide.

    Attributes:
        where: What was guarded, such as ``"the user"``, ``"the body of agent 'a'"`` or ``"fact 'f'"``.
        expected: The revision asked for, or None if it was to be absent.
        found: The revision that is stored, or None if it is absent.
    """

    def __init__(self, where: str, *, expected: int | None, found: int | None) -> None:
        self.where, self.expected, self.found = where, expected, found
        super().__init__(f"{where}: expected {_revision(expected)}, found {_revision(found)}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, which would otherwise call ``__init__`` with the message alone."""
        return _revision_conflict, (self.where, self.expected, self.found)


def _revision_conflict(where: str, expected: int | None, found: int | None) -> RevisionConflict:
    return RevisionConflict(where, expected=expected, found=found)


def _revision(revision: int | None) -> str:
    return "none" if revision is None else f"revision {revision}"


class InvalidArgument(BackendsError, ValueError):
    """The call is wrong. Nothing was written, and nothing was sent where the arguments alone show it.

    Attributes:
        place: The argument, or the place inside it, such as ``data.messages[3].usage``.
    """

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} {problem}")
        self.place, self.problem = place, problem

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, which would otherwise call ``__init__`` with the message alone."""
        return InvalidArgument, (self.place, self.problem)


class StreamEnded(BackendsError):
    """Published to a run that has ended. Nothing was stored."""


class Corrupt(BackendsError):
    """Stored data cannot be read. Nothing was changed; restore it from a backup or remove it by hand."""


class Closed(BackendsError):
    """Used after its context manager was left, after a fork, or from another event loop."""
