import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from devroute.log import configure


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


def test_what_libraries_log_has_the_same_form_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
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
