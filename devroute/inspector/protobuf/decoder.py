"""What the page shows of a gRPC call's messages, and messages from what it sends back.

Everything is decoded in threads, and redacted by the same rules as JSON. A schema is asked for when a capture
is looked at; catalogue.py bounds how often.
"""

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, NamedTuple

from devroute.contract.service_spec import ServiceSpec
from devroute.errors import RequestMalformed
from devroute.inspector.capture import Capture, value_of
from devroute.inspector.compare import Documents
from devroute.inspector.masks import Masks
from devroute.inspector.protobuf import frames, wire
from devroute.inspector.protobuf.catalogue import Catalogue, Found, library_problem
from devroute.inspector.protobuf.cleaner import clean, is_clean
from devroute.inspector.protobuf.frames import Payload
from devroute.inspector.redaction import redaction
from devroute.inspector.views import LISTED_MESSAGES

#: Seconds for the messages of one capture; those that are left after it are shown as bytes.
DECODE_SECONDS: Final = 2.0
#: Bytes of the JSON that replaces a request's messages.
MAX_JSON: Final = 4 * 1024 * 1024

_DETAILS: Final = "grpc-status-details-bin"


class DecodedMessage(NamedTuple):
    """`json`: the message as JSON text. Without a schema, `text`: its fields by number. `problem`: why there
    is none of them, or what does not fit."""

    from_client: bool
    json: str | None = None
    text: str | None = None
    problem: str = ""
    #: The places of values that were removed before, which the message therefore does not show.
    redacted: tuple[str, ...] = ()


@dataclass(slots=True)
class DecodedCall:
    """The messages of a call, and google.rpc.Status of a failed one as JSON text."""

    found: Found
    #: The index of the first message in the capture's list.
    first: int = 0
    messages: list[DecodedMessage] = field(default_factory=list)
    status_details: str | None = None
    #: Whether a message has fields or types that the schema does not have.
    stale: bool = False
    missing_types: set[str] = field(default_factory=set)

    def as_dict(self) -> dict[str, Any]:
        method = self.found.method
        return {
            "source": self.found.source,
            "problem": self.found.problem,
            "request_type": None if method is None else method.request.full_name,
            "response_type": None if method is None else method.response.full_name,
            "client_streaming": method is not None and method.client_streaming,
            "messages": [each._asdict() for each in self.messages],
            "status_details": self.status_details,
        }


class Decoder:
    def __init__(self, catalogue: Catalogue, masks: Masks) -> None:
        self._catalogue = catalogue
        self._masks = masks
        self._cleaning = asyncio.Lock()

    async def call(self, capture: Capture, first: int = 0) -> DecodedCall:
        """The listed messages of a call, from the one at index `first` on."""
        first = max(first, len(capture.messages) - LISTED_MESSAGES)
        payloads = frames.payloads(capture, first)
        details = value_of([*capture.trailers, *capture.response_headers], _DETAILS)
        decoded = await self._decoded(capture, payloads, details)
        if decoded.stale or decoded.missing_types:
            learnt = await self._catalogue.learn(capture.service, decoded.found, decoded.missing_types)
            if learnt:
                decoded = await self._decoded(capture, payloads, details)
        decoded.first = first
        return decoded

    async def _decoded(self, capture: Capture, payloads: list[Payload], details: str) -> DecodedCall:
        found = await self._catalogue.find(capture.service, capture.target)
        return await asyncio.to_thread(_decode, found, payloads, details, self._masks)

    async def clean(self, capture: Capture) -> int:
        """Redact the messages of a gRPC call; returns by how many bytes the capture has grown."""
        if capture.kind != "grpc" or (capture.schema_known and is_clean(capture)):
            return 0
        found = await self._catalogue.find(capture.service, capture.target)
        async with self._cleaning:
            return await clean(capture, found, self._masks)

    async def documents(self, capture: Capture) -> Documents | None:
        """The messages of a gRPC call, for comparisons; None unless all of them are decoded. One message is a
        document, any other number is a list."""
        if capture.kind != "grpc" or capture.messages_dropped or len(capture.messages) > LISTED_MESSAGES:
            return None
        decoded = await self.call(capture)
        if decoded.found.method is None or any(each.json is None for each in decoded.messages):
            return None
        request, response = (
            [each.json or "" for each in decoded.messages if each.from_client is side]
            for side in (True, False)
        )
        return Documents(_joined(request), _joined(response))

    async def encoded(self, capture: Capture, target: str, text: object) -> bytes:
        """The body with the messages of a JSON text: one, or for client streaming a list. Raises
        RequestMalformed."""
        if not isinstance(text, str) or len(text) > MAX_JSON:
            raise RequestMalformed(f'"messages" must be JSON text of at most {MAX_JSON >> 20} MiB')
        found = await self._catalogue.find(capture.service, target)
        if found.method is None or found.schema is None:
            raise RequestMalformed(f"the messages cannot be encoded: {found.problem}")
        return await asyncio.to_thread(_encode, found, text)

    async def serve(self, services: Iterable[ServiceSpec]) -> None:
        """Messages of the apps of these services are decoded from now on, and of no others."""
        await self._catalogue.serve(services)

    async def load(self) -> None:
        """Read the files with schemas that the settings name. Raises ConfigInvalid."""
        await self._catalogue.load()

    async def close(self) -> None:
        await self._catalogue.close()


def decoder(catalogue: Catalogue | None = None, rules: Iterable[str] = ()) -> Decoder:
    """`rules` as for inspector/redaction.py."""
    return Decoder(catalogue or Catalogue(), redaction(rules).masks)


# --- decoding, in threads ----------------------------------------------------------------------------------


def _decode(found: Found, payloads: list[Payload], details: str, masks: Masks) -> DecodedCall:
    call = DecodedCall(found)
    until = monotonic() + DECODE_SECONDS
    for payload in payloads:
        if monotonic() > until:
            call.messages.append(DecodedMessage(payload.from_client, problem="too much to decode at once"))
        else:
            call.messages.append(_message(call, payload.plain(), masks))
    if details:
        call.status_details = _status(call, details, masks)
    return call


def _message(call: DecodedCall, payload: Payload, masks: Masks) -> DecodedMessage:
    side, data, _, problem, redacted = payload
    if problem:
        return DecodedMessage(side, problem=problem)
    method = call.found.method
    if method is not None:
        kind = method.request if side else method.response
        document = _document(call, kind, data, masks)
        if document is not None:
            return DecodedMessage(side, json=document, redacted=redacted)
        problem = f"not a {kind.full_name}, or too large"
        call.stale = True
    text = wire.describe(data)
    return DecodedMessage(side, text=None if text is None else _masked(text, masks), problem=problem)


def _document(call: DecodedCall, kind: Any, data: bytes, masks: Masks) -> str | None:
    """JSON text, redacted; None for bytes that are no such message."""
    from devroute.inspector.protobuf.printer import MessageTooLarge, Printer
    from devroute.inspector.protobuf.schema import parse

    message = parse(kind, data)
    if message is None or call.found.schema is None:
        return None
    printer = Printer(call.found.schema, masks.names)
    try:
        document = printer.print(message)
    except (MessageTooLarge, RecursionError):
        return None
    call.stale = call.stale or printer.stale
    call.missing_types |= printer.missing_types
    return _masked(json.dumps(document, ensure_ascii=False), masks)


def _masked(text: str, masks: Masks) -> str:
    return masks.json(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def _status(call: DecodedCall, details: str, masks: Masks) -> str | None:
    """google.rpc.Status, which grpc-status-details-bin has in base64, without padding or with it."""
    if library_problem():
        return None
    from devroute.inspector.protobuf.error_details import STATUS
    from devroute.inspector.protobuf.schema import Schema

    try:
        data = base64.b64decode(details + "=" * (-len(details) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    if call.found.schema is None:
        call.found = call.found._replace(schema=Schema(()))
    schema = call.found.schema
    kind = None if schema is None else schema.type(STATUS)
    return None if kind is None else _document(call, kind, data, masks)


def _joined(documents: list[str]) -> bytes:
    if len(documents) == 1:
        return documents[0].encode()
    return f"[{', '.join(documents)}]".encode()


# --- encoding, in a thread ---------------------------------------------------------------------------------


def _encode(found: Found, text: str) -> bytes:
    from devroute.inspector.protobuf.parser import parse_document

    schema, method = found.schema, found.method
    if schema is None or method is None:
        raise ValueError("nothing is encoded without a schema")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestMalformed(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise RequestMalformed("the JSON is nested too deep, or has a number of too many digits") from None
    if not method.client_streaming:
        return frames.join([parse_document(schema, method.request, document)])
    if not isinstance(document, list):
        raise RequestMalformed(f"this call streams its requests: write a list of {method.request.full_name}")
    return frames.join(
        parse_document(schema, method.request, each, (index,)) for index, each in enumerate(document)
    )
