"""A contract changes nothing about which policy a request meets: limits that teams merge onto routes hold."""

import asyncio
from collections import Counter

import pytest

from tests.istio.changes import applied, drained, live
from tests.istio.limits import LIMIT, a_name, limit
from tests.istio.rig import Rig

pytestmark = pytest.mark.istio

#: Requests that c itself responds to, whatever they say, or its sidecar.
CONTRACTS = {
    "no contract": None,
    "empty": {},
    "for another service": {"b": "alice"},
    "falls back": {"c": "carol"},
    "refused": {"c": "10.1.2.3:80"},
    "a condition unmet": {"c": {"to": "alice", "methods": ["POST"]}},
    "another caller": {"c": {"to": "alice", "from": ["shop/web"]}},
}


@pytest.mark.parametrize("action", ["ANY", "ROUTE"])
@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
async def test_a_limit_on_routes_holds_for_every_contract(mesh: Rig, contract: object, action: str) -> None:
    name = a_name()
    host = {"name": "inbound|http|80", "route": {"action": action}}
    async with applied(mesh, [limit(name, "SIDECAR_INBOUND", {"app": "c"}, host)]):
        await live(mesh, ["c"], name)
        await drained(mesh, ["c"])  # a connection made before knows no limit
        statuses: Counter[int] = Counter()
        async with asyncio.timeout(30):
            for _ in range(LIMIT + 4):
                statuses[(await mesh.ask("a", "http://c/x", contract)).status] += 1
    await live(mesh, ["c"], name, gone=True)
    assert statuses == {400 if contract == {} else 200: LIMIT, 429: 4}
