"""The events of --output json: each is as events.schema.json and docs/events.md say."""

import inspect
import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from devroute.agent.comparisons import ComparisonResult
from devroute.agent.invitation import Invitation
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.reach import LocalPort
from devroute.agent.ui.lines import VERSION, LineReporter
from devroute.agent.ui.reporter import Reporter
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable, ServerUnreachable
from devroute.tunnel.protocol.handshake import Notice, OtherProcess
from devroute.tunnel.served_stream import Finished, OpenRequest
from tests.support.paths import ROOT

SCHEMA = json.loads(files("devroute.agent.ui").joinpath("events.schema.json").read_text())
EVENTS = [each["$ref"].rpartition("/")[2] for each in SCHEMA["oneOf"]]
SPEC = ServiceSpec.parse("b=8001")
INVITED = Invitation('{"b": "alice"}', "curl x", "http://x", "http://x/?devroute=", {"x": "http://x"})
ERROR = ServerUnreachable("it is down")
OTHER = OtherProcess(services=("c",), agent="1", since="2026-01-01T00:00:00Z")
PORT = LocalPort(MeshPort.parse("c.shop:80"), 9002, 9001, {"C_SHOP_URL": "http://127.0.0.1:9002"})
SAME = ComparisonResult("b", "GET", "/", [])
DONE = Finished("b", "GET", "/", 200, 0.0, 0.001, 5, "", "", b"GET / HTTP/1.1\r\nhost: b\r\n\r\n")

#: What each method of a reporter is called with.
REPORTED: dict[str, list[Callable[[Reporter], object]]] = {
    "online": [
        lambda to: to.online("alice", "http://s", [SPEC], INVITED, "http://i", ["only /api/"]),
        lambda to: to.online("alice", "http://s", [], Invitation("{}", "curl")),
    ],
    "changed": [
        lambda to: to.changed("added", [SPEC], [SPEC], INVITED),
        lambda to: to.changed("removed", [SPEC], [], INVITED),
    ],
    "ended": [lambda to: to.ended("down", 0)],
    "no_control": [lambda to: to.no_control("read-only")],
    "inspector": [lambda to: to.inspector("http://i")],
    "no_inspector": [lambda to: to.no_inspector(ERROR)],
    "inspector_history": [lambda to: to.inspector_history("no room")],
    "reach": [
        lambda to: to.reach([PORT], 1),
        lambda to: to.reach([], None),
    ],
    "reach_failed": [lambda to: to.reach_failed("c.shop:80", ERROR)],
    "back": [lambda to: to.back("alice")],
    "moved": [lambda to: to.moved("alice")],
    "links": [lambda to: to.links(1, "lost"), lambda to: to.links(2)],
    "took_over": [lambda to: to.took_over("alice", OTHER)],
    "shares": [lambda to: to.shares("alice", OTHER)],
    "noticed": [
        lambda to: to.noticed("alice", Notice(event="joined", **OTHER.model_dump())),
        lambda to: to.noticed("alice", Notice(event="taken-over", **OTHER.model_dump())),
    ],
    "app": [lambda to: to.app(SPEC, "does not listen"), lambda to: to.app(SPEC, None)],
    "offline": [lambda to: to.offline("lost")],
    "retry": [lambda to: to.retry(ERROR, 1.0)],
    "network": [lambda to: to.network("10.0.0.1", None)],
    "rules": [lambda to: to.rules(True, 1, ["slow"])],
    "not_renewed": [lambda to: to.not_renewed(ERROR)],
    "advice": [lambda to: to.advice("b", "permit it")],
    "compared": [
        lambda to: to.compared(SAME, 0),
        lambda to: to.compared(ComparisonResult("b", "GET", "/", None), 1),
    ],
    "request": [
        lambda to: to.request(DONE),
        lambda to: to.request(DONE._replace(status=0, code=AppUnreachable.code, reason="refused")),
        lambda to: to.request(DONE._replace(grpc_status=5, rule="delay")),
    ],
    "open": [lambda to: to.open([OpenRequest("b", "GET", "/", 0, 0.0, 6.0)])],
}
#: Methods that report nothing themselves.
QUIET = {"show", "flush", "close", "round_trip", "skip"}


class Written:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, text: str) -> bool:
        self.events += map(json.loads, text.splitlines())
        return True

    def close(self) -> None: ...


@pytest.mark.parametrize("form", ["json", "both"])
def test_every_event_is_as_its_schema_says_and_every_schema_has_an_event(form: Any) -> None:
    written = Written()
    reporter = LineReporter(form, written)
    for calls in REPORTED.values():
        for call in calls:
            call(reporter)
    reporter.skip(3)
    reporter.close()
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for event in written.events:
        validator.validate(event)
        assert event["version"] == VERSION
        assert ("text" in event) is (form == "both")
        known = SCHEMA["$defs"][event["event"]]["properties"].keys() | SCHEMA["properties"].keys()
        assert event.keys() <= known, event["event"]
    assert {event["event"] for event in written.events} == set(EVENTS)


def test_the_table_above_has_every_method_of_a_reporter() -> None:
    methods = {name for name, _ in inspect.getmembers(Reporter, inspect.isfunction) if name[0] != "_"}
    assert methods - QUIET == REPORTED.keys()


def test_a_line_that_is_not_as_the_schema_says_is_found() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    event = {"event": "back", "version": 1, "time": 1.0, "name": "alice"}
    assert validator.is_valid(event)
    for change in ({"event": "other"}, {"version": 2}, {"name": None}):
        assert not validator.is_valid(event | change)


def test_the_page_lists_each_event_with_its_members() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    listed = {name: (when, re.findall(r"`(\w+)`", members)) for name, when, members in rows}
    described = {
        name: (SCHEMA["$defs"][name]["description"], list(SCHEMA["$defs"][name]["properties"])[1:])
        for name in EVENTS
    }
    assert listed == described
