"""gRPC on a real Istio, and retries: what a laptop responds is never asked for twice."""

import json
import sys
import uuid

import pytest

from tests.istio.rig import Rig
from tests.istio.topology import GRPC

pytestmark = pytest.mark.istio

#: The gRPC app on a laptop.
LOCAL = "grpc://localhost:8921"
#: One call, as a process in the pod: prints the response or the status, and the app's trailer.
CALL = """
import sys, grpc
target, contract, mark, text = sys.argv[1:]
same = lambda data: data
call = grpc.insecure_channel(target).unary_unary("/t.T/Echo", same, same)
metadata = (("mark", mark), *((("x-devroute", contract),) if contract else ()))
try:
    response, info = call.with_call(text.encode(), metadata=metadata, timeout=20)
    print(response.decode(), dict(info.trailing_metadata()).get("x-app"))
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""


def call(mesh: Rig, contract: object, mark: str, text: str = "hello") -> str:
    sent = "" if contract is None else json.dumps(contract)
    return mesh.pods["a"].run(sys.executable, "-c", CALL, f"b:{GRPC}", sent, mark, text).strip()


async def test_grpc_follows_the_contract(mesh: Rig) -> None:
    async with mesh.laptop("bob", f"b={LOCAL}", "--name", "bob--grpc"):
        assert call(mesh, None, "none").startswith("b-v")
        assert call(mesh, {"c": "alice"}, "others").startswith("b-v")
        assert call(mesh, {"b": "bob--grpc"}, "laptop") == "laptop-bob: hello laptop-bob"
        assert call(mesh, {"b": "version:v2"}, "version") == "b-v2: hello b-v2"


async def test_no_response_of_a_laptop_is_asked_for_twice(mesh: Rig) -> None:
    mark = uuid.uuid4().hex
    async with mesh.laptop("bob", f"b={LOCAL}", "--name", "bob--grpc"):
        assert call(mesh, {"b": "bob--grpc"}, mark, "unavailable") == "UNAVAILABLE as asked for"
    response = await mesh.ask("a", "http://b/status/503", {"b": "bob"}, headers={"mark": mark})
    assert (response.status, response.result) == (503, "laptop")
    found = [each for each in await mesh.requests("bob") if each["headers"].get("mark") == mark]
    assert [each["path"] for each in found] == ["/t.T/Echo", "/status/503"]
