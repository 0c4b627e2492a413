"""A contract changes nothing about which policy a request meets: limits that teams merge onto routes hold."""

import asyncio
import itertools
from collections import Counter

import pytest

from tests.istio.changes import applied, envoy_filter, live
from tests.istio.kubernetes import Document
from tests.istio.rig import Rig

pytestmark = pytest.mark.istio

LIMIT = 4
#: Requests that c itself responds to, whatever they say.
CONTRACTS = {
    "no contract": None,
    "empty": {},
    "for another service": {"b": "alice"},
    "falls back": {"c": "carol"},
    "refused": {"c": "10.1.2.3:80"},
    "a condition unmet": {"c": {"to": "alice", "methods": ["POST"]}},
    "another caller": {"c": {"to": "alice", "from": ["shop/web"]}},
}
_FILTER = "envoy.filters.http.local_ratelimit"
_TYPE = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_STRUCT = "type.googleapis.com/udpa.type.v1.TypedStruct"
#: Each limit is another one: a new bucket.
_numbers = itertools.count(1)


def limit(action: str, name: str) -> Document:
    """As Istio's documentation has it: the filter without a limit, and the limit merged onto routes."""
    manager = {"filter": {"name": "envoy.filters.network.http_connection_manager"}}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": LIMIT, "tokens_per_fill": LIMIT, "fill_interval": "600s"}
    typed = {"@type": _STRUCT, "type_url": _TYPE}
    limited = {
        "stat_prefix": name,
        "token_bucket": bucket,
        "filter_enabled": always,
        "filter_enforced": always,
    }
    inserted = {"name": _FILTER, "typed_config": {**typed, "value": {"stat_prefix": "limiter"}}}
    merged = {"typed_per_filter_config": {_FILTER: {**typed, "value": limited}}}
    host = {"name": "inbound|http|80", "route": {"action": action}}
    return envoy_filter(
        "limit",
        {"app": "c"},
        {
            "applyTo": "HTTP_FILTER",
            "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": manager}},
            "patch": {"operation": "INSERT_BEFORE", "value": inserted},
        },
        {
            "applyTo": "HTTP_ROUTE",
            "match": {"context": "SIDECAR_INBOUND", "routeConfiguration": {"vhost": host}},
            "patch": {"operation": "MERGE", "value": merged},
        },
    )


@pytest.mark.parametrize("action", ["ANY", "ROUTE"])
@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
async def test_a_limit_on_routes_holds_for_every_contract(mesh: Rig, contract: object, action: str) -> None:
    name = f"limit-{next(_numbers)}"
    async with applied(mesh, [limit(action, name)]):
        await live(mesh, ["c"], name)
        statuses: Counter[int] = Counter()
        async with asyncio.timeout(30):
            for _ in range(LIMIT + 4):
                statuses[(await mesh.ask("a", "http://c/x", contract)).status] += 1
    await live(mesh, ["c"], name, gone=True)
    assert statuses == {200: LIMIT, 429: 4}
