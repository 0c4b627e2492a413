"""A hundred planted secrets, each where apps have them: none is in anything that devroute puts out."""

import gzip
import io
import json
from base64 import b64decode
from contextlib import suppress
from itertools import chain
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, quote_plus

import pytest

from devroute.agent.app import Agent
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.errors import NotReplayable
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.inspector.capture import Body, Capture, Message
from devroute.inspector.curl import as_curl
from devroute.inspector.har_writer import write
from devroute.inspector.redaction import BodyFields, Redaction, redaction
from devroute.inspector.store import CaptureStore
from devroute.inspector.views import as_detail, as_message, as_summary
from devroute.tunnel.served_stream import Finished

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.%s"

#: Header fields of a request and of its response.
HEADERS = (
    "Authorization: Bearer %s", "authorization: Basic %s", "Proxy-Authorization: Digest response=%s",
    "Cookie: a=1; session=%s", "Set-Cookie: sid=%s; HttpOnly", "X-Api-Key: %s", "Api-Key: %s", "apikey: %s",
    "X-Auth-Token: %s", "X-Access-Token: %s", "X-Session-Token: %s", "X-CSRF-Token: %s", "X-XSRF-TOKEN: %s",
    "X-Vault-Token: %s", "Private-Token: %s", "X-Amz-Security-Token: %s", "X-Goog-Api-Key: %s",
    "X-Forwarded-Access-Token: %s", "X-Forwarded-Authorization: %s", "x-password: %s", "X-Client-Secret: %s",
    "Ocp-Apim-Subscription-Key: %s", "X-Functions-Key: %s", "X-Amz-Signature: %s", "Signature: %s",
    "X-Hub-Signature-256: %s", "Stripe-Signature: t=1,v1=%s", "X-OTP: %s", "X-Pass: %s", "X-Session-Id: %s",
    "Location: /cart;jsessionid=%s?a=b",
    "Authentication-Info: %s", "Sec-WebSocket-Protocol: bearer, %s",
    "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.%s", "x-mine: Bearer %s",
    f"X-Devroute: {JWT}", 'X-Forwarded-Client-Cert: By=spiffe://x/a;Cert="%s";URI=spiffe://x/b',
    'X-Forwarded-Client-Cert: Hash=%s;URI=spiffe://x/b,Hash=1;Subject="CN=ann"',
    "Location: https://a/cb?code=1&id_token=%s",
    "Referer: http://x/#access_token=%s", "Location: https://ann:%s@example.com/",
)  # fmt: skip

#: Targets of requests.
TARGETS = (
    "/?access_token=%s", "/?accessToken=%s", "/?clientSecret=%s", "/?idToken=%s&x=1", "/?token=%s",
    "/?secret=%s",
    "/?currentPassword=%s", "/?X-Amz-Signature=%s", "/?X-Amz-Credential=a&X-Amz-Security-Token=%s",
    "/?sig=%s",
    "/?user[password]=%s", "/?user.apiKey=%s", "/?api_key=%s", "/?p%%61ssword=%s", "/?sessionId=%s",
    f"/reset/{JWT}", "/?next=https%%3A%%2F%%2Fann:%s@host%%2F&x=https://ann:%s@host/",
    "/?password=%s;x#token=%s", "/cart;v=1;jsessionid=%s?a=b",
    "/graphql?query=q&variables=" + quote('{"input": {"newPassword": "') + "%s" + quote('"}}'),
)  # fmt: skip

MULTIPART = "multipart/form-data; boundary=B"
FORM = "application/x-www-form-urlencoded"
GRAPHQL = json.dumps({"query": 'mutation { login(user: "a", password: "%s") { id } }'})

#: Bodies: media type, text, and the encoding of the text.
BODIES = (
    ("application/json", '{"accessToken": "%s"}', "utf-8"),
    ("application/json", '{"a": {"clientSecret": "%s"}}', "utf-8"),
    ("application/json", '[{"idToken": "%s"}]', "utf-8"),
    ("application/json", '{"token": "%s"}', "utf-8"),
    ("application/json", '{"secret": {"value": "%s"}}', "utf-8"),
    ("application/json", '{"secrets": ["a", "%s"]}', "utf-8"),
    ("application/json", '{"currentPassword": "%s", "newPassword": "%s"}', "utf-8"),
    ("application/json", '{"password_confirmation": "%s"}', "utf-8"),
    ("application/json", '{"Password1": "%s"}', "utf-8"),
    ("application/json", '{"apiKey": "%s"}', "utf-8"),
    ("application/json", '{"aws_secret_access_key": "%s"}', "utf-8"),
    ("application/json", '{"privateKey": "-----BEGIN PRIVATE KEY-----\\n%s"}', "utf-8"),
    ("application/json",
     '{"x": "-----BEGIN RSA PRIVATE KEY-----\\n%s\\n-----END RSA PRIVATE KEY-----"}', "utf-8"),
    ("application/json", '{"headers": {"Authorization": "Bearer %s", "Cookie": "a=%s"}}', "utf-8"),
    ("application/json", '{"note": "use Bearer %s"}', "utf-8"),
    ("application/json", '{"note": "' + JWT + '"}', "utf-8"),
    ("application/json", '{"dsn": "postgres://ann:%s@db/shop"}', "utf-8"),
    ("application/json", '{"body": "{\\"refreshToken\\": \\"%s\\"}"}', "utf-8"),
    ("application/json", '{"signature": "%s"}', "utf-8"),
    ("application/json", '{"otp": "%s"}', "utf-8"),
    ("application/json", '{"password": "%s"}', "utf-16"),
    ("application/json", '{"accessToken": "%s"}', "utf-16-le"),
    ("application/json; charset=utf-16be", '{"a": ["x"], "secret": ["%s"]}', "utf-16-be"),
    ("text/plain", '{"clientSecret": "%s"}', "utf-16"),
    ("application/json", '{"password": "%s"}', "utf-8-sig"),
    ("application/json", '{"password": "%s"}', "utf-32"),
    ("application/json", GRAPHQL, "utf-8"),
    ("application/json", '{"query": "mutation($p: String!)", "variables": {"pwd": "%s"}}', "utf-8"),
    ("application/json", '[{"query": "q", "variables": {"input": {"currentPassword": "%s"}}}]', "utf-8"),
    ("application/graphql", 'mutation { login(clientSecret: "%s") { id } }', "utf-8"),
    ("application/x-ndjson", '{"a": 1}\n{"sessionToken": "%s"}\n', "utf-8"),
    ("text/event-stream", 'event: x\ndata: {"id_token": "%s"}\n\n', "utf-8"),
    ("text/plain",
     "Authorization: Bearer %s\n", "utf-8"), ("text/plain", "a\nDB_PASSWORD = my %s\n", "utf-8"),
    ("text/plain", "GET / HTTP/1.1\r\nauthorization: Basic %s\r\n", "utf-8"),
    (FORM, "grant_type=password&clientSecret=%s", "utf-8"),
    (FORM, "user[currentPassword]=%s", "utf-8"),
    (FORM, "payload=" + quote_plus('{"token": "') + "%s" + quote_plus('"}'), "utf-8"),
    (FORM, "SAMLResponse=%s", "utf-8"),
    (MULTIPART, '--B\r\ncontent-disposition: form-data; name="apiKey"\r\n\r\n%s\r\n--B--', "utf-8"),
    (MULTIPART, "--B\r\nContent-Disposition: form-data; name=password\r\n\r\n%s\r\n--B--", "utf-8"),
    (MULTIPART, "--B\nContent-Disposition:form-data;name = token\n\n%s\n--B--", "utf-8"),
    (MULTIPART,
     "--B\r\nContent-Disposition: form-data; filename=a; name*=UTF-8''secret\r\n\r\n%s\r\n--B--", "utf-8"),
    ("multipart/mixed; boundary=B",
     '--B\r\nContent-Type: application/json\r\n\r\n{"idToken": "%s"}\r\n--B--', "utf-8"),
    ("text/xml", "<s:Envelope><wsse:Password Type='x'>%s</wsse:Password></s:Envelope>", "utf-8"),
    ("application/soap+xml", '<login clientSecret="%s"/>', "utf-8"),
    ("text/html", '<script>{"accessToken": "' + JWT + '"}</script>', "utf-8"),
    ("text/html; charset=utf-8",
     "<script>\nwindow.state = {\"user\": {\"sessionToken\": '', \"apiKey\": \"%s\"}}</script>", "utf-8"),
    ("text/html", '{"password": "%s"}', "utf-8"),
    ("application/javascript", 'fetch("/", {headers: {"authorization": "Bearer %s"}})', "utf-8"),
    ("text/javascript", 'const dsn = "postgres://ann:%s@db/shop"', "utf-8"),
    ("text/csv", f"user,token\nann,{JWT}\n", "utf-8"),
    ("text/markdown", "# How\n\npassword: %s\n", "utf-8"),
    ("application/yaml", "database:\n  password: %s\n", "utf-8"),
    ("application/octet-stream", '{"password": "%s"}', "utf-8"),
    ("application/octet-stream", f"\1\u00ff\0 {JWT} \2", "latin-1"),
    ("application/x-unheard-of", "password=%s\n", "utf-8"),
    ("image/svg+xml", "<svg><token>%s</token></svg>", "utf-8"),
    ("", '\n      \n {"password": "%s"}', "utf-8"),
    ("", "token = %s", "utf-8"),
    ("text/plain", '       \n\t     {"pin": [1,\n{"user": 1,\n"secret":\n["%s"]}]}', "utf-8"),
)  # fmt: skip

#: Messages of a WebSocket.
MESSAGES = (
    '{"type": "connection_init", "payload": {"Authorization": "Bearer %s"}}', "Bearer %s",
    '{"authToken": "%s"}', '42["login", {"password": "%s"}]', "CONNECT\nauthorization: bearer %s\n\n",
    "CONNECT\nlogin:a\npasscode:%s\n\n\0",
)  # fmt: skip


class Planted(NamedTuple):
    """A template, planted at one place; its number is part of its secret."""

    place: str
    text: str
    kind: str = ""
    encoding: str = "utf-8"


PLANTED = (
    *(Planted("request", text) for text in HEADERS),
    *(Planted("target", text) for text in TARGETS),
    *(Planted("body", text, kind, encoding) for kind, text, encoding in BODIES),
    *(Planted("message", text) for text in MESSAGES),
)


def secret(number: int) -> str:
    return f"pl4nted-{number:03}-s3cret"


def filled(text: str, number: int) -> str:
    return text.replace("%s", secret(number)).replace("%%", "%")


def recorded(store: CaptureStore, number: int, planted: Planted, *, coding: str = "") -> list[Capture]:
    """The exchanges of an app that puts the secret where `planted` says, as the recorder stores them."""
    text = filled(planted.text, number)
    target = text if planted.place == "target" else "/"
    fields = f"{text}\r\n" if planted.place == "request" else ""
    body = b""
    if planted.place == "body":
        body = text.encode(planted.encoding)
        fields = f"content-type: {planted.kind}\r\n"
    if coding:
        body = gzip.compress(body)
        fields += f"content-encoding: {coding}\r\n"
    wire = f"POST {target} HTTP/1.1\r\nhost: foo\r\n{fields}\r\n".encode()
    capture = store.begin("foo", RequestHead(b"POST", target.encode(), Framing.CHUNKED, 0, wire), 1000.0, 1.0)
    for at in range(0, len(body), 7):
        store.receive(capture, body[at : at + 7], "request")
    store.complete_request(capture, 1.5)
    store.respond(capture, parse_response_head(f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode(), b"POST"), 2.0)
    store.receive(capture, body, "response")
    if planted.place == "message":
        for opcode in ("text", "binary"):
            data = text.encode()
            store.add_message(capture, Message(2.0, True, opcode, data, len(data)))
    store.complete(
        capture, [(b"x-token", secret(number).encode())] if planted.place == "request" else [], 3.0
    )
    return [capture]


def put_out(store: CaptureStore) -> dict[str, str]:
    """Everything that devroute shows or writes of the captures."""
    captures = list(store.newest_first())
    curls = []
    for capture in captures:
        with suppress(NotReplayable):
            curls.append(as_curl(capture, "http://127.0.0.1:8001").command)
    details = [as_detail(capture) for capture in captures]
    messages = [as_message(message) for capture in captures for message in capture.messages]
    return {
        "summary": json.dumps([as_summary(capture) for capture in captures]),
        "detail": json.dumps(details),
        "decoded": "\n".join(decoded(each) for each in chain(details, messages)),
        "messages": json.dumps(messages),
        "curl": "\n".join(curls),
        "har": "".join(write(captures, "1")),
        "stored": "\n".join(repr(bytes(each.data)) for c in captures for each in _bodies(c)),
    }  # fmt: skip


def _bodies(capture: Capture) -> tuple[Body, Body]:
    return capture.request_body, capture.response_body


def decoded(document: Any) -> str:
    """Every text in it, in every encoding that a reader may take it for."""
    if isinstance(document, dict):
        return "\n".join(decoded(each) for each in document.values())
    if isinstance(document, list):
        return "\n".join(decoded(each) for each in document)
    if not isinstance(document, str):
        return ""
    with suppress(ValueError):
        raw = b64decode(document, validate=True)
        return "\n".join(
            raw.decode(each, "replace") for each in ("latin-1", "utf-16-le", "utf-16-be", "utf-32")
        )
    return document


def found(outputs: dict[str, str]) -> set[tuple[str, str]]:
    return {
        (output, PLANTED[number].text)
        for output, text in outputs.items()
        for number in range(len(PLANTED))
        if secret(number) in text or secret(number) in text.replace("\\x00", "").replace("\0", "")
    }


def test_there_are_a_hundred_of_them() -> None:
    assert len(PLANTED) >= 100
    assert len(set(PLANTED)) == len(PLANTED)


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_no_planted_secret_is_in_what_the_inspector_puts_out(coding: str) -> None:
    store = CaptureStore()
    for number, planted in enumerate(PLANTED):
        recorded(store, number, planted, coding=coding if planted.place == "body" else "")
    assert found(put_out(store)) == set()


class Unredacted(Redaction):
    """Stores all of it, as a HAR file of another tool has it."""

    def head(self, raw: bytes) -> tuple[bytes, BodyFields]:
        return raw, super().head(raw)[1]

    def target(self, target: bytes) -> bytes:
        return target

    def fields(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return fields

    def body_redactor(self, fields: BodyFields, limit: int) -> None:
        return None

    def message(self, data: bytes, *, text: bool) -> bytes:
        return data


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_nor_is_it_after_an_import(coding: str) -> None:
    store, other = CaptureStore(), CaptureStore(redact=Unredacted())
    for number, planted in enumerate(PLANTED):
        recorded(other, number, planted, coding=coding if planted.place == "body" else "")
    leaked = found(put_out(other))
    assert {text for _, text in leaked} == {planted.text for planted in PLANTED}, "this test could find it"
    for capture in list(other.newest_first()):
        store.add(capture)
    assert found(put_out(store)) == set()


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nor_is_it_in_the_lines_of_devroute_up(form: Literal["text", "json"]) -> None:
    terminal = io.StringIO()
    reporter = FanOut(LineReporter(form, TerminalWriter(terminal)))
    settings = AgentSettings(services=("foo=8001",), server="http://127.0.0.1:1", token="t", inspector=False)
    agent = Agent(settings, reporter)
    for number, planted in enumerate(PLANTED):
        if planted.place == "target":
            target = filled(planted.text, number)
            agent.finished.observe(Finished("foo", "GET", target, 200, 0.0, 0.001, 5, "", ""))
    reporter.close()
    assert terminal.getvalue().count("GET") == sum(each.place == "target" for each in PLANTED)
    assert found({"lines": terminal.getvalue()}) == set()


@pytest.mark.parametrize(
    "name",
    [
        "next_page_token",
        "max_tokens",
        "tokenType",
        "secretary",
        "keyboard",
        "key",
        "author",
        "design",
        "passenger",
        "public_key",
        "continuationToken",
        "cookieBanner",
        "laptop",
    ],
)
def test_what_only_sounds_like_a_secret_stays(name: str) -> None:
    body = Body(bytearray(json.dumps({name: "kept"}).encode()))
    redaction().body(body, BodyFields(b"application/json"), 1000)
    assert json.loads(body.data) == {name: "kept"}
