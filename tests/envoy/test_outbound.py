"""A workload whose app passes on nothing but a trace's id, and whose sidecar finds the contract by it.

caller ─► a's sidecar ─► a ─► a's sidecar, outbound ─► b's sidecar ─► b, or a laptop
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.sidecar import OUTBOUND, Endpoint
from devroute.mesh.manifests.lua import KEPT_TRACES
from devroute.mesh.manifests.model import WorkloadScope
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Party:
    """`passed_on`: the headers that the app of a passes on, and no others."""

    mesh: Mesh
    folder: Path
    contract: str
    entry: str = ""
    through: str = ""
    passed_on: tuple[str, ...] = ()

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in self.passed_on if name in request.headers}
        async with (
            aiohttp.ClientSession() as client,
            client.get(self.through, headers={"host": "b", **headers}) as response,
        ):
            return web.json_response(
                {"by": await response.json(), "result": response.headers.get("x-devroute-result")}
            )

    async def call(self, headers: dict[str, str], *passed_on: str) -> tuple[str, dict[str, str]]:
        """Who answered as b, and the headers of that request."""
        self.passed_on = passed_on
        async with self.mesh.client.get(self.entry, headers=headers) as response:
            found = (await response.json())["by"]
            return found["who"], found["headers"]


def named(who: str) -> object:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {"who": who, "headers": {key.lower(): value for key, value in request.headers.items()}}
        )

    return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder = tmp_path_factory.mktemp("outbound")
    kept = folder / "kept"
    kept.mkdir()
    async with real_mesh(folder) as mesh, serving(named("b")) as b, serving(named("laptop")) as laptop:
        found = Party(mesh, kept, f'{{"b":"{laptop.host}:{laptop.port}"}}')
        place = urlsplit(await mesh.sidecar("b", b))
        assert place.hostname is not None
        assert place.port is not None
        async with serving(found.answer) as a:
            found.entry = await mesh.sidecar(
                "a",
                a,
                scopes=[WorkloadScope("default", "a", trace_folder=str(kept))],
                services={"b": Endpoint(place.hostname, place.port)},
            )
            found.through = "http://{}:{}/".format(*mesh.envoys["a"].listeners[OUTBOUND])
            yield found


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("passed_on", "sent"),
    [
        ("traceparent", {}),
        ("traceparent", {"traceparent": f"00-{TRACE}-{SPAN}-01"}),
        ("b3", {"b3": f"{TRACE}-{SPAN}-1"}),
        ("x-b3-traceid", {"x-b3-traceid": TRACE, "x-b3-spanid": SPAN}),
        ("uber-trace-id", {"uber-trace-id": f"{TRACE}:{SPAN}:0:1"}),
        ("x-datadog-trace-id", {"x-datadog-trace-id": "5208512171318403364"}),
        ("x-request-id", {}),
    ],
)
async def test_an_app_that_passes_on_a_trace_s_id_alone_keeps_the_contract(
    party: Party, passed_on: str, sent: dict[str, str]
) -> None:
    who, headers = await party.call({"x-devroute": party.contract, **sent}, passed_on)
    assert (who, headers["x-devroute"]) == ("laptop", party.contract)
    assert headers["x-devroute-via"] == "b"
    assert (await party.call(sent, passed_on))[0] == ("laptop" if sent else "b"), "for a minute"


async def test_requests_of_other_traces_and_those_with_a_contract_of_their_own_stay_as_they_are(
    party: Party,
) -> None:
    first, second = secrets.token_hex(16), secrets.token_hex(16)
    await party.call({"x-devroute": party.contract, "traceparent": f"00-{first}-{SPAN}-00"}, "traceparent")
    who, headers = await party.call({"traceparent": f"00-{second}-{SPAN}-00"}, "traceparent")
    assert (who, "x-devroute" in headers) == ("b", False)
    own = {"traceparent": f"00-{first}-{SPAN}-00", "baggage": "devroute=%7B%22zoo%22%3A%22x%22%7D"}
    who, headers = await party.call(own, "traceparent", "baggage")
    assert (who, headers["x-devroute"]) == ("b", '{"zoo":"x"}')
    assert (await party.call({"x-devroute": party.contract}))[0] == "b", "nothing was passed on"


async def test_many_traces_at_once_find_each_its_own_contract_in_a_bounded_number_of_files(
    party: Party,
) -> None:
    party.passed_on = ("traceparent",)

    async def one(number: int) -> tuple[int, str]:
        contract = f'{{"c{number}":"alice"}}'
        headers = {"x-devroute": contract, "traceparent": f"00-{secrets.token_hex(16)}-{SPAN}-00"}
        async with party.mesh.client.get(party.entry, headers=headers) as response:
            return number, (await response.json())["by"]["headers"].get("x-devroute", "")

    found = await asyncio.gather(*(one(number) for number in range(60)))
    assert all(contract in ("", f'{{"c{number}":"alice"}}') for number, contract in found), "never another's"
    lost = [number for number, contract in found if not contract]
    assert len(lost) < 20, "few share a file with another's trace or request id"
    for number in lost:
        assert await one(number) == (number, f'{{"c{number}":"alice"}}'), "alone, each finds its own"
    files = list(party.folder.iterdir())
    assert (
        len([each for each in files if each.name.startswith("devroute-trace-")]) == len(files) <= KEPT_TRACES
    )


async def test_a_folder_that_cannot_be_written_costs_the_contract_and_nothing_else(party: Party) -> None:
    party.folder.rename(party.folder.with_name("away"))
    try:
        who, _ = await party.call({"x-devroute": party.contract}, "traceparent")
        assert who == "b"
    finally:
        party.folder.with_name("away").rename(party.folder)
