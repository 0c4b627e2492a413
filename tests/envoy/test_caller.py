"""What a caller's sidecar makes of a laptop's errors: no retry, and no ejection of the pod."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from aiohttp import ClientSession, web
from grpc import aio

from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.sidecar import OUTBOUND, Document, Endpoint, Sidecar, bootstrap
from devroute.mesh.manifests.outlier_detection import outlier_filter, read_protected
from tests.envoy.harness import serving
from tests.envoy.real import real_mesh

pytestmark = pytest.mark.mesh

FOO = "outbound|8080||foo.default.svc.cluster.local"
#: Istio's default, with more of what people add.
RETRIES = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,5xx,reset",
    "retriable_status_codes": [503],
    "num_retries": 2,
}
DETECTION = {
    "consecutive_5xx": 3,
    "interval": "0.1s",
    "base_ejection_time": "300s",
    "max_ejection_percent": 100,
}


def outbound(apply_to: str, value: Document, **match: Document) -> Document:
    match = {"context": "SIDECAR_OUTBOUND", **match}
    patch = {"applyTo": apply_to, "match": match, "patch": {"operation": "MERGE", "value": value}}
    return {"metadata": {"name": "team", "namespace": "default"}, "spec": {"configPatches": [patch]}}


RETRYING = outbound("HTTP_ROUTE", {"route": {"retry_policy": RETRIES}})
EJECTING = outbound("CLUSTER", {"outlier_detection": DETECTION}, cluster={"name": FOO})


@asynccontextmanager
async def caller(
    folder: Path, foo: Endpoint, *filters: Document, http2: bool = False
) -> AsyncIterator[Envoy]:
    """The sidecar of web, which calls foo."""
    described = Sidecar("web", foo, services={"foo": foo}, as_client=[FOO] if http2 else ())
    configuration = apply(filters, described, bootstrap(described))
    async with running(configuration, folder, "web", {}) as envoy:
        yield envoy


@dataclass
class Laptop:
    """An app that fails, and how often it was asked."""

    status: int = 503
    asked: int = 0
    hangs_up: bool = False
    fields: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.hangs_up:
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=self.status, headers=self.fields)


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_laptop_is_not_asked_twice(tmp_path: Path, hangs_up: bool) -> None:
    laptop, service = Laptop(hangs_up=hangs_up), Laptop()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        mesh = await enter(real_mesh(tmp_path))
        own, apps = await enter(serving(laptop.handle)), await enter(serving(service.handle))
        foo = await mesh.sidecar("foo", apps)
        envoy = await enter(caller(tmp_path, Endpoint("127.0.0.1", int(foo.rpartition(":")[2])), RETRYING))
        url = "http://{}:{}/".format(*envoy.listeners[OUTBOUND])
        for contract, result in ((None, None), (f"{own.host}:{own.port}", "error" if hangs_up else "laptop")):
            headers = {"host": "foo"} | ({"x-devroute": json.dumps({"foo": contract})} if contract else {})
            async with mesh.client.post(url, headers=headers) as response:
                assert response.status == (502 if contract and hangs_up else 503)
                assert response.headers.get("x-devroute-result") == result
    assert (service.asked, laptop.asked) == (3, 1)


async def test_a_laptop_is_not_asked_twice_by_grpc(tmp_path: Path) -> None:
    asked = {"laptop": 0, "service": 0}

    async def unavailable(who: str) -> Endpoint:
        async def abort(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            asked[who] += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
            raise AssertionError

        server = aio.server()
        handlers = {"Unary": grpc.unary_unary_rpc_method_handler(abort)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        return Endpoint("127.0.0.1", port)

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        mesh = await enter(real_mesh(tmp_path))
        own, apps = await unavailable("laptop"), await unavailable("service")
        foo = await mesh.sidecar("foo", apps, as_client=True)
        inside = Endpoint("127.0.0.1", int(foo.rpartition(":")[2]))
        envoy = await enter(caller(tmp_path, inside, RETRYING, http2=True))
        address = "{}:{}".format(*envoy.listeners[OUTBOUND])
        options = [("grpc.default_authority", "foo"), ("grpc.enable_retries", 0)]
        channel = await enter(aio.insecure_channel(address, options=options))
        for metadata in ((), (("x-devroute", json.dumps({"foo": f"{own.host}:{own.port}"})),)):
            with pytest.raises(aio.AioRpcError) as failed:
                await channel.unary_unary("/t/Unary")(b"", metadata=metadata)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert asked == {"service": 3, "laptop": 1}


# --- outlier detection --------------------------------------------------------------------------------------


async def ejections(folder: Path, app: Laptop, *filters: Document) -> int:
    """Whether the only pod of foo is ejected after some responses."""
    async with (
        serving(app.handle) as foo,
        caller(folder, foo, EJECTING, *filters) as envoy,
        ClientSession() as client,
    ):
        url = "http://{}:{}/".format(*envoy.listeners[OUTBOUND])
        for _ in range(6):
            async with client.get(url, headers={"host": "foo"}) as response:
                await response.read()
        return await envoy.counter(f"cluster.{FOO.replace(':', '_')}.outlier_detection.ejections_active")


@pytest.mark.parametrize("protocol", ["http", "client"])
async def test_only_the_pods_own_errors_eject_it(tmp_path: Path, protocol: str) -> None:
    ours = outlier_filter([read_protected(f"foo.default:8080={protocol}")], "istio-system", "cluster.local")
    laptop, error = {"x-devroute-result": "laptop"}, {"x-devroute-result": "error"}
    assert await ejections(tmp_path, Laptop(fields=laptop)) == 1
    cases: dict[str, tuple[dict[str, str], int]] = {
        "plain": ({}, 1),
        "fallback": ({"x-devroute-result": "fallback"}, 1),
        "laptop": (laptop, 0),
        "error": (error, 0),
        "laptop and more": (laptop | {"x-devroute-reason": "foo answered by alice (tunnel)"}, 0),
    }
    for name, (fields, ejected) in cases.items():
        assert await ejections(tmp_path, Laptop(fields=fields), ours) == ejected, name
    grpc_error = {"content-type": "application/grpc", "grpc-status": "14"}
    assert await ejections(tmp_path, Laptop(200, fields=grpc_error), ours) == 1
    assert await ejections(tmp_path, Laptop(200, fields=grpc_error | laptop), ours) == 0
    assert await ejections(tmp_path, Laptop(200), ours) == 0
