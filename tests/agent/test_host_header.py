"""--host-header over real sockets: what the app gets, and what the client sees."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from devroute.agent.settings import AgentSettings
from devroute.cli.config.sources import agent_settings, read_file
from devroute.errors import ConfigInvalid
from devroute.http.message import Framing, RequestHead, split_fields
from tests.agent.test_app import online, settings, up
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import Client, Site, site

Answer = Callable[[int], bytes]


@asynccontextmanager
async def app(answer: Answer) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of an app that responds with these fields or this response, and the heads that it got."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        response = answer(server.sockets[0].getsockname()[1])
        if not response.startswith(b"HTTP/"):
            response = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n%b\r\n\r\n" % response
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heads


async def send(where: Site, *lines: bytes) -> Client:
    client = Client()
    wire = b"\r\n".join((b"GET / HTTP/1.1", *lines, b"", b""))
    where.upstream().open(RequestHead(b"GET", b"/", Framing.NONE, 0, wire), client)
    async with asyncio.timeout(20):
        await client.done.wait()
    return client


async def exchange(
    choice: str, lines: list[bytes], answer: Answer, place: str = "127.0.0.1"
) -> tuple[int, dict[bytes, bytes], dict[bytes, bytes]]:
    """The app's port, the request's fields as the app got them, the response's as the client got them."""
    async with (
        site() as where,
        app(answer) as (port, heads),
        up(settings(where.url, f"foo={place}:{port}", host_header=choice)) as task,
    ):
        await online(where, task)
        client = await send(where, *lines)
        assert client.error is None
        return port, dict(split_fields(heads[0])), dict(client.heads[0].headers)


@pytest.mark.parametrize(
    ("line", "app_gets", "name_gets"),
    [
        (b"Host: b.qa.example", b"localhost:%d", b"b.test"),
        (b"Origin: https://b.qa.example", b"http://localhost:%d", b"http://b.test"),
        (b"origin: HTTPS://B.QA.EXAMPLE", b"http://localhost:%d", b"http://b.test"),
        (b"origin: https://shop.qa.example", b"https://shop.qa.example", b"https://shop.qa.example"),
        (b"origin: null", b"null", b"null"),
        (b"referer: https://b.qa.example/?http://c/", b"http://localhost:%d/?http://c/", b"http://b.test/?http://c/"),
        (b"referer: https://b.qa.example.evil/", b"https://b.qa.example.evil/", b"https://b.qa.example.evil/"),
        (b"x-forwarded-host: b.qa.example", b"localhost:%d", b"b.test"),
        (b"x-forwarded-proto: https", b"http", b"http"),
        (b"x-forwarded-port: 443", b"%d", b"80"),
        (
            b'forwarded: for=10.0.0.1;host=b.qa.example;proto=https, for="[::1]"',
            b'for=10.0.0.1;host="localhost:%d";proto="http", for="[::1]"',
            b'for=10.0.0.1;host="b.test";proto="http", for="[::1]"',
        ),
        (b"x-other: https://b.qa.example/", b"https://b.qa.example/", b"https://b.qa.example/"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("choice", ["app", "b.test", "keep"])
async def test_what_the_app_gets(choice: str, line: bytes, app_gets: bytes, name_gets: bytes) -> None:
    lines = [line] if line.startswith(b"Host") else [b"host: b.qa.example", line]
    port, got, _ = await exchange(choice, lines, lambda port: b"x-a: b", "localhost")
    name, value = (part.strip() for part in line.split(b":", 1))
    expected = {"app": app_gets.replace(b"%d", b"%d" % port), "b.test": name_gets, "keep": value}
    assert got[name] == expected[choice]


@pytest.mark.parametrize(
    ("field", "seen"),
    [
        (b"Location: http://localhost:%d/next", b"https://b.qa.example/next"),
        (b"location: http://127.0.0.1:%d", b"https://b.qa.example"),
        (b"location: /next", b"/next"),
        (b"location: https://x.example/?http://localhost:%d/", b"https://x.example/?http://localhost:%d/"),
        (b"location: http://localhost.evil:%d/", b"http://localhost.evil:%d/"),
        (b"content-location: http://localhost:%d/a", b"https://b.qa.example/a"),
        (b"access-control-allow-origin: http://localhost:%d", b"https://b.qa.example"),
        (b"access-control-allow-origin: *", b"*"),
        (b"set-cookie: a=b; Domain=localhost; Path=/", b"a=b; Domain=b.qa.example; Path=/"),
        (b"set-cookie: a=b; path=/; domain = .LOCALHOST", b"a=b; path=/; Domain=b.qa.example"),
        (b"set-cookie: a=domain=localhost; Secure", b"a=domain=localhost; Secure"),
        (b"set-cookie: a=b; Domain=other.example", b"a=b; Domain=other.example"),
    ],
)  # fmt: skip
async def test_what_the_client_sees(field: bytes, seen: bytes) -> None:
    lines = [b"host: b.qa.example", b"x-forwarded-proto: https"]
    port, _, got = await exchange("app", lines, lambda port: field.replace(b"%d", b"%d" % port), "localhost")
    assert got[field.split(b":")[0]] == seen.replace(b"%d", b"%d" % port)


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        ([b"host: b.qa.example"], b"http://b.qa.example/"),  # the app's own scheme
        ([b"host: b.qa.example", b"origin: https://b.qa.example"], b"https://b.qa.example/"),
        ([b"host: b.qa.example", b"referer: https://b.qa.example/x"], b"https://b.qa.example/"),
        ([b"host: b.qa.example", b"origin: https://other.example"], b"http://b.qa.example/"),
        ([b"host: b:8080"], b"http://b:8080/"),
    ],
)
async def test_the_scheme_that_the_client_used(lines: list[bytes], seen: bytes) -> None:
    _, _, got = await exchange("app", lines, lambda port: b"location: http://127.0.0.1:%d/" % port)
    assert got[b"location"] == seen


@pytest.mark.parametrize("host", [b"b", b"10.0.0.1:8080", b"[::1]:80"])
async def test_a_cookie_s_domain_is_left_out_where_browsers_would_refuse_it(host: bytes) -> None:
    _, _, got = await exchange(
        "app", [b"host: " + host], lambda port: b"set-cookie: a=b; Domain=127.0.0.1; Secure"
    )
    assert got[b"set-cookie"] == b"a=b; Secure"


# --- refusals of dev servers


def refused(status: int, body: str) -> Answer:
    text = body.encode()
    return lambda port: b"HTTP/1.1 %d Refused\r\ncontent-length: %d\r\n\r\n%b" % (status, len(text), text)


VITE = """Blocked request. This host ("b.qa.example") is not allowed.
To allow this host, add "b.qa.example" to `server.allowedHosts` in vite.config.js."""
RAILS = f"<style>{6000 * ' '}</style><h1>Blocked hosts: b.qa.example</h1>"
ORIGIN = b"origin: https://b.qa.example"


@pytest.mark.parametrize(
    ("framework", "what", "setting", "status", "body"),
    [
        ("Vite", "host", "server.allowedHosts", 403, VITE),
        ("webpack-dev-server", "host", "allowedHosts", 403, "Invalid Host header"),
        ("Django", "host", "ALLOWED_HOSTS", 400, "<title>DisallowedHost\n          at /</title>"),
        ("Django", "host", "ALLOWED_HOSTS", 400, "<body>\n  <h1>Bad Request (400)</h1><p></p>"),
        ("Rails", "host", "config.hosts", 403, RAILS),
        (
            "Django",
            "origin",
            "CSRF_TRUSTED_ORIGINS",
            403,
            "<p>CSRF verification failed.</p>",
        ),
        ("Next.js", "origin", "allowedDevOrigins", 403, "Unauthorized"),
    ],
)
async def test_the_refusal_of_a_dev_server_is_explained_once(
    framework: str, what: str, setting: str, status: int, body: str, said: Said
) -> None:
    value = "https://b.qa.example" if what == "origin" else "b.qa.example"
    async with (
        site() as where,
        app(refused(status, body)) as (port, _),
        up(settings(where.url, f"foo=127.0.0.1:{port}")) as task,
    ):
        await online(where, task)
        for _ in range(2):
            client = await send(where, b"host: b.qa.example", ORIGIN)
            assert client.body == body.encode()
        remedy = f"start devroute up with --host-header app, or permit it in {setting}"
        await eventually(lambda: said(f"foo: {framework} refuses the {what} {value} ({status}): {remedy}"))
        await eventually(lambda: said.count("GET /") == 2)
        assert said.count("refuses the") == 1


async def test_where_the_host_is_rewritten_already_only_the_framework_s_setting_is_left(
    said: Said,
) -> None:
    async with (
        site() as where,
        app(refused(403, "Invalid Host header")) as (port, _),
        up(settings(where.url, f"foo=127.0.0.1:{port}", host_header="b.test")) as task,
    ):
        await online(where, task)
        await send(where, b"host: b.qa.example")
        await eventually(lambda: said("refuses the host b.test (403): permit it in allowedHosts"))


async def test_an_app_s_own_403_is_not_explained(said: Said) -> None:
    async with (
        site() as where,
        app(refused(403, "you are not an administrator")) as (port, _),
        up(settings(where.url, f"foo=127.0.0.1:{port}")) as task,
    ):
        await online(where, task)
        await send(where, b"host: b.qa.example")
        await eventually(lambda: said("GET /"))
    assert not said("refuses")


# --- the setting


@pytest.mark.parametrize("value", ["app", "keep", "b.example", "b.example:8080"])
def test_a_host_header_is_read(value: str) -> None:
    assert AgentSettings(host_header=value).host_header == value
    assert read_file(f"host_header: {value}", "devroute.yaml", own=False).values["host_header"] == value


@pytest.mark.parametrize("value", ["", "a b", "http://b", "b:0", "a\r\nb"])
def test_what_is_no_host_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="write app, keep, or a host name"):
        AgentSettings(host_header=value)


def test_with_direct_it_would_have_no_effect() -> None:
    text = "server: http://localhost\ntoken: x\nservices: [foo=1]\ndirect: 10.0.0.1\nhost_header: app"
    with pytest.raises(ConfigInvalid, match="no effect with direct"):
        agent_settings([read_file(text, "config.yaml")])
