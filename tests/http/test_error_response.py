"""Errors as responses: the same body and reason over each protocol."""

import json

import pytest

from devroute.errors import DevrouteError, LaptopOffline, TokenExpired
from devroute.http.error_response import error_headers, http1_error, http2_error_head
from devroute.http.http1.response import parse_response_head

ERROR = LaptopOffline("alice is \u00f6ffline\r\nx: y", hint="wake it", service="foo", target="alice")


def test_an_error_over_http_1_is_json_and_its_reason_one_line_of_ascii() -> None:
    raw = http1_error(ERROR, close=True)
    head, body = raw[: raw.index(b"\r\n\r\n") + 4], raw[raw.index(b"\r\n\r\n") + 4 :]
    assert dict(parse_response_head(head, b"GET").headers) == {
        b"content-length": b"%d" % len(body),
        b"content-type": b"application/json",
        b"cache-control": b"no-store",
        b"x-devroute-result": b"error",
        b"x-devroute-reason": b"alice is ?ffline x: y",
        b"x-envoy-ratelimited": b"true",  # no retry: the laptop may have seen the request
        b"connection": b"close",
    }
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(body) == {
        "code": "laptop-offline",
        "message": ERROR.message,
        "hint": "wake it",
        "service": "foo",
        "target": "alice",
        "request_id": None,
    }


def test_http_2_has_the_same_fields_and_grpc_its_status_instead_of_a_body() -> None:
    fields = dict(http2_error_head(ERROR, 12, grpc=False))
    assert (fields[b":status"], fields[b"content-length"]) == (b"503", b"12")
    assert fields[b"x-devroute-reason"] == b"alice is ?ffline x: y"
    grpc = dict(http2_error_head(ERROR, 0, grpc=True))
    assert (grpc[b":status"], grpc[b"content-type"]) == (b"200", b"application/grpc")
    assert (grpc[b"grpc-status"], grpc[b"x-devroute-result"]) == (b"14", b"error")
    assert b"content-length" not in grpc


@pytest.mark.parametrize(("error", "challenged"), [(TokenExpired("expired"), True), (ERROR, False)])
def test_only_a_refused_token_is_challenged(error: DevrouteError, challenged: bool) -> None:
    assert ("www-authenticate" in error_headers(error)) is challenged
