"""What `devroute expect` sends, and how long it waits; tests/envoy/test_trace.py has real sidecars."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.agent import expectation
from devroute.agent.expectation import contract_for, wait_for
from devroute.agent.mesh_request import MAX_BODY, MeshRequest, entry_url, send
from devroute.agent.settings import ClientSettings
from devroute.cli.main import run
from devroute.errors import ConfigInvalid, DevrouteError, ServerUnreachable, TokenInvalid
from tests.support.eventually import eventually
from tests.support.laptop import serving

EXPECTED = [("b", "alice"), ("c", "service")]


def hop(service: str, target: str | None) -> dict[str, Any]:
    result = "service" if target is None else "laptop"
    contract = contract_for(EXPECTED)
    return {
        "service": service, "namespace": "shop", "result": result, "reason": "", "request_id": "r",
        "status": 200, "contract": contract, "at_ms": 0.0, "took_ms": 1.0, "target": target,
        "names": [service],
    }  # fmt: skip


@dataclass
class Mesh:
    """A server and an entry in one; `targets`: who responds at b to one request after the other, or what the
    server responds with instead of its hops; `asked`: how often the server was."""

    url: str = ""
    targets: list[str | web.Response | None] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not request.path.startswith("/api/"):
            self.heads.append(dict(request.headers))
            if request.path == "/elsewhere":
                return web.Response(status=302, headers={"location": "http://other.example/"})
            return web.Response(text="x" * (MAX_BODY + 1))
        self.asked += 1
        target = self.targets[max(0, len(self.heads) - 1)] if self.targets else None
        if isinstance(target, web.Response):
            return web.Response(status=target.status, body=target.body)
        hops = [hop("b", target), hop("c", None)] if self.heads else []
        return web.json_response({"hops": hops, "services": ["b", "c"]})

    @property
    def settings(self) -> ClientSettings:
        return ClientSettings(server=self.url, token="dvr_x")

    @property
    def request(self) -> MeshRequest:
        return MeshRequest(f"{self.url}/", contract_for(EXPECTED))


@pytest_asyncio.fixture
async def mesh(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    monkeypatch.setattr(expectation, "PAUSE", 0.01)
    made = Mesh()
    async with serving(made.handle) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


def test_the_contract_is_what_is_expected_without_the_services_that_stay() -> None:
    assert json.loads(contract_for(EXPECTED)) == {"b": "alice"}


async def test_it_sends_requests_until_who_is_named_responds(mesh: Mesh) -> None:
    mesh.targets = ["bob", None, "alice"]
    found = await wait_for(mesh.settings, mesh.request, EXPECTED, 30)
    assert (found.unmet, found.requests, len(mesh.heads)) == ([], 3, 3)
    assert {head["x-devroute"] for head in mesh.heads} == {'{"b": "alice"}'}
    assert len({head["x-devroute-trace"] for head in mesh.heads}) == 3


async def test_at_the_end_of_the_time_it_reports_who_responded(mesh: Mesh) -> None:
    mesh.targets = ["bob"]
    found = await wait_for(mesh.settings, mesh.request, EXPECTED, 0)
    assert (found.unmet, found.requests) == (["expected b=alice, but at 'b': bob"], 1)


async def test_a_server_that_cannot_be_reached_is_asked_again(mesh: Mesh) -> None:
    mesh.targets = [web.Response(status=502, text="starting"), "alice"]
    waiting = asyncio.ensure_future(wait_for(mesh.settings, mesh.request, EXPECTED, 30))
    await eventually(lambda: mesh.asked > 2, task=waiting)
    assert mesh.heads == []  # it announces a trace before it sends anything, which fails
    mesh.targets[0] = "alice"
    assert (await waiting).unmet == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"code": "token-invalid", "message": "no"}', TokenInvalid), (b"starting", ServerUnreachable)],
)
async def test_what_does_not_pass_is_an_error_at_once_and_the_rest_at_the_end(
    body: bytes, kind: type[DevrouteError], mesh: Mesh
) -> None:
    mesh.targets = [web.Response(status=401, body=body)]
    with pytest.raises(kind):
        await wait_for(mesh.settings, mesh.request, EXPECTED, 600 if kind is TokenInvalid else 0)


@pytest.mark.parametrize(
    "url", ["a.qa.example", "127.0.0.1:8000", "ftp://a.qa.example/", "http://", "http://a:b/"]
)
async def test_what_is_no_url_of_http_is_an_error_at_once(mesh: Mesh, url: str) -> None:
    mesh.targets = ["alice"]
    with pytest.raises(ConfigInvalid, match="is no URL of http or https"):
        await wait_for(mesh.settings, MeshRequest(url, "{}"), EXPECTED, 5)


def test_a_contract_with_a_mistake_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"DEVROUTE_SERVER": "http://127.0.0.1:9", "DEVROUTE_TOKEN": "dvr_x"}
    for line in (
        ("b=alice", "--contract", '{"b": "alice"'),
        ("b=no such name",),
        ("b=alice", "--contract", "@"),
    ):
        assert run(("expect", *line, "--timeout", "0"), known) == 20  # 40: it has asked the server
    assert "is a brace missing?" in capsys.readouterr().err


async def test_a_contract_goes_to_no_other_host_and_a_body_is_bounded(mesh: Mesh) -> None:
    mesh.targets = ["alice"]
    response, _ = await send(mesh.settings, MeshRequest(f"{mesh.url}/elsewhere", "{}"))
    assert (response.status, len(mesh.heads)) == (302, 1)
    response, _ = await send(mesh.settings, mesh.request)
    assert len(response.body) == MAX_BODY


def test_where_requests_enter_is_the_entry_of_the_service_or_the_first() -> None:
    entries = {"a": "http://a.example", "b": "http://b.example/shop"}
    assert entry_url(entries, ["b"]) == "http://b.example/shop"
    assert entry_url(entries, ["c"]) == "http://a.example/"
    for nothing in ({}, None):
        with pytest.raises(ConfigInvalid, match="where requests enter"):
            entry_url(nothing, ["b"])
