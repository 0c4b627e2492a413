"""`compare`, the sidecar filter that reports the service's responses to copied requests, under LuaJIT."""

import pytest

from devroute.mesh.manifests import lua
from devroute.routing.shadow.comparison import MAX_BODY, parse_service_response
from tests.lua.worker import CONTROL, Handle, Worker

ID = "0123456789abcdef" * 2
HEAD = [(":status", "200"), ("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")]


def respond(
    *chunks: bytes, fields: list[tuple[str, str]] = HEAD, compare: object = ID, times: int = 1
) -> tuple[Worker, Handle]:
    worker = Worker(lua.source("compare", SETTINGS={"control": CONTROL}))
    handle = Handle(worker, fields)
    handle.decided["devroute", "compare"] = compare
    for _ in range(times):
        handle.chunks = list(chunks)
        worker.handle(handle, "envoy_on_response")
    return worker, handle


def test_status_headers_and_body_are_reported_as_the_proxy_reads_them() -> None:
    worker, _ = respond(b"one ", b"", b"two")
    (report,) = worker.reported
    assert (report[":method"], report[":path"], report[":authority"]) == (
        "POST",
        "/compare",
        "devroute-proxy",
    )
    assert (report["x-devroute-compare"], report["x-devroute-whole"]) == (ID, "yes")
    response = parse_service_response(report["body"].encode("latin-1"), whole=True)
    assert (response.status, bytes(response.body)) == (200, b"one two")
    assert response.headers == [("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")]


def test_trailers_follow_the_headers() -> None:
    worker = Worker(lua.source("compare", SETTINGS={"control": CONTROL}))
    handle = Handle(worker, [(":status", "200")])
    handle.decided["devroute", "compare"] = ID
    handle.trailing = [("grpc-status", "5")]
    worker.handle(handle, "envoy_on_response")
    response = parse_service_response(worker.reported[0]["body"].encode("latin-1"), whole=True)
    assert response.headers == [("grpc-status", "5")]


@pytest.mark.parametrize("excess", [0, 1])
def test_a_long_body_is_reported_by_its_first_bytes(excess: int) -> None:
    body = bytes(range(256)) * (MAX_BODY // 256)
    worker, handle = respond(body[:1000], body[1000:] + b"x" * excess, b"never read" if excess else b"")
    (report,) = worker.reported
    assert report["x-devroute-whole"] == ("no" if excess else "yes")
    assert report["body"].encode("latin-1").endswith(b"\n\n" + body)
    assert handle.read == (2 if excess else 3)


def test_fields_beyond_the_limit_are_left_out() -> None:
    worker, _ = respond(fields=[(":status", "200"), ("x-a", "a"), ("x-b", "b" * 16384), ("x-c", "c")])
    head = worker.reported[0]["body"].partition("\n\n")[0]
    assert head == "status 200\nx-a: a"


def test_a_response_is_reported_once_though_two_configurations_have_the_filter() -> None:
    worker, _ = respond(b"x", times=2)
    assert len(worker.reported) == 1


@pytest.mark.parametrize("compare", [None, ""])
def test_other_responses_are_not_reported(compare: str | None) -> None:
    worker, handle = respond(b"x", compare=compare)
    assert worker.reported == []
    assert handle.read == 0


def test_an_upgrade_is_not_reported() -> None:
    worker, _ = respond(fields=[(":status", "101")])
    assert worker.reported == []


def test_a_response_without_any_decision_is_not_reported() -> None:
    worker = Worker(lua.source("compare", SETTINGS={"control": CONTROL}))
    worker.handle(Handle(worker, list(HEAD)), "envoy_on_response")
    assert worker.reported == []
