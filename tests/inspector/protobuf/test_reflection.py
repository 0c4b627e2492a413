"""Schemas from real apps: reflection over HTTP/2, how often it is asked, and apps that cannot be trusted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import (
    FileDescriptorResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from devroute.contract.service_spec import ServiceSpec
from devroute.inspector.protobuf import catalogue as module
from devroute.inspector.protobuf import reflection
from devroute.inspector.protobuf.catalogue import Catalogue, Found
from tests.support.eventually import eventually
from tests.support.grpc_shop import V1, V1ALPHA, Shop, reflecting, serving
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio

PLACE = "/shop.Orders/Place"


class Asking:
    """A catalogue for one app."""

    def __init__(self, port: int) -> None:
        self.catalogue = Catalogue([ServiceSpec("b", "127.0.0.1", port)])

    async def __aenter__(self) -> "Asking":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.catalogue.close()

    @property
    def connected(self) -> bool:
        return self.catalogue.apps["b"].connected

    async def find(self, path: str = PLACE) -> Found:
        return await self.catalogue.find("b", path)


def calls(shop: Shop) -> list[str]:
    """The versions of reflection that were asked."""
    return [path.split("/")[1] for path in shop.asked]


def answering(answer: Callable[[Any], list[bytes]], service: str = V1) -> Any:
    """Reflection that responds to a request with these files."""

    async def info(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            made = FileDescriptorResponse(file_descriptor_proto=answer(each))
            yield ServerReflectionResponse(file_descriptor_response=made).SerializeToString()

    method = grpc.stream_stream_rpc_method_handler(
        info, request_deserializer=ServerReflectionRequest.FromString
    )
    return grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})


@pytest.mark.parametrize("version", [V1, V1ALPHA])
async def test_a_schema_is_asked_for_once(version: str) -> None:
    async with serving(reflecting(version)) as shop, Asking(shop.port) as asking:
        for _ in range(3):
            found = await asking.find()
            assert found.method is not None
            assert found.method.request.full_name == "shop.Order"
            assert (found.source, found.problem) == (module.REFLECTION, "")
        assert (await asking.find("/shop.Orders/No")).problem.startswith(
            "There is no schema: it has no such method."
        )
        assert calls(shop) == ([V1] if version == V1 else [V1, V1ALPHA])


async def test_an_app_without_reflection_costs_one_attempt() -> None:
    async with serving() as shop, Asking(shop.port) as asking:
        for path in (PLACE, PLACE, "/other.Service/Call"):
            found = await asking.find(path)
            assert found.method is None
            assert found.problem.startswith("There is no schema: the app has no server reflection.")
            assert "--descriptor-set FILE" in found.problem
        assert calls(shop) == [V1, V1ALPHA]


async def test_an_app_that_restarts_is_asked_again() -> None:
    async with serving(port=free_port()) as shop:
        asking = Asking(shop.port)
        assert (await asking.find()).method is None
    async with asking, serving(reflecting(V1), port=shop.port) as again:
        await eventually(lambda: not asking.connected)
        assert (await asking.find()).method is not None
        assert calls(again) == [V1]


async def test_descriptors_of_many_services_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10_000)

    def service(request: Any) -> list[bytes]:
        package = request.file_containing_symbol.partition(".")[0]
        made = FileDescriptorProto(name=f"{package}.proto", package=package)
        made.message_type.add(name="M" * 500)
        method = made.service.add(name="S").method.add(name="Call")
        method.input_type = method.output_type = f".{package}.{'M' * 500}"
        return [made.SerializeToString()]

    async with serving(answering(service)) as shop, Asking(shop.port) as asking:
        for number in range(10):
            assert (await asking.find(f"/p{number}.S/Call")).method is not None
        known = asking.catalogue.apps["b"].files
        assert sum(map(len, known.values())) <= 10_000
        assert "p9.proto" in known
        assert "p0.proto" not in known


async def test_a_schema_that_does_not_fit_is_asked_for_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(reflecting(V1)) as shop, Asking(shop.port) as asking:
        found = await asking.find()
        assert not await asking.catalogue.learn("b", found, ())
        assert await asking.catalogue.learn("b", found, ("shop.Item", "no.Such"))
        assert not await asking.catalogue.learn("b", found, ("shop.Item", "no.Such"))
        assert calls(shop) == [V1, V1, V1]
        monkeypatch.setattr(module, "STALE_SECONDS", 0.0)
        assert await asking.catalogue.learn("b", found, ())
        await asking.find()
        assert calls(shop) == [V1] * 4


async def test_an_app_that_is_away_or_speaks_something_else_is_named() -> None:
    async with Asking(9) as asking:
        found = await asking.find()
        assert "127.0.0.1:9" in found.problem
        assert found.method is None

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, Asking(server.sockets[0].getsockname()[1]) as asking:
        assert "does not speak HTTP/2 but HTTP/1.1" in (await asking.find()).problem


async def test_imports_that_an_app_does_not_send_along_are_asked_for() -> None:
    part = FileDescriptorProto(name="part.proto", package="a", dependency=["google/protobuf/any.proto"])
    part.message_type.add(name="Part")
    main = FileDescriptorProto(name="main.proto", package="a", dependency=["part.proto"])
    main.service.add(name="Parts").method.add(name="Get", input_type=".a.Part", output_type=".a.Part")

    def one(request: Any) -> list[bytes]:
        return [(part if request.file_by_filename == "part.proto" else main).SerializeToString()]

    async with serving(answering(one)) as shop, Asking(shop.port) as asking:
        found = await asking.find("/a.Parts/Get")
        assert found.method is not None
        assert found.method.request.full_name == "a.Part"
        assert calls(shop) == [V1, V1]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda request: [], "the app's reflection does not know shop.Orders"),
        (lambda request: [b"\xff\xff"], "the app's reflection does not know shop.Orders"),
        (
            lambda request: [b"\x0a\x01a\x1a\x02\xff\xfe\x1a\x01b"],
            "the app's reflection does not know shop.Orders",
        ),
        (lambda request: [bytes(3_000_000)] * 3, "the app's descriptors have more than 8 MiB"),
        (lambda request: 1 // 0, "the app's reflection failed with gRPC status 2"),
    ],
)
async def test_what_an_app_responds_is_bounded_and_checked(
    answer: Callable[[Any], list[bytes]], problem: str
) -> None:
    async with serving(answering(answer)) as shop, Asking(shop.port) as asking:
        assert (await asking.find()).problem.startswith(f"There is no schema: {problem}")


async def test_endless_imports_and_a_silent_app_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def deeper(request: Any) -> list[bytes]:
        number = int(request.file_by_filename.removesuffix(".proto") or 0)
        return [
            FileDescriptorProto(
                name=f"{number}.proto", dependency=[f"{number + 1}.proto"]
            ).SerializeToString()
        ]

    async with serving(answering(deeper)) as shop, Asking(shop.port) as asking:
        assert (await asking.find()).method is None
        assert len(shop.asked) == reflection.MAX_ROUNDS + 1

    async def silent(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    method = grpc.stream_stream_rpc_method_handler(silent)
    handler = grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": method})
    monkeypatch.setattr(reflection, "TIMEOUT_S", 0.2)
    async with serving(handler) as shop, Asking(shop.port) as asking:
        assert "did not respond within 0.2 s" in (await asking.find()).problem
