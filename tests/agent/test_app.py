"""The agent with a real server, a real app and real child processes."""

import asyncio
import errno
import io
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from devroute.agent import app as agent
from devroute.agent import link_monitor
from devroute.agent.child_process import ChildProcess
from devroute.agent.link_monitor import LinkMonitor
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import MAX_BATCHES, TerminalWriter
from devroute.auth.identity import Identity, PeerCertificate
from devroute.cli.exit_codes import exit_code_for
from devroute.contract.grammar import parse
from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Address
from devroute.errors import (
    AppUnreachable,
    ConfigInvalid,
    DevrouteError,
    LinkReplaced,
    NameNotOwned,
    NameTaken,
    ServerUnreachable,
    TokenExpired,
    TokenInvalid,
)
from devroute.policy.policy import Policy
from devroute.routing.decision import select_target
from devroute.tunnel.served_stream import Finished
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import Client, Site, connect, get, response_to, site, start_site
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio


def settings(where: str, *services: str, **changes: Any) -> AgentSettings:
    return AgentSettings(
        server=where,
        token=SecretStr(changes.pop("token", "alice-token")),
        services=tuple(ServiceSpec.parse(each) for each in services or ("foo=1",)),
        **changes,
    )


@asynccontextmanager
async def app(body: bytes = b"from the laptop", port: int = 0) -> AsyncIterator[int]:
    """The port of a running app."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def up(of: AgentSettings, state: Path | None = None) -> AsyncIterator["asyncio.Task[int]"]:
    """A running agent, ended with the block. `state`: the folder of what its inspector remembers.

    Where the block fails and the agent has ended, the reason is printed."""
    task = asyncio.get_running_loop().create_task(agent.run(of, state))
    try:
        yield task
    except BaseException:
        if task.done():
            task.print_stack()
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def online(where: Site, task: "asyncio.Task[int]", name: str = "alice") -> None:
    def registered() -> bool:
        return any(each["name"] == name for each in where.registry.listing())

    await eventually(registered, task=task)


async def fetch(where: Site, name: str = "alice") -> Client:
    return await response_to(where.upstream(name), get(b"/path?q=1"))


# --- requests -----------------------------------------------------------------------------------------


async def test_a_request_is_answered_by_the_laptop_and_printed_as_one_line(said: Said) -> None:
    async with site() as where, app() as port, up(settings(where.url, f"foo=127.0.0.1:{port}")) as task:
        await online(where, task)
        assert (await fetch(where)).body == b"from the laptop"
        await eventually(lambda: said("GET"))
    lines = said.output.splitlines()
    assert lines[0] == f"alice is online at {where.url}"
    assert lines[1] == f"  foo -> http://127.0.0.1:{port}"
    assert """  X-devroute: {"foo": "alice"}""" in lines
    assert """  curl -H 'X-devroute: {"foo": "alice"}' URL""" in lines
    assert "  (the proxy's setting entry_url states no URL for it)" in lines
    (line,) = [line for line in lines if "GET" in line]
    assert line.split()[1:4] == ["GET", "/path?q=1", "200"]
    assert line.endswith("15 B")


async def test_a_command_and_a_link_that_work_are_printed_where_the_proxy_knows_its_entries(
    said: Said,
) -> None:
    entries = {"shop": "https://shop.example", "foo": "https://foo.example/x"}
    async with (
        site(entries=entries, entry_links=True) as where,
        app() as port,
        up(settings(where.url, f"foo=127.0.0.1:{port}")) as task,
    ):
        await online(where, task)
        assert (await fetch(where)).body == b"from the laptop"
        await eventually(lambda: said("GET"))
    lines = said.output.splitlines()
    assert """  curl -H 'X-devroute: {"foo": "alice"}' https://foo.example/x""" in lines
    assert "  also by shop: https://shop.example" in lines
    assert "Browser: https://foo.example/x?devroute=%7B%22foo%22%3A%22alice%22%7D" in lines


async def test_an_open_inspector_and_its_history_survive_a_restart(said: Said, tmp_path: Path) -> None:
    async with (
        site() as where,
        app() as port,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
    ):
        wanted = settings(where.url, f"foo=127.0.0.1:{port}", inspector_history=True)
        async with up(wanted, tmp_path) as task:
            await online(where, task)
            await fetch(where)
            await eventually(lambda: said("GET"))
            found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", said.output)
            assert found is not None
            async with browser.get(found[0]) as opened:
                page = str(opened.url)
        async with up(wanted, tmp_path) as task:
            await online(where, task)

            async def restored() -> Any:
                async with browser.get(f"{page}api/exchanges") as listed:
                    return (await listed.json())["exchanges"]

            (kept,) = await eventually(restored)
    assert (kept["id"], kept["target"]) == (1, "/path?q=1")


async def test_with_output_json_each_event_is_one_object(said: Said, unused_tcp_port: int) -> None:
    json_form = {"output": "json", "name": "alice--2", "inspector": unused_tcp_port}
    async with (
        site() as where,
        app() as port,
        up(settings(where.url, f"foo=127.0.0.1:{port}", **json_form)) as task,
    ):
        await online(where, task, "alice--2")
        await fetch(where, "alice--2")
        await eventually(lambda: said("/path?q=1"))
    events = [json.loads(line) for line in said.output.splitlines()]
    assert [event["event"] for event in events][:2] == ["online", "request"]
    assert events[0]["contract"] == '{"foo": "alice--2"}'
    assert events[0]["inspector"].startswith(f"http://127.0.0.1:{unused_tcp_port}/?token=")
    assert events[0]["services"] == [{"service": "foo", "local": f"http://127.0.0.1:{port}", "direct": None}]
    wanted = {
        "service": "foo",
        "method": "GET",
        "path": "/path?q=1",
        "status": 200,
        "bytes": 15,
        "code": None,
    }
    assert wanted.items() <= events[1].items()


async def test_an_app_that_does_not_listen_is_the_caller_s_502_and_the_engineer_s_hint(
    said: Said, unused_tcp_port: int
) -> None:
    async with site() as where, up(settings(where.url, f"foo=127.0.0.1:{unused_tcp_port}")) as task:
        await online(where, task)
        for _ in range(3):
            error = (await fetch(where)).error
            assert isinstance(error, AppUnreachable)
            assert error.status == 502
        await eventually(lambda: said.count("app-unreachable") == 3)
    assert said.count("start the app of 'foo'") == 1


async def test_a_direct_address_is_registered_and_nothing_is_tunnelled() -> None:
    spec = ServiceSpec("foo", "localhost", 8001, direct=Address("192.168.1.12", 8001))
    async with site() as where, up(settings(where.url).model_copy(update={"services": (spec,)})) as task:
        await online(where, task)
        assert where.registry.lookup("alice", "foo").address == Address("192.168.1.12", 8001)


async def test_a_service_of_one_namespace_gets_what_a_contract_names_there(said: Said) -> None:
    async with (
        site() as where,
        app(b"of the shop") as shop,
        app(b"of all others") as others,
        up(settings(where.url, f"foo.shop=127.0.0.1:{shop}", f"foo=127.0.0.1:{others}")) as task,
    ):
        await online(where, task)
        for named, body in (
            ("foo.shop", b"of the shop"),
            ("foo.qa", b"of all others"),
            ("foo", b"of all others"),
        ):
            entry = parse(json.dumps({named: "alice"})).entries[named]
            upstream, _ = select_target(entry, Policy(), where.registry)
            assert not isinstance(upstream, Address)
            client = Client()
            upstream.open(get(), client)
            await asyncio.wait_for(client.done.wait(), 20)
            assert client.body == body
        await eventually(lambda: said("""X-devroute: {"foo.shop": "alice", "foo": "alice"}"""))


# --- final errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"), [({"token": "wrong"}, TokenInvalid), ({"name": "bob"}, NameNotOwned)]
)
async def test_a_refusal_of_the_server_is_raised(changes: dict[str, str], error: type[DevrouteError]) -> None:
    async with site() as where:
        with pytest.raises(error):
            await asyncio.wait_for(agent.run(settings(where.url, **changes)), 20)


async def test_an_unreachable_server_is_raised_with_a_hint(unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnreachable) as caught:
        await agent.run(settings(f"http://127.0.0.1:{unused_tcp_port}"))
    assert "DEVROUTE_SERVER" in caught.value.hint


# --- two processes of one laptop


def holders(where: Site) -> list[list[str]]:
    """The services of each process of the laptop, the oldest first."""
    return [sorted(each.services) for each in where.registry.registrations()]


async def test_a_second_up_with_other_services_shares_the_name_and_both_terminals_say_so(
    said: Said,
) -> None:
    async with (
        site() as where,
        app(b"1") as one,
        app(b"2") as two,
        up(settings(where.url, f"foo=127.0.0.1:{one}")) as first,
    ):
        await online(where, first)
        async with up(settings(where.url, f"bar=127.0.0.1:{two}")):
            await eventually(lambda: holders(where) == [["foo"], ["bar"]])
            await eventually(lambda: said("joined alice: it serves 'bar'"))
            await eventually(lambda: said("alice has another devroute up, which serves 'foo' since "))
            for service, body in (("foo", b"1"), ("bar", b"2")):
                client = Client()
                where.upstream("alice", service).open(get(), client)
                await client.done.wait()
                assert client.body == body
        await eventually(lambda: holders(where) == [["foo"]])
        assert not first.done()


async def test_a_second_up_with_the_same_service_says_who_has_it_and_leaves_the_first_alone() -> None:
    async with site() as where, up(settings(where.url, "foo=1", "bar=2")) as first:
        await online(where, first)
        with pytest.raises(
            NameTaken, match=r"'foo' already: another devroute up of 'alice'.* since 20"
        ) as caught:
            await asyncio.wait_for(agent.run(settings(where.url, "foo=3", "baz=4")), 20)
        assert "--takeover" in caught.value.hint
        assert holders(where) == [["bar", "foo"]]
        assert not first.done()


async def test_takeover_of_some_services_leaves_the_others_and_outlasts_a_reconnect(
    said: Said,
) -> None:
    where = await start_site(free_port())
    async with up(settings(where.url, "foo=1", "bar=2")) as first:
        await online(where, first)
        async with up(settings(where.url, "foo=3", takeover=True)) as second:
            await eventually(lambda: holders(where) == [["bar"], ["foo"]])
            await eventually(lambda: said("'foo' of alice taken over from another devroute up since "))
            await eventually(lambda: said("took over 'foo' (--takeover)"))
            await where.stop()
            again = await start_site(where.port)
            try:
                await eventually(lambda: sorted(holders(again)) == [["bar"], ["foo"]])
                assert not first.done()
                assert not second.done()
            finally:
                await again.stop()


async def test_takeover_of_all_services_ends_the_first_with_the_reason() -> None:
    async with site() as where, up(settings(where.url)) as first:
        await online(where, first)
        async with up(settings(where.url, takeover=True)):
            with pytest.raises(LinkReplaced, match="took over foo") as caught:
                await asyncio.wait_for(asyncio.shield(first), 20)
            assert "--name" in caught.value.hint
            assert holders(where) == [["foo"]]


# --- dialling again -----------------------------------------------------------------------------------


async def test_after_a_restart_of_the_server_the_laptop_is_back(said: Said) -> None:
    where = await start_site(free_port())
    async with app() as port, up(settings(where.url, f"foo=127.0.0.1:{port}")) as task:
        await online(where, task)
        await where.stop()
        again = await start_site(where.port)
        try:
            await online(again, task)
            assert (await fetch(again)).body == b"from the laptop"
            await eventually(lambda: said("alice is online again"))
        finally:
            await again.stop()
    assert said("the tunnel is down: the server is stopping")


async def test_a_revoked_token_ends_the_agent() -> None:
    where = await start_site(free_port())
    async with up(settings(where.url)) as task:
        await online(where, task)
        await where.stop()

        async def refuse(authorization: str, certificate: PeerCertificate | None) -> Identity:
            raise TokenInvalid("the token is not known to this server")

        again = await start_site(where.port)
        again.tunnels.authenticate = refuse
        try:
            with pytest.raises(TokenInvalid):
                await asyncio.wait_for(asyncio.shield(task), 20)
        finally:
            await again.stop()


def expire_tokens(where: Site) -> None:
    """The proxy's review of identities, at a time when every token has expired."""

    def expired(identity: Identity, now: float) -> None:
        raise TokenExpired(f"the token of '{identity.subject}' has expired")

    where.tunnels.review_identities(expired, math.inf, object())


async def test_a_laptop_whose_token_has_expired_is_back_as_soon_as_there_is_another(
    tmp_path: Path, said: Said
) -> None:
    file = tmp_path / "token"
    file.write_text("alice-token")

    command = {"token": "", "token_command": ("cat", str(file))}
    async with site() as where, up(settings(where.url, output="json", **command)) as task:
        await online(where, task)
        file.write_text("")
        expire_tokens(where)
        await eventually(lambda: said("did not print a token"))
        assert not where.registry.listing()
        file.write_text("alice-token")
        await online(where, task)
        await eventually(lambda: said('"back"'))
    assert not said("alice-token")


async def test_an_expired_token_without_a_command_ends_the_agent_with_a_hint() -> None:
    async with site() as where, up(settings(where.url)) as task:
        await online(where, task)
        expire_tokens(where)
        with pytest.raises(TokenExpired, match="the token of 'alice' has expired") as caught:
            await asyncio.wait_for(asyncio.shield(task), 20)
    assert exit_code_for(caught.value) == 30
    assert "--token-command" in caught.value.hint


@pytest.mark.parametrize("slept", [10, 3600])
async def test_a_laptop_that_wakes_up_probes_its_link_and_stops_waiting(
    slept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long sleep the link is not even probed."""
    if slept > link_monitor.LOST_SECONDS:
        monkeypatch.setattr(link_monitor, "PROBE_SECONDS", 1000)
    else:
        monkeypatch.setattr(link_monitor, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(link_monitor, "WATCH_SECONDS", 0.01)
    now = 0.0
    writer = TerminalWriter(io.StringIO())
    async with site() as where:
        monitor = LinkMonitor(LineReporter("text", writer), asyncio.get_running_loop(), lambda: now)
        link = await connect(where, {"foo": object()})  # type: ignore[dict-item]  # never opened
        monitor.follow(link)
        await link.welcome
        (theirs,) = where.tunnels.links
        theirs.transport.pause_reading()
        monitor.start()
        now += slept
        async with asyncio.timeout(20):
            await monitor.woken.wait()
            await link.close_reason
        monitor.stop()
        theirs.transport.abort()
    writer.close()


async def test_the_watch_goes_on_after_a_moment_without_file_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_monitor, "WATCH_SECONDS", 0.01)
    now = 0.0
    tried = asyncio.Event()

    def no_descriptor(*_: object) -> None:
        tried.set()
        raise OSError(errno.EMFILE, "Too many open files")

    writer = TerminalWriter(io.StringIO())
    async with site() as where:
        monitor = LinkMonitor(LineReporter("text", writer), asyncio.get_running_loop(), lambda: now)
        link = await connect(where, {"foo": object()})  # type: ignore[dict-item]  # never opened
        monitor.follow(link)
        monitor.start()
        with monkeypatch.context() as patch:
            patch.setattr("devroute.agent.network._udp_socket", no_descriptor)
            async with asyncio.timeout(20):
                await tried.wait()
        now += 10
        async with asyncio.timeout(20):
            await monitor.woken.wait()
        assert link.close_error is None
        monitor.stop()
        (theirs,) = where.tunnels.links
        theirs.transport.abort()
    writer.close()


# --- the child ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "script"),
    [
        (0, "pass"),
        (7, "import os; exit(int(os.environ['FROM_THE_WORKLOAD']))"),
        (137, "import os; os.kill(os.getpid(), 9)"),
    ],
)
async def test_the_app_gets_its_variables_and_its_exit_code_is_passed_on(code: int, script: str) -> None:
    async with site() as where:
        of = settings(where.url, command=(sys.executable, "-c", script))
        running = agent.run(of, variables={"FROM_THE_WORKLOAD": "7"})
        assert await asyncio.wait_for(running, 20) == code
        assert where.registry.listing() == []


async def test_a_command_that_does_not_exist_is_a_clear_error() -> None:
    async with site() as where:
        with pytest.raises(ConfigInvalid, match="no-such-command"):
            await asyncio.wait_for(agent.run(settings(where.url, command=("no-such-command",))), 20)


CHILD = """
import os, pathlib, signal, sys
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
signal.pause()
"""


def content(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def written(file: Path) -> None:
    await eventually(lambda: content(file))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_a_signal_ends_the_link_before_the_child(tmp_path: Path, number: int, code: int) -> None:
    pid_file = tmp_path / "pid"
    async with site() as where:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", "up", "foo=8001", "--"),
            *(sys.executable, "-c", CHILD, str(pid_file), "tame"),
            env=os.environ
            | {"DEVROUTE_SERVER": where.url, "DEVROUTE_TOKEN": "alice-token", "HOME": str(tmp_path)},
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            await written(pid_file)
            process.send_signal(number)
            out, _ = await process.communicate()
        assert process.returncode == code, out
        assert b"Traceback" not in out
        assert where.registry.listing() == []
        with pytest.raises(ProcessLookupError):
            os.kill(int(content(pid_file)), 0)


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = await ChildProcess.start((sys.executable, "-c", CHILD, str(pid_file), "stubborn"))
    await written(pid_file)
    await asyncio.wait_for(child.stop(grace=0.1), 20)
    assert await child.wait() == 128 + signal.SIGKILL


# --- reports ------------------------------------------------------------------------------------------


class BlockedTerminal(io.StringIO):
    """Takes nothing until `open` is set, as a terminal that the user has paused."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def write(self, text: str) -> int:
        self.open.wait()
        return super().write(text)


async def test_a_blocked_terminal_does_not_block_the_tunnel() -> None:
    terminal = BlockedTerminal()
    reporter = LineReporter("text", TerminalWriter(terminal))
    finished = Finished("foo", "GET", "/first", 200, 0.0, 0.001, 5, "", "")
    started = time.process_time()
    for _ in range(2000):
        reporter.request(finished)
        reporter.flush()
    assert time.process_time() - started < 2  # what blocks would not return
    terminal.open.set()
    await eventually(lambda: terminal.getvalue().count("/first") > MAX_BATCHES)
    reporter.request(finished._replace(target="/last"))
    reporter.close()
    assert "/last" in terminal.getvalue()
    assert "more requests are not shown" in terminal.getvalue()


async def test_a_path_cannot_control_the_terminal() -> None:
    shown = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(shown))
    reporter.request(Finished("foo", "GET", "/\x1b[2J", 200, 0.0, 12.34, 5_300_000, "", ""))
    reporter.close()
    line = shown.getvalue()
    assert "\x1b" not in line
    assert "12.3 s  5.3 MB" in line
