"""What `devroute up` has between tunnel and app, with a gRPC app that has a schema."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from devroute.contract.service_spec import ServiceSpec
from devroute.http.http1.request import parse_request_head
from devroute.inspector.capture import Capture
from devroute.inspector.inspection import About, Inspection
from devroute.inspector.protobuf import frames
from devroute.inspector.protobuf.catalogue import Catalogue
from devroute.inspector.protobuf.decoder import DecodedCall, Decoder, decoder
from devroute.inspector.protobuf.schema_files import NO_FILES, SchemaFiles
from devroute.inspector.recorder import Recorder, RecordingUpstream
from devroute.inspector.replay import Replayer
from devroute.inspector.store import CaptureStore
from devroute.upstream.local_app import local_app
from tests.support.eventually import eventually
from tests.support.grpc_shop import V1, Shop, message, reflecting, serving
from tests.support.loopback import Client


@dataclass
class Laptop:
    shop: Shop
    store: CaptureStore
    app: RecordingUpstream
    replayer: Replayer
    decoder: Decoder

    @property
    def inspection(self) -> Inspection:
        about = About({"b": f"http://127.0.0.1:{self.shop.port}"}, "alice")
        return Inspection(self.store, self.replayer, about, self.decoder)

    async def call(self, method: str, *orders: Any, encoding: str = "") -> Capture:
        coding = f"grpc-encoding: {encoding}\r\n" if encoding else ""
        fields = f"host: b\r\ncontent-type: application/grpc\r\nte: trailers\r\n{coding}"
        fields += "grpc-accept-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
        head = parse_request_head(f"POST /shop.Orders/{method} HTTP/1.1\r\n{fields}".encode()).forward()
        client, before = Client(), len(self.store)
        stream = self.app.open(head, client)
        body = frames.join(message("Order", each).SerializeToString() for each in orders)
        if encoding:
            packed = [gzip.compress(each) for _, each in frames.split(body)]
            body = b"".join(frames.frame(each, compressed=True) for each in packed)
        stream.send_data(body)
        stream.send_end([])
        async with asyncio.timeout(20):
            await client.done.wait()
        return await self.newest(before + 1)

    async def newest(self, calls: int) -> Capture:
        """The last of so many calls, when it is recorded."""

        def found() -> Capture | None:
            newest = self.store.get(calls)
            return newest if newest is not None and newest.state != "open" else None

        return await eventually(found)

    async def shown(self, capture: Capture) -> list[Any]:
        call = await self.decoder.call(capture)
        return documents(call)

    async def replay(self, capture: Capture, document: Any) -> Capture:
        edits = await self.decoder.encoded(capture, capture.target, json.dumps(document))
        replay = self.replayer.start(capture, {"body_base64": base64.b64encode(edits).decode()})
        async with asyncio.timeout(20):
            await replay.done
        return await self.newest(replay.capture.id)


def documents(call: DecodedCall) -> list[Any]:
    return [json.loads(each.json) if each.json is not None else each for each in call.messages]


@asynccontextmanager
async def laptop(
    *reflections: Any, files: SchemaFiles = NO_FILES, rules: tuple[str, ...] = (), **more: Any
) -> AsyncIterator[Laptop]:
    reflections = reflections or (reflecting(V1),)
    async with serving(*reflections, **more) as shop:
        spec = ServiceSpec("b", "127.0.0.1", shop.port)
        store = CaptureStore()
        app = RecordingUpstream(local_app(spec), "b", Recorder(store, asyncio.get_running_loop()))
        found = Laptop(shop, store, app, Replayer({"b": app}), decoder(Catalogue([spec], files), rules))
        try:
            yield found
        finally:
            await found.decoder.close()
            await app.close()
