import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import structlog

from devroute.downstream.context import CompletedExchange
from devroute.log import configure
from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.background_writer import BackgroundWriter, LineFile


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_an_event_is_one_json_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    structlog.get_logger().debug("unseen")
    structlog.get_logger().info("request", path="/a\nb")
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["path"]) == ("request", "info", "/a\nb")
    assert event["timestamp"].endswith("Z")


def test_warnings_of_libraries_have_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    logging.getLogger("aiohttp.server").info("unseen")
    logging.getLogger("aiohttp.server").warning("seen %s", "it")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "seen it"


def test_the_console_form_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure("console", "warning")
    structlog.get_logger().warning("something happened", what="this")
    error = capsys.readouterr().err
    assert "something happened" in error
    assert "what=this" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_others_wrote_is_one_line_that_no_terminal_obeys(
    capsys: pytest.CaptureFixture[str], form: Literal["json", "console"]
) -> None:
    configure(form, "warning")
    evil = "x\x1b[2J\r\n\x9b31m\u2028forged\nforged"
    structlog.get_logger().warning("refused", reason=evil)
    logging.getLogger("aiohttp.server").warning("refused %s", evil)
    try:
        raise ValueError(evil)
    except ValueError as error:
        structlog.get_logger().error("failed", exc_info=error)
    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert len([line for line in lines if not line.startswith("  ")]) == 3
    assert all(line.isprintable() for line in lines)


async def answers_300_requests(form: str = "json", writer: BackgroundWriter | None = None) -> None:
    """A proxy does, on one connection. The log has a hundred of their lines in a batch."""
    own = {"data_host", "control_host", "admin_host"}
    ports = {"data_port": 0, "control_port": 0, "admin_port": 0}
    proxy = Proxy(
        ProxySettings.model_validate(dict.fromkeys(own, "127.0.0.1") | ports | {"log_format": form}), writer
    )
    await proxy.start()
    reader, client = await asyncio.open_connection("127.0.0.1", proxy.data_port)
    for _ in range(300):
        client.write(b"GET /" + b"a" * 300 + b" HTTP/1.1\r\nhost: foo\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")  # no contract
        await reader.readuntil(b"}\n")
    client.close()
    await proxy.stop()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("form", ["json", "console"])
async def test_requests_succeed_where_their_log_cannot_be_written(form: Literal["json", "console"]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = BackgroundWriter(LineFile(full).write)
    configure(form, write=writer.write)
    await answers_300_requests(form, writer)
    assert writer.close()
    assert (writer.lost >= 300, writer.problem) == (True, "No space left on device")
    os.close(full)


async def test_requests_succeed_where_logging_them_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(exchange: CompletedExchange) -> None:
        raise ZeroDivisionError

    reporting = (broken, lambda: None)
    monkeypatch.setattr("devroute.proxy.telemetry.telemetry.request_log", lambda *_: reporting)
    configure("json")
    await answers_300_requests()
    assert capsys.readouterr().err.count("request.unobserved") == 300
