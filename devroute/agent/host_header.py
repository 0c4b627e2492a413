"""`--host-header`: the app gets another host name than the mesh's, as dev servers refuse names that they do
not know, and the client sees its own in what comes back.

Rewrites Host, the origin in Origin and Referer where it is the request's own, and what the mesh's proxies say
of them (X-Forwarded-*, Forwarded); on the way back Location, Content-Location, Access-Control-Allow-Origin
and the Domain of Set-Cookie. A page of another origin keeps that: CORS is between it and the app. Pure.
"""

import ipaddress
import re
from typing import Final, NamedTuple

from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Address
from devroute.http.http1.response import parse_response_head
from devroute.http.message import RequestHead, ResponseHead
from devroute.inspector.recorder import App
from devroute.upstream.interface import ResponseSink, UpstreamStream

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

#: The fields that are rewritten, as whole lines of a head.
_REQUEST_LINE: Final = re.compile(
    rb"\r\n(host|origin|referer|x-forwarded-(?:host|proto|port)|forwarded):[ \t]*([^\r]*)", re.IGNORECASE
)
_RESPONSE_LINE: Final = re.compile(
    rb"\r\n(location|content-location|access-control-allow-origin|set-cookie):[ \t]*([^\r]*)", re.IGNORECASE
)
_AUTHORITY: Final = re.compile(rb"[!-~]+")
_ORIGIN: Final = re.compile(rb"(https?)://([^/?#\s]+)", re.IGNORECASE)
_DOMAIN: Final = re.compile(rb";[ \t]*domain[ \t]*=[ \t]*\.?([^;\s]*)[ \t]*", re.IGNORECASE)
_FORWARDED: Final = re.compile(rb"\b(host|proto)=(?:\"[^\"]*\"|[^;,\s]*)", re.IGNORECASE)


class _Client(NamedTuple):
    """How the client named the service: its scheme, None if unknown, and its authority."""

    scheme: bytes | None
    authority: bytes

    @property
    def host(self) -> bytes:
        return _host(self.authority)


class HostRewriting:
    """Implements upstream.interface.Upstream. `authority` is what the app gets as Host."""

    def __init__(self, app: App, spec: ServiceSpec, choice: str) -> None:
        """`choice`: "app" for the app's own address, or a host name, with a port if need be."""
        self._app = app
        scheme = "https" if spec.tls else "http"
        own = str(Address(spec.host, spec.port)).removesuffix(f":{_DEFAULT_PORTS[scheme]}")
        self._scheme = scheme.encode()
        self._authority = (own if choice == "app" else choice).encode()
        port = self._authority.rpartition(b":")[2]
        self._port = port if port.isdigit() else b"%d" % _DEFAULT_PORTS[scheme]
        names = (spec.host, "localhost", "127.0.0.1", "::1")
        #: What the app may take for its own address in an absolute URL.
        self._own = {self._authority.lower(), *(str(Address(name, spec.port)).encode() for name in names)}

    async def close(self) -> None:
        await self._app.close()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        client = _client_of(head.wire)
        if client is None:
            return self._app.open(head, sink)
        wire = _REQUEST_LINE.sub(lambda line: self._request_line(line, client), head.wire)
        rewritten = RequestHead(head.method, head.target, head.framing, head.length, wire)
        return self._app.open(rewritten, _Sink(self, client, head.method, sink))

    def _request_line(self, line: "re.Match[bytes]", client: _Client) -> bytes:
        name, value = line[1].lower(), line[2]
        match name:
            case b"host" | b"x-forwarded-host":
                value = self._authority
            case b"x-forwarded-proto":
                value = self._scheme
            case b"x-forwarded-port":
                value = self._port
            case b"forwarded":
                own = {b"host": self._authority, b"proto": self._scheme}
                value = _FORWARDED.sub(lambda each: b'%b="%b"' % (each[1], own[each[1].lower()]), value)
            case _:  # origin, referer
                origin = _ORIGIN.match(value)
                if origin is not None and origin[2].lower() == client.authority.lower():
                    value = b"%b://%b%b" % (self._scheme, self._authority, value[origin.end() :])
        return b"\r\n%b: %b" % (line[1], value)

    # --- the way back

    def response(self, head: ResponseHead, method: bytes, client: _Client) -> ResponseHead:
        raw = _RESPONSE_LINE.sub(lambda line: self._response_line(line, client), head.raw)
        return head if raw == head.raw else parse_response_head(raw, method)

    def _response_line(self, line: "re.Match[bytes]", client: _Client) -> bytes:
        value = line[2]
        if line[1].lower() == b"set-cookie":
            value = _DOMAIN.sub(lambda domain: self._domain(domain, client), value)
        else:
            origin = _ORIGIN.match(value)
            if origin is not None and origin[2].lower() in self._own:
                value = b"%b://%b%b" % (client.scheme or origin[1], client.authority, value[origin.end() :])
        return b"\r\n%b: %b" % (line[1], value)

    def _domain(self, domain: "re.Match[bytes]", client: _Client) -> bytes:
        """Without a Domain where browsers would refuse it: an IP address, or a name without a dot."""
        if domain[1].lower() not in {_host(each) for each in self._own}:
            return domain[0]
        host = client.host
        return b"; Domain=" + host if b"." in host and not _is_ip(host) else b""


class _Sink:
    """Passes a response on, its heads rewritten."""

    def __init__(self, rewriting: HostRewriting, client: _Client, method: bytes, sink: ResponseSink) -> None:
        self._rewriting = rewriting
        self._client = client
        self._method = method
        self._sink = sink
        self.on_informational = sink.on_informational
        self.on_data = sink.on_data
        self.on_end = sink.on_end
        self.on_error = sink.on_error
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request

    def on_head(self, head: ResponseHead) -> None:
        self._sink.on_head(self._rewriting.response(head, self._method, self._client))


def _client_of(wire: bytes) -> _Client | None:
    """None for a request without a usable Host."""
    values = {line[1].lower(): line[2].strip() for line in _REQUEST_LINE.finditer(wire)}
    authority = values.get(b"host")
    if not authority or not _AUTHORITY.fullmatch(authority):
        return None
    proto = values.get(b"x-forwarded-proto", b"").lower()
    if proto in (b"http", b"https"):
        return _Client(proto, authority)
    origin = _ORIGIN.match(values.get(b"origin") or values.get(b"referer") or b"")
    own = origin is not None and origin[2].lower() == authority.lower()
    return _Client(origin[1].lower() if origin is not None and own else None, authority)


def _host(authority: bytes) -> bytes:
    host, colon, port = authority.rpartition(b":")
    return (host if colon and port.isdigit() else authority).lower()


def _is_ip(host: bytes) -> bool:
    try:
        ipaddress.ip_address(host.decode("latin-1").strip("[]"))
    except ValueError:
        return False
    return True
