"""A laptop dials another link before a server that stops ends the one that it has."""

import asyncio
import json

import pytest

from devroute.errors import DevrouteError
from devroute.tunnel.protocol.handshake import Move, decode
from tests.agent.test_app import app, fetch, online, settings, up
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, Site, answer, connect, get, site

pytestmark = pytest.mark.asyncio


async def links(where: Site, count: int) -> None:
    await eventually(lambda: len(where.tunnels.links) == count, f"{count} links")


async def test_a_laptop_that_is_asked_to_move_is_never_offline_and_finishes_its_requests(said: Said) -> None:
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /slow"):
            await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
        writer.close()

    async with (
        site() as where,
        await asyncio.start_server(serve, "127.0.0.1", 0) as slow,
        up(
            settings(where.url, f"foo=127.0.0.1:{slow.sockets[0].getsockname()[1]}", output="json")
        ) as running,
    ):
        await online(where, running)
        (before,) = where.tunnels.links
        client = Client()
        where.upstream().open(get(b"/slow"), client)
        moving = asyncio.get_running_loop().create_task(where.tunnels.hand_over(0.01))
        await eventually(lambda: len(where.tunnels.links) == 2, "the second link")
        await eventually(lambda: where.registry.registration_of(before) is None, "its registration")
        assert before.close_error is None
        assert (await fetch(where)).body == b"done"  # on the second link
        assert not client.done.is_set()
        assert not moving.done()
        release.set()
        async with asyncio.timeout(20):
            await client.done.wait()
            await moving
        assert client.body == b"done"
        (after,) = where.tunnels.links
        assert after is not before
        await eventually(lambda: said('"moved"'))
        assert not said('"offline"')


async def test_while_no_other_server_can_be_reached_the_link_is_kept(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site() as where, app() as port, up(settings(where.url, f"foo=127.0.0.1:{port}")) as running:
        await online(where, running)
        (before,) = where.tunnels.links
        attempts = []

        async def refuse(authorization: str, certificate: object) -> object:
            attempts.append(authorization)
            raise DevrouteError("not now")

        permit, where.tunnels.authenticate = where.tunnels.authenticate, refuse  # type: ignore[assignment]
        moving = asyncio.get_running_loop().create_task(where.tunnels.hand_over(0))
        await eventually(lambda: len(attempts) >= 2, "several attempts")
        assert (await fetch(where)).body == b"from the laptop"
        assert list(where.tunnels.links) == [before]
        where.tunnels.authenticate = permit
        await asyncio.wait_for(moving, 20)
        assert (await fetch(where)).body == b"from the laptop"
        assert not said("the tunnel is down")


async def test_an_agent_that_does_not_know_the_question_is_asked_to_dial_again() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App(answer(b"hello"))}, instance="a1")
        await link.welcome
        await asyncio.wait_for(where.tunnels.hand_over(0), 20)
        assert link.goaway is not None
        assert link.goaway.code == "draining"
        assert where.registry.listing() == []


@pytest.mark.parametrize("within", [-1, 601, "NaN", "soon"])
async def test_a_pace_that_no_server_would_name_is_refused(within: object) -> None:
    with pytest.raises(DevrouteError, match="MOVE: within"):
        decode(Move, json.dumps({"within": within}).encode())
