"""The control API of a real agent, by its socket."""

import asyncio
import io
import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devroute.agent.control import client
from devroute.agent.control.follower import MAX_BYTES, Follower
from devroute.agent.control.running import FOLDER, Running, all_running, own_folder, write
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.reporter import Event
from devroute.agent.ui.writer import TerminalWriter
from devroute.cli.status import describe_running
from devroute.errors import (
    DevrouteError,
    LastService,
    NameTaken,
    NotFound,
    RegistrationDenied,
    ServerUnreachable,
    TooManyFollowers,
)
from tests.agent.test_app import app, fetch, settings, up
from tests.support.agent_output import Said
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import Client, Site, get, response_to, site


@asynccontextmanager
async def running(where: Site, folder: Path, *services: str, **changes: Any) -> AsyncIterator[Running]:
    changes = {"inspector": False, **changes}
    async with up(settings(where.url, *services, **changes), folder) as task:
        (found,) = await eventually(lambda: all_running(folder) or (task.done() and task.result()))
        yield found


async def ask(it: Running, method: str, path: str, document: Any = None) -> dict[str, Any]:
    return await asyncio.to_thread(client.request, it, method, path, document)


async def test_a_running_agent_is_found_by_its_user_alone_and_says_what_it_serves(tmp_path: Path) -> None:
    async with site() as where, app() as port, running(where, tmp_path, f"foo=127.0.0.1:{port}") as it:
        folder = tmp_path / FOLDER
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}
        status = await ask(it, "GET", "/v1")
        assert (status["version"], status["pid"], status["name"]) == (1, os.getpid(), "alice")
        assert (status["online"], status["links"]) == (True, 1)
        (served,) = status["services"]
        assert (served["service"], served["added"]) == ("foo", False)
    assert all_running(tmp_path) == []
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_asks_a_running_agent_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devroute.agent.control.port.MAX_PATH", 107)  # pytest's folders are long
    async with site() as where, running(where, tmp_path) as it:
        assert it.socket is not None
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--unix-socket", it.socket, "http://devroute/v1"), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await curl.communicate()
        assert json.loads(out)["name"] == "alice"


async def test_services_are_added_and_removed_while_requests_go_on(tmp_path: Path, said: Said) -> None:
    first, held = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslo")
        first.set()
        await held.wait()
        writer.write(b"w")
        writer.close()

    async with (
        site() as where,
        app() as port,
        await asyncio.start_server(slow, "127.0.0.1", 0) as server,
        running(where, tmp_path, f"foo=127.0.0.1:{server.sockets[0].getsockname()[1]}") as it,
    ):
        before = Client()
        where.upstream().open(get(), before)
        await first.wait()
        added = await ask(it, "POST", "/v1/services", {"services": [f"bar=127.0.0.1:{port}"]})
        shown = [(each["service"], each["added"]) for each in added["services"]]
        assert shown == [
            ("foo", False),
            ("bar", True),
        ]
        assert (await fetch_from(where, "bar")).body == b"from the laptop"
        assert (len(where.registry.listing()), where.registry.count()) == (1, 1)
        await ask(it, "DELETE", "/v1/services/bar")
        await eventually(lambda: "bar" not in str(where.registry.listing()))
        with pytest.raises(LastService):
            await ask(it, "DELETE", "/v1/services/foo")
        with pytest.raises(NotFound):
            await ask(it, "DELETE", "/v1/services/bar")
        assert not before.done.is_set()
        held.set()
        async with asyncio.timeout(PATIENCE_S):
            await before.done.wait()
        assert (before.error, before.body) == (None, b"slow")
    assert said("bar -> http://127.0.0.1:")
    assert said("bar is not served any more")


async def fetch_from(where: Site, service: str) -> Client:
    return await response_to(where.upstream("alice", service), get())


async def test_no_request_is_lost_while_services_change_over_and_over(tmp_path: Path) -> None:
    async with site() as where, app() as port, running(where, tmp_path, f"foo=127.0.0.1:{port}") as it:
        done, statuses = asyncio.Event(), list[object]()

        async def steadily() -> None:
            while not done.is_set():
                answered = await fetch(where)
                statuses.append(answered.error or bytes(answered.body))

        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(steadily())
            for _ in range(5):
                await ask(it, "POST", "/v1/services", {"services": ["bar=1"]})
                await ask(it, "DELETE", "/v1/services/bar")
            done.set()
    assert len(statuses) > 10
    assert set(statuses) == {b"from the laptop"}


async def test_what_the_server_refuses_changes_nothing(tmp_path: Path) -> None:
    def permit(subject: str, groups: object, offer: Any) -> None:
        if offer.service == "secret":
            raise RegistrationDenied("alice may not register 'secret'")

    async with (
        site(permit=permit) as where,
        app() as port,
        running(where, tmp_path, f"foo=127.0.0.1:{port}") as it,
    ):
        with pytest.raises(RegistrationDenied):
            await ask(it, "POST", "/v1/services", {"services": ["bar=1", "secret=2"]})
        with pytest.raises(NameTaken):
            await ask(it, "POST", "/v1/services", {"services": ["foo=1"]})
        assert [each["service"] for each in (await ask(it, "GET", "/v1/services"))["services"]] == ["foo"]
        assert (await fetch(where)).body == b"from the laptop"


async def test_services_of_a_client_that_follows_them_go_with_it(tmp_path: Path) -> None:
    async with site() as where, app() as port, running(where, tmp_path, f"foo=127.0.0.1:{port}") as it:

        def follow(at: str) -> list[dict[str, Any]]:
            with client.follow(it, [at]) as events:
                found = [next(events)]
                asyncio.run_coroutine_threadsafe(fetch_from(where, "bar"), loop).result(PATIENCE_S)
                asyncio.run_coroutine_threadsafe(fetch_from(where, "foo"), loop).result(PATIENCE_S)
                asyncio.run_coroutine_threadsafe(fetch_from(where, "bar"), loop).result(PATIENCE_S)
                while len(found) < 3:
                    found.append(next(events))
            return found

        loop = asyncio.get_running_loop()
        events = await asyncio.to_thread(follow, f"bar=127.0.0.1:{port}")
        assert [(each["event"], each["service"]) for each in events] == [
            ("added", "bar"),
            ("request", "bar"),
            ("request", "bar"),
        ]
        assert "  GET /  200  " in events[1]["text"]
        await eventually(lambda: "bar" not in str(where.registry.listing()))


@pytest.mark.parametrize("more", [{}, {"follow": True}])
async def test_services_are_not_left_by_a_client_that_leaves_before_they_are_up(
    tmp_path: Path, more: dict[str, bool]
) -> None:
    async with site() as where, running(where, tmp_path, "foo=1") as it:
        await leave_before_welcome(where, it, "POST", "/v1/services", {"services": ["bar=2"], **more})
        await eventually(lambda: "bar" not in str(where.registry.listing()))
        assert [each["service"] for each in (await ask(it, "GET", "/v1/services"))["services"]] == ["foo"]


async def test_a_service_is_removed_even_if_the_client_leaves_before_the_server_knows(tmp_path: Path) -> None:
    async with site() as where, running(where, tmp_path, "foo=1", "bar=2") as it:
        await leave_before_welcome(where, it, "DELETE", "/v1/services/bar")
        assert "bar" not in str(where.registry.listing())
        assert [each["service"] for each in (await ask(it, "GET", "/v1/services"))["services"]] == ["foo"]
        assert (await ask(it, "POST", "/v1/services", {"services": ["bar=3"]}))["services"][1]["added"]


async def leave_before_welcome(
    where: Site, it: Running, method: str, path: str, document: Any = None
) -> None:
    """Request a change, and close the connection before the server permits the new link; returns once the
    agent has that link."""
    asked, permitted = asyncio.Event(), asyncio.Event()
    permit = where.tunnels.authenticate

    async def wait(authorization: str, certificate: Any) -> Any:
        asked.set()
        await permitted.wait()
        return await permit(authorization, certificate)

    where.tunnels.authenticate = wait
    (before,) = where.registry.registrations()
    async with aiohttp.ClientSession(connector=connector(it)) as session:
        change = session.request(method, base(it) + path, json=document, headers=token(it))
        leaving = asyncio.get_running_loop().create_task(change.__aenter__())
        await asked.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    await ask(it, "GET", "/v1")  # so it has noticed
    permitted.set()
    await eventually(lambda: before not in where.registry.registrations())


async def test_stop_returns_once_the_agent_has_ended_and_all_learn_by_whom(tmp_path: Path) -> None:
    async with site() as where, up(settings(where.url, inspector=False), tmp_path) as task:
        (it,) = await eventually(lambda: all_running(tmp_path))
        async with (
            aiohttp.ClientSession(connector=connector(it)) as session,
            session.get(base(it) + "/v1/events", headers=token(it)) as followed,
        ):
            assert await asyncio.to_thread(client.stop, it, 10.0)
            last = [json.loads(line) async for line in followed.content if line.strip()][-1]
        assert (last["event"], last["by"], last["code"]) == ("ended", "down", 0)
        assert await task == 0
    assert all_running(tmp_path) == []


def connector(it: Running) -> aiohttp.BaseConnector:
    return aiohttp.TCPConnector() if it.socket is None else aiohttp.UnixConnector(it.socket)


def base(it: Running) -> str:
    return f"http://127.0.0.1:{it.port or 80}"


def token(it: Running) -> dict[str, str]:
    return {"authorization": f"Bearer {it.token}"} if it.token else {}


async def test_the_inspector_s_api_is_there_too(tmp_path: Path) -> None:
    async with (
        site() as where,
        app() as port,
        running(where, tmp_path, f"foo=127.0.0.1:{port}", inspector=True) as it,
    ):
        await fetch(where)

        async def captured() -> bool:
            kept = (await ask(it, "GET", "/v1/inspector/api/status"))["kept"]
            return bool(kept["exchanges"])

        async with asyncio.timeout(PATIENCE_S):
            while not await captured():
                pass
        with pytest.raises(NotFound):
            await ask(it, "GET", "/v1/inspector/api/exchanges/99")


async def test_the_clients_that_follow_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devroute.agent.control.api.MAX_FOLLOWERS", 0)
    async with site() as where, running(where, tmp_path) as it:
        with pytest.raises(TooManyFollowers):
            await ask(it, "GET", "/v1/events")
        with pytest.raises(TooManyFollowers):
            await ask(it, "POST", "/v1/services", {"services": ["bar=1"], "follow": True})


def test_lines_that_a_client_does_not_read_are_dropped_and_counted() -> None:
    follower = Follower(None)
    for _ in range(3):
        follower.show(Event("advice", "", {"advice": "x" * (MAX_BYTES // 2)}))
        follower.flush()
    kept = follower.lines.take()
    assert len(kept) < MAX_BYTES
    follower.flush()
    assert json.loads(follower.lines.take())["lines"] == 2


async def test_browsers_and_requests_without_the_token_of_a_port_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devroute.agent.control.port.MAX_PATH", 0)  # as on a system without such sockets
    async with site() as where, running(where, tmp_path) as it:
        assert it.port is not None
        async with aiohttp.ClientSession() as session:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {**token(it), "origin": "http://127.0.0.1"},
                {**token(it), "sec-fetch-site": "none"},
                {**token(it), "host": "attacker.example"},
            ):
                async with session.get(base(it) + "/v1", headers=headers) as refused:
                    assert (refused.status, (await refused.json())["code"]) == (403, "control-denied")
            async with session.get(base(it) + "/v1", headers=token(it)) as served:
                assert served.status == 200


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, '"services" has to be a list'),
        ({"services": ["bar"]}, "write SERVICE=PORT"),
        ({"services": ["bar=1", "bar=2"]}, "twice"),
        ({"services": ["bar=1"], "follow": 1}, '"follow" has to be true or false'),
        ({"services": ["bar=1"], "folow": True}, "there is no member 'folow'"),
        ({"services": [f"s{number}=1" for number in range(64)]}, "at most 64"),
    ],
)
async def test_bad_input_says_why(tmp_path: Path, document: Any, problem: str) -> None:
    async with site() as where, running(where, tmp_path) as it:
        with pytest.raises(DevrouteError, match=problem):
            await ask(it, "POST", "/v1/services", document)


async def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    async with site() as where, running(where, tmp_path):
        (file,) = (tmp_path / FOLDER).glob("*.json")
        kept = file.read_text()
    file.write_text(kept)
    (tmp_path / FOLDER / "nonsense.json").write_text("{")
    assert all_running(tmp_path) == []
    assert not file.exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may be another user")
def test_no_command_speaks_to_a_socket_of_another_user(tmp_path: Path) -> None:
    folder = own_folder(tmp_path)
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(path := str(folder / "7-a.sock"))
        os.seteuid(65534)
        try:
            another.listen()
        finally:
            os.seteuid(0)
        it = Running(7, "http://qa.example", None, "alice", "of its settings", 1.0, socket=path)
        write(folder / "7-a.json", it)
        assert all_running(tmp_path) == []
        with pytest.raises(ServerUnreachable, match="another user's process listens there"):
            client.request(it, "GET", "/v1")


def test_one_that_is_killed_in_the_middle_of_a_response_is_unreachable_and_has_ended() -> None:
    def die() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as other:
        port = listening.getsockname()[1]
        it = Running(7, "http://qa.example", None, "alice", "of its settings", 1.0, port=port)
        other.submit(die)
        with pytest.raises(ServerUnreachable, match="process 7 does not respond"):
            client.request(it, "GET", "/v1")
        other.submit(die)
        assert client.stop(it, 5.0)


class SlowStream(io.StringIO):
    """As of a busy disk."""

    def write(self, text: str) -> int:
        if '"ended"' in text:
            threading.Event().wait(0.3)
        return super().write(text)


async def test_who_asks_for_the_end_waits_until_the_last_line_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = SlowStream()
    monkeypatch.setattr(
        "devroute.agent.app.reporter_for", lambda settings: LineReporter("json", TerminalWriter(output))
    )

    def stop(it: Running) -> str:
        assert client.stop(it, 20.0)
        return output.getvalue()

    async with site() as where, running(where, tmp_path) as it:
        assert '"ended"' in await asyncio.to_thread(stop, it)


def test_one_that_is_stopped_is_listed_as_such_and_has_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STATUS_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as never_accepts:
        port = never_accepts.getsockname()[1]
        it = Running(7, "http://qa.example", None, "alice", "of its settings", 1.0, port=port, log="up.log")
        write(own_folder(tmp_path) / "7-a.json", it)
        (said,) = client.statuses(tmp_path)
        assert not client.stop(it, 0.05)
    assert said == {
        "responding": False, "pid": 7, "started": 1.0, "log": "up.log", "server": it.server, "name": "alice",
    }  # fmt: skip
    assert describe_running([said])[0] == (
        "alice does not respond, as it hangs or is stopped; it is registered at http://qa.example (process 7)"
    )
    assert client.statuses(tmp_path) == []
    assert client.stop(it, 0.05)
