"""What a server says is checked before a terminal shows it; of a trace any workload can report."""

import io
from typing import Any

import pytest

from devroute.agent import trace
from devroute.agent.settings import ClientSettings
from devroute.agent.trace_report import describe
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.cli.exit_codes import print_error
from devroute.errors import ServerUnreachable

ESCAPES = "\x1b]0;owned\x07\x9b2J\u202e\udcff"
HOP = {
    "service": "b", "namespace": "shop", "result": "service", "reason": "", "request_id": "r",
    "contract": '{\t"b": "alice"}', "at_ms": 0.0, "names": ["b"],
}  # fmt: skip


async def collected(monkeypatch: pytest.MonkeyPatch, **changed: object) -> trace.TraceResult:
    """A trace of one such hop."""

    async def fetch(settings: object, path: str) -> dict[str, Any]:
        return {"hops": [HOP | changed], "services": ["b"]}

    monkeypatch.setattr(trace, "fetch", fetch)
    settings = ClientSettings(server="http://localhost:8081")
    return await trace.run(settings, trace.new_trace(), ["true"])


@pytest.mark.parametrize("field", ["service", "namespace", "result", "reason", "target", "names"])
async def test_no_report_has_a_terminal_obey_it(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = [ESCAPES] if field == "names" else ESCAPES
    traced = await collected(monkeypatch, **{field: value})
    assert all(line.isprintable() for line in describe(traced))
    assert str(getattr(traced.hops[0], field)).count("?]0;owned??2J??") == 1


async def test_a_tab_in_a_contract_is_white_space(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = await collected(monkeypatch)
    assert describe(traced)[-1] == "the mesh's own service answered at 'b'"


@pytest.mark.parametrize(
    "changed", [{"service": 1}, {"at_ms": "soon"}, {"reason": None}, {"took_ms": {}}, {"names": [1]}]
)
async def test_a_report_of_the_wrong_form_is_an_error_and_no_traceback(
    changed: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerUnreachable, match="not understood"):
        await collected(monkeypatch, **changed)


def test_no_error_of_a_server_has_a_terminal_obey_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = ServerUnreachable(ESCAPES, hint=f"{ESCAPES}\nsecond line")
    shown = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(shown))
    reporter.retry(error, 1.0)
    reporter.offline(ESCAPES)
    reporter.close()
    print_error(error)
    lines = [*shown.getvalue().splitlines(), *capsys.readouterr().err.splitlines()]
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
