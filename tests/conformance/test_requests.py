"""Every request of the table, raw, over a real socket to a real data port with an app behind it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.conformance.port import Client, Port, data_port
from tests.conformance.requests import CASES, MESH, REASONS, Case

FIELDS = b"\r\nhost: foo\r\n" + MESH + b"\r\n"


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with data_port() as port:
        yield port


def test_the_table_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 170
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_request_gets_its_response_and_reaches_the_app_only_if_permitted(
    case: Case, port: Port
) -> None:
    client = await port.dial()
    client.writer.write(case.raw)
    if case.ends and not case.answers:
        client.writer.write_eof()
    waiting = list(case.reached)
    answers = []
    for status, _ in case.answers:
        line = waiting.pop(0)[0] if status == 200 else b""
        answer = await client.answer(bodiless=line.startswith(b"HEAD "))
        answers.append((answer.status, answer.code))
        if answer.code:
            reason = next(reason for name, reason in REASONS.items() if re.search(name, case.name))
            assert re.search(reason, json.loads(answer.body)["message"], re.IGNORECASE)
    assert tuple(answers) == case.answers

    reached = list(case.reached)
    if case.goes_on:
        # Both sides agree where this request ended: the connection serves the next one, and nothing else.
        client.writer.write(b"GET /next HTTP/1.1" + FIELDS)
        assert (await client.answer()).status == 200
        reached.append((b"GET /next", b""))
        client.writer.write_eof()
    elif case.ends and case.answers:
        client.writer.write_eof()
    assert await client.rest() == b""
    await sentinel(port)
    assert [(request.line, request.body) for request in port.received] == [*reached, (b"GET /last", b"")]
    assert port.problems == []
    assert port.upstream.in_flight == 0


async def sentinel(port: Port) -> None:
    """Once it has its response, the app has read all that the proxy sent before."""
    client = await port.dial()
    client.writer.write(b"GET /last HTTP/1.1" + FIELDS)
    assert (await client.answer()).status == 200


async def test_a_request_byte_by_byte_is_the_same_request(port: Port) -> None:
    client = await port.dial()
    raw = (
        b"\r\nPOST /a HTTP/1.1\r\nhost: foo\r\n" + MESH + b"transfer-encoding: chunked\r\n\r\n"
        b"3;x\r\nabc\r\n0\r\nx-sum: 1\r\n\r\nGET /b HTTP/1.1" + FIELDS
    )
    for place in range(len(raw)):
        client.writer.write(raw[place : place + 1])
        await asyncio.sleep(0)
    assert (await client.answer()).status == 200
    assert (await client.answer()).status == 200
    assert [(request.line, request.body) for request in port.received] == [
        (b"POST /a", b"abc"),
        (b"GET /b", b""),
    ]


async def test_hop_by_hop_fields_are_not_forwarded(port: Port) -> None:
    client = await port.dial()
    client.writer.write(
        b"GET /a HTTP/1.1\r\nHost: foo\r\n"
        + MESH
        + b"Connection: close, X-Hop, Te\r\nKeep-Alive: 1\r\nX-Hop: 1\r\n"
        b"TE: trailers, deflate\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nUpgrade: x\r\n"
        b"X-A: 1\r\nX-a: 2\r\nCookie: a=b\r\n\r\n"
    )
    assert (await client.answer()).status == 200
    (request,) = port.received
    assert request.fields == [
        (b"host", b"foo"),
        (b"x-devroute", b'{"foo":"alice"}'),
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"cookie", b"a=b"),
        (b"connection", b"te"),
        (b"te", b"trailers"),
        (b"via", b"1.1 devroute"),
    ]


async def test_an_error_in_a_body_after_its_response_ends_the_connection(port: Port) -> None:
    client: Client = await port.dial()
    head = b'POST / HTTP/1.1\r\nhost: foo\r\nx-devroute: {"foo":"bob"}\r\nx-devroute-matched: foo\r\n'
    client.writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
    assert (await client.answer()).code == "laptop-offline"
    client.writer.write(b"5 \r\nhello\r\n0\r\n\r\nGET /next HTTP/1.1" + FIELDS)
    assert await client.rest() == b""
    await sentinel(port)
    assert [request.line for request in port.received] == [b"GET /last"]
