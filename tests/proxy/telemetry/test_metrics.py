"""A running proxy's metrics and log lines: what requests, decisions and links leave there, as parsers and a
real Prometheus read it. One proxy for all of it, since one that starts is what costs.
"""

import asyncio
import hashlib
import json
import os
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from devroute.metrics import table
from devroute.metrics.table import PROCESS, TABLE
from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.background_writer import BackgroundWriter, LineFile
from devroute.upstream.interface import Upstream
from tests.support.eventually import eventually
from tests.support.loopback import App, answer, connect
from tests.support.paths import ROOT
from tests.support.prometheus import needs_prometheus, running_prometheus
from tests.support.redis_server import running_redis

TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
SAMPLED, UNSAMPLED = (f"traceparent: 00-{TRACE}-e457b5a2e4d86bd1-0{flag}" for flag in (1, 0))
CONTRACT, MATCHED = 'x-devroute: {"foo": "alice"}', "x-devroute-matched: foo"
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


class Running:
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._log = folder / "log"
        self._descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT)
        self._writer = BackgroundWriter(LineFile(self._descriptor).write)
        tokens = folder / "tokens.yaml"
        record = {"subject": "alice", "sha256": hashlib.sha256(b"alice-token").hexdigest()}
        tokens.write_text(json.dumps([record]))
        own: dict[str, Any] = {f"{each}_host": "127.0.0.1" for each in ("data", "control", "admin")}
        own |= {f"{each}_port": 0 for each in ("data", "control", "admin")}
        self.proxy = Proxy(
            ProxySettings.model_validate(own | {"tokens": str(tokens)} | settings), self._writer
        )

    async def laptop(self, app: Upstream, **options: Any) -> Any:
        where: Any = SimpleNamespace(url=f"http://127.0.0.1:{self.proxy.control_port}")
        link = await connect(where, {"foo": app}, **options)
        await link.welcome
        return link

    async def request(self, *fields: str, method: str = "GET") -> bytes:
        """The head of the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.data_port)
        lines = (f"{method} /path?secret HTTP/1.1", "host: foo", "connection: close", *fields)
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        response = await reader.read()
        writer.close()
        return response.partition(b"\r\n\r\n")[0]

    async def resolve(self, contract: str) -> str:
        headers = {"x-devroute": contract, "x-devroute-candidates": "foo"}
        url = f"http://127.0.0.1:{self.proxy.control_port}/resolve"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            return await response.text()

    async def metrics(self) -> dict[tuple[str, ...], Any]:
        """Samples by name and sorted values of labels."""
        url = f"http://127.0.0.1:{self.proxy.admin_port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url, headers=OPENMETRICS) as response:
            assert response.content_type == "application/openmetrics-text"
            text = await response.text()
        samples = [sample for family in parse_openmetrics(text) for sample in family.samples]
        return {
            (each.name, *(f"{name}={each.labels[name]}" for name in sorted(each.labels))): each
            for each in samples
        }

    async def lines(self) -> list[dict[str, Any]]:
        """Of requests. The proxy has stopped."""
        await self.proxy.stop()
        self._writer.close()
        lines = map(json.loads, self._log.read_text().splitlines())
        return [line for line in lines if line["event"] == "request"]


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[Running]:
    it = Running(folder, settings)
    await it.proxy.start()
    try:
        yield it
    finally:
        await it.proxy.stop()


def http(status: int, error: str, *more: str, method: str = "GET", service: str = "foo") -> tuple[str, ...]:
    return (
        f"error_type={error}",
        f"http_request_method={method}",
        f"http_response_status_code={status}",
        *more,
        f"service={service}",
    )


SERVER, CLIENT = "http_server_request_duration_seconds_count", "http_client_request_duration_seconds_count"


async def test_requests_decisions_and_links_are_counted_and_logged(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        app = App(answer(b"hello"))
        link = await it.laptop(app, instance="1a")
        assert b" 200 " in await it.request(CONTRACT, MATCHED, SAMPLED, "x-request-id: one")
        assert b" 200 " in await it.request(CONTRACT, MATCHED, UNSAMPLED, method="PROPFIND")
        assert b" 400 " in await it.request("x-devroute-matched: invented")
        assert b" 400 " in await it.request('x-devroute: {"foo": "alice"}', "x-devroute-matched: invented")
        assert b" 503 " in await it.request('x-devroute: {"foo": {"to": "alice", "abort": 503}}', MATCHED)
        assert "decision detour" in await it.resolve('{"foo": "alice"}')
        assert "decision fallback" in await it.resolve('{"foo": "bob"}')
        assert "decision error" in await it.resolve("nonsense")
        again = await it.laptop(app, instance="1a")
        second = await it.laptop(app, instance="1a", link=1, beside=True)
        found = await it.metrics()
        values = {key: each.value for key, each in found.items()}

        assert values[SERVER, *http(200, "")] == 1
        assert values[CLIENT, *http(200, "", "server_address=foo")] == 1
        assert values[SERVER, *http(200, "", method="_OTHER")] == 1
        assert values[SERVER, *http(400, "contract-missing", service="_OTHER")] == 1
        assert values[SERVER, *http(400, "service-not-in-contract", service="_OTHER")] == 1
        clients = [key for key in values if key[0] == CLIENT]
        assert len(clients) == 2, "what never went to a laptop took none of its time"
        aborted = ("reason=fault-injected", "result=error", "service=foo")
        assert values["devroute_requests_total", *aborted] == 1
        assert not any("invented" in part for key in values for part in key)
        total = "devroute_requests_total"
        assert values[total, "reason=tunnel", "result=laptop", "service=foo"] == 2
        assert values[total, "reason=contract-missing", "result=error", "service=_OTHER"] == 1
        assert values["devroute_fallbacks_total", "reason=laptop-offline", "service=foo"] == 1
        for decision in ("detour", "fallback", "error"):
            assert values["devroute_resolve_total", f"decision={decision}"] == 1
            assert values["devroute_resolve_duration_seconds_count", f"decision={decision}"] == 1
        assert values["devroute_body_bytes_total", "direction=response"] > 10
        assert (values["devroute_laptops_online",], values["devroute_reconnects_total",]) == (1, 1)
        assert values["devroute_policy_reload_success",] == 1
        assert values["devroute_requests_in_flight",] == 0
        assert "devroute_registry_up" not in {name for name, *_ in values}, "it has no registry to share"
        assert {name for name, *_ in values} >= set(PROCESS)

        exemplars = [each for each in found.values() if each.exemplar]
        assert {each.name for each in exemplars} == {SERVER[:-5] + "bucket", CLIENT[:-5] + "bucket"}
        assert {each.exemplar.labels["trace_id"] for each in exemplars} == {TRACE}
        assert {each.labels["http_request_method"] for each in exemplars} == {"GET"}, "the sampled one's"
        for each in (link, again, second):
            each.drain("leaving", "the test is over")
        one, other, missing, *_ = await it.lines()
    assert (one["trace_id"], one["request_id"], one["path"], one["status"]) == (TRACE, "one", "/path", 200)
    names = ("service", "laptop", "target", "result", "reason", "level")
    assert [one[each] for each in names] == ["foo", "alice", "alice", "laptop", "tunnel", "info"]
    assert (other["method"], other["trace_id"]) == ("PROPFIND", TRACE)
    assert [missing[each] for each in names] == [None, None, None, "error", "contract-missing", "warning"]
    assert missing["trace_id"] is None


async def test_metrics_name_laptops_only_if_they_are_to(tmp_path: Path) -> None:
    async with running(tmp_path, metrics_by_laptop=True, log_sample=0.25) as it:
        link = await it.laptop(App(answer(b"hello")))
        for _ in range(8):
            await it.request(CONTRACT, MATCHED)
        await it.request(MATCHED)
        await it.resolve('{"foo": "bob"}')
        values = {key: each.value for key, each in (await it.metrics()).items()}
        key = ("laptop=alice", "reason=tunnel", "result=laptop", "service=foo")
        assert values["devroute_requests_total", *key] == 8
        assert values["devroute_fallbacks_total", "laptop=bob", "reason=laptop-offline", "service=foo"] == 1
        link.drain("leaving", "the test is over")
        lines = await it.lines()
    assert [line["level"] for line in lines] == ["info", "info", "warning"], "a quarter, and what failed"


@pytest.mark.parametrize(("level", "reasons"), [("warning", ["contract-missing"]), ("error", [])])
async def test_from_warning_on_only_requests_that_failed_have_a_line(
    tmp_path: Path, level: str, reasons: list[str]
) -> None:
    async with running(tmp_path, log_level=level) as it:
        link = await it.laptop(App(answer(b"hello")))
        await it.request(CONTRACT, MATCHED)
        await it.request(MATCHED)
        link.drain("leaving", "the test is over")
        assert [line["reason"] for line in await it.lines()] == reasons


async def test_a_registry_that_replicas_share_has_metrics_too(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        own = {"registry": server.url, "peer_host": "127.0.0.1", "peer_port": 0, "drain_timeout": 1}
        async with running(tmp_path, **own) as it:
            values = {name: each.value for (name, *_), each in (await it.metrics()).items()}
            assert (values["devroute_registry_up"], values["devroute_replicas"]) == (1, 1)
            assert values["devroute_registry_lag_seconds"] < 10
            assert values["devroute_forwarded_total"] == 0
            server.stop()

            async def down() -> bool:
                return (await it.metrics())["devroute_registry_up",].value == 0

            await eventually(down)


@needs_prometheus
async def test_a_real_prometheus_scrapes_values_and_exemplars(tmp_path: Path, unused_tcp_port: int) -> None:
    async with running(tmp_path) as it, aiohttp.ClientSession() as session:
        link = await it.laptop(App(answer(b"hello")))
        await it.request(CONTRACT, MATCHED, SAMPLED)
        api = f"http://127.0.0.1:{unused_tcp_port}/api/v1"

        async def query(path: str, expression: str) -> Any:
            """The data of a response, None while there is none."""
            url = f"{api}/{path}query={urllib.parse.quote(expression)}"
            try:
                async with session.get(url) as response:
                    answered = await response.json()
            except (aiohttp.ClientError, ValueError):
                return None
            assert answered["status"] == "success", answered
            return answered["data"]

        with running_prometheus(tmp_path, unused_tcp_port, f"127.0.0.1:{it.proxy.admin_port}"):

            async def scraped() -> Any:
                data = await query("query?", "devroute_requests_total")
                return data and data["result"]

            (series,) = await eventually(scraped, "a scrape", within=60)
            assert series["metric"]["service"] == "foo"
            assert series["value"][1] == "1"
            names = await query("query?", 'count by (__name__) ({job="devroute"})')
            known = {each["metric"]["__name__"] for each in names["result"]}
            missing = [
                metric.name
                for metric in TABLE
                if not metric.labels and metric.kind != "histogram" and metric.name not in known
            ]
            of_replicas = (table.REPLICAS, table.REGISTRY_UP, table.REGISTRY_LAG, table.FORWARDED)
            assert missing == [metric.name for metric in of_replicas], "there is one proxy"
            span = "query_exemplars?start=0&end=9999999999&"
            (found, *_) = await query(span, f"{SERVER[:-5]}bucket")
            assert found["exemplars"][0]["labels"] == {"trace_id": TRACE}
        link.drain("leaving", "the test is over")


def test_every_metric_is_on_the_page_as_it_is() -> None:
    """docs/metrics.md has the table, and nothing else by these names."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): row[1:] for row in rows if row[0].startswith(("`devroute_", "`http_"))}
    assert documented == {
        metric.name: [
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels) or "-",
            metric.help,
        ]
        for metric in TABLE
    }
