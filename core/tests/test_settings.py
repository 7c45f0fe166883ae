"""Configuration: where it comes from, what wins, one clear line for each mistake, and no secret in any of them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deerflow_backends import (
    BackendsError,
    ConfigError,
    Configuration,
    ConnectionSettings,
    CounterOptions,
    PluginError,
    StreamOptions,
    load_configuration,
    open_backends,
)
from deerflow_backends.backends import plan
from deerflow_backends.mistakes import scrub, secrets_in

if TYPE_CHECKING:
    from core.tests.conftest import Site

pytestmark = pytest.mark.usefixtures("unconfigured")

FILE = Path("deerflow-backends.yaml")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    with mock.patch.dict(os.environ, variables):
        yield


def chosen(configuration: Configuration) -> dict[str, tuple[str, str]]:
    return {name: (choice.backend, choice.connection) for name, choice in configuration.choices.items()}


def mistakes(arguments: Mapping[str, Any] | None = None) -> list[str]:
    """Return the lines of the error that loading gives."""
    with pytest.raises(ConfigError) as caught:
        load_configuration(arguments)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value).splitlines()


# What is chosen.


def test_with_nothing_configured_everything_is_in_process() -> None:
    """Single-process users lose nothing, and need nothing."""
    configuration = load_configuration()
    assert list(chosen(configuration)) == ["stream_bridge", "memory", "thread_index", "counters"]
    assert set(chosen(configuration).values()) == {("inprocess", "inprocess")}
    assert configuration.choices["stream_bridge"].options == StreamOptions()
    assert configuration.connections == {}
    assert configuration.drain_seconds == 10.0


def test_the_documented_example_means_what_it_says() -> None:
    """Names alone, mappings, options, named connections and variables, as the design shows them."""
    FILE.write_text(
        """
stream_bridge: redis                 # a name is enough
memory: {backend: postgres}
thread_index: postgres
counters: {backend: redis, connection: hot, bucket_seconds: 30}
connections:
  redis: {url: $REDIS_URL, namespace: deerflow, motto: $$REDIS_URL, list: [$REDIS_URL]}
  hot: {backend: redis, url: redis://hot:6379/0}
  postgres: {url: postgresql://localhost/deerflow}
drain_seconds: 0
"""
    )
    with environment({"REDIS_URL": "redis://here"}):
        configuration = load_configuration()
    assert chosen(configuration) == {
        "stream_bridge": ("redis", "redis"),
        "memory": ("postgres", "postgres"),
        "thread_index": ("postgres", "postgres"),
        "counters": ("redis", "hot"),
    }
    assert configuration.choices["counters"].options == CounterOptions(bucket_seconds=30)
    redis = configuration.connections["redis"]
    assert redis.values == {
        "url": "redis://here",
        "namespace": "deerflow",
        "motto": "$REDIS_URL",
        "list": ["redis://here"],
    }
    assert configuration.connections["hot"].backend == "redis"
    assert configuration.drain_seconds == 0.0


def test_a_connection_alone_says_its_backend() -> None:
    """Whoever names a connection need not repeat whose it is."""
    configuration = load_configuration({"memory": {"connection": "hot"}, "connections": {"hot": {"backend": "sqlite"}}})
    assert configuration.choices["memory"].backend == "sqlite"


def test_a_variable_and_its_options_combine() -> None:
    """A bare name in the environment does not hide the options set beside it, nor those of the file below."""
    FILE.write_text("stream_bridge: {backend: sqlite, ttl_seconds: 60}\nmemory: {connection: main}\n")
    variables = {
        "DEERFLOW_BACKENDS_STREAM_BRIDGE": "inprocess",
        "deerflow_backends_stream_bridge__max_events": "512",
        "DEERFLOW_BACKENDS_CONNECTIONS__MAIN": '{"backend": "sqlite"}',
        "DEERFLOW_BACKENDS_CONNECTIONS__MAIN__PATH": "/var/lib/x",
        "DEERFLOW_BACKENDS_DRAIN_SECONDS": "2.5",
    }
    with environment(variables):
        configuration = load_configuration({"counters": {"keep_buckets": 7}})
    stream_bridge = configuration.choices["stream_bridge"]
    assert stream_bridge.backend == "inprocess"
    assert stream_bridge.options == StreamOptions(max_events=512, ttl_seconds=60)
    assert configuration.choices["memory"].backend == "sqlite"
    assert configuration.connections["main"].values == {"path": "/var/lib/x"}
    assert configuration.choices["counters"].options == CounterOptions(keep_buckets=7)
    assert configuration.drain_seconds == 2.5


SAID = st.fixed_dictionaries(
    {},
    optional={
        "backend": st.sampled_from(["inprocess", "sqlite", "acme"]),
        "max_events": st.integers(1, 9),
        "ttl_seconds": st.sampled_from([1.5, 7, 3600]),
        "max_bytes": st.integers(1, 9),
    },
)


def written(said: Mapping[str, Any], form: str) -> Any:
    """Return one of the ways to write the same thing."""
    return said["backend"] if form == "bare" and list(said) == ["backend"] else dict(said)


def variables_for(said: Mapping[str, Any], form: str) -> dict[str, str]:
    name = "DEERFLOW_BACKENDS_STREAM_BRIDGE"
    if form == "json" and said:
        return {name: json.dumps(said)}
    whole = {name: said["backend"]} if form == "bare" and "backend" in said else {}
    return whole | {f"{name}__{key.upper()}": str(said[key]) for key in said if not (whole and key == "backend")}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(SAID, SAID, SAID), st.tuples(*[st.sampled_from(["bare", "mapping", "json"])] * 3))
def test_arguments_beat_the_environment_which_beats_the_file(said: Any, forms: Any) -> None:
    """Key by key the strongest source wins, however each of them writes it."""
    FILE.write_text(yaml.safe_dump({"stream_bridge": written(said[2], forms[2])}))
    with environment(variables_for(said[1], forms[1])):
        configuration = load_configuration({"stream_bridge": written(said[0], forms[0])})
    wanted = {**said[2], **said[1], **said[0]}
    choice = configuration.choices["stream_bridge"]
    assert choice.backend == wanted.pop("backend", "inprocess")
    assert choice.options == StreamOptions(**wanted)


# Which file.


def test_one_file_is_read_and_no_other() -> None:
    """The named file, else the default one, else the section of DeerFlow's; ``config.yaml`` is never looked at."""
    Path("config.yaml").write_text("memory: never\nbackends: {memory: never}")
    assert chosen(load_configuration())["memory"][0] == "inprocess"
    Path("host.yaml").write_text(
        "models: [!whatever {a: 1, a: 2}]\nmemory: {enabled: true}\nbackends: {memory: sqlite}"
    )
    with environment({"DEER_FLOW_CONFIG_PATH": "host.yaml"}):
        assert chosen(load_configuration())["memory"][0] == "sqlite"
        FILE.write_text("memory: second")
        assert chosen(load_configuration())["memory"][0] == "second"
        Path("named.yaml").write_text("memory: first")
        with environment({"Deerflow_Backends_Config": "named.yaml"}):
            assert chosen(load_configuration())["memory"][0] == "first"


@pytest.mark.parametrize("text", ["", "# nothing\n", "connections:\n", "connections: {sqlite: }\n", "--- \n"])
def test_a_file_without_content_configures_nothing(text: str) -> None:
    """A section that has everything commented out is empty, not wrong."""
    FILE.write_text(text)
    assert chosen(load_configuration())["memory"][0] == "inprocess"


def test_a_host_file_without_our_section_configures_nothing() -> None:
    """DeerFlow's own file need not mention us."""
    Path("host.yaml").write_text("models: []\n")
    with environment({"DEER_FLOW_CONFIG_PATH": "host.yaml"}):
        assert chosen(load_configuration())["memory"][0] == "inprocess"


def test_our_section_of_the_hosts_file_is_read_as_strictly() -> None:
    """Of DeerFlow's file only our section is ours to judge, but that entirely."""
    Path("host.yaml").write_text("a: 1\na: 2\nbackends:\n  memory: x\n  memory: y\n  colour: red\n")
    with environment({"DEER_FLOW_CONFIG_PATH": "host.yaml"}):
        assert mistakes() == [
            "memory (host.yaml, line 5): is there twice; keep one",
            "colour (host.yaml, line 6): unknown key; allowed: connections, counters, drain_seconds, memory,"
            " stream_bridge, thread_index",
        ]


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "DEERFLOW_BACKENDS_CONFIG",
            "gone.yaml",
            "gone.yaml (named by DEERFLOW_BACKENDS_CONFIG): cannot be read: No such file or directory",
        ),
        (
            "DEER_FLOW_CONFIG_PATH",
            "gone.yaml",
            "gone.yaml (named by DEER_FLOW_CONFIG_PATH): cannot be read: No such file or directory",
        ),
        ("DEERFLOW_BACKENDS_CONFIG", ".", ". (named by DEERFLOW_BACKENDS_CONFIG): cannot be read: Is a directory"),
        ("DEERFLOW_BACKENDS_CONFIG", "", "DEERFLOW_BACKENDS_CONFIG: is empty; give it a file's path, or unset it"),
    ],
)
def test_a_named_file_must_be_there(variable: str, value: str, line: str) -> None:
    """A path that leads nowhere is an error, not "no configuration"."""
    with environment({variable: value}):
        assert mistakes() == [line]


# One line for each mistake.

TOP = "connections, counters, drain_seconds, memory, stream_bridge, thread_index"
STREAM_KEYS = "backend, connection, max_buffered_events, max_bytes, max_events, ttl_seconds"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("memory: x\nmemry: y", f"memry ({FILE}, line 2): unknown key; did you mean 'memory'? allowed: {TOP}"),
        ("memory: x\nmemory: y", f"memory ({FILE}, line 2): is there twice; keep one"),
        ("connections: {a: {url: x, url: x}}", f"url ({FILE}, line 1): is there twice; keep one"),
        (
            "stream_bridge:\n  max_event: 3",
            f"stream_bridge.max_event ({FILE}, line 2): unknown key; did you mean 'max_events'? allowed: {STREAM_KEYS}",
        ),
        ("stream_bridge: {max_events: 0}", f"stream_bridge.max_events ({FILE}, line 1): must be 1 or more, not 0"),
        (
            "stream_bridge: {max_events: true}",
            f"stream_bridge.max_events ({FILE}, line 1): must be an int, not bool",
        ),
        (
            "stream_bridge: {max_events: many}",
            f"stream_bridge.max_events ({FILE}, line 1): must be a whole number, not 'many'",
        ),
        (
            "stream_bridge: {ttl_seconds: .nan}",
            f"stream_bridge.ttl_seconds ({FILE}, line 1): must be a finite number of seconds up to 31557600000",
        ),
        (
            "drain_seconds: -1",
            f"drain_seconds ({FILE}, line 1): must be 0 or more, not -1",
        ),
        ("drain_seconds:", f"drain_seconds ({FILE}, line 1): must be a number of seconds, not NoneType"),
        ("memory:", f"memory ({FILE}, line 1): must be a backend's name or a mapping, not empty"),
        ("memory: 5", f"memory ({FILE}, line 1): must be a backend's name or a mapping, not int"),
        ("memory: [a]", f"memory ({FILE}, line 1): must be a backend's name or a mapping, not list"),
        ("memory: {backend: 5}", f"memory.backend ({FILE}, line 1): must be a name, not int"),
        ("connections: redis", f"connections ({FILE}, line 1): must be a mapping, not str"),
        ("connections: {redis: x}", f"connections.redis ({FILE}, line 1): must be a mapping, not str"),
        (
            "connections: {redis: {1: x}}",
            f"connections.redis ({FILE}, line 1): has the key 1; keys are text, so write it in quotes",
        ),
        (
            "connections: {Hot: {backend: redis}}",
            f"connections.Hot ({FILE}, line 1): 'Hot' is no connection's name; it must match [a-z][a-z0-9_]*",
        ),
        ("[a, b]", f"{FILE}: must be a mapping, not list"),
        ("just text", f"{FILE}: must be a mapping, not str"),
        (
            "memory: {connection: hot}\nconnections: {hat: {backend: sqlite}}",
            f"memory.connection ({FILE}, line 1): there is no connection 'hot'; did you mean 'hat'? configured: hat",
        ),
        (
            "memory: {backend: sqlite, connection: hot}",
            f"memory.connection ({FILE}, line 1): there is no connection 'hot'; configured: nothing",
        ),
        (
            "memory: {backend: sqlite, connection: hot}\nconnections: {hot: {backend: redis}}",
            f"memory.connection ({FILE}, line 1): 'hot' is a connection of 'redis', not of 'sqlite', the backend chosen"
            f" by {FILE}, line 1; name one that has 'backend: sqlite'",
        ),
        (
            "memory: x\nconnections:\n  redis:\n    url: $NOT_SET_ANYWHERE",
            f"connections.redis.url ({FILE}, line 4): the environment variable NOT_SET_ANYWHERE is not set; set it, or"
            " write '$$NOT_SET_ANYWHERE' for text",
        ),
        ("a: b: c", f"{FILE}, line 1: is not valid YAML: mapping values are not allowed here"),
        ("memory: !tag x", f"{FILE}, line 1: is not valid YAML: could not determine a constructor for the tag '***'"),
        ("memory: *hunter2", f"{FILE}, line 1: is not valid YAML: found undefined alias '***'"),
        ("memory: %", f"{FILE}, line 1: is not valid YAML: found character '%' that cannot start any token"),
        ("\tmemory: x", f"{FILE}, line 1: is not valid YAML: found character '\\t' that cannot start any token"),
        (
            "memory: !'hunter2'x y",
            f"{FILE}, line 1: is not valid YAML: could not determine a constructor for the tag '***'",
        ),
        (
            "memory: {connection: archive}\nconnections: {archive: {backend: 7}}",
            f"connections.archive.backend ({FILE}, line 2): must be a name, not int",
        ),
        ("connections: &a {redis: *a}", f"{FILE}: nests without end"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(text: str, line: str) -> None:
    """The key, the file, the line in it, what is wrong and what is allowed."""
    FILE.write_text(text)
    assert mistakes() == [line]


def test_a_file_that_is_no_text_is_refused() -> None:
    """Bytes that no encoding explains are told as such."""
    FILE.write_bytes(b"memory: \xff\xfe\n")
    (line,) = mistakes()
    assert line.startswith(f"{FILE}: is not valid YAML: ")


def test_a_merge_key_is_no_duplicate() -> None:
    """YAML's own way to share keys works, and what stands there overrides what is merged in."""
    FILE.write_text("connections:\n  a: &a {backend: sqlite, path: x}\n  b: {<<: *a, path: y}\n")
    assert load_configuration().connections["b"].values == {"path": "y"}


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"DEERFLOW_BACKENDS_STREAMBRIDGE": "x"},
            "DEERFLOW_BACKENDS_STREAMBRIDGE: unknown variable; did you mean 'DEERFLOW_BACKENDS_STREAM_BRIDGE'?",
        ),
        (
            {"DEERFLOW_BACKENDS_STREAM_BRIDGE_MAX_EVENTS": "5"},
            "DEERFLOW_BACKENDS_STREAM_BRIDGE_MAX_EVENTS: unknown variable; did you mean"
            " 'DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS'? allowed:",
        ),
        (
            {"DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENT": "5"},
            "stream_bridge.max_event (DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENT): unknown key; did you mean",
        ),
        (
            {"DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS": "5.5"},
            "stream_bridge.max_events (DEERFLOW_BACKENDS_STREAM_BRIDGE__MAX_EVENTS): must be a whole number, not '5.5'",
        ),
        ({"DEERFLOW_BACKENDS_MEMORY__": "5"}, "DEERFLOW_BACKENDS_MEMORY__: unknown variable; did you mean"),
        (
            {"DEERFLOW_BACKENDS_MEMORY": '{"backend": "sqlite"'},
            "memory (DEERFLOW_BACKENDS_MEMORY): starts with '{' but is not valid JSON",
        ),
        (
            {"DEERFLOW_BACKENDS_MEMORY": '{"backend": "a", "backend": "a"}'},
            "memory (DEERFLOW_BACKENDS_MEMORY): has the key 'backend' twice",
        ),
        (
            {"DEERFLOW_BACKENDS_MEMORY": "a", "DEERFLOW_BACKENDS_MEMORY__BACKEND": "b"},
            "memory.backend (DEERFLOW_BACKENDS_MEMORY__BACKEND): is set by DEERFLOW_BACKENDS_MEMORY too; keep one",
        ),
        (
            {"DEERFLOW_BACKENDS_MEMORY": "a", "deerflow_backends_memory": "b"},
            "memory.backend (deerflow_backends_memory): is set by DEERFLOW_BACKENDS_MEMORY too; keep one",
        ),
        (
            {"DEERFLOW_BACKENDS_CONNECTIONS__REDIS": "redis://"},
            "connections.redis (DEERFLOW_BACKENDS_CONNECTIONS__REDIS): must be a mapping, not str",
        ),
        (
            {
                "DEERFLOW_BACKENDS_CONNECTIONS__REDIS__POOL": "3",
                "DEERFLOW_BACKENDS_CONNECTIONS__REDIS__POOL__SIZE": "3",
            },
            "connections.redis.pool.size (DEERFLOW_BACKENDS_CONNECTIONS__REDIS__POOL__SIZE): is below"
            " connections.redis.pool, which DEERFLOW_BACKENDS_CONNECTIONS__REDIS__POOL sets; keep one",
        ),
        (
            {"DEERFLOW_BACKENDS_DRAIN_SECONDS__X": "3"},
            "drain_seconds (DEERFLOW_BACKENDS_DRAIN_SECONDS__X): must be a number of seconds, not dict",
        ),
    ],
)
def test_a_mistake_in_the_environment_is_one_line_with_its_variable(variables: Mapping[str, str], line: str) -> None:
    """The key, the variable, what is wrong and what is allowed."""
    with environment(variables):
        (found,) = mistakes()
    assert found.startswith(line)


def test_what_kubernetes_sets_for_a_service_of_our_name_is_not_ours() -> None:
    """A service called deerflow-backends, or deerflow-backends-memory, does not stop the program."""
    address = "tcp://10.0.0.1:80"
    variables = {
        f"DEERFLOW_BACKENDS_{name}": address
        for service in ("", "MEMORY_", "REDIS_0_")
        for name in (
            f"{service}SERVICE_HOST",
            f"{service}SERVICE_PORT",
            f"{service}SERVICE_PORT_HTTP_METRICS",
            f"{service}PORT",
            f"{service}PORT_80_TCP",
            f"{service}PORT_80_TCP_PROTO",
            f"{service}PORT_80_UDP_PORT",
            f"{service}PORT_80_TCP_ADDR",
        )
    }
    with environment(variables):
        assert chosen(load_configuration())["memory"][0] == "inprocess"


def test_every_mistake_of_every_source_is_told_at_once() -> None:
    """Nobody mends one line only to be shown the next."""
    FILE.write_text("memory: {colour: red}\nstream_bridge: {max_events: 0, max_bytes: 0}\n")
    with environment({"DEERFLOW_BACKENDS_COUNTERS__BUCKET_SECONDS": "-1"}):
        assert mistakes({"drain_seconds": "soon"}) == [
            f"stream_bridge.max_events ({FILE}, line 2): must be 1 or more, not 0",
            f"stream_bridge.max_bytes ({FILE}, line 2): must be 1 or more, not 0",
            f"memory.colour ({FILE}, line 1): unknown key; allowed: backend, connection",
            "counters.bucket_seconds (DEERFLOW_BACKENDS_COUNTERS__BUCKET_SECONDS): must be 1 or more, not -1",
            "drain_seconds (arguments): must be a number, not 'soon'",
        ]


def test_another_backend_does_not_inherit_a_connection() -> None:
    """Overriding a backend leaves the file's connection, which is another backend's: told, never used or dropped."""
    FILE.write_text("counters: {backend: redis, connection: hot}\nconnections: {hot: {backend: redis}}\n")
    with environment({"DEERFLOW_BACKENDS_COUNTERS": "sqlite"}):
        assert mistakes() == [
            f"counters.connection ({FILE}, line 1): 'hot' is a connection of 'redis', not of 'sqlite', the backend"
            " chosen by DEERFLOW_BACKENDS_COUNTERS; name one that has 'backend: sqlite'"
        ]
    with environment({"DEERFLOW_BACKENDS_COUNTERS": '{"backend": "sqlite", "connection": "sqlite"}'}):
        assert chosen(load_configuration())["counters"] == ("sqlite", "sqlite")


URL = "redis://u:s3cr3tpw@h"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"memory": URL}, "put a URL under 'connections: {redis: {url: ...}}' and name the backend here"),
        ({"memory": {"connection": URL}}, "and name the connection here"),
        ({"memory": "redis:/u:s3cr3tpw@h"}, "'redis:/***@h' is no backend's name"),
        ({URL: 1}, "redis://***@h (arguments): unknown key"),
        ({"memory": {URL: 1}}, "memory.redis://***@h (arguments): unknown key"),
        ({"connections": {URL: {}}}, "'redis://***@h' is no connection's name"),
        ({"drain_seconds": URL}, "must be a number, not 'redis://***@h'"),
        ({"drain_seconds": "redis://u:" + "s3cr3tpw" * 9 + "@h"}, "not 'redis://***@h'"),
    ],
)
def test_a_url_in_a_wrong_place_shows_no_password(arguments: Mapping[str, Any], part: str) -> None:
    """Wherever a URL is put, also as a key, its user and password are not told."""
    (line,) = mistakes(arguments)
    assert part in line
    assert "s3cr3tpw" not in line


@pytest.mark.parametrize("variable", ["MEMORY", "CONFIG", "CONNECTIONS__REDIS"])
def test_a_url_in_a_wrong_variable_shows_no_password(variable: str) -> None:
    """Neither as a name nor as a file nor as a mapping."""
    with environment({f"DEERFLOW_BACKENDS_{variable}": URL}):
        assert "s3cr3tpw" not in "\n".join(mistakes())


def test_an_unknown_variable_is_one_short_line() -> None:
    """What is allowed is told once, and nothing is suggested that is not meant."""
    with environment({"DEERFLOW_BACKENDS_REDIS_URL": "x"}):
        assert mistakes() == [
            "DEERFLOW_BACKENDS_REDIS_URL: unknown variable; allowed: DEERFLOW_BACKENDS_ and then CONFIG,"
            " CONNECTIONS__<NAME>__<SETTING>, DRAIN_SECONDS, STREAM_BRIDGE, MEMORY, THREAD_INDEX, COUNTERS"
        ]


def test_a_connection_without_backend_is_blamed_itself() -> None:
    """Whoever chose the connection named no backend; the connection's block has to."""
    FILE.write_text("memory: {connection: archive}\nconnections:\n  archive: {path: ./x}\n")
    with pytest.raises(BackendsError) as caught:
        plan(load_configuration())
    assert str(caught.value) == (
        f"connections.archive ({FILE}, line 3): names no backend, so it would be that of 'archive', which is not"
        " installed; add 'backend: ...'"
    )


def test_off_is_what_yaml_makes_of_it() -> None:
    """A bare ``off`` is False in YAML, and means "off"; its opposite means nothing."""
    FILE.write_text("memory: inprocess\nconnections: {inprocess: {migrate: off}}\n")
    (connection,) = plan(load_configuration()).connections
    assert connection.mode == "off"
    FILE.write_text("memory: inprocess\nconnections: {inprocess: {migrate: on}}\n")
    with pytest.raises(ConfigError, match="should be 'auto', 'check' or 'off'"):
        plan(load_configuration())


# Settings of connections, and their secrets.

SECRETIVE = """
from typing import Literal
from urllib.parse import unquote, urlsplit
from pydantic import Field, SecretStr, field_validator, model_validator
from deerflow_backends import ConnectionSettings, hookimpl, inprocess

def password(url):
    return unquote(urlsplit(url).password)

class Settings(ConnectionSettings):
    url: str = "acme://nowhere"
    password: SecretStr = SecretStr("")
    tail: Literal["pubsub", "xread"] = "pubsub"
    pool: int = Field(default=4, gt=0)

    @field_validator("url")
    @classmethod
    def checked(cls, value):
        if not value.startswith("acme://"):
            raise ValueError(f"cannot connect to {value}, that is {value!r}: use acme://")
        return value

    @model_validator(mode="after")
    def whole(self):
        if self.pool == 13:
            raise ValueError(f"13 with {self.password.get_secret_value()} for {self.url}")
        if self.pool == 14:
            raise KeyError(self.url)
        if self.pool == 17:
            raise ValueError(f"tail: {self.tail} does not go with {password(self.url)}")
        if self.pool == 16:
            raise ValueError(f"a user must not be called {urlsplit(self.url).username}, nor have {password(self.url)}")
        return self

@hookimpl
def deerflow_settings():
    return Settings

@hookimpl
def deerflow_connect(name, settings):
    if settings.pool == 15:
        raise OSError(f"no route to {settings.url} with {settings.password.get_secret_value()}")
    return inprocess.connect(name)

@hookimpl
def deerflow_memory(connection):
    return inprocess.open_memory(connection)
"""


def settings_mistakes(connection: Mapping[str, Any]) -> list[str]:
    with pytest.raises(BackendsError) as caught:
        plan(load_configuration({"memory": "acme", "connections": {"acme": connection}}))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("connection", "line"),
    [
        (
            {"ulr": "x"},
            "connections.acme.ulr (arguments): unknown key; did you mean 'url'? allowed: backend, migrate, namespace,"
            " password, pool, publish_timeout_seconds, tail, timeout_seconds, url",
        ),
        ({"pool": "0"}, "connections.acme.pool (arguments): Input should be greater than 0"),
        ({"tail": "pubsu"}, "connections.acme.tail (arguments): Input should be 'pubsub' or 'xread'"),
        (
            {"url": "redis://:hunter2@host"},
            "connections.acme.url (arguments): cannot connect to ***, that is '***': use acme://",
        ),
        (
            {"password": "hunter2", "url": "acme://me:hunter3@host", "pool": 13},
            "connections.acme (arguments): 13 with *** for ***",
        ),
        (
            {"url": "acme://me:hunter3@host", "pool": 14},
            "connections.acme (arguments): acme 2.0, backend 'acme': the model of deerflow_settings raised KeyError in"
            " acme_plugin.py, line 28: '***'",
        ),
        (
            {"url": "acme://me:hunter%403@host", "pool": 16},
            "connections.acme (arguments): a user must not be called me, nor have ***",
        ),
        (
            {"url": "acme://me:hunter3@host", "pool": 17, "tail": "xread"},
            "connections.acme (arguments): tail: xread does not go with ***",
        ),
        (
            {"namespace": "Upper"},
            "connections.acme.namespace (arguments): must be lower-case letters, digits and _, beginning"
            " with a letter, at most 48",
        ),
        (
            {"timeout_seconds": True},
            "connections.acme.timeout_seconds (arguments): must be a number of seconds, not bool",
        ),
        ({"timeout_seconds": 0}, "connections.acme.timeout_seconds (arguments): Input should be greater than 0"),
        (
            {"timeout_seconds": float("inf")},
            "connections.acme.timeout_seconds (arguments): Input should be a finite number",
        ),
        ({"migrate": "maybe"}, "connections.acme.migrate (arguments): Input should be 'auto', 'check' or 'off'"),
    ],
)
def test_a_wrong_setting_is_told_without_its_value(site: Site, connection: Mapping[str, Any], line: str) -> None:
    """The plugin's own reason is shown, without what was given for it."""
    site.install(SECRETIVE)
    assert settings_mistakes(connection) == [line]


def test_a_wrong_setting_is_told_with_its_variable(site: Site) -> None:
    """The environment has text only: numbers are read from it, and a mistake names the variable."""
    site.install(SECRETIVE)
    variable = "DEERFLOW_BACKENDS_CONNECTIONS__ACME__POOL"
    with environment({variable: "7"}):
        (connection,) = [one for one in plan(load_configuration({"memory": "acme"})).connections if one.name == "acme"]
        assert connection.settings is not None
        assert connection.settings.model_dump()["pool"] == 7
    with environment({variable: "seven"}):
        assert settings_mistakes({}) == [
            f"connections.acme.pool ({variable}): Input should be a valid integer, unable to parse string as an integer"
        ]


def test_settings_for_a_backend_that_takes_none_are_refused(site: Site) -> None:
    """Without ``deerflow_settings`` nothing would read them."""
    site.install("from deerflow_backends import hookimpl\n@hookimpl\ndef deerflow_memory(connection):\n    pass\n")
    assert settings_mistakes({"url": "x", "namespace": "y"}) == [
        "connections.acme (arguments): the backend 'acme' takes no settings; remove namespace, url"
    ]
    plan(load_configuration({"memory": "acme", "connections": {"acme": {}}}))


def test_settings_nobody_chose_are_validated_where_the_plugin_is_loaded(site: Site) -> None:
    """An unused connection of a chosen backend is checked like the used one, and is not planned."""
    site.install(SECRETIVE)
    other = {"other": {"backend": "acme", "pool": 0}}
    with pytest.raises(ConfigError) as caught:
        plan(load_configuration({"memory": "acme", "connections": other}))
    assert str(caught.value) == "connections.other.pool (arguments): Input should be greater than 0"
    other["other"]["pool"] = 1
    planned = plan(load_configuration({"memory": "acme", "connections": other}))
    assert [connection.name for connection in planned.connections] == ["inprocess", "acme"]


#: Any text, after a few letters that stand nowhere else, or a search for it would find innocent words.
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_characters="/@*"), min_size=1).map(
    lambda text: f"qX{''.join(text.split())}Yz"
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PASSWORDS, st.sampled_from([4, 13, 14, 15, 0]), st.booleans())
def test_no_secret_is_ever_shown(site: Site, password: str, pool: int, good: bool) -> None:
    """Not in the error, its traceback or causes, nor in any repr, whatever the plugin's own code prints."""
    if not (site.folder / "acme_plugin.py").exists():
        site.install(SECRETIVE)
    url = f"{'acme' if good else 'http'}://user:{password}@host/0"
    connection = {"url": url, "password": f"Z{password}", "pool": pool}
    arguments = {"memory": "acme", "connections": {"acme": connection}}

    async def opened() -> None:
        async with open_backends(arguments) as backends:
            shown.append(repr(backends) + repr(backends._connections))

    shown = [repr(load_configuration(arguments)), str(load_configuration(arguments))]
    try:
        asyncio.run(opened())
    except (ConfigError, PluginError) as error:
        assert not good or pool in {13, 14, 15, 0}
        shown += traceback.format_exception(error)
    else:
        assert good
        assert pool == 4
    for text in shown:
        assert password not in text
        assert repr(password)[1:-1] not in text


def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even by the library that merges the sources, with its own debugging switched on."""
    FILE.write_text("connections: {sqlite: {url: redis://hunter2}}")
    with environment({"PYDANTIC_SETTINGS_DEBUG": "1"}), caplog.at_level(logging.DEBUG):
        load_configuration({"connections": {"sqlite": {"password": "hunter2"}}})
    assert "hunter2" not in caplog.text


def test_a_required_setting_is_told_with_its_key() -> None:
    """A backend that cannot do without a setting says which, also if nothing at all was said."""
    with pytest.raises(ConfigError) as caught:
        plan(load_configuration({"memory": "sqlite"}))
    remedy = "'connections: {sqlite: {path: ...}}' or as DEERFLOW_BACKENDS_CONNECTIONS__SQLITE__PATH"
    assert str(caught.value) == f"connections.sqlite.path (arguments): is required; set it under {remedy}"
    with pytest.raises(ConfigError) as caught, environment({"DEERFLOW_BACKENDS_CONNECTIONS__SQLITE__NAMESPACE": "x"}):
        plan(load_configuration({"memory": "sqlite"}))
    variable = "DEERFLOW_BACKENDS_CONNECTIONS__SQLITE__NAMESPACE"
    assert str(caught.value) == f"connections.sqlite.path ({variable}): is required; set it under {remedy}"


@given(st.recursive(PASSWORDS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)), st.data())
def test_scrubbing_leaves_nothing_of_any_text(values: Any, data: st.DataObject) -> None:
    """Whatever mixture of what was given a message quotes, none of it is left."""
    secrets = sorted(secrets_in(values))
    quoted = data.draw(st.lists(st.sampled_from(secrets))) if secrets else []
    message = scrub(", ".join(quoted), secrets)
    assert not [secret for secret in quoted if secret.strip("*, ") and secret in message]


def test_userinfo_is_scrubbed_wherever_it_comes_from() -> None:
    """A URL's user and password go, even if nobody configured them, even with an ``@`` in the password."""
    assert scrub("at redis://me:p@ss@host:6379/0 now", ()) == "at redis://***@host:6379/0 now"
    assert scrub("at redis://host:6379/0 now", ()) == "at redis://host:6379/0 now"


def test_a_repr_shows_no_text_but_the_common_fields() -> None:
    """A plugin's numbers, flags and paths are shown; all its text could be a secret."""

    class Settings(ConnectionSettings):
        url: str = "acme://me:pw@host"
        pool: int = 4
        tls: bool = True
        folder: Path = Path("/var")
        hosts: tuple[str, ...] = ("a",)
        nothing: str | None = None

    shown = (
        "namespace='deerflow', timeout_seconds=5.0, publish_timeout_seconds=60.0, migrate='auto',"
        " url=***, pool=4, tls=True, folder=PosixPath('/var'), hosts=***, nothing=***"
    )
    assert repr(Settings()) == f"Settings({shown})"
    assert str(Settings()) == shown.replace(", ", " ")
