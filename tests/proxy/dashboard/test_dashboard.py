"""The team's page without a browser: its link, session, rows and administrators, on a running proxy."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from devroute.errors import RegistrationEnded, SubjectBlocked
from tests.proxy.dashboard.team import JSON, Team, team
from tests.support.eventually import PATIENCE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENTRY = {"entry_url": "https://qa.example", "entry_links": True}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Team]:
    async with team(tmp_path_factory.mktemp("team"), **ENTRY) as running:
        yield running


# --- the link -----------------------------------------------------------------------------------------------


async def test_a_link_opens_one_session_and_leaves_no_code_in_the_url(here: Team) -> None:
    code = await here.code("alice")
    status, _, headers = await here.ask("GET", f"/dashboard/?code={code}", {"sec-fetch-site": "none"})
    assert (status, headers["location"]) == (303, "./")
    cookie = headers["set-cookie"]
    name, _, flags = cookie.partition("; ")
    assert name.startswith(f"devroute-dashboard-{here.proxy.control_port}=")
    assert code not in cookie
    assert {"HttpOnly", "Path=/", "SameSite=Strict"} <= set(flags.split("; "))
    assert 0 < int(re.search(r"Max-Age=(\d+)", flags)[1]) <= 8 * 3600  # type: ignore[index]
    status, text, _ = await here.ask("GET", f"/dashboard/?code={code}", {"sec-fetch-site": "none"})
    assert (status, "used before" in text) == (401, True)
    await eventually(lambda: "alice" in [each["subject"] for each in here.audited("login")])
    status, text, _ = await here.ask("GET", "/dashboard/", {"cookie": name})
    assert (status, "team.js" in text) == (200, True)


@pytest.mark.parametrize("site", [None, "cross-site", "same-site"])
async def test_a_link_of_another_site_asks_before_it_opens_a_session(here: Team, site: str | None) -> None:
    sent = {} if site is None else {"sec-fetch-site": site}
    code = await here.code("bob")
    status, text, headers = await here.ask("GET", f"/dashboard/?code={code}", sent)
    assert (status, "set-cookie" in headers) == (200, False)
    assert f'value="{code}"' in text
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = f"code={code}".encode()
    for foreign in ({"origin": "https://evil.example"}, {}, {"origin": "null"}):
        other = f"code={await here.code('bob')}".encode()
        assert (await here.ask("POST", "/dashboard/", form | foreign, other))[0] == 403
    assert (await here.ask("POST", "/dashboard/", form | {"origin": here.url}, body))[0] == 303


FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=a"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (f"{FORM}; charset=nope", b"code=x"),
        (FORM, b"code=\xff"),
        (FORM, b"code=%ff&code=x"),
        (FORM, b"a=&" * 2000),
        ("multipart/form-data", b"x"),
        (PARTS, b"x"),
        (PARTS, b"--a\r\n\r\nx\r\n--a--\r\n"),
        (PARTS, b"--a\r\ncontent-disposition: form-data; name=code\r\n"
                b"content-transfer-encoding: nope\r\n\r\nx\r\n--a--\r\n"),
    ],
)  # fmt: skip
async def test_a_form_that_no_browser_would_send_is_an_invalid_code(
    here: Team, kind: str, body: bytes
) -> None:
    headers = {"content-type": kind, "origin": here.url}
    status, text, _ = await here.ask("POST", "/dashboard/", headers, body)
    assert (status, "no valid code" in text) == (401, True)


@pytest.mark.parametrize("host", ["", "\udcff\udcfe", "a b", "x" * 400, "a/b"])
async def test_a_link_is_for_a_host_that_browsers_can_name(here: Team, host: str) -> None:
    status, answer, _ = await here.ask(
        "POST", "/api/login", here.token("alice") | {"host": host}, {"origin": here.url}
    )
    assert (status, answer["code"]) == (400, "request-malformed")


async def test_a_code_in_a_link_stays_text(here: Team) -> None:
    path = "/dashboard/?code=%22%3E%3Cscript%3Ewindow.owned=1%3C/script%3E"
    status, text, _ = await here.ask("GET", path, {"sec-fetch-site": "cross-site"})
    assert (status, "<script>" in text) == (401, False)


async def test_only_a_token_makes_a_code_and_no_site_does(here: Team) -> None:
    body = {"origin": here.url}
    cookie = await here.session("alice")
    token = here.token("alice")
    for headers, status, code in (
        ({}, 401, "token-invalid"),
        ({"authorization": "Bearer dvr_no"}, 401, "token-invalid"),
        (cookie, 401, "token-invalid"),
        (token | {"sec-fetch-site": "cross-site"}, 403, "origin-denied"),
    ):
        found, answer, _ = await here.ask("POST", "/api/login", {**JSON, **headers}, body)
        assert (found, answer["code"]) == (status, code)
    for origin in (
        "",
        "evil.example",
        "https://a/b",
        "javascript:1",
        "https://a@b",
        7,
        None,
        "https://" + "a" * 400,
    ):
        found, answer, _ = await here.ask("POST", "/api/login", token | JSON, {"origin": origin})
        assert (found, answer["code"]) == (400, "request-malformed")


async def test_a_link_and_its_session_are_for_the_url_that_the_token_was_sent_to(here: Team) -> None:
    """DNS rebinding: another name leads to the server."""
    elsewhere = {"host": "evil.example", "sec-fetch-site": "none"}
    status, text, _ = await here.ask("GET", f"/dashboard/?code={await here.code('alice')}", elsewhere)
    assert (status, "another URL" in text) == (403, True)
    cookie = await here.session("alice")
    name, _, value = cookie["cookie"].partition("=")
    for host, named in (
        ("evil.example", "devroute-dashboard"),
        (f"evil.example:{here.proxy.control_port}", name),
    ):
        headers = {"cookie": f"{named}={value}", "host": host, "sec-fetch-site": "same-origin"}
        status, answer, _ = await here.ask("GET", "/dashboard/status", headers)
        assert (status, answer["code"]) == (403, "origin-denied")


async def test_over_https_the_cookie_is_bound_to_the_host(here: Team) -> None:
    code = await here.code("alice", f"https://{here.host}")
    _, _, headers = await here.ask("GET", f"/dashboard/?code={code}", {"sec-fetch-site": "none"})
    cookie = headers["set-cookie"]
    assert cookie.startswith("__Host-devroute-dashboard-")
    assert "Secure" in cookie.split("; ")
    plain = cookie.partition(";")[0].removeprefix("__Host-")
    status, answer, _ = await here.ask("GET", "/dashboard/status", {"cookie": plain})
    assert (status, answer["code"]) == (401, "session-ended")


# --- the session --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},  # the same site: SameSite ignores ports
        {"origin": "http://evil.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
async def test_no_other_site_uses_the_session_of_a_browser(here: Team, headers: dict[str, str]) -> None:
    cookie = {"cookie": (await here.session("carol"))["cookie"]}
    for method, path in (
        ("DELETE", "/api/laptops/alice"),
        ("PUT", "/api/blocks/alice"),
        ("DELETE", "/api/blocks/alice"),
        ("POST", "/dashboard/logout"),
    ):
        status, answer, _ = await here.ask(method, path, {**cookie, **JSON, **headers}, {"seconds": 60})
        assert (status, answer["code"]) == (403, "origin-denied"), path
    assert (await here.ask("GET", "/api/blocks", here.token("carol")))[1] == {"blocks": []}


async def test_nothing_of_the_page_may_be_framed_or_read_by_others(here: Team) -> None:
    cookie = await here.session("alice")
    for path in ("/dashboard/", "/dashboard/page/team.js", "/dashboard/status", "/dashboard/?code=no"):
        _, _, headers = await here.ask("GET", path, cookie)
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


async def test_a_session_ends_by_its_user(here: Team) -> None:
    cookie = await here.session("alice")
    assert (await here.ask("GET", "/dashboard/status", cookie))[0] == 200
    assert (await here.ask("POST", "/dashboard/logout", cookie | {"origin": here.url}))[0] == 200
    status, answer, _ = await here.ask("GET", "/dashboard/status", cookie)
    assert (status, answer["code"]) == (401, "session-ended")


async def test_a_revoked_token_ends_its_sessions_and_open_pages(tmp_path: Path) -> None:
    async with team(tmp_path) as here:
        cookie = await here.session("alice")
        async with here.events(cookie) as stream, here.events(here.token("bob")) as other:
            await stream.until(lambda each: each.hello)
            here.revoke("alice")
            while await stream.next():
                pass
            await here.laptop("bob", "shop")
            await other.until(lambda each: each.of("laptop"))
        status, answer, _ = await here.ask("GET", "/dashboard/status", cookie)
        assert (status, answer["code"]) == (401, "session-ended")


# --- the rows -----------------------------------------------------------------------------------------------


async def test_the_page_shows_who_is_on_what_as_it_changes(here: Team) -> None:
    async with here.events(await here.session("bob")) as stream:
        await stream.until(lambda each: each.hello)
        assert (stream.hello["you"], stream.hello["admin"]) == ("bob", False)
        link = await here.laptop("alice", "shop", "cart")
        (row,) = await stream.until(lambda each: each.of("laptop"))
        assert (row["laptop"], row["subject"], row["agent"]) == ("alice", "alice", "test")
        assert row["contract"] == '{"shop": "alice", "cart": "alice"}'
        shop, cart = row["services"]
        assert (shop["service"], shop["via"], shop["requests"]) == ("shop", "tunnel", 0)
        assert cart["join"] == "https://qa.example/?devroute=%7B%22cart%22%3A%22alice%22%7D"
        measured = await stream.until(
            lambda each: [r for r in each.of("laptop") if r["round_trip_ms"] is not None]
        )
        assert 0 <= measured[0]["round_trip_ms"] < 10_000
        link.transport.abort()
        await stream.until(lambda each: not each.of("laptop"))


async def test_the_page_shows_fallbacks_with_their_reason(here: Team) -> None:
    async with here.events(here.token("bob")) as stream:
        for _ in range(2):
            asked = {"x-devroute": '{"shop": "dora"}', "x-devroute-candidates": "shop"}
            await here.ask("GET", "/resolve", asked)
        (row,) = await stream.until(lambda each: [r for r in each.of("fallback") if r["times"] == 2])
    assert (row["service"], row["target"], row["code"]) == ("shop", "dora", "laptop-offline")
    assert row["reason"] == "laptop 'dora' is not online"


async def test_the_page_shows_contracts_that_have_a_name_without_their_conditions(here: Team) -> None:
    async with here.events(here.token("bob")) as stream:
        body = {"contract": '{"shop": {"to": "alice", "path": "/hidden/"}}'}
        saved = await here.ask("PUT", "/api/contracts/demo", here.token("alice") | JSON, body)
        assert saved[0] == 201, saved
        (row,) = await stream.until(lambda each: each.of("contract"))
        assert (row["name"], row["owner"], row["targets"]) == ("@demo", "alice", {"shop": "alice"})
        assert (row["contract"], row["join"]) == ("@demo", "https://qa.example/?devroute=%40demo")
        assert "hidden" not in str(stream.rows)
        await here.ask("DELETE", "/api/contracts/demo", here.token("alice"))
        await stream.until(lambda each: not each.of("contract"))


async def test_pages_of_one_subject_are_bounded(here: Team) -> None:
    async with asyncio.TaskGroup() as group:
        done = asyncio.Event()
        opened: list[Any] = []

        async def hold() -> None:
            async with here.events(here.token("alice")) as stream:
                await stream.next()
                opened.append(stream)
                await done.wait()

        for _ in range(8):
            group.create_task(hold())
        await eventually(lambda: len(opened) == 8)
        status, answer, _ = await here.ask("GET", "/dashboard/events", here.token("alice"))
        assert (status, answer["code"]) == (429, "too-many-pages")
        done.set()

    async def reopened() -> bool:
        async with here.client.get(f"{here.url}/dashboard/events", headers=here.token("alice")) as response:
            return response.status == 200

    await eventually(reopened)  # pages that are closed do not count for long


async def test_pages_end_as_soon_as_the_server_is_about_to_stop(tmp_path: Path) -> None:
    """Not once it has: requests in flight may take the whole `drain_timeout`."""
    arrived, respond = asyncio.Event(), asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await respond.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with (
        await asyncio.start_server(app, "127.0.0.1", 0) as listening,
        team(tmp_path, drain_timeout=600.0) as here,
        here.events(here.token("alice")) as stream,
    ):
        port = listening.sockets[0].getsockname()[1]
        await stream.until(lambda each: each.hello)
        reader, writer = await asyncio.open_connection("127.0.0.1", here.proxy.data_port)
        head = (
            'GET / HTTP/1.1\r\nhost: b\r\nx-devroute: {"b": "127.0.0.1:%d"}\r\nx-devroute-matched: b\r\n\r\n'
        )
        writer.write((head % port).encode())
        await asyncio.wait_for(arrived.wait(), PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            stopping = group.create_task(here.stop())
            while await stream.next():
                pass
            assert not stopping.done()
            respond.set()
            assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.close()


# --- administrators -----------------------------------------------------------------------------------------

ACTIONS = (
    ("DELETE", "/api/laptops/alice", None),
    ("GET", "/api/blocks", None),
    ("PUT", "/api/blocks/alice", {"seconds": 60}),
    ("DELETE", "/api/blocks/alice", None),
)


async def test_everyone_else_is_refused_with_a_code(here: Team) -> None:
    link = await here.laptop("alice", "shop")
    cookie = await here.session("bob") | {"origin": here.url}
    for method, path, body in ACTIONS:
        for headers in (here.token("bob"), cookie):
            status, answer, _ = await here.ask(method, path, {**JSON, **headers}, body)
            assert (status, answer["code"]) == (403, "admin-required"), (method, path)
        assert (await here.ask(method, path, JSON, body))[0] == 401
    assert link.close_error is None
    refused = await eventually(lambda: [e for e in here.audited("refusal") if e["code"] == "admin-required"])
    assert refused[0]["subject"] == "bob"
    link.transport.abort()


async def test_an_administrator_ends_a_registration_with_a_reason(here: Team) -> None:
    link = await here.laptop("alice", "shop")
    cookie = await here.session("carol") | {"origin": here.url}
    status, answer, _ = await here.ask("DELETE", "/api/laptops/alice", cookie | JSON, {"reason": "the demo"})
    assert (status, answer) == (200, {"ended": 1})
    await link.close_reason
    assert link.goaway is not None
    assert link.goaway.code == RegistrationEnded.code
    assert "'carol' has ended this registration: the demo" in link.goaway.message
    found = await eventually(lambda: [e for e in here.audited("admin") if e["action"] == "end"])
    assert {k: found[-1][k] for k in ("subject", "affected", "laptop", "reason")} == {
        "subject": "carol",
        "affected": "alice",
        "laptop": "alice",
        "reason": "the demo",
    }
    assert (await here.ask("DELETE", "/api/laptops/alice", cookie | JSON))[0] == 404


async def test_a_blocked_subject_is_gone_and_may_not_come_back_until_it_is_unblocked(here: Team) -> None:
    link = await here.laptop("alice", "shop")
    page = await here.session("alice")
    carol = here.token("carol") | JSON
    async with here.events(page) as stream, here.events(here.token("carol")) as watched:
        await stream.until(lambda each: each.hello)
        status, answer, _ = await here.ask(
            "PUT", "/api/blocks/alice", carol, {"seconds": 3600, "reason": "the audit"}
        )
        assert (status, answer["by"], answer["laptops"]) == (200, "carol", 1)
        await link.close_reason
        assert link.goaway is not None
        assert link.goaway.code == SubjectBlocked.code
        while await stream.next():
            pass
        await watched.until(lambda each: each.of("block"))
    assert (await here.ask("GET", "/dashboard/status", page))[1]["code"] == "session-ended"
    with pytest.raises(SubjectBlocked, match=r"'carol' has blocked 'alice' until .*: the audit"):
        await here.laptop("alice", "shop")
    assert (await here.ask("GET", "/api/laptops", here.token("alice")))[1]["code"] == "subject-blocked"
    assert [each["subject"] for each in (await here.ask("GET", "/api/blocks", carol))[1]["blocks"]] == [
        "alice"
    ]
    assert (await here.ask("DELETE", "/api/blocks/alice", carol))[0] == 200
    assert (await here.ask("DELETE", "/api/blocks/alice", carol))[0] == 404
    (await here.laptop("alice", "shop")).transport.abort()
    actions = await eventually(lambda: [e for e in here.audited("admin") if e["action"] == "unblock"])
    assert actions[-1]["affected"] == "alice"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/blocks/carol", {"seconds": 60}),  # oneself
        ("/api/blocks/alice", {"seconds": 1}),
        ("/api/blocks/alice", {"seconds": 10**9}),
        ("/api/blocks/alice", {"seconds": 60, "reason": "x" * 201}),
        ("/api/blocks/alice", {"seconds": 60, "more": 1}),
        ("/api/blocks/alice", b"no json"),
        ("/api/blocks/A%22%3E", {"seconds": 60}),
    ],
)
async def test_a_block_that_makes_no_sense_is_refused(here: Team, path: str, body: object) -> None:
    status, answer, _ = await here.ask("PUT", path, here.token("carol") | JSON, body)
    assert (status, answer["code"]) == (400, "request-malformed")
