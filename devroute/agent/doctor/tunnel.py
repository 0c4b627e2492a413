"""The real tunnel that `devroute doctor` opens for a moment, under a random name to which no one else's
requests go. checks.py interprets its failures.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

from devroute import __version__
from devroute.agent.doctor.finding import Finding, failure
from devroute.agent.registration import receive_welcome
from devroute.agent.second_link import TRIES
from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.errors import DevrouteError
from devroute.http.http1.response import parse_response_head
from devroute.http.message import RequestHead
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import MakeLink, SameReplica, dial
from devroute.tunnel.protocol import handshake
from devroute.upstream.interface import DiscardedRequest, ResponseSink

#: Seconds for each step.
STEP_SECONDS: Final = 5.0

#: What to do where nothing responds.
NETWORK: Final = "check the VPN and the server's URL (devroute init)"


@asynccontextmanager
async def open_tunnel(
    settings: AgentSettings, name: str, service: str, echo: "Echo"
) -> AsyncIterator[AgentLink]:
    """A registered tunnel. Raises the reason that there is none."""
    greeting = handshake.Hello(
        agent=__version__, name=name, services=(handshake.Offer(service=service),)
    ).encode()

    def make(websocket: Any, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, {service: echo}, lambda finished: None)
        link.send_hello(greeting)
        return link

    link = await _dial(settings, make)
    try:
        await receive_welcome(link, STEP_SECONDS, hint=NETWORK)
        yield link
    finally:
        link.drain("leaving", "devroute doctor has ended")
        link.close_with(DevrouteError("devroute doctor has ended"))
        await asyncio.wait({link.disconnected}, timeout=STEP_SECONDS)


async def examine_replicas(settings: AgentSettings, link: AgentLink) -> Finding | None:
    """Whether `devroute up` finds another replica for its second link; None where there is one replica."""
    welcome = handshake.decode(handshake.Welcome, link.welcome.result())
    if welcome.replica is None or welcome.replicas == 1 or "links" not in welcome.features:
        return None
    for _ in range(TRIES):
        try:
            other = await _dial(
                settings,
                lambda websocket, loop: AgentLink(websocket, loop, {}, lambda finished: None),
                other_than={welcome.replica},
            )
        except SameReplica:
            continue
        except DevrouteError as error:
            return failure("replicas", error)
        other.close_with(DevrouteError("devroute doctor registers once"))
        await asyncio.wait({other.disconnected}, timeout=STEP_SECONDS)
        return Finding("replicas", "ok", f"a second link leads to another one of {welcome.replicas} replicas")
    return Finding(
        "replicas",
        "warn",
        f"{TRIES} connections led to the same one of {welcome.replicas} replicas: this laptop has one link",
        "let what is in front of the control port balance connections, without session affinity",
    )


async def _dial(settings: AgentSettings, make_link: MakeLink, other_than: Collection[str] = ()) -> AgentLink:
    return await dial(
        settings.server,
        settings.token.get_secret_value(),
        make_link,
        tls=tls_for_server(settings),
        seconds=STEP_SECONDS,
        proxy=settings.proxy_for_server(),
        other_than=other_than,
    )


class Echo(DiscardedRequest):
    """An app that responds with a fixed body, and counts requests. Implements Upstream and its stream."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.requests = 0

    def open(self, head: RequestHead, sink: ResponseSink) -> "Echo":
        self.requests += 1
        asyncio.get_running_loop().call_soon(self._answer, head, sink)
        return self

    def _answer(self, head: RequestHead, sink: ResponseSink) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(self._body)
        sink.on_head(parse_response_head(raw, head.method))
        if head.method != b"HEAD":
            sink.on_data(self._body)
        sink.on_end([])
