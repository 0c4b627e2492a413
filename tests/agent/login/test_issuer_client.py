"""Requests to an issuer: where forms with secrets go, and what of a response is read."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from devroute.agent.login.device_flow import LoginSettings
from devroute.agent.login.issuer_client import MAX_RESPONSE, IssuerClient
from devroute.agent.settings import ClientSettings
from devroute.errors import ConfigInvalid, LoginFailed, ServerUnreachable
from tests.support.laptop import serving

pytestmark = pytest.mark.asyncio

SETTINGS = ClientSettings(server="https://devroute.example")


class Server:
    """Its responses by path, and the paths that were requested."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.responses: dict[str, web.Response] = {}

    async def respond(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return self.responses[request.path]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with serving(server.respond) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


def login(issuer: str) -> LoginSettings:
    return LoginSettings(issuer=issuer, client_id="devroute")


async def test_a_form_does_not_follow_a_redirect(server: Server) -> None:
    server.responses["/token"] = web.Response(status=307, headers={"location": f"{server.url}/elsewhere"})
    assert await IssuerClient(SETTINGS).post(f"{server.url}/token", {"refresh_token": "secret"}) == (307, {})
    assert server.asked == ["/token"]


@pytest.mark.parametrize("body", ["", "{", "[1]", '"text"', "[" * 5000])
async def test_a_response_that_is_no_object_is_an_empty_one(server: Server, body: str) -> None:
    server.responses["/token"] = web.Response(text=body)
    assert await IssuerClient(SETTINGS).post(f"{server.url}/token", {}) == (200, {})


async def test_a_response_without_end_is_not_read(server: Server) -> None:
    server.responses["/token"] = web.Response(text="x" * (MAX_RESPONSE + 1))
    with pytest.raises(LoginFailed, match="longer than"):
        await IssuerClient(SETTINGS).post(f"{server.url}/token", {})


async def test_discovery_needs_the_issuer_s_own_document(server: Server) -> None:
    path = "/.well-known/openid-configuration"
    server.responses[path] = web.json_response(
        {"issuer": "https://other.example", "token_endpoint": "https://x"}
    )
    with pytest.raises(LoginFailed, match=r"is that of 'https://other\.example'"):
        await IssuerClient(SETTINGS).discover(login(server.url))
    server.responses[path] = web.json_response({"issuer": server.url})
    with pytest.raises(LoginFailed, match="token_endpoint"):
        await IssuerClient(SETTINGS).discover(login(server.url))
    server.responses[path] = web.Response(status=404)
    with pytest.raises(LoginFailed, match="status 404"):
        await IssuerClient(SETTINGS).discover(login(server.url))


@pytest.mark.parametrize("issuer", ["http://id.example", "ftp://id.example", "id.example"])
async def test_an_issuer_that_others_could_be_is_not_asked(issuer: str) -> None:
    with pytest.raises(LoginFailed, match="is not https"):
        await IssuerClient(SETTINGS).discover(login(issuer))


async def test_an_issuer_that_is_not_there_is_named_with_the_reason(unused_tcp_port: int) -> None:
    issuer = f"http://127.0.0.1:{unused_tcp_port}"
    with pytest.raises(ServerUnreachable) as caught:
        await IssuerClient(SETTINGS).discover(login(issuer))
    assert caught.value.message.startswith(f"the issuer cannot be reached at {issuer}")
    assert "refused" in caught.value.message


async def test_a_trust_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"none\.pem"):
        IssuerClient(SETTINGS.model_copy(update={"ca_file": tmp_path / "none.pem"}))
