"""What a connection to Redis or Valkey is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from deerflow_backends.settings import ConnectionSettings
from deerflow_redis.topologies import parse_node
from deerflow_redis.urls import parse_url

Topology = Literal["standalone", "sentinel", "cluster"]
Tail = Literal["pubsub", "xread"]


class Settings(ConnectionSettings):
    """The server and how it is used; besides what every connection has.

    Attributes:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, with user, password and database where needed. With
            ``sentinel`` its host is a sentinel and the rest is for the data servers, but TLS for both; with ``cluster``
            it is any node. After a ``?`` only ``ssl_*`` settings of redis-py, and for ``unix://`` the database as
            ``db=NUMBER``.
        topology: What stands there.
        nodes: Further sentinels, or nodes of the cluster, as ``host:port``, for when the first is down.
        sentinel_service: The name that the sentinels monitor the primary under.
        sentinel_username: For the sentinels themselves, as `sentinel_password`.
        tail: How a process learns of new events: over ``pubsub``, or where that is not allowed by one blocking
            ``xread``. The same for all replicas.
        wait_replicas: How many replicas must have a write before it counts as done; 0 as the server is set.
    """

    url: SecretStr
    topology: Topology = "standalone"
    nodes: tuple[str, ...] = ()
    sentinel_service: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    tail: Tail = "pubsub"
    wait_replicas: Annotated[int, Field(ge=0, le=100)] = 0

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, value: SecretStr) -> SecretStr:
        parse_url(value.get_secret_value())
        return value

    @field_validator("nodes", mode="before")
    @classmethod
    def _is_split(cls, value: object) -> object:
        """Take ``a:1,b:2`` too, which is all that an environment variable can say."""
        nodes = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
        if isinstance(nodes, list | tuple):
            for node in nodes:
                parse_node(node)
        return nodes

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        url = parse_url(self.url.get_secret_value())
        if "path" in url and self.topology != "standalone":
            raise ValueError("a unix:// url leads to one server alone; use redis://, or leave out topology")
        if self.topology == "cluster":
            if self.tail == "xread":
                raise ValueError(
                    "tail: xread cannot be used on a cluster, where one XREAD cannot read runs of several nodes; "
                    "use tail: pubsub"
                )
            if url.get("db"):
                raise ValueError("a cluster has the database 0 alone; leave the number out of the url")
        if self.topology == "standalone" and self.nodes:
            raise ValueError("nodes are for the topologies sentinel and cluster; leave them out or set topology")
        return self
