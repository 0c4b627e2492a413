"""What `devroute up` shows Prometheus of the requests that a real agent has served."""

from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

from devroute.metrics.table import TABLE
from tests.support.eventually import eventually
from tests.support.laptop import laptop, request, serving

TRACE = "80f198ee56343ba864fe8b2a57d3eff7"


async def respond(asked: web.Request) -> web.Response:
    return web.Response(status=int(asked.path[1:]))


async def test_requests_links_and_pings_are_counted() -> None:
    async with serving(respond) as port, laptop(port, metrics=True) as it:
        assert it.agent.inspection is not None
        metrics = it.agent.inspection.metrics
        assert metrics is not None
        fields = {"traceparent": f"00-{TRACE}-e457b5a2e4d86bd1-01"}
        for status in (200, 200, 503):
            await it.ask(request("GET", f"/{status}", fields))
        upstream = it.where.registry.lookup("alice", "foo").upstream
        assert upstream is not None

        named = set[str]()

        async def counted() -> dict[str, float]:
            body, _ = await metrics("application/openmetrics-text")
            families = list(parse(body.decode()))
            samples = [sample for family in families for sample in family.samples]
            found = {
                f"{each.name} {each.labels.get('http_response_status_code', '')}".strip(): each.value
                for each in samples
            }
            exemplars = [each.exemplar.labels["trace_id"] for each in samples if each.exemplar]
            assert set(exemplars) <= {TRACE}
            found["exemplars"] = len(exemplars)
            named.update(family.name for family in families)
            return found

        async def all_are() -> bool:
            found = await counted()
            return found.get("http_server_request_duration_seconds_count 200") == 2 and (
                found.get("http_server_request_duration_seconds_count 503") == 1
            )

        await eventually(all_are)
        found = await counted()
        assert (found["devroute_links"], found["devroute_reconnects_total"]) == (1, 0)
        assert found["devroute_requests_in_flight"] == 0
        assert found["exemplars"] >= 2
        agents = {metric.name.removesuffix("_total") for metric in TABLE if metric.agent}  # of families
        absent = {metric.name.removesuffix("_total") for metric in TABLE if not metric.agent}
        assert named & agents
        assert not named & absent


async def test_by_default_nothing_is_counted() -> None:
    async with serving(respond) as port, laptop(port) as it:
        assert it.agent.inspection is not None
        assert it.agent.inspection.metrics is None
