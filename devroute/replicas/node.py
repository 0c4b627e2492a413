"""The laptops of another replica, as this one uses them: requests are forwarded once, over the link between
both, to the replica at which the laptop's own link ends.

That link is a tunnel's (devroute/tunnel): backpressure, trailers, upgrades, cancellation and errors pass as
they do between proxy and laptop. The owner serves only laptops whose links end there (local_laptops.py), so
that no request is forwarded twice.
"""

import asyncio
from typing import Final

from devroute.errors import DevrouteError, LaptopOffline, TargetOverloaded, TargetUnreachable
from devroute.http.error_response import error_body
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.replicas.record import ReplicaRecord
from devroute.tunnel.proxy_link import ProxyLink
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: The services of a link between replicas: requests for laptops, and what replicas ask each other.
FORWARDED: Final = "@laptops"
ASKED: Final = "@replica"
#: The first field of each request: laptop, generation and service. The owner removes it; a field of this name
#: at any other place is the client's, and means nothing.
LINE: Final = b"x-devroute-link: "

#: What replicas ask each other about a laptop: whether it responds within so many seconds, as `0.300` behind
#: the path; that its link be closed, with the error that the laptop gets as JSON.
REACHABLE: Final = b"/reachable/"
END: Final = b"/end"
#: Questions about sidecars' reports begin with this (reports.py), those of the team's page with this
#: (proxy/dashboard/shared.py).
REPORTS: Final = b"/reports/"
TEAM: Final = b"/team/"

#: Seconds without a byte after which another replica is preferred, if the laptop has a link there, too: links
#: between replicas are pinged once a second (node_links.py).
IDLE_SECONDS: Final = 1.5
#: Seconds beyond what the owner may take, for the way to it.
MARGIN_SECONDS: Final = 0.1


def _line(name: str, generation: int, service: str) -> bytes:
    return b"%b%b\r\n" % (LINE, f"{name} {generation} {service}".encode("ascii"))


class Node:
    """Another replica. `link`: the one that it has dialled, None while there is none. `dead_since`, by the
    loop's clock: it was found to have ended, or to be frozen or lost, although its key has not expired."""

    def __init__(self, record: ReplicaRecord) -> None:
        self.record = record
        self.link: ProxyLink | None = None
        self.dead_since: float | None = None

    @property
    def dead(self) -> bool:
        return self.dead_since is not None

    @property
    def usable(self) -> bool:
        """Whether requests can be forwarded to it, as far as is known: a link that is open may be idle."""
        link = self.link
        return link is not None and not self.dead and link.heartbeat.idle < IDLE_SECONDS

    def unreachable(self) -> TargetUnreachable:
        return TargetUnreachable(
            f"the replica that has the laptop, {self.record.data}, has no connection to this one",
            hint="do NetworkPolicies let replicas reach each other's peer port?",
        )


class NodeUpstream:
    """A service of a laptop at another replica; implements devroute.upstream.interface.ProbedUpstream."""

    __slots__ = ("_line", "_node")

    def __init__(self, node: Node, name: str, generation: int, service: str) -> None:
        self._node = node
        self._line = _line(name, generation, service)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        link = self._node.link
        if link is None:
            return RefusedStream(sink, self._node.unreachable())
        if link.full:
            many = f"{link.in_flight} requests are forwarded to the replica {self._node.record.data} already"
            return RefusedStream(sink, TargetOverloaded(many))
        return link.upstream(FORWARDED).open(self._addressed(head), sink)

    def _addressed(self, head: RequestHead) -> RequestHead:
        start, end, rest = head.wire.partition(b"\r\n")
        wire = b"".join((start, end, self._line, rest))
        return RequestHead(head.method, head.target, head.framing, head.length, wire)

    @property
    def responded_just_now(self) -> bool:
        return False  # only its owner knows

    async def check_reachable(self, seconds: float) -> None:
        """Have the owner ask the laptop. Without a connection to it nothing is known: a sidecar may have one.
        Raises LaptopOffline, or what the owner found."""
        link = self._node.link
        if link is None:
            return
        try:
            async with asyncio.timeout(seconds + MARGIN_SECONDS):
                await ask(link, b"%b%.3f" % (REACHABLE, seconds), self._line)
        except TimeoutError:
            raise LaptopOffline(
                f"the replica that has the laptop ({self._node.record.data}) did not respond in {seconds:g} s"
            ) from None


class NodeLink:
    """A laptop's link that ends at another replica; implements devroute.routing.registration.LaptopLink."""

    __slots__ = ("_generation", "_name", "node")

    def __init__(self, node: Node, name: str, generation: int) -> None:
        self.node = node
        self._name = name
        self._generation = generation

    @property
    def usable(self) -> bool:
        return self.node.usable

    def upstream(self, service: str) -> NodeUpstream:
        return NodeUpstream(self.node, self._name, self._generation, service)

    def reject(self, error: DevrouteError) -> None:
        """Have the owner close it; it cannot be waited for."""
        if self.node.link is not None:
            line = _line(self._name, self._generation, "@")
            _Question(self.node.link, END, line, error_body(error))


async def ask(link: ProxyLink, target: bytes, line: bytes = b"", body: bytes = b"") -> bytes:
    """The body of the other replica's response. Raises what it does."""
    question = _Question(link, target, line, body)
    try:
        return await question.answered
    finally:
        question.cancel()


class _Question:
    """A request to another replica itself; implements ResponseSink. Its responses are small."""

    def __init__(self, link: ProxyLink, target: bytes, line: bytes, body: bytes = b"") -> None:
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._body: list[bytes] = []
        wire = b"POST %b HTTP/1.1\r\n%bhost: devroute\r\ncontent-length: %d\r\n\r\n" % (
            target,
            line,
            len(body),
        )
        head = RequestHead(b"POST", target, Framing.LENGTH, len(body), wire)
        self._stream = link.upstream(ASKED).open(head, self)
        if body:
            self._stream.send_data(body)
        self._stream.send_end([])

    def cancel(self) -> None:
        if not self.answered.done() or self.answered.cancelled():
            self._stream.cancel()

    def on_data(self, data: bytes) -> None:
        self._body.append(data)

    def on_end(self, trailers: Headers) -> None:
        if not self.answered.done():
            self.answered.set_result(b"".join(self._body))

    def on_error(self, error: DevrouteError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # it may not be awaited

    def on_informational(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
