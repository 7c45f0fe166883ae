"""What servers and the driver report, turned into this project's errors: the only place that does it."""

from __future__ import annotations

from socket import gaierror
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from deerflow_backends.errors import BackendsError, BackendUnavailable, ConfigError, Corrupt, PluginError


class NotSent(Exception):
    """A command was certainly not executed, and may be sent again; the cause says why."""


class Lost(Exception):
    """A command was sent, and its reply never came: it may have been executed, or may still be."""


class Misconfigured(RedisError):
    """What the settings say of the servers cannot be right; the message tells what to correct."""


#: Replies of servers that executed nothing, for a reason that passes: by the word they begin with.
_PASSING: Final = {
    "BUSY": "the server is busy with a script of somebody else's",
    "CLUSTERDOWN": "the cluster is down",
    "LOADING": "the server is loading its data",
    "MASTERDOWN": "a replica has lost its primary",
    "MISCONF": "the server cannot save its data, and takes no writes",
    "NOREPLICAS": "the server has too few replicas to take writes",
    "OOM": "the server's memory is full (maxmemory with the policy noeviction), and it takes no writes",
    "READONLY": "the server is a replica",
    "TRYAGAIN": "the slot is being moved",
    "UNBLOCKED": "the server unblocked the call",
}

#: What the driver has classes for, and whose first word it drops: of a cluster's, from release 7 on.
_CLASSES: Final[dict[type[RedisError], str]] = {
    BusyLoadingError: "LOADING",
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    MovedError: "MOVED",  # before AskError, of which it is one
    AskError: "ASK",
    NoScriptError: "NOSCRIPT",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}

#: Of what a user may not do: alone, in a script of Redis 7.2 and Valkey, and in one of Redis 7.0.
_FORBIDDEN: Final = ("NOPERM", "ACL failure", "The user executing the script can't")

_REFUSED: Final = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError)
_CUT: Final = (RedisConnectionError, RedisTimeoutError, OSError, EOFError)

#: What the system says where no connection comes about: nobody listens, or there is no such host or socket. The driver
#: raises its own while it handles these.
_NO_WAY: Final = (ConnectionRefusedError, FileNotFoundError, gaierror)


def code_of(error: BaseException) -> str:
    """Return the word that a server's error begins with, such as ``MOVED``."""
    for kind, code in _CLASSES.items():
        if isinstance(error, kind):
            return code
    return str(error).partition(" ")[0]


def is_refused(error: BaseException) -> bool:
    """Whether the server does not accept who we say that we are, or what we take it for."""
    return isinstance(error, (*_REFUSED, Misconfigured)) or code_of(error) in {"NOAUTH", "WRONGPASS"}


def is_forbidden(error: BaseException) -> bool:
    """Whether the server does not let the user do something."""
    return isinstance(error, NoPermissionError) or any(words in str(error) for words in _FORBIDDEN)


def is_lasting(error: BaseException) -> bool:
    """Whether a server that can be reached will say the same when it is asked again."""
    return isinstance(error, ResponseError | Misconfigured) and not is_passing(error)


def is_cut(error: BaseException) -> bool:
    """Whether the connection is of no use any more, or never came about."""
    return isinstance(error, _CUT) and not is_refused(error) and not is_passing(error)


def is_passing(error: BaseException) -> bool:
    """Whether the server executed nothing, for a reason that may be over soon."""
    return isinstance(error, RedisError) and code_of(error) in _PASSING


def unavailable(cause: BaseException | None, where: str, *, maybe_written: bool) -> BackendUnavailable:
    """Say that no answer came in time, or nobody was there, and what was the last that was heard."""
    if cause is None:
        said = "no answer in time"
    elif is_passing(cause):
        said = _PASSING[code_of(cause)]
    else:
        what = "it cannot be reached" if isinstance(cause.__context__, _NO_WAY) else "no answer in time"
        said = f"{what} ({str(cause) or type(cause).__name__})"
    written = "; the write may have happened" if maybe_written else ""
    error = BackendUnavailable(f"{where}: {said}{written}", maybe_written=maybe_written)
    error.__cause__ = cause
    return error


def translated(error: BaseException, where: str) -> BackendsError:
    """Return our error for one that trying again does not mend; its cause is set."""
    ours: BackendsError
    text = str(error)
    if isinstance(error, Misconfigured):
        ours = ConfigError(f"{where}: {text}")
    elif is_refused(error):
        ours = ConfigError(f"{where} refused the user or the password of the url ({text}); correct them")
    elif is_forbidden(error):
        ours = ConfigError(f"{where}: {_permission(text)}")
    elif code_of(error) == "WRONGTYPE" or "WRONGTYPE" in text:
        ours = Corrupt(f"{where}: a key of ours holds something of another type ({text}); remove it or use a namespace")
    elif code_of(error) == "CORRUPT":
        ours = Corrupt(f"{where}: {text.partition(' ')[2]}")
    elif "cluster support disabled" in text:
        ours = ConfigError(f"{where} is no node of a cluster; leave out topology: cluster")
    elif isinstance(error, ResponseError):
        ours = PluginError(
            f"{where} does not understand deerflow-redis ({text}); it must be Redis 7 or Valkey 8 or later"
        )
    else:
        ours = BackendUnavailable(f"{where}: {text or type(error).__name__}")
    ours.__cause__ = error
    return ours


def _permission(text: str) -> str:
    if "channel" in text or "subscribe" in text.lower() or "publish" in text.lower():
        return (
            f"the user may not use pub/sub ({text}); allow the channels of this namespace, "
            "or set the connection's tail: xread, which needs none"
        )
    return f"the user lacks a permission ({text}); the README of deerflow-redis lists what is needed"
