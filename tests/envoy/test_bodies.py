"""Every way to send a request's body, through a plain Envoy and through devroute: app and client must see the
same."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import h2.events
import h11
import pytest

from devroute.mesh import envoy
from devroute.mesh.istio.sidecar import (
    ANY_PORT,
    Document,
    Endpoint,
    address,
    cluster,
    connection_manager,
    listener,
    route_to,
)
from devroute.upstream import negotiating
from devroute.upstream.dialer import Dialer
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support import h2_peer
from tests.support.data_port import always, data_port
from tests.support.eventually import PATIENCE_S
from tests.support.loopback import tunnel

pytestmark = pytest.mark.mesh

#: Requests at a time: what hangs, hangs together.
AT_ONCE = 40
#: Of the loop, in which a piece passes from the client to the app.
TURNS = 8

# --- the table ----------------------------------------------------------------------------------------------

BODIES = {"none": None, "empty": [], "one": [b"hello"], "many": [b"a", b"b" * 3000, b"c" * 70_000, b"d"]}
SUM = (b"x-sum", b"1")


Fields = list[tuple[bytes, bytes]]
Request = tuple[bytes, bytes, Fields]  # method, body, trailers
Response = tuple[int, bytes, Fields]  # status, body, trailers


class Case(NamedTuple):
    """`way`: length, chunked or h2. `split`: head, pieces and end leave one by one."""

    method: bytes
    body: str
    way: str
    expects: bool
    trailers: bool
    split: bool

    @property
    def name(self) -> str:
        more = ("expects", self.expects), ("trailers", self.trailers), ("split", self.split)
        return " ".join((self.method.decode(), self.body, self.way, *(name for name, on in more if on)))

    @property
    def pieces(self) -> list[bytes]:
        return BODIES[self.body] or []

    def fields(self, app: str) -> Fields:
        fields = [(b"x-case", self.name.encode())]
        if app == "grpc":
            fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        if self.way != "h2":
            fields += [(b"host", app.encode())]
        if self.way == "length" and self.body != "none":
            fields += [(b"content-length", b"%d" % sum(map(len, self.pieces)))]
        if self.way == "chunked":
            fields += [(b"transfer-encoding", b"chunked")]
        if self.expects:
            fields += [(b"expect", b"100-continue")]
        return fields


def cases() -> list[Case]:
    found = []
    for method, body, way, expects, trailers, split in itertools.product(
        (b"GET", b"POST", b"HEAD"), BODIES, ("length", "chunked", "h2"), *((False, True),) * 3
    ):
        bodiless = body == "none"
        if (bodiless and way == "chunked") or (trailers and way == "length"):
            continue  # there is no such request
        if bodiless and (expects or split) and not trailers:
            continue  # nothing to expect, nothing to split
        found.append(Case(method, body, way, expects, trailers, split))
    return found


CASES = cases()


class Seen(NamedTuple):
    """What the app saw, and what the client saw of its response; `problem` instead of either."""

    request: Request | None = None
    response: Response | None = None
    problem: str = ""


# --- apps: they respond with what they got, in the same framing ---------------------------------------------


class Http1App:
    """One request for each connection, read by h11."""

    def __init__(self) -> None:
        self.seen: dict[str, Request] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while http.our_state is h11.IDLE:
                await self._request(http, reader, writer)
        except (h11.RemoteProtocolError, ConnectionError):
            pass  # the case is missing in `seen`
        finally:
            writer.close()

    async def _request(
        self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request, body, trailers = None, b"", []
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await reader.read(1 << 16)
                http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
                break
            else:
                return
        assert request is not None
        fields = dict(request.headers)
        self.seen[fields[b"x-case"].decode()] = (request.method, body, trailers)
        chunked = b"transfer-encoding" in fields
        framing = (b"transfer-encoding", b"chunked") if chunked else (b"content-length", b"%d" % len(body))
        writer.write(http.send(h11.Response(status_code=200, headers=[framing])) or b"")
        if request.method == b"HEAD":  # its response ends with its head (RFC 9110 §9.3.2)
            body, trailers = b"", []
        writer.write(http.send(h11.Data(data=body)) or b"")
        writer.write(http.send(h11.EndOfMessage(headers=trailers if chunked else [])) or b"")
        http.start_next_cycle()


class Http2App:
    def __init__(self) -> None:
        self.seen: dict[str, Request] = {}

    async def play(self, peer: h2_peer.Peer) -> None:
        heads: dict[int, dict[bytes, bytes]] = {}
        bodies: dict[int, bytes] = {}
        trailers: dict[int, Fields] = {}
        while not peer.ended:
            events, peer.events = peer.events, []
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    heads[event.stream_id] = dict(event.headers)
                    bodies[event.stream_id], trailers[event.stream_id] = b"", []
                    if b"expect" in heads[event.stream_id]:
                        peer.wire.send_headers(event.stream_id, [(b":status", b"100")])
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers[event.stream_id] = list(event.headers)
                elif isinstance(event, h2.events.StreamEnded):
                    number = event.stream_id
                    method = heads[number][b":method"]
                    case = heads[number][b"x-case"].decode()
                    self.seen[case] = (method, bodies[number], trailers[number])
                    if method == b"HEAD":
                        peer.answer(number, end=True)
                        continue
                    body = bodies[number]
                    peer.answer(number)
                    for at in range(0, len(body), 16384):
                        await self._room(peer, number)
                        peer.send(number, body[at : at + 16384])
                    if trailers[number]:
                        peer.trailers(number, *trailers[number])
                    else:
                        peer.send(number, b"", end=True)
            with contextlib.suppress(TimeoutError):  # no request for a while
                await peer.turn()

    async def _room(self, peer: h2_peer.Peer, number: int) -> None:
        while peer.wire.local_flow_control_window(number) < 16384:
            await peer.turn()


# --- clients ------------------------------------------------------------------------------------------------


async def by_http1(case: Case, app: str, port: int) -> Response:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    http = h11.Connection(h11.CLIENT)
    try:
        head = b"".join(b"%b: %b\r\n" % field for field in case.fields(app))
        head = b"%b / HTTP/1.1\r\n%b\r\n" % (case.method, head)
        http.send(h11.Request(method=case.method, target=b"/", headers=case.fields(app)))
        pieces = [head]
        if case.way == "chunked":
            pieces += [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in case.pieces]
            pieces += [b"0\r\n%b\r\n" % (b"%b: %b\r\n" % SUM if case.trailers else b"")]
        else:
            pieces += case.pieces
        if case.body == "none":
            http.send(h11.EndOfMessage())
        if not case.split:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await read_apart(case)
        status, body = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(1 << 16))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body, [(bytes(name), bytes(value)) for name, value in event.headers]
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("closed without a response")
    finally:
        writer.transport.abort()


async def by_http2(case: Case, app: str, port: int) -> Response:
    peer = await h2_peer.dial(port, window=1 << 20)
    try:
        start = [(b":method", case.method), (b":scheme", b"http"), (b":path", b"/")]
        fields = [*start, (b":authority", app.encode()), *case.fields(app)]
        number = peer.wire.get_next_available_stream_id()
        ends = case.body == "none" and not case.trailers
        peer.wire.send_headers(number, fields, end_stream=ends)
        for piece in case.pieces:
            await read_apart(case, peer)
            for at in range(0, len(piece), 16384):
                while peer.wire.local_flow_control_window(number) < 16384:
                    await peer.turn()
                peer.wire.send_data(number, piece[at : at + 16384])
        if not ends:
            await read_apart(case, peer)
            if case.trailers:
                peer.wire.send_headers(number, [SUM], end_stream=True)
            else:
                peer.wire.send_data(number, b"", end_stream=True)
        peer.flush()
        head, body, trailers, _ = await peer.whole(number)
        return int(head[b":status"]), body, list(trailers.items())
    finally:
        peer.close()


async def read_apart(case: Case, peer: h2_peer.Peer | None = None) -> None:
    """Let what was written so far be read by itself."""
    if peer is not None and case.split:
        peer.flush()
    for _ in range(TURNS if case.split else 0):
        await asyncio.sleep(0)


async def observe(case: Case, app: str, port: int, apps: "Apps") -> Seen:
    seen = apps.seen[app]
    seen.pop(case.name, None)
    send = by_http2 if case.way == "h2" else by_http1
    try:
        async with asyncio.timeout(PATIENCE_S):
            response = await send(case, app, port)
    except (TimeoutError, ConnectionError, AssertionError, h11.RemoteProtocolError) as error:
        return Seen(seen.get(case.name), None, f"{type(error).__name__}: {error}")
    return Seen(seen.get(case.name), response)


async def observe_all(app: str, port: int, apps: "Apps") -> dict[str, Seen]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Seen:
        async with gate:
            return await observe(case, app, port, apps)

    found = await asyncio.gather(*map(one, CASES))
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


# --- the ways -----------------------------------------------------------------------------------------------


class Apps(NamedTuple):
    ports: dict[str, int]
    seen: dict[str, dict[str, Request]]


@asynccontextmanager
async def running_apps() -> AsyncIterator[Apps]:
    http1, grpc = Http1App(), Http2App()
    server = await asyncio.start_server(http1.serve, "127.0.0.1", 0)
    async with h2_peer.serving(grpc.play, window=1 << 20) as grpc_port:
        port = server.sockets[0].getsockname()[1]
        yield Apps({"http1": port, "grpc": grpc_port}, {"http1": http1.seen, "grpc": grpc.seen})
    server.close()


def plain_envoy(ports: dict[str, int]) -> Document:
    """An Envoy that routes by host, and passes trailers on."""
    http1 = {"enable_trailers": True}
    options = {
        "http1": {"http_protocol_options": http1},
        "grpc": {"http2_protocol_options": {}},
    }
    clusters = []
    for name, port in ports.items():
        kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        typed = {"@type": f"type.googleapis.com/{kind}", "explicit_http_config": options[name]}
        extra = {"typed_extension_protocol_options": {kind: typed}}
        clusters.append(cluster(name, Endpoint("127.0.0.1", port)) | extra)
    hosts = [{"name": name, "domains": [name], "routes": [route_to(name, name)]} for name in ports]
    manager = connection_manager("plain", "plain", hosts) | {"http_protocol_options": http1}
    return {
        "admin": {"address": address(ANY_PORT)},
        "static_resources": {"listeners": [listener("plain", "INBOUND", manager)], "clusters": clusters},
    }


async def test_every_body_arrives_as_through_a_plain_envoy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An app in this busy process may take more than a second to say what it speaks.
    monkeypatch.setattr(negotiating, "NEGOTIATE_SECONDS", PATIENCE_S)
    assert len(CASES) > 100
    different = []
    async with AsyncExitStack() as stack:
        apps = await stack.enter_async_context(running_apps())
        plain = await stack.enter_async_context(
            envoy.running(plain_envoy(apps.ports), tmp_path, "plain", {"PATH": ""})
        )
        for app, port in apps.ports.items():
            expected = await observe_all(app, plain.listeners["plain"].port, apps)
            direct = NegotiatingUpstream(Dialer("127.0.0.1", port))
            laptop = NegotiatingUpstream(Dialer("127.0.0.1", port))
            where, _ = await stack.enter_async_context(tunnel(laptop))
            for way, upstream in {"direct": direct, "tunnel": where.upstream()}.items():
                async with data_port(always(upstream)) as (number, _):
                    for name, seen in (await observe_all(app, number, apps)).items():
                        if seen != expected[name]:
                            different.append((app, way, name, short(expected[name]), short(seen)))
            await direct.close()
            await laptop.close()
    assert not different, "\n".join(map(str, different))


def short(seen: Seen) -> str:
    return " ".join(
        f"{each[0]!r} {len(each[1])} {each[2]}" if isinstance(each, tuple) else str(each) for each in seen
    )
