"""Through a forward proxy to the server: tinyproxy of Debian, and proxies that fail."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devroute.agent import app as agent
from devroute.agent.api_client import fetch as fetch_api
from devroute.agent.settings import AgentSettings
from devroute.auth.tokens import new_token
from devroute.errors import ConfigInvalid, ServerUnreachable
from devroute.mesh import testbed
from devroute.tunnel.dial import dial
from devroute.tunnel.forward_proxy import ForwardProxy, from_environment
from tests.agent.test_app import app, fetch, online, settings, up
from tests.support.authority import Authority
from tests.support.eventually import eventually
from tests.support.loopback import site
from tests.support.ports import free_port
from tests.support.shell import devroute, listening

TINYPROXY = shutil.which("tinyproxy") or shutil.which("tinyproxy", path="/usr/sbin:/sbin")
needs_tinyproxy = pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed (apt-get install)")

#: 127.0.0.1 for every resolver, but not recognised as this machine, which needs no proxy. aiohttp refuses a
#: number without 0x.
ELSEWHERE = "0x7f000001"


@asynccontextmanager
async def tinyproxy(folder: Path, port: int, *lines: str) -> AsyncIterator[Callable[[], int]]:
    """The number of CONNECTs so far."""
    log = folder / "tinyproxy.log"
    config = folder / "tinyproxy.conf"
    fixed = (f"Port {port}", "Listen 127.0.0.1", f'LogFile "{log}"', "LogLevel Connect", "MaxClients 20")
    config.write_text("\n".join((*fixed, *lines, "")))
    assert TINYPROXY is not None
    process = await asyncio.create_subprocess_exec(
        TINYPROXY,
        "-d",
        "-c",
        str(config),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def accepts() -> bool:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually(accepts, "tinyproxy listens")
        yield lambda: log.read_text().count(": CONNECT ") if log.exists() else 0
    finally:
        process.terminate()
        await process.wait()


# --- tinyproxy


@needs_tinyproxy
async def test_the_tunnel_passes_a_proxy_with_credentials(tmp_path: Path, unused_tcp_port: int) -> None:
    proxy = f"http://alice:secret@127.0.0.1:{unused_tcp_port}"
    async with (
        tinyproxy(tmp_path, unused_tcp_port, "BasicAuth alice secret") as connects,
        site() as where,
        app() as port,
        up(settings(where.url, f"foo=127.0.0.1:{port}", forward_proxy=proxy)) as task,
    ):
        await online(where, task)
        assert (await fetch(where)).body == b"from the laptop"
        assert connects() == 1


@needs_tinyproxy
async def test_tls_to_the_server_passes_the_proxy_unread(tmp_path: Path, unused_tcp_port: int) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    context = pair.context()
    async with tinyproxy(tmp_path, unused_tcp_port) as connects, site(tls=context) as where, app() as port:
        changes = {"forward_proxy": f"127.0.0.1:{unused_tcp_port}", "ca_file": authority.file}
        server = where.url.replace("http", "https").replace("127.0.0.1", "localhost")
        async with up(settings(server, f"foo=127.0.0.1:{port}", **changes)) as task:
            await online(where, task)
            assert (await fetch(where)).body == b"from the laptop"
            assert connects() == 1


@needs_tinyproxy
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", "wants credentials (407 Proxy Authentication Required; it offers Basic)"),
        ("alice:wrong@", "refuses these credentials (4"),
    ],
)
async def test_missing_and_wrong_credentials_are_named_without_them(
    user: str, said: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with tinyproxy(tmp_path, unused_tcp_port, "BasicAuth alice secret"), site() as where:
        of = settings(where.url, forward_proxy=f"http://{user}127.0.0.1:{unused_tcp_port}")
        with pytest.raises(ServerUnreachable) as caught:
            await agent.run(of)
    assert caught.value.message.startswith(f"the proxy http://127.0.0.1:{unused_tcp_port} ")
    assert said in caught.value.message
    assert "wrong" not in caught.value.message + caught.value.hint


@needs_tinyproxy
async def test_a_proxy_that_may_not_connect_there_is_named_with_its_reason(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    async with tinyproxy(tmp_path, unused_tcp_port, "ConnectPort 443"), site() as where:
        of = settings(where.url, forward_proxy=f"http://127.0.0.1:{unused_tcp_port}")
        with pytest.raises(ServerUnreachable, match=rf"does not connect to 127\.0\.0\.1:{where.port}: 403"):
            await agent.run(of)


@needs_tinyproxy
@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize("scheme", ["http", "https", "HTTPS"])
async def test_a_request_to_the_api_has_credentials_for_the_proxy_which_the_server_does_not_get(
    scheme: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    context = pair.context()
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\n{"a": 1}')
        writer.close()

    tls = None if scheme == "http" else context
    async with (
        tinyproxy(tmp_path, unused_tcp_port, "BasicAuth alice secret"),
        await asyncio.start_server(serve, "127.0.0.1", free_port(), ssl=tls) as listening,
    ):
        server = f"{scheme}://localhost:{listening.sockets[0].getsockname()[1]}"

        def through(password: str) -> AgentSettings:
            proxy = f"http://alice:{password}@127.0.0.1:{unused_tcp_port}"
            return settings(server, forward_proxy=proxy, ca_file=authority.file)

        assert await fetch_api(through("secret"), "/api/status") == {"a": 1}
        with pytest.raises(ServerUnreachable, match=r"(status|with) 40[17]"):
            await fetch_api(through("wrong"), "/api/status")
    (head,) = heads
    assert b"proxy-authorization" not in head.lower()
    assert b"Bearer alice-token" in head


@needs_tinyproxy
async def test_every_command_uses_the_proxy_that_the_environment_names(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    secret, record = new_token("alice")
    (tmp_path / "site").mkdir()
    async with (
        tinyproxy(tmp_path, unused_tcp_port, "BasicAuth alice secret") as connects,
        testbed.proxy(tmp_path / "site", [record]) as proxy,
    ):
        known = {
            "DEVROUTE_SERVER": proxy.server.replace("127.0.0.1", ELSEWHERE),
            "DEVROUTE_TOKEN": secret,
            "DEVROUTE_INSECURE_PLAIN_HTTP": "true",
        }
        through = {"http_proxy": f"http://alice:secret@127.0.0.1:{unused_tcp_port}"}
        code, out, err = await devroute(tmp_path, "status", **known, **through)
        assert code == 0, err
        code, out, err = await devroute(tmp_path, "doctor", "--output", "json", **known, **through)
        assert code == 0, out
        found = {each["check"]: each for each in map(json.loads, out.splitlines())}
        assert "is the proxy to the server" in found["dns"]["text"]
        assert found["tunnel"]["result"] == "ok"
        assert connects() >= 2  # of the checks of TLS and the tunnel
        before = connects()
        code, out, err = await devroute(tmp_path, "doctor", **known, **through, NO_PROXY=ELSEWHERE)
        assert code == 0, out
        code, out, err = await devroute(tmp_path, "doctor", "--proxy", "off", **known, **through)
        assert code == 0, out
        assert connects() == before


# --- proxies that fail


async def test_a_proxy_that_does_not_listen_is_named(unused_tcp_port: int) -> None:
    of = settings("https://devroute.example", forward_proxy=f"127.0.0.1:{unused_tcp_port}")
    for attempt in (agent.run(of), fetch_api(of, "/api/status")):
        with pytest.raises(
            ServerUnreachable, match=f"the proxy http://127.0.0.1:{unused_tcp_port} cannot be reached"
        ):
            await attempt


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (b"220 smtp.example ESMTP\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (
            b"HTTP/1.1 502 Bad \x1b[31mGateway\r\n\r\n",
            "does not connect to devroute.example:443: 502 Bad ?[31mG",
        ),
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
            "wants credentials (407 No; it offers Negotiate, NTLM)",
        ),
    ],
)
async def test_a_proxy_that_responds_wrongly_is_named(response: bytes, said: str) -> None:
    async with listening(response) as port:
        with pytest.raises(ServerUnreachable) as caught:
            await agent.run(settings("https://devroute.example", forward_proxy=f"127.0.0.1:{port}"))
    assert said in caught.value.message
    assert "\x1b" not in caught.value.message
    if b"NTLM" in response:
        assert "Basic only" in caught.value.hint


async def test_a_silent_proxy_is_named_when_time_is_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        proxy = ForwardProxy("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises(ServerUnreachable, match=r"within 0.05 s through the proxy http://127.0.0.1"):
            await dial("https://devroute.example", "t", lambda *_: None, seconds=0.05, proxy=proxy)  # type: ignore[arg-type, return-value]


# --- which proxy


@pytest.mark.parametrize(
    ("server", "no_proxy", "used"),
    [
        ("https://devroute.example", "", True),
        ("wss://devroute.example", "", True),
        ("https://devroute.example", "*", False),
        ("https://devroute.example", "other.example, devroute.example", False),
        ("https://devroute.example", "EXAMPLE", False),
        ("https://devroute.example", ".example", False),
        ("https://devroute.example", "*.example", False),
        ("https://devroute.example", "route.example", True),
        ("https://devroute.example", "devroute.example:443", False),
        ("https://devroute.example", "devroute.example:8443", True),
        ("https://devroute.example:8443", "devroute.example:8443", False),
        ("https://10.1.2.3", "10.1.2.3", False),
        ("https://10.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.2.0.0/16", True),
        ("https://[fd00::1]", "fd00::1", False),
        ("https://[fd00::1]", "[fd00::/8]", False),
        ("https://localhost", "", False),
        ("https://127.0.0.2", "", False),
        ("https://[::1]", "", False),
    ],
)
def test_no_proxy(server: str, no_proxy: str, used: bool) -> None:
    named = {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy}
    assert from_environment(server, named) == ("http://p:1" if used else None)


@pytest.mark.parametrize(
    ("server", "environment", "proxy"),
    [
        ("https://s", {"HTTPS_PROXY": "a", "HTTP_PROXY": "b", "ALL_PROXY": "c"}, "a"),
        ("http://s", {"HTTPS_PROXY": "a", "HTTP_PROXY": "b", "ALL_PROXY": "c"}, "b"),
        ("https://s", {"HTTP_PROXY": "b", "all_proxy": "c"}, "c"),
        ("https://s", {"https_proxy": "low", "HTTPS_PROXY": "high"}, "low"),
        ("https://s", {"HTTPS_PROXY": " "}, None),
        ("https://s", {}, None),
    ],
)
def test_the_variable_for_the_server_s_scheme(
    server: str, environment: dict[str, str], proxy: str | None
) -> None:
    assert from_environment(server, environment) == proxy


@pytest.mark.parametrize(
    ("text", "host", "port", "authorization"),
    [
        ("http://p.example:8080", "p.example", 8080, ""),
        ("p.example", "p.example", 3128, ""),
        ("http://[fd00::1]:1/", "fd00::1", 1, ""),
        ("http://u:p%40w@p.example:1", "p.example", 1, "Basic dTpwQHc="),
    ],
)
def test_a_proxy_is_read_and_shown_without_its_password(
    text: str, host: str, port: int, authorization: str
) -> None:
    proxy = ForwardProxy.parse(text)
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, authorization)
    assert AgentSettings(forward_proxy=text).forward_proxy == proxy
    for shown in (str(proxy), repr(proxy)):
        assert "@" not in shown
        assert "Basic" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "socks5://u:secret@p:1",
        "https://u:secret@p:1",
        "http://u:secret@p:x",
        "http://u:secret@p/path",
        "http://u:secret\uff0f@p:1",  # Python's own message quotes what changes under NFKC
        "http://u:secret@[p:1",
        "http://u:a/secret@p:1",
        "http://",
    ],
)
def test_another_kind_of_proxy_is_refused_without_quoting_a_password(text: str) -> None:
    with pytest.raises(ValueError, match=r"not supported|write a proxy like") as caught:
        AgentSettings(forward_proxy=text)
    assert "secret" not in str(caught.value.errors(include_input=False))  # type: ignore[attr-defined]
    of = AgentSettings(server="https://devroute.example")
    with pytest.raises(ConfigInvalid, match="HTTPS_PROXY") as invalid:
        of.proxy_for_server({"https_proxy": text})
    assert "secret" not in invalid.value.message
