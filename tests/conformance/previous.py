"""The wire of a release, as vectors for the next one: `python -m tests.conformance.previous` writes them.

After a release they replace those of the one before (CONTRIBUTING.md). Only what is wire: copies of the
vectors of sidecars, a dialogue on a link, bodies of greetings, and responses of /resolve.
"""

import json
import shutil
from collections.abc import Callable
from typing import Any

from devroute.contract.grammar import parse
from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address
from devroute.errors import TargetDenied
from devroute.routing.decision import Decision
from devroute.routing.resolve_codec import encode
from devroute.tunnel.protocol.events import Event
from devroute.tunnel.protocol.handshake import (
    Hello,
    Notice,
    Offer,
    OtherProcess,
    Refusal,
    Renewed,
    Welcome,
)
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import Stream
from tests.support.paths import VECTORS

FOLDER = VECTORS / "previous"
#: Files of tests/vectors that describe what is sent.
COPIED = (
    *(f"sidecar/{name}.json" for name in ("baggage", "contract_key", "resolve", "trace_id", "via")),
    "registry.json",
)

OTHER = {"services": ("b",), "agent": "0.1.0", "since": "2026-01-01T00:00:00Z"}
TERMS = OfferOptions.from_mapping({"paths": ["/api/"], "except_status": [404], "except_methods": ["GET"]})
GREETINGS: dict[str, tuple[Hello | Welcome | Renewed | Notice, ...]] = {
    "Hello": (
        Hello(agent="0.1.0", services=(Offer(service="b"),)),
        Hello(
            agent="0.1.0",
            name="alice-2",
            services=(
                Offer(service="b.shop", scheme="grpc", direct=Address("10.0.0.7", 9000)),
                Offer(service="c", terms=TERMS),
            ),
            instance="abcdef012345",
            takeover=True,
        ),
    ),
    "Welcome": (
        Welcome(server="0.1.0", name="alice"),
        Welcome(
            server="0.1.0",
            name="alice",
            features=("terms", "renew", "shadow"),
            expires_in=3600.0,
            taken_over=(OtherProcess(**OTHER),),
            others=(OtherProcess(**OTHER),),
        ),
    ),
    "Renewed": (
        Renewed(expires_in=3600.0),
        Renewed(error=Refusal(code="token-invalid", message="no", hint="another")),
    ),
    "Notice": (Notice(event="taken-over", **OTHER),),
}


def _entry(options: str, to: str = "alice") -> Any:
    return parse(f'{{"b": {{"to": "{to}"{options}}}}}').find(["b"], None)


DECISIONS = (
    Decision("service"),
    Decision("fallback", "b", "alice", "laptop 'alice' is not online", ttl_ms=250),
    Decision("detour", "b", "alice", entry=_entry(""), ttl_ms=250),
    Decision(
        "detour",
        "b",
        "alice",
        entry=_entry(
            ', "methods": ["GET"], "path": "/x", "percent": 50, "from": ["shop/a"], "fallback": "fail"'
        ),
        callers=("shop/a",),
        options=TERMS,
    ),
    Decision("mirror", "b", "alice", entry=_entry(', "mirror": true')),
    Decision("version", "b", "version:v2", entry=_entry(', "timeout": "1.5s"', "version:v2")),
    Decision("error", "b", reason="no", error=TargetDenied("no"), entry=_entry("")),
)

HEAD = b"POST /x HTTP/1.1\r\nhost: b\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Act = Callable[[Session, Any], object]
#: Who acts, and what: on the first stream, None before it is open.
ACTS: tuple[tuple[Role, Act], ...] = (
    (Role.AGENT, lambda link, _: link.send_hello(b"{}")),
    (Role.PROXY, lambda link, _: link.send_welcome(b"{}")),
    (Role.PROXY, lambda link, _: link.open(b"b", HEAD, 0, 5)),
    (Role.PROXY, lambda link, stream: link.send_data(stream, b"hello")),
    (Role.PROXY, lambda link, stream: link.send_end(stream)),
    (Role.AGENT, lambda link, stream: link.send_head(stream, b"HTTP/1.1 103 Early Hints\r\n\r\n", 2)),
    (Role.AGENT, lambda link, stream: link.send_head(stream, OK)),
    (Role.AGENT, lambda link, stream: link.send_data(stream, b"x" * 32)),
    (Role.AGENT, lambda link, stream: link.send_end(stream, [(b"grpc-status", b"0")])),
    # No CREDIT: it takes half a window, which would be a MiB of hexadecimal digits.
    (Role.PROXY, lambda link, _: link.ping(b"12345678")),
    (Role.AGENT, lambda link, _: None),  # its PONG
    (Role.AGENT, lambda link, _: link.send_renew(b"token")),
    (Role.PROXY, lambda link, _: link.send_renewed(b"{}")),
    (Role.PROXY, lambda link, _: link.open(b"b", HEAD, 1, 0)),
    (
        Role.PROXY,
        lambda link, _: link.reset(max(link.streams.values(), key=lambda s: s.id), "cancelled", "no"),
    ),
    (Role.PROXY, lambda link, _: link.goaway("draining", "the proxy ends", "dial again")),
)


def play(recorded: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """What each side sends, and which events it is to the other; where something is recorded, the other
    receives that in its place."""
    links = {role: Session(role) for role in Role}
    steps = []
    for number, (role, act) in enumerate(ACTS):
        link, other = links[role], links[Role.AGENT if role is Role.PROXY else Role.PROXY]
        act(link, link.streams.get(1))
        sent = b"".join(link.data_to_send())
        events = other.receive(sent if recorded is None else bytes.fromhex(recorded[number]["sends"]))
        means = [_shown(each) for each in events]
        steps.append({"by": role.name.lower(), "sends": sent.hex(), "means": means})
    return steps


def _shown(event: Event) -> list[Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes | memoryview):
            return bytes(value).decode("latin-1")
        if isinstance(value, Stream):
            return value.id
        return [plain(each) for each in value] if isinstance(value, tuple | list) else value

    return [type(event).__name__.removesuffix("Frame"), *(plain(each) for each in event)]


def _write(name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    (FOLDER / name).write_text(text, encoding="utf-8")


def main() -> None:
    (FOLDER / "sidecar").mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copy(VECTORS / name, FOLDER / name)
    bodies = {kind: [json.loads(each.encode()) for each in bodies] for kind, bodies in GREETINGS.items()}
    _write("greetings.json", {"about": "JSON bodies as the previous release writes them.", **bodies})
    responses = [encode(each).decode("ascii") for each in DECISIONS]
    _write("resolve.json", {"about": "Bodies of /resolve that it writes, in order.", "responses": responses})
    _write("link.json", {"about": "Frames that it sends in a dialogue, and their events.", "steps": play()})


if __name__ == "__main__":
    main()
