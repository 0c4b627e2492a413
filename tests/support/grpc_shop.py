"""A gRPC app with a schema (shop.proto) and server reflection, on grpcio, in the test's own loop. No
generated code: its messages are made from a descriptor set."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_tools import protoc

PROTO = Path(__file__).with_name("shop.proto")
WELL_KNOWN = Path(protoc.__file__).parent / "_proto"
SERVICE = "shop.Orders"
V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


@cache
def descriptor_set() -> bytes:
    """shop.proto and its imports, as `protoc --include_imports --descriptor_set_out` writes them."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "shop.binpb"
        arguments = (
            f"--proto_path={PROTO.parent}",
            f"--proto_path={WELL_KNOWN}",
            "--include_imports",
            f"--descriptor_set_out={made}",
            PROTO.name,
        )
        assert protoc.main(["protoc", *arguments]) == 0
        return made.read_bytes()


def files() -> list[bytes]:
    return [each.SerializeToString() for each in FileDescriptorSet.FromString(descriptor_set()).file]


@cache
def pool() -> Any:
    made = descriptor_pool.DescriptorPool()
    for each in files():
        made.AddSerializedFile(each)
    return made


def message(name: str, document: Any = None) -> Any:
    """A shop.NAME with these fields, in ProtoJSON."""
    made = message_factory.GetMessageClass(pool().FindMessageTypeByName(f"shop.{name}"))()
    return json_format.ParseDict(document or {}, made, descriptor_pool=pool())


@dataclass
class Shop:
    """`asked`: the paths of all calls."""

    port: int = 0
    asked: list[str] = field(default_factory=list)

    async def place(self, order: Any, context: Any) -> Any:
        return message(
            "Receipt",
            {"order_id": order.id, "text": f"for {order.customer}", "access_token": f"tok-{order.id}-secret"},
        )

    async def place_all(self, orders: AsyncIterator[Any], context: Any) -> Any:
        return message("Receipt", {"order_id": sum([each.id async for each in orders])})

    async def follow(self, order: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(order.id):
            yield message("Receipt", {"order_id": number, "text": f"step {number}"})

    async def refuse(self, order: Any, context: Any) -> Any:
        details = any_pb2.Any(type_url="type.googleapis.com/shop.Order", value=order.SerializeToString())
        status = b"\x08\x09\x12\x06closed\x1a" + bytes((details.ByteSize(),)) + details.SerializeToString()
        context.set_trailing_metadata([("grpc-status-details-bin", status)])
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "closed")

    def handlers(self) -> Any:
        def both(kind: str) -> dict[str, Any]:
            of = message_factory.GetMessageClass(pool().FindMessageTypeByName(f"shop.{kind}"))
            return {
                "request_deserializer": of.FromString,
                "response_serializer": lambda each: each.SerializeToString(),
            }

        return {
            "Place": grpc.unary_unary_rpc_method_handler(self.place, **both("Order")),
            "PlaceAll": grpc.stream_unary_rpc_method_handler(self.place_all, **both("Order")),
            "Follow": grpc.unary_stream_rpc_method_handler(self.follow, **both("Order")),
            "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse, **both("Order")),
        }


class _Asked(aio.ServerInterceptor):  # type: ignore[misc]
    """Notes the path of each call."""

    def __init__(self, asked: list[str]) -> None:
        self._asked = asked

    async def intercept_service(self, proceed: Any, details: Any) -> Any:
        self._asked.append(details.method)
        return await proceed(details)


def reflecting(service: str, served: Iterable[str] = (SERVICE,)) -> Any:
    """The handlers of server reflection under the name of one of its versions: their messages are equal."""
    servicer = reflection.ReflectionServicer(served, pool())
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=lambda each: each.SerializeToString(),
    )
    return grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})


@asynccontextmanager
async def serving(*reflections: Any, port: int = 0, compression: Any = None) -> AsyncIterator[Shop]:
    """The app on a port, with these handlers besides its own."""
    shop = Shop()
    server = aio.server(
        interceptors=[_Asked(shop.asked)], options=[("grpc.so_reuseport", 0)], compression=compression
    )
    own = grpc.method_handlers_generic_handler(SERVICE, shop.handlers())
    server.add_generic_rpc_handlers((own, *reflections))
    shop.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield shop
    finally:
        await server.stop(None)
