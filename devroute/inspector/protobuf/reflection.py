"""Asks an app for its descriptors by gRPC's server reflection (grpc/reflection/v1/reflection.proto; v1alpha
has the same messages). Bounded in time, size and rounds, since the app is not trusted. Needs the library
`protobuf`.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from devroute.errors import DevrouteError
from devroute.http.http1.request import parse_request_head
from devroute.http.message import Headers, RequestHead, ResponseHead
from devroute.inspector.protobuf import frames
from devroute.inspector.protobuf.schema import unknown_fields, well_known_files
from devroute.inspector.protobuf.wire import LEN, varint
from devroute.upstream.interface import Upstream

#: Seconds for all that is asked at a time, and bytes of all its responses.
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 8 * 1024 * 1024
#: Some apps send a file without those that it imports: rounds of asking for these, and files in one round.
MAX_ROUNDS: Final = 20
MAX_NAMES: Final = 500

#: Services in the order in which they are tried.
_SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_UNIMPLEMENTED: Final = b"12"

# Numbers of fields in reflection.proto.
_FILE_BY_FILENAME, _FILE_CONTAINING_SYMBOL = 3, 4
_FILE_DESCRIPTOR_RESPONSE, _FILE_DESCRIPTOR_PROTO = 4, 1


class NotReflected(Exception):
    """There are no descriptors; the text says why. `final`: the app has no reflection at all."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


async def reflect(app: Upstream, authority: str, symbol: str, known: Iterable[str]) -> dict[str, bytes]:
    """The file that defines `symbol` and all that it imports, by name, but for those in `known` and those of
    the well-known types. Raises NotReflected."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await _Reflection(app, authority, {*known, *well_known_files()}).files_of(symbol)
    except TimeoutError:
        raise NotReflected(f"the app's reflection did not respond within {TIMEOUT_S:g} s") from None


class _Reflection:
    def __init__(self, app: Upstream, authority: str, known: set[str]) -> None:
        self._app = app
        self._authority = authority
        self._known = known
        self._found: dict[str, bytes] = {}
        self._room = MAX_BYTES
        self._service = ""

    async def files_of(self, symbol: str) -> dict[str, bytes]:
        wanted = self._take(await self._ask_first(_request(_FILE_CONTAINING_SYMBOL, symbol)))
        if not self._found:
            raise NotReflected(f"the app's reflection does not know {symbol}")
        for _ in range(MAX_ROUNDS):
            if not wanted:
                break
            asked = sorted(wanted)[:MAX_NAMES]
            found = self._take(await self._ask([_request(_FILE_BY_FILENAME, name) for name in asked]))
            self._known |= set(asked)  # also those that the app does not have
            wanted = (wanted | found) - self._known - self._found.keys()
        return self._found

    def _take(self, files: list[bytes]) -> set[str]:
        """Keep these files; the names of imports that are missing."""
        wanted: set[str] = set()
        for data in files:
            file = FileDescriptorProto()
            try:
                file.ParseFromString(data)
            except DecodeError:
                continue
            if not all(isinstance(name, str) for name in (file.name, *file.dependency)):
                continue  # the library has bytes for what is not UTF-8
            if file.name not in self._known:
                self._found[file.name] = data
            wanted |= set(file.dependency)
        return wanted - self._found.keys() - self._known

    async def _ask_first(self, message: bytes) -> list[bytes]:
        for service in _SERVICES:
            self._service = service
            try:
                return await self._ask([message])
            except NotReflected as problem:
                if not problem.final:
                    raise
        raise NotReflected("the app has no server reflection", final=True)

    async def _ask(self, messages: list[bytes]) -> list[bytes]:
        """The files in the responses to these messages."""
        call = _Call(self._room)
        stream = self._app.open(_head(self._service, self._authority), call)
        try:
            stream.send_data(frames.join(messages))
            stream.send_end([])
            body, encoding = await call.done
        finally:
            stream.cancel()
        files: list[bytes] = []
        for compressed, data in frames.split(body):
            message = frames.Payload(False, data, encoding if compressed else "").plain(max(0, self._room))
            if message.problem:
                raise NotReflected(f"the response of the app's reflection cannot be read: {message.problem}")
            self._room -= len(message.data)
            for response in _values(message.data, _FILE_DESCRIPTOR_RESPONSE):
                files += _values(response, _FILE_DESCRIPTOR_PROTO)
        return files


class _Call:
    """Collects the response of one call; implements devroute.upstream.ResponseSink. `done` has its body and
    how its messages are compressed, or fails with NotReflected."""

    def __init__(self, limit: int) -> None:
        self.done: asyncio.Future[tuple[bytes, str]] = asyncio.get_running_loop().create_future()
        self._limit = limit
        self._body = bytearray()
        self._status = 200
        self._fields: Headers = []

    def on_informational(self, head: ResponseHead) -> None: ...

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status
        self._fields = head.headers

    def on_data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._limit:
            self._fail(f"the app's descriptors have more than {MAX_BYTES >> 20} MiB")

    def on_end(self, trailers: Headers) -> None:
        fields = {name.lower(): value for name, value in self._fields + trailers}
        status, encoding = fields.get(b"grpc-status", b""), fields.get(b"grpc-encoding", b"")
        if self.done.done():
            return
        if status == _UNIMPLEMENTED or self._status != 200:
            self._fail("the app has no server reflection", final=True)
        elif status != b"0":
            self._fail(f"the app's reflection failed with gRPC status {status.decode('latin-1')[:10] or '?'}")
        else:
            self.done.set_result((bytes(self._body), encoding.decode("latin-1")))

    def on_error(self, error: DevrouteError) -> None:
        self._fail(error.message)

    def _fail(self, reason: str, *, final: bool = False) -> None:
        if not self.done.done():
            self.done.set_exception(NotReflected(reason, final=final))

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


def _head(service: str, authority: str) -> RequestHead:
    return parse_request_head(
        (
            f"POST /{service}/ServerReflectionInfo HTTP/1.1\r\nhost: {authority}\r\n"
            "content-type: application/grpc\r\nte: trailers\r\nuser-agent: devroute-inspector\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        ).encode()
    ).forward()


def _request(number: int, text: str) -> bytes:
    """A ServerReflectionRequest with one field."""
    data = text.encode()
    return varint(number << 3 | LEN) + varint(len(data)) + data


def _values(message: bytes, number: int) -> list[bytes]:
    """The values of a repeated field of bytes, of a message whose type needs no descriptor for that."""
    empty = Empty()
    try:
        empty.ParseFromString(message)
    except DecodeError:
        return []
    return [value for each, _, value in unknown_fields(empty) if each == number and isinstance(value, bytes)]
