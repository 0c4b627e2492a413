"""Requests from the laptop to services of the mesh: recorded, subject to rules, reported and replayed."""

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from devroute.agent import outgoing
from devroute.agent.outgoing import OutgoingRequests
from devroute.agent.ui.layout import open_row, row_of
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.errors import DevrouteError, NotReplayable, UpstreamReset, UpstreamTimeout
from devroute.http.http1.response import parse_response_head
from devroute.inspector.recorder import Recorder
from devroute.inspector.redaction import redaction
from devroute.inspector.replay import Replayer
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.rules.settings import read_rules
from devroute.inspector.store import CaptureStore
from devroute.tunnel.served_stream import Finished
from tests.support.loopback import App, AppStream, Client, answer, get, post

pytestmark = pytest.mark.asyncio

C = "c.shop:80"
TEA = answer(b"tea")


class Laptop:
    """The outgoing side of a `devroute up` with these rules, and a mesh in which `serve` responds."""

    def __init__(self, *rules: dict[str, Any], serve: Callable[[AppStream], None] | None = TEA) -> None:
        self.finished: list[Finished] = []
        self.store = CaptureStore()
        self.rules = RuleList(read_rules(rules))
        self.recorder = Recorder(self.store, asyncio.get_running_loop())
        self.outgoing = OutgoingRequests(self.rules, redaction(), self.recorder, self.finished.append)
        self.mesh = App(serve)

    async def ask(self, service: str = C) -> Client:
        client = Client()
        self.outgoing.around(service, self.mesh).open(get(b"/tea?token=s3cret"), client)
        async with asyncio.timeout(20):
            await client.done.wait()
        self.recorder.flush()
        return client


async def test_an_outgoing_request_is_recorded_with_its_direction_and_service_and_reported() -> None:
    laptop = Laptop()
    client = await laptop.ask()
    assert bytes(client.body) == b"tea"
    (capture,) = laptop.store.newest_first()
    assert (capture.direction, capture.service, capture.status) == ("out", C, 200)
    assert capture.target == "/tea?token=%5Bredacted%5D"
    (finished,) = laptop.finished
    assert (finished.outgoing, finished.service, finished.status, finished.size) == (True, C, 200, 3)
    assert laptop.outgoing.open_requests(0.0, 9) == []


async def test_without_an_inspector_it_is_reported_all_the_same() -> None:
    finished: list[Finished] = []
    seen = OutgoingRequests(RuleList(), redaction(), None, finished.append)
    client = Client()
    seen.around(C, App(answer(b"tea"))).open(get(), client)
    await client.done.wait()
    assert [each.service for each in finished] == [C]
    assert seen.recorded == {}


@pytest.mark.parametrize(
    ("rule", "status", "error", "did"),
    [
        ({"respond": {"status": 503, "body": "down"}}, 503, None, "responded"),
        ({"fail": 500}, 500, None, "failed it with 500"),
        ({"fail": "reset"}, None, UpstreamReset, "ended the connection"),
        ({"delay": "1ms"}, 200, None, "delayed it by 0.001 s"),
        ({"delay": "5s", "timeout": "1ms"}, None, UpstreamTimeout, "ended it after 0.001 s"),
    ],
)
async def test_a_rule_makes_a_dependency_fail_without_the_mesh(
    rule: dict[str, Any], status: int | None, error: type[DevrouteError] | None, did: str
) -> None:
    laptop = Laptop({"name": "bad c", "direction": "out", "service": C, **rule})
    client = await laptop.ask()
    assert [head.status for head in client.heads] == ([] if status is None else [status])
    assert isinstance(client.error, error or type(None))
    if client.error is not None:
        assert "rule 'bad c'" in client.error.message
    else:
        assert client.heads[0].by_rule == f"rule 'bad c' {did}"
        assert laptop.finished[0].rule == f"rule 'bad c' {did}"
    (capture,) = laptop.store.newest_first()
    assert f"rule 'bad c' {did}" in capture.rules
    assert len(laptop.mesh.streams) == (1 if status == 200 else 0)
    assert (await laptop.ask("d.shop:80")).heads[0].status == 200  # the rule is for c alone


async def test_rules_of_one_direction_leave_the_other_alone() -> None:
    laptop = Laptop({"fail": 500}, {"direction": "out", "path": "/other", "fail": 500})
    assert (await laptop.ask()).heads[0].status == 200
    laptop.rules.add({"direction": "out", "fail": 503})
    assert (await laptop.ask()).heads[0].status == 503


async def test_a_replay_goes_out_again_and_not_to_the_local_app() -> None:
    laptop = Laptop()
    await laptop.ask()
    (capture,) = laptop.store.newest_first()
    replayer = Replayer({}, laptop.outgoing.recorded)
    replay = replayer.start(capture, {"target": "/tea?again"})
    made = await asyncio.wait_for(replay.done, 20)
    laptop.recorder.flush()
    assert [stream.head.target for stream in laptop.mesh.streams] == [b"/tea?token=s3cret", b"/tea?again"]
    assert (made.direction, made.service, made.replay_of, made.status) == ("out", C, capture.id, 200)
    capture.service = "d.shop:80"
    with pytest.raises(NotReplayable, match=r"does not reach 'd\.shop:80'"):
        replayer.start(capture, {})


async def test_an_outgoing_request_is_held_at_a_breakpoint_and_edited_before_it_leaves() -> None:
    laptop = Laptop({"direction": "out", "break": "request"})
    laptop.rules.breakpoints.watchers.append(lambda: True)
    asking = asyncio.get_running_loop().create_task(laptop.ask())
    await asyncio.sleep(0)
    (held,) = laptop.rules.breakpoints.held.values()
    assert (held.service, laptop.mesh.streams) == (C, [])
    held.proceed({"target": "/coffee"})
    assert (await asking).heads[0].by_rule.startswith("rule '*' held the request for ")
    assert laptop.mesh.streams[0].head.target == b"/coffee"


async def test_an_upgraded_connection_goes_on_after_one_half_has_ended() -> None:
    laptop = Laptop(serve=None)
    stream = laptop.outgoing.around(C, laptop.mesh).open(get(), Client())
    (inner,) = laptop.mesh.streams
    inner.sink.on_head(parse_response_head(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n", b"GET"))
    inner.sink.on_end([])
    stream.send_data(b"more")
    assert bytes(inner.body) == b"more"
    stream.cancel()
    stream.send_data(b"late")
    assert bytes(inner.body) == b"more"
    assert [(each.status, each.code) for each in laptop.finished] == [(101, "")]


async def test_only_so_many_services_are_known_and_the_last_used_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "MAX_SERVICES", 2)
    laptop = Laptop()
    first = laptop.outgoing.around("a:80", laptop.mesh)
    laptop.outgoing.around("b:80", laptop.mesh)
    assert laptop.outgoing.around("a:80", laptop.mesh) is first
    laptop.outgoing.around("c:80", laptop.mesh)
    assert sorted(laptop.outgoing.recorded) == ["a:80", "c:80"]
    laptop.rules.add({"direction": "out", "fail": 503})
    assert (await laptop.ask("b:80")).heads[0].status == 503  # known again, with the rules of now


async def test_backpressure_and_cancellation_pass_in_both_directions() -> None:
    laptop = Laptop(serve=None)
    client = Client()
    stream = laptop.outgoing.around(C, laptop.mesh).open(post(4), client)
    stream.send_data(b"ab")
    (inner,) = laptop.mesh.streams
    assert bytes(inner.body) == b"ab"
    inner.sink.pause_request()
    assert client.paused
    stream.pause_response()
    assert inner.paused
    (open_request,) = laptop.outgoing.open_requests(0.0, 9)
    assert (open_request.service, open_request.outgoing, open_request.status) == (C, True, 0)
    assert "-> c.shop:80 /" in open_row(open_request).path
    stream.cancel()
    assert inner.cancelled.is_set()
    assert [each.code for each in laptop.finished] == ["cancelled"]
    assert laptop.outgoing.open_requests(0.0, 9) == []


async def test_the_terminal_shows_outgoing_requests_by_an_arrow_and_the_service() -> None:
    made = Finished(C, "GET", "/tea", 503, 0.0, 0.1, 5, "", "", rule="rule 'x' responded", outgoing=True)
    text, lines = io.StringIO(), io.StringIO()
    for form, out in (("text", text), ("json", lines)):
        reporter = LineReporter(form, TerminalWriter(out))  # type: ignore[arg-type]
        reporter.request(made)
        reporter.request(made._replace(outgoing=False, service="b", rule=""))
        reporter.close()
    shown = text.getvalue().splitlines()
    assert "  -> c.shop:80  GET /tea  503  " in shown[0]
    assert "->" not in shown[1]
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(each["direction"], each["service"]) for each in events] == [("out", C), ("in", "b")]
    row = row_of(made, "12:00:00")
    assert (row.service, row.path, row.caller) == ("", "-> c.shop:80 /tea", "")
