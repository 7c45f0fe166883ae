"""What a URL says of a server, and what the driver is told for each connection to it.

No message shows anything of a URL but names of settings: what stands in the wrong place may be a part of a password.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import signature
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, AbstractConnection, Connection, SSLConnection
from redis.asyncio.connection import parse_url as parse_redis_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from deerflow_backends.errors import ConfigError

#: Where servers listen that the URL gives no port for.
PORT: Final = 6_379
SENTINEL_PORT: Final = 26_379

_SCHEMES: Final = ("redis", "rediss", "unix")

#: The driver's settings for TLS, in the release that is installed.
_TLS: Final = tuple(name for name in signature(SSLConnection.__init__).parameters if name.startswith("ssl_"))
_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

#: What may be named in a message.
_KNOWN: Final = frozenset({*URL_QUERY_ARGUMENT_PARSERS, *_TLS, "username", "password"})


def parse_url(url: str) -> dict[str, Any]:
    """Return the driver's settings in *url*.

    Raises:
        ValueError: It is no Redis URL, or sets what is not for a URL to set; the message does not show it.
    """
    parts = _split(url)
    if parts is None or parts.fragment:
        raise ValueError("is no Redis URL; percent-encode any of :/?#[]@ in the password")
    if parts.scheme not in _SCHEMES:
        raise ValueError("must begin with redis://, rediss:// or unix://")
    _check_query(parts)
    number = parts.path.strip("/")
    if parts.scheme != "unix" and number and not number.isdecimal():
        raise ValueError(
            "must end with the number of a database, or with none; percent-encode any of :/?#[]@ in the password"
        )
    if parts.scheme == "unix" and not number:
        raise ValueError("must name the path of a socket")
    settings = _parsed(url)
    if settings is None:
        raise ValueError("has a value after the '?' that redis-py cannot read")
    if settings.get("db", 0) < 0:
        raise ValueError("has a database below 0")
    requirement = settings.get("ssl_cert_reqs", "required")
    if requirement not in {"none", "optional", "required"}:
        raise ValueError("has a wrong ssl_cert_reqs; it must be none, optional or required")
    if requirement == "none" and settings.get("ssl_check_hostname"):
        raise ValueError("has ssl_check_hostname, which needs another ssl_cert_reqs than none")
    return settings


def _split(url: str) -> SplitResult | None:
    """Split a URL; None, and no exception that would hold it, if it cannot be."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _parsed(url: str) -> dict[str, Any] | None:
    """Have the driver read a URL; None, and no exception that would hold it, if it cannot."""
    try:
        return dict(parse_redis_url(url))
    except ValueError:
        return None


def _check_query(parts: SplitResult) -> None:
    names = parse_qs(parts.query, keep_blank_values=True)
    allowed = {"redis": (), "rediss": _TLS, "unix": ("db",)}[parts.scheme]
    strange = [name for name in names if name not in allowed]
    if not strange:
        return
    known = [name for name in strange if name in _KNOWN]
    sets = f"sets {', '.join(known)}; " if known else ""
    if parts.scheme == "rediss":
        raise ValueError(f"{sets}after a '?' only these can stand: {', '.join(_TLS)}")
    if parts.scheme == "unix":
        raise ValueError(f"{sets}after a '?' only db=NUMBER can stand")
    if any(name in _TLS for name in known):
        raise ValueError("has ssl_* settings, which need rediss://")
    raise ValueError(f"{sets}no '?' can stand in it; in the password it is %3F, and the database comes after a '/'")


def driver_settings(url: str, timeout_seconds: float, client_name: str) -> dict[str, Any]:
    """Return what the driver is told for each connection: no default of its own that matters is left to it.

    Raises:
        ConfigError: The driver cannot use what the URL says.
    """
    settings = {
        **parse_url(url),
        "protocol": 2,
        "socket_timeout": None,  # release 8 has 5 seconds, which end blocking reads; our calls have their own
        "socket_connect_timeout": timeout_seconds,
        "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        "client_name": client_name,
    }
    if "path" not in settings:
        settings["socket_keepalive"] = True
    if settings.get("connection_class") is SSLConnection:
        # Release 5 does not ask whose certificate it is.
        settings.setdefault("ssl_check_hostname", settings.get("ssl_cert_reqs") != "none")
    _try_out(settings)
    return settings


def new_connection(settings: Mapping[str, Any]) -> AbstractConnection:
    """Make a connection of the driver, which does not connect yet."""
    further = dict(settings)
    kind = further.pop("connection_class", Connection)
    connection: AbstractConnection = kind(**further)
    return connection


def _try_out(settings: Mapping[str, Any]) -> None:
    """Have the driver look at what it would look at while connecting, when a mistake passes for an unreachable server.

    Raises:
        ConfigError: It finds a mistake.
    """
    for name in _FILES:
        if name in settings and not os.access(settings[name], os.R_OK):
            raise ConfigError(f"url: {name} names nothing that can be read; correct it")
    try:
        connection = new_connection(settings)
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()
    except (RedisError, OSError, TypeError, ValueError) as error:
        kind = type(error).__name__
    else:
        return
    names = ", ".join(name for name in settings if name in _TLS) or "something"
    raise ConfigError(f"url: redis-py cannot use {names} as given ({kind}); correct it")
