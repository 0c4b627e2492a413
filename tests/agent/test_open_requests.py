"""What `devroute up` learns of requests that have not ended, and of gRPC's outcomes, over a real tunnel."""

import asyncio
import io
import json

import pytest

from devroute.agent.open_requests import OpenRequestWatch
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.contract.service_spec import ServiceSpec
from devroute.http.message import Framing, RequestHead
from devroute.inspector.redaction import redaction
from devroute.tunnel.served_stream import Finished, OpenRequest
from devroute.upstream.local_app import local_app
from tests.support import grpc_app
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, get, head, tunnel


async def test_requests_are_seen_while_they_are_open_the_oldest_first() -> None:
    app = App()
    async with tunnel(app) as (where, link):
        clients = [Client(), Client()]
        for number, client in enumerate(clients):
            where.upstream().open(get(b"/%d?token=hunter2" % number), client)
            await eventually(lambda count=number + 1: len(app.streams) == count, "the request arrives")
        seen = link.open_requests(0.0, 10)
        assert [(each.service, each.method, each.target, each.status) for each in seen] == [
            ("foo", "GET", "/0?token=hunter2", 0),
            ("foo", "GET", "/1?token=hunter2", 0),
        ]
        assert seen[0].age >= seen[1].age >= 0
        assert len(link.open_requests(0.0, 1)) == 1
        assert link.open_requests(60.0, 10) == []

        reports: list[list[OpenRequest]] = []
        watch = OpenRequestWatch(lambda: [link], lambda found: reports.append(list(found)), redaction(()))
        watch.start()
        await eventually(lambda: reports, "a report")
        assert "hunter2" not in str(reports)
        first, second = (stream.sink for stream in app.streams)
        second.on_head(head(200, 0))
        assert [each.status for each in link.open_requests(0.0, 10)] == [0, 200]
        first.on_head(head(200, 0))
        first.on_end([])
        second.on_end([])
        await eventually(lambda: reports[-1] == [], "the end is reported")
        watch.stop()
        assert link.open_requests(0.0, 10) == []


@pytest.mark.parametrize(
    ("method", "status", "shown"),
    [
        ("Abort", 9, "gRPC FAILED_PRECONDITION"),
        ("Late", 15, "gRPC DATA_LOSS"),
        ("Unary", 0, "POST /t/Unary  200"),
        ("Missing", 12, "gRPC UNIMPLEMENTED"),
    ],
)
async def test_a_grpc_failure_is_one_although_its_http_status_is_200(
    method: str, status: int, shown: str
) -> None:
    fields = b"content-type: application/grpc\r\nte: trailers\r\ncontent-length: 7\r\n"
    wire = f"POST /t/{method} HTTP/1.1\r\nhost: foo\r\n".encode() + fields + b"\r\n"
    request = RequestHead(b"POST", f"/t/{method}".encode(), Framing.LENGTH, 7, wire)
    observed: list[Finished] = []
    server, port = await grpc_app.start()
    app = local_app(ServiceSpec.parse(f"foo=grpc://127.0.0.1:{port}"))
    async with tunnel(app, observed=observed) as (where, _):
        client = Client()
        stream = where.upstream().open(request, client)
        stream.send_data(b"\0\0\0\0\2hi")
        stream.send_end([])
        async with asyncio.timeout(20):
            await client.done.wait()
        await eventually(lambda: observed, "the request is observed")
    await app.close()
    await server.stop(0)
    (finished,) = observed
    assert (finished.status, finished.grpc_status, finished.failed) == (200, status, status != 0)
    out = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(out))
    reporter.request(finished)
    reporter.close()
    assert shown in out.getvalue()


def test_a_5xx_is_a_failure_and_a_4xx_is_none() -> None:
    answered = Finished("foo", "GET", "/", 404, 0.0, 0.1, 5, "", "")
    assert not answered.failed
    assert answered._replace(status=500).failed
    assert answered._replace(status=0, code="cancelled").failed


def test_lines_report_an_open_request_once_and_then_each_minute() -> None:
    out = io.StringIO()
    reporter = LineReporter("json", TerminalWriter(out))
    waiting = OpenRequest("foo", "GET", "/\x1b", 0, 7.0, 1.0)
    for age in (1.0, 4.9, 5.1, 5.6, 59.0, 61.0, 61.5, 130.0):
        reporter.open([waiting._replace(age=age), waiting._replace(started=8.0, age=age, status=200)])
    reporter.open([])
    reporter.close()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(each["event"], each["seconds"]) for each in events] == [
        ("open", 5.1),
        ("open", 61.0),
        ("open", 130.0),
    ]
