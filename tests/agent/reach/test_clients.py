"""Local ports that lead into the mesh, with the clients that people use."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest
from aiohttp import web
from grpc import aio

from devroute.agent.reach import proxy_port
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.outside_mesh import app_outside_mesh
from devroute.agent.reach.reach import Reach
from devroute.agent.reach.variables import proxy_variables
from devroute.upstream.dialer import Dialer
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.agent.reach.mesh import BytesApp, Mesh, heads
from tests.inspector import browser
from tests.support import grpc_app
from tests.support.eventually import eventually
from tests.support.laptop import serving, two_events
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio

TEA = "http://c.shop/tea?x=1"


@pytest.fixture(autouse=True)
def clients_may_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server here that speaks first is reached by the proxy port."""
    monkeypatch.setattr(proxy_port, "SNIFF_SECONDS", 30.0)


async def program(*command: str, **environment: str) -> str:
    """What it prints; the test is skipped where it is not installed."""
    path = shutil.which(command[0], path=f"{os.environ['PATH']}{os.pathsep}/usr/local/go/bin")
    if path is None:
        pytest.skip(f"there is no {command[0]}")
    own = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(path, *command[1:]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=own | environment,
    )
    try:
        async with asyncio.timeout(100):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()
    return output.decode().strip()


def by_proxy(reach: Reach) -> dict[str, str]:
    assert reach.proxy_port is not None
    return proxy_variables(reach.proxy_port, {})


# --- curl ---------------------------------------------------------------------------------------------------


async def test_curl_uses_the_proxy_port_in_each_form() -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        at = f"127.0.0.1:{reach.proxy_port}"
        forms: list[tuple[str, ...]] = [
            ("--proxy", f"socks5h://{at}"),
            ("--proxy", f"http://{at}"),
            ("--proxytunnel", "--proxy", f"http://{at}"),
            ("--proxytunnel", "--proxy", f"http://{at}", "--http2-prior-knowledge"),
        ]
        bodies = await asyncio.gather(*(program("curl", "-sS", *form, TEA) for form in forms))
        assert await program("curl", "-sS", TEA, **by_proxy(reach)) == "tea"
    assert bodies == ["tea"] * len(forms)
    assert all(head.startswith(b"GET /tea?x=1 HTTP/1.1\r\nhost: c.shop\r\n") for head in heads(mesh.c))


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_uses_a_forward(version: str) -> None:
    mesh = Mesh()
    async with mesh.reached("c.shop:80") as reach:
        url = reach.local[0].variables["C_SHOP_URL"]
        assert await program("curl", "-sS", version, f"{url}/tea") == "tea"


# --- gRPC, WebSocket, server-sent events --------------------------------------------------------------------


async def test_grpc_passes_a_forward_and_the_proxy_port() -> None:
    server, port = await grpc_app.start()
    app = NegotiatingUpstream(Dialer("127.0.0.1", port))
    async with Mesh({"c.shop:9000": app}).reached("c.shop:9000", proxy=True) as reach:
        through = ("grpc.http_proxy", f"http://127.0.0.1:{reach.proxy_port}")
        for target, options in [
            (reach.local[0].address, [("grpc.enable_http_proxy", 0)]),
            ("c.shop:9000", [through]),
        ]:
            async with aio.insecure_channel(target, options=options) as channel:
                assert await channel.unary_unary("/t/Unary")(b"one") == b"one"
                call = channel.stream_stream("/t/Echo")()
                for piece in (b"two", b"three"):
                    await call.write(piece)
                    assert await call.read() == piece
                await call.done_writing()
                assert await call.read() == aio.EOF
                with pytest.raises(aio.AioRpcError, match="FAILED_PRECONDITION"):
                    await channel.unary_unary("/t/Abort")(b"no")
    await app.close()
    await server.stop(None)


@asynccontextmanager
async def web_app() -> AsyncIterator[Mesh]:
    """A mesh whose c.shop:8080 has a WebSocket at /ws, and events elsewhere."""
    more = asyncio.Event()
    more.set()
    events = two_events(more)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.path != "/ws":
            return await events(request)
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(f"{request.host} {message.data}")
        return ws

    async with serving(handle) as port:
        app = NegotiatingUpstream(Dialer("127.0.0.1", port))
        yield Mesh({"c.shop:8080": app})
        await app.close()


async def test_websockets_and_server_sent_events_pass() -> None:
    async with (
        web_app() as mesh,
        mesh.reached("c.shop:8080", proxy=True) as reach,
        aiohttp.ClientSession() as session,
    ):
        own = f"http://{reach.local[0].address}"
        proxy = f"http://127.0.0.1:{reach.proxy_port}"
        for base, through in [(own, None), ("http://c.shop:8080", proxy)]:
            async with session.ws_connect(f"{base}/ws", proxy=through) as ws:
                await ws.send_str("tea")
                assert await ws.receive_str() == "c.shop:8080 tea"
            async with session.get(f"{base}/events", proxy=through) as response:
                assert await response.text() == "data: 1\n\ndata: 2\n\n"


# --- other languages ----------------------------------------------------------------------------------------

NODE = "fetch(process.argv[1]).then(r => r.text()).then(console.log)"


async def test_node_uses_a_forward() -> None:
    async with Mesh().reached("c.shop:80") as reach:
        assert await program("node", "-e", NODE, reach.local[0].variables["C_SHOP_URL"]) == "tea"


def newest_node() -> str:
    """That of Playwright, where it is installed, is newer than those of distributions."""
    try:
        from playwright._impl._driver import compute_driver_executable
    except ImportError:
        return "node"
    return str(compute_driver_executable()[0])


async def test_node_uses_the_proxy_port_by_its_environment() -> None:
    node = newest_node()
    version = tuple(map(int, (await program(node, "-p", "process.versions.node")).split(".")[:2]))
    if version < (22, 21) or version[0] == 23:
        pytest.skip(f"Node {version[0]}.{version[1]} does not read HTTP_PROXY")
    async with Mesh().reached(proxy=True) as reach:
        assert await program(node, "-e", NODE, TEA, **by_proxy(reach)) == "tea"


GO = """package main
import ("fmt"; "io"; "net/http"; "os")
func main() {
  response, err := http.Get(os.Args[1])
  if err != nil { panic(err) }
  body, _ := io.ReadAll(response.Body)
  fmt.Print(string(body))
}
"""


@pytest.mark.slow  # compiles
async def test_go_uses_a_forward_and_the_proxy_port(tmp_path: Path) -> None:
    source, binary = tmp_path / "ask.go", tmp_path / "ask"
    source.write_text(GO)
    await program("go", "build", "-o", str(binary), str(source))
    async with Mesh().reached("c.shop:80", proxy=True) as reach:
        assert await program(str(binary), reach.local[0].variables["C_SHOP_URL"]) == "tea"
        assert await program(str(binary), TEA, **by_proxy(reach)) == "tea"


JAVA = """
import java.io.*; import java.net.*; import java.nio.charset.*;
public class Ask {
  public static void main(String[] names) throws Exception {
    try (InputStream body = new URL(names[0]).openStream()) {
      System.out.print(new String(body.readAllBytes()));
    }
    if (names.length == 1) return;
    try (Socket db = new Socket(names[1], 5432)) {
      db.getOutputStream().write("select 1".getBytes(StandardCharsets.US_ASCII));
      db.shutdownOutput();
      System.out.print(" " + new String(db.getInputStream().readAllBytes()));
    }
  }
}
"""


@pytest.mark.slow  # compiles
async def test_java_uses_a_forward_and_the_proxy_port(tmp_path: Path) -> None:
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    mesh = Mesh({"tcp://orders-db:5432": BytesApp()})
    async with mesh.reached("c.shop:80", proxy=True) as reach:
        assert await program("java", str(source), reach.local[0].variables["C_SHOP_URL"]) == "tea"
        assert await program("java", str(source), TEA, "orders-db", **by_proxy(reach)) == "tea SELECT 1"


@browser.needed
@pytest.mark.browser
@pytest.mark.slow  # 5 s of CPU time
async def test_a_browser_calls_the_mesh_through_socks(tmp_path: Path) -> None:
    async with Mesh().reached(proxy=True) as reach:
        through = f"--proxy-server=socks5://127.0.0.1:{reach.proxy_port}"
        async with browser.chromium(tmp_path / "profile", through) as page:
            await page.open("http://c.shop/tea")
            await page.shows("body", "tea")


# --- a database ---------------------------------------------------------------------------------------------


POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@asynccontextmanager
async def postgres() -> AsyncIterator[int]:
    """The port of a PostgreSQL of its own."""
    found = POSTGRES
    if not found or os.geteuid():
        pytest.skip("there is no PostgreSQL, or no root to run it as another user")
    with TemporaryDirectory() as folder:
        shutil.chown(folder, "postgres")
        port = free_port()
        initdb = str(found[-1].with_name("initdb")), "-D", f"{folder}/data", "--auth=trust", "--no-sync"
        made = await asyncio.create_subprocess_exec(
            *initdb, user="postgres", stdout=asyncio.subprocess.DEVNULL
        )
        assert await made.wait() == 0
        server = await asyncio.create_subprocess_exec(
            *(str(found[-1]), "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port), "-k", folder),
            user="postgres",
            stderr=asyncio.subprocess.DEVNULL,
        )

        async def accepts() -> bool:
            asked = await asyncio.create_subprocess_exec(
                *(str(found[-1].with_name("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(port))
            )
            return await asked.wait() == 0

        try:
            await eventually(accepts, "PostgreSQL accepts connections")
            yield port
        finally:
            server.terminate()
            await server.wait()


@pytest.mark.slow  # makes a database
async def test_psql_uses_a_forward() -> None:
    async with postgres() as port:
        database = app_outside_mesh(MeshPort("127.0.0.1", port, tcp=True))
        async with Mesh({"tcp://orders-db:5432": database}).reached("tcp://orders-db:5432") as reach:
            at = reach.local[0].variables
            where = ("-h", at["ORDERS_DB_HOST"], "-p", at["ORDERS_DB_PORT"], "-U", "postgres", "-Atc")
            big = "select length(repeat('x', 3000000)), repeat('y', 10)"
            assert await program("psql", *where, big) == "3000000|yyyyyyyyyy"
        await database.close()
