"""The lines of `devroute up`."""

import io

from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import AT_ONCE, MAX_LINES, LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.inspector.redaction import redaction
from devroute.tunnel.served_stream import Finished

DONE = Finished("foo", "GET", "/", 200, 0.0, 0.001, 5, "", "")


class Lines:
    """What was written; implements LineWriter."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, text: str) -> bool:
        self.text += text
        return True

    def close(self) -> None: ...

    @property
    def requests(self) -> list[str]:
        return [line.split()[2] for line in self.text.splitlines() if "  GET /" in line]


def reported(lines: Lines, count: int) -> LineReporter:
    reporter = LineReporter("text", lines)
    for number in range(count):
        reporter.request(DONE._replace(target=f"/{number}"))
    return reporter


def test_a_flush_writes_few_lines_and_the_next_ones_write_the_others_in_order() -> None:
    lines = Lines()
    reporter = reported(lines, 2 * AT_ONCE + 1)
    for flushed in (AT_ONCE, 2 * AT_ONCE, 2 * AT_ONCE + 1):
        assert reporter.waiting
        reporter.flush()
        assert lines.requests == [f"/{number}" for number in range(flushed)]
    assert not reporter.waiting


def test_more_requests_than_can_be_shown_are_counted_once_a_second() -> None:
    lines = Lines()
    reporter = reported(lines, MAX_LINES)
    assert reporter.full
    for _ in range(3):
        for _ in range(AT_ONCE + 5):
            reporter.request(DONE)
        reporter.flush()
    assert lines.text.count("more requests are not shown") == 1
    assert f"({AT_ONCE + 5} more requests are not shown)" in lines.text
    reporter.close()
    assert len(lines.requests) == MAX_LINES + 2 * AT_ONCE
    assert lines.text.count("not shown") == 2


def test_a_full_reporter_is_skipped_unless_another_one_wants_the_request() -> None:
    full, other = reported(Lines(), MAX_LINES), reported(Lines(), 0)
    both = FanOut(full)
    assert both.full
    both.skip(1)
    both.add(other)
    assert not both.full
    both.request(DONE)
    assert both.waiting
    assert other.waiting


def test_the_last_lines_are_written_at_the_end() -> None:
    terminal = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(terminal))
    for _ in range(3 * AT_ONCE):
        reporter.request(DONE)
    reporter.close()
    assert terminal.getvalue().count("GET /") == 3 * AT_ONCE


def test_a_target_is_redacted_before_it_is_shown() -> None:
    lines = Lines()
    fan_out = FanOut(LineReporter("text", lines))
    for target in ("/plain", "/?token=c2VjcmV0c2VjcmV0"):
        fan_out.finished(DONE._replace(target=target), redaction())
    fan_out.flush()
    assert lines.requests[0] == "/plain"
    assert "c2VjcmV0" not in lines.text
    assert lines.requests[1].startswith("/?token=")
