"""The example of the edge beside the example of the gateway: its RequestAuthentication is for callers who
send contracts, and leaves every other token alone."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devroute.mesh.manifests.examples import edge as edge_example
from devroute.mesh.manifests.installation import Installation
from tests.envoy.edge import CONTRACT, Edge, Issuer, gateway, values, verdict
from tests.support.istio_security import JwtRule

pytestmark = pytest.mark.mesh

FILTER, RULE = edge_example(Installation())
CONTRACT_FIELD = ("x-devroute", CONTRACT)
#: The example's audience.
QA = {"devroute": True, "aud": "devroute"}
OWN = "x-devroute-authorization"


@pytest.fixture
async def edge(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Edge]:
    async with gateway(tmp_path, FILTER, JwtRule.of(RULE, issuer.jwks)) as found:
        yield found


async def test_tokens_of_laptops_and_of_other_issuers_pass(edge: Edge, issuer: Issuer) -> None:
    other = Issuer().token(iss="https://login.example", devroute=True)
    for name, value in {
        "a laptop's": "Bearer dvr_0123456789abcdef",
        "an OIDC token of another issuer": f"Bearer {other}",
        "an OIDC token of this issuer": f"Bearer {issuer.token(**QA)}",
        "not a token": "Basic YTpi",
    }.items():
        for contract in ([], [CONTRACT_FIELD]):
            response, seen = await edge.get([("authorization", value), *contract])
            assert (response.status, values(seen, "authorization")) == (200, [value]), name
            assert values(seen, "x-devroute") == [], f"{name}: Authorization admits no contract"
            assert verdict(response)[0] == ("fallback" if contract else None)


async def test_the_edge_s_own_header_admits_a_contract_beside_any_other_token(
    edge: Edge, issuer: Issuer
) -> None:
    own = (OWN, f"Bearer {issuer.token(**QA)}")
    for other in ([], [("authorization", "Bearer dvr_0123456789abcdef")]):
        response, seen = await edge.get([own, *other, CONTRACT_FIELD])
        assert (response.status, values(seen, "x-devroute")) == (200, [CONTRACT])
        assert values(seen, OWN) == [], "it is for the gateway alone"
        assert [("authorization", value) for value in values(seen, "authorization")] == other


async def test_an_invalid_token_in_the_edge_s_own_header_is_refused(edge: Edge, issuer: Issuer) -> None:
    for token in ("dvr_0123456789abcdef", Issuer().token(**QA), issuer.token(devroute=True, aud="others")):
        for contract in ([], [CONTRACT_FIELD]):
            response, _ = await edge.get([(OWN, f"Bearer {token}"), *contract])
            assert response.status in (401, 403)


async def test_the_own_header_stays_outside_even_where_nothing_verifies_it(tmp_path: Path) -> None:
    async with gateway(tmp_path, FILTER) as edge:
        for contract in ([], [CONTRACT_FIELD]):
            _, seen = await edge.get([(OWN, "Bearer x"), *contract])
            assert values(seen, OWN) == []
