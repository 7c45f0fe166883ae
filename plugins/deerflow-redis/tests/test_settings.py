"""What settings say and cannot say: a mistake is told at once, as one, and no message shows a secret."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import deerflow_redis
from deerflow_backends.errors import BackendsError, BackendUnavailable, ConfigError
from deerflow_backends.settings import connection_settings
from deerflow_redis import Settings
from redis_servers import HOST, Server

pytestmark = pytest.mark.drivers

SECRET = "hunter2"

#: Nobody listens there; what is wrong is told before anybody is looked for.
NOWHERE = f"{HOST}:1"


def mistakes(**values: Any) -> list[str]:
    """Return what the configuration says of a connection's settings."""
    found = connection_settings(Settings, {"url": f"redis://{NOWHERE}", **values}, ("connections", "redis"))
    return [problem for _, problem in found] if isinstance(found, list) else []


def mistake(**values: Any) -> str:
    """Return the only one."""
    (found,) = mistakes(**values)
    return found


async def use(url: str, **settings: Any) -> None:
    async with deerflow_redis.connect(url=url, namespace="settings", **settings) as connection:
        await connection.ping()


def refused(url: str, **settings: Any) -> str:
    """Return what opening says of settings that are wrong; it shows no secret, wherever one looks."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(use(url, **{"timeout_seconds": 60.0, **settings}))
    error: BaseException | None = caught.value
    assert not any(SECRET in line for line in traceback.format_exception(caught.value))
    while error is not None:
        assert SECRET not in repr(error)
        assert not hasattr(error, "errors")
        error = error.__cause__ or error.__context__
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@{NOWHERE}/0",
        f"redis://:{SECRET}#x@{NOWHERE}/0",
        f"redis://:x#{SECRET}@{NOWHERE}/0",
        f"redis://:123#{SECRET}@{NOWHERE}/0",
        f"redis://:123/{SECRET}@{NOWHERE}/0",
        f"redis://:x?{SECRET}@{NOWHERE}/0",
        f"redis://:123?{SECRET}@{NOWHERE}/0",
        f"redis://:123?{SECRET}",
        f"rediss://:123?{SECRET}@{NOWHERE}/0",
        f"redis://user:{SECRET}[x]tail@{NOWHERE}",
        f"redis://:[{SECRET}]@{NOWHERE}",
        f"redis://:{SECRET}]@{NOWHERE}",
        f"redis://:{SECRET}\u2100@{NOWHERE}",
        f"redis://:{SECRET}@{HOST}:63x79",
        f"redis://:{SECRET}@{NOWHERE}/db0",
    ],
)
def test_a_password_that_is_not_encoded_is_not_shown(url: str) -> None:
    """G7: of a URL that its password breaks no part is shown, and the message says what to do."""
    assert mistakes(url=url)
    for said in (*mistakes(url=url), refused(url)):
        assert SECRET not in said
        assert "encode" in said or "?" in said


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://{NOWHERE}?db=2", "sets db; .* comes after a '/'"),
        (f"redis://{NOWHERE}?db=2&{SECRET}=3", "sets db; "),
        (f"redis://{NOWHERE}?ssl_ca_certs=x", "need rediss://"),
        (f"rediss://{NOWHERE}?password={SECRET}", "sets password; .*ssl_ca_certs, "),
        (f"rediss://{NOWHERE}?ssl_ca_cert=/etc/ssl/redis.pem", "can stand: .*ssl_ca_certs"),
        (f"rediss://{NOWHERE}?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs; it must be none, optional or required"),
        (f"rediss://{NOWHERE}?ssl_cert_reqs=none&ssl_check_hostname=yes", "ssl_check_hostname, which needs"),
        (f"unix:///tmp/socket?ssl_ca_certs={SECRET}", "sets ssl_ca_certs; .*db=NUMBER"),
        ("unix:///tmp/socket?db=two", "cannot read"),
        ("unix:///tmp/socket?db=-1", "below 0"),
        (f"http://{NOWHERE}", "must begin with redis://"),
        ("unix://", "path of a socket"),
    ],
)
def test_what_a_url_cannot_say(url: str, words: str) -> None:
    """G6: what no URL can set is a mistake of the configuration that tells what can be set, and no value."""
    with pytest.raises(ValueError, match=words) as caught:
        Settings.model_validate({"url": url})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "nodes", [[f"redis://:{SECRET}@h:1"], [f"u:{SECRET}@h:26379"], f"a:1,{SECRET}@b:2", [SECRET], [f"{SECRET}:x"], [3]]
)
def test_a_node_that_is_none_is_not_shown(nodes: object) -> None:
    """G7: of a node with a password, or that is none, the message shows nothing, and is whole."""
    said = mistake(topology="sentinel", nodes=nodes)
    assert said == "must be host:port each"
    assert "must be host:port each" in refused(f"redis://{NOWHERE}", topology="sentinel", nodes=nodes)


def test_nodes_that_are_some() -> None:
    """As a list or as one text, addresses of IPv6 too."""
    for nodes in (["a:1", "[::1]:2"], "a:1, [::1]:2"):
        assert not mistakes(topology="sentinel", nodes=nodes)


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_a_socket_is_one_server(topology: str) -> None:
    """G6: neither sentinels nor a cluster are behind a socket, and the message says so."""
    assert "unix://" in mistake(url="unix:///tmp/socket", topology=topology)


def test_connecting_says_what_the_configuration_says() -> None:
    """G6: wrong arguments of `connect` are a `ConfigError` that names each, as wrong settings of a file are."""
    said = refused(f"redis://:{SECRET}@{NOWHERE}", namespace_="x", wait_replicas=-1, sentinel_passwrd=SECRET)
    assert {line.partition(":")[0] for line in said.splitlines()} == {
        f"connections.redis.{name} (arguments)" for name in ("namespace_", "wait_replicas", "sentinel_passwrd")
    }
    assert "sentinel_password" in said


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_missing_is_no_server_that_is_silent(name: str) -> None:
    """G6: a file for TLS that is not there is named by its setting, at once."""
    assert f"{name} names nothing that can be read" in refused(f"rediss://{NOWHERE}?{name}=/nowhere/{SECRET}.pem")


def test_settings_of_tls_that_the_driver_refuses(tmp_path: Path) -> None:
    """G6: so is what the driver would refuse at each connection: a file without certificates, ciphers that are none."""
    (tmp_path / "empty.pem").touch()
    assert "cannot use ssl_ca_certs" in refused(f"rediss://{NOWHERE}?ssl_ca_certs={tmp_path}/empty.pem")
    assert "cannot use ssl_ciphers" in refused(f"rediss://{NOWHERE}?ssl_ciphers={SECRET}")


def test_a_database_that_there_is_not(valkey: Server) -> None:
    """G6: a database that the server does not have is a mistake that is told at once."""
    assert "no database" in refused(f"{valkey.url}/99")


def test_a_server_that_is_no_sentinel(valkey: Server) -> None:
    """G6: so is ``topology: sentinel`` at a server that is none."""
    said = refused(valkey.url, topology="sentinel")
    assert f"{HOST}:{valkey.port} is no sentinel" in said
    assert "topology" in said


def test_a_server_without_info() -> None:
    """G6: so is a server that has INFO under another name."""
    server = Server(config={"rename-command": "INFO elsewhere"})
    try:
        server.launch()
        server.wait(lambda: server.execute("PING") is not None, "until it answers")
        assert "no INFO" in refused(server.url)
    finally:
        server.close()


def test_a_socket_and_its_database(tmp_path: Path) -> None:
    """``unix:///path?db=2`` leads to the database 2 of the server at that socket."""

    async def main(path: Path) -> None:
        async with deerflow_redis.connect(url=f"unix://{path}?db=2") as connection:
            assert connection.database == 2
            assert connection.where == str(path)
            assert b" db=2 " in await connection.command("CLIENT", "INFO")
        async with deerflow_redis.connect(url=f"unix://{path}") as connection:
            assert b" db=0 " in await connection.command("CLIENT", "INFO")

    path = tmp_path / "socket"
    with Server(config={"unixsocket": str(path)}):
        asyncio.run(main(path))


def test_the_port_of_a_sentinel() -> None:
    """A sentinel whose port the URL leaves out is looked for where sentinels listen, whether there is one or not."""
    with pytest.raises(BackendsError, match=rf"(connecting to|the s\w+ at) {HOST}:26379"):
        asyncio.run(use(f"redis://{HOST}", topology="sentinel", sentinel_service="nobody", timeout_seconds=1))


def certificate(folder: Path, name: str) -> Path:
    """Make a certificate that vouches for itself and for *name*, its key in the same file."""
    path = folder / "server.pem"
    made = ["-out", str(path), "-keyout", str(folder / "key.pem"), "-days", "2", "-subj", "/CN=deer"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-addext", f"subjectAltName={name}"]
    subprocess.run(["openssl", "req", "-x509", *kind, *made], check=True, capture_output=True)
    path.write_text(path.read_text(encoding="ascii") + (folder / "key.pem").read_text(encoding="ascii"))
    return path


@asynccontextmanager
async def encrypted(server: Server, pem: Path) -> AsyncIterator[int]:
    """Have *server* reached over TLS too, at the port that is given."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while some := await reader.read(65_536):
                writer.write(some)
        except OSError:
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, thither = await asyncio.open_connection(HOST, server.port)
        await asyncio.gather(pass_on(reader, thither), pass_on(there, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    async with await asyncio.start_server(relay, HOST, 0, ssl=context) as relaying:
        yield relaying.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("name", "further", "accepted"),
    [
        (f"IP:{HOST}", "", True),
        ("DNS:other.example", "", False),
        ("DNS:other.example", "&ssl_cert_reqs=optional", False),
        ("DNS:other.example", "&ssl_check_hostname=false", True),
        ("DNS:other.example", "&ssl_cert_reqs=none", True),
    ],
)
def test_whose_certificate_it_is(valkey: Server, tmp_path: Path, name: str, further: str, accepted: bool) -> None:
    """With ``rediss://`` and any driver a certificate of somebody else is not accepted, unless the URL says so."""
    pem = certificate(tmp_path, name)

    async def main() -> None:
        async with encrypted(valkey, pem) as port:
            url = f"rediss://{HOST}:{port}?ssl_ca_certs={pem}{further}"
            if accepted:
                await use(url)
            else:
                with pytest.raises(BackendUnavailable, match="certificate"):
                    await use(url, timeout_seconds=3)

    asyncio.run(main())
