"""The copied curl command sends the same request, and runs nothing else."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from devroute.errors import NotReplayable
from devroute.inspector import curl
from devroute.inspector.capture import Capture, CapturedHead
from devroute.inspector.curl import MAX_ARGUMENT
from tests.support.eventually import PATIENCE_S
from tests.support.examples import examples

#: A stand-in for curl that writes its arguments and its input to files.
FAKE = """#!/bin/sh
for each in "$@"; do printf '%s\\000' "$each"; done > "$SEEN"
if [ ! -t 0 ]; then cat > "$SEEN.in"; fi
"""


def capture(method: str = "GET", target: str = "/", body: bytes = b"", **fields: str) -> Capture:
    made = Capture("foo", method, target, 0, 0)
    made.request_head = CapturedHead.of(
        [
            ("host", "foo"),
            *((name.replace("_", "-"), value) for name, value in fields.items()),
        ]
    )
    made.request_body.data += body
    made.request_body.size = len(body)
    made.request_body.complete = True
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("curl")
    (where / "curl").write_text(FAKE)
    (where / "curl").chmod(0o755)
    return where


def run(command: str, folder: Path, shell: str = "bash") -> tuple[list[bytes], bytes]:
    """The arguments and the input that curl gets."""
    seen = folder / "seen"
    (folder / "seen.in").unlink(missing_ok=True)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SEEN": str(seen), "LC_ALL": "C.UTF-8"}
    script = folder / "script"
    script.write_text(command, "utf-8", newline="")
    subprocess.run([shell, script], env=environment, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
    return seen.read_bytes().split(b"\0")[:-1], (folder / "seen.in").read_bytes()


def data_of(arguments: list[bytes], piped: bytes) -> bytes:
    if b"--data-binary" in arguments:
        assert arguments[arguments.index(b"--data-binary") + 1] == b"@-"
        return piped
    return arguments[arguments.index(b"--data-raw") + 1] if b"--data-raw" in arguments else b""


def as_curl(made: Capture, base: str, contract: str | None = None) -> str:
    return curl.as_curl(made, base, contract).command


nasty = st.text(st.sampled_from("a'\"$`\\!@#{}[]()<>|&;*?~=% \n\r\t\x1b\x07é\u202e\x00")) | st.text()


@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(nasty.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(), st.binary(max_size=30))
def test_curl_sends_any_bytes_unchanged(folder: Path, body: bytes, value: bytes) -> None:
    value = bytes(byte for byte in value if byte == 9 or (byte >= 32 and byte != 127)).strip(b" \t")
    made = capture("POST", "/a'b$(c)`d`?e=[1]&f={2}", body, x_a=value.decode("latin-1"))
    arguments, piped = run(as_curl(made, "http://localhost:8001"), folder)
    assert data_of(arguments, piped) == body
    assert b"http://localhost:8001/a'b$(c)`d`?e=[1]&f={2}" in arguments
    assert b"--globoff" in arguments
    assert (b"x-a: " + value if value else b"x-a;") in arguments


def test_a_simple_request_gives_a_simple_command() -> None:
    command = as_curl(capture("GET", "/p?a=1", accept="*/*", via="1.1 devroute"), "http://foo")
    assert command == "curl 'http://foo/p?a=1' \\\n  -H 'accept: */*'"


def test_plain_text_works_in_every_shell(folder: Path) -> None:
    made = capture("PUT", "/", b'{"it\'s": "two\nlines"}', content_type="application/json")
    command = as_curl(made, "http://localhost:8001/")
    arguments, piped = run(command, folder, "sh")
    assert arguments[:3] == [b"--request", b"PUT", b"http://localhost:8001/"]
    assert data_of(arguments, piped) == b'{"it\'s": "two\nlines"}'


def test_a_body_too_long_for_an_argument_goes_through_a_pipe(folder: Path) -> None:
    for body in (b"'x\n" * (MAX_ARGUMENT // 2), bytes(range(256)) * 600):
        arguments, piped = run(as_curl(capture("POST", "/", body), "http://x"), folder)
        assert data_of(arguments, piped) == body


def test_a_body_that_looks_like_a_file_argument_is_not_read_as_a_file(folder: Path) -> None:
    arguments, piped = run(as_curl(capture("POST", "/", b"@/etc/passwd"), "http://x"), folder)
    assert data_of(arguments, piped) == b"@/etc/passwd"
    assert b"--data-raw" in arguments


def test_an_incomplete_request_gives_no_command() -> None:
    cut = capture("POST", "/", b"abc")
    cut.request_body.truncated = True
    talk = capture()
    talk.kind = "websocket"
    for each in (cut, talk):
        with pytest.raises(NotReplayable):
            as_curl(each, "http://x")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.asyncio
async def test_real_curl_sends_the_same_request() -> None:
    seen: list[Any] = []

    async def keep(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, await request.read(), request.headers.copy()))
        return web.Response()

    async with TestServer(_app(keep)) as server:
        binary = bytes(range(256))
        for made in (
            capture("POST", "/./a/../b?x=[1-3]{a,b}&y=%20'", binary, x_empty="", x_odd="caf\xc3\xa9"),
            capture("DELETE", "/a", b"", x_a="it's"),
            capture("POST", "/text", b'{"a": "@b"}\n', content_type="application/json"),
            capture("HEAD", "/a"),
            capture("PATCH", "/none"),
        ):
            seen.clear()
            command = as_curl(made, f"http://127.0.0.1:{server.port}")
            await _shell(command)
            ((method, path, body, headers),) = seen
            assert (method, path, body) == (made.method, made.target, bytes(made.request_body.data))
            assert headers["host"] == "foo"
            for name, value in made.request_headers[1:]:
                assert headers[name].encode("utf-8", "surrogateescape") == value.encode("latin-1"), name
            assert ("Content-Type" in headers or "content-type" in headers) is (b'"a"' in body)


def _app(handler: Any) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app


async def _shell(command: str) -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    run = await asyncio.create_subprocess_exec(
        "bash", "-c", command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert await asyncio.wait_for(run.wait(), 20) == 0


REDACTED_BODY = b'{"password": "[redacted]", "pins": ["[redacted]"], "note": "it\'s [redacted]"}'


def test_what_was_redacted_is_a_variable_that_has_to_be_set(folder: Path) -> None:
    made = capture(
        "POST",
        "/?api_key=%5Bredacted%5D&a=1",
        REDACTED_BODY,
        authorization="Bearer [redacted]",
        cookie="[redacted]",
        path="[redacted]",
    )
    command, secrets = curl.as_curl(made, "http://x")
    assert "[redacted]" not in command
    assert "%5B" not in command
    names = ["SECRET_PASSWORD", "SECRET_VALUE", "SECRET_API_KEY", "SECRET_AUTHORIZATION", "SECRET_COOKIE"]
    assert secrets == [*names, "SECRET_PATH"]
    for shell in ("sh", "bash"):
        with pytest.raises(subprocess.CalledProcessError):
            run(command, folder, shell)
        values = "".join(f"{name}='a $b \"c'\n" for name in secrets)
        arguments, piped = run(values + command, folder, shell)
        assert b'authorization: Bearer a $b "c' in arguments
        assert b'path: a $b "c' in arguments
        assert b'http://x/?api_key=a $b "c&a=1' in arguments
        assert data_of(arguments, piped) == REDACTED_BODY.replace(b"[redacted]", b'a $b "c')


def test_a_redacted_contract_is_a_variable_too() -> None:
    made = capture(**{"x-devroute": "[redacted]"})
    command, secrets = curl.as_curl(made, "http://shop", "[redacted]")
    assert command == """curl http://shop/ \\\n  -H 'X-devroute: '"${SECRET_X_DEVROUTE:?was redacted}\""""
    assert secrets == ["SECRET_X_DEVROUTE"]


def test_through_the_mesh_it_has_the_contract_and_nothing_of_the_first_way() -> None:
    made = capture(
        "GET",
        "/orders?a=1",
        accept="*/*",
        x_devroute='{"foo": "bob"}',
        x_devroute_matched="foo",
        x_forwarded_for="10.0.0.1",
        x_request_id="1",
        traceparent="00-1-2-01",
        baggage="user=1,devroute=%7B%7D",
        x_own="kept",
    )
    command = as_curl(made, "https://shop.example/", '{"foo": "alice"}')
    assert command.split(" \\\n  ") == [
        "curl 'https://shop.example/orders?a=1'",
        """-H 'X-devroute: {"foo": "alice"}'""",
        "-H 'accept: */*'",
        "-H 'x-own: kept'",
    ]
