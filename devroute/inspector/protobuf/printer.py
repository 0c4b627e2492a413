"""Messages as JSON documents (ProtoJSON), field names as in the .proto. Needs the library `protobuf`.

The library's own printer stops at the first Any of an unknown type and leaves unknown fields out; here both
are shown. A field whose name is secret is not read at all.
"""

import base64
import math
import struct
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from devroute.http.secret_names import SecretNames
from devroute.inspector.capture import REDACTED
from devroute.inspector.protobuf.schema import Schema, map_entry, parse, unknown_fields
from devroute.inspector.protobuf.wire import describe_field

#: The key of fields that the schema does not have; no field of a .proto can have this name.
UNKNOWN: Final = "@unknown"
#: The key of an Any's type, and of the bytes of one whose type is not known (ProtoJSON).
TYPE, VALUE = "@type", "value"
ANY: Final = "google.protobuf.Any"

#: Types that ProtoJSON writes in a form of their own.
WITH_OWN_FORM: Final = frozenset(
    f"google.protobuf.{name}"
    for name in (
        "Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue", "DoubleValue", "FloatValue",
        "Int64Value", "UInt64Value", "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue",
    )
)  # fmt: skip

#: Values of one message that are printed, and levels of Any in Any.
MAX_VALUES: Final = 50_000
MAX_ANY_DEPTH: Final = 8

_64_BITS: Final = frozenset((
    FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64,
    FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64,
))  # fmt: skip


#: The largest float: ProtoJSON has no larger number, even if it would be rounded to this one.
_LARGEST: Final = 3.4028234663852886e38


class MessageTooLarge(Exception):
    """A message of more than MAX_VALUES values."""


class Printer:
    """Prints one message. `stale`: it has fields or types that the schema does not know."""

    def __init__(self, schema: Schema, secret: SecretNames) -> None:
        self._schema = schema
        self._secret = secret
        self._values = 0
        self._any_depth = 0
        self.stale = False
        #: Names of the types of Any that the schema does not have.
        self.missing_types: set[str] = set()

    def print(self, message: Message) -> Any:
        """Raises MessageTooLarge."""
        name = message.DESCRIPTOR.full_name
        if name == ANY:
            return self._any(message)
        if name in WITH_OWN_FORM:
            try:
                return json_format.MessageToDict(message, preserving_proto_field_name=True)
            except (ValueError, TypeError, RecursionError):
                pass  # out of its range, such as a year above 9999: as any other message
        return self._fields(message)

    def _fields(self, message: Message) -> dict[str, Any]:
        printed: dict[str, Any] = {}
        for field, value in message.ListFields():
            name = f"[{field.full_name}]" if field.is_extension else field.name
            if field.name in self._secret or field.json_name in self._secret:
                printed[name] = REDACTED
            elif not field.is_repeated:
                printed[name] = self._value(field, value)
            elif (entry := map_entry(field)) is not None:
                of = entry.fields_by_name["value"]
                printed[name] = {_key(key): self._entry(of, key, value[key]) for key in value}
            else:
                printed[name] = [self._value(field, each) for each in value]
        if unknown := self._unknown(message):
            printed[UNKNOWN] = unknown
        return printed

    def _entry(self, field: FieldDescriptor, key: object, value: Any) -> Any:
        return REDACTED if isinstance(key, str) and key in self._secret else self._value(field, value)

    def _value(self, field: FieldDescriptor, value: Any) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise MessageTooLarge
        if field.message_type is not None:
            return self.print(value)
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return value if known is None else known.name
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, float):
            return _real(value, single=field.type == FieldDescriptor.TYPE_FLOAT)
        return str(value) if field.type in _64_BITS else value

    def _any(self, message: Any) -> dict[str, Any]:
        name = message.type_url.rpartition("/")[2]
        kind = self._schema.type(name) if name else None
        inner = None if kind is None or self._any_depth >= MAX_ANY_DEPTH else parse(kind, message.value)
        if kind is None and name:
            self.missing_types.add(name)
        if inner is None:
            return {TYPE: message.type_url, VALUE: base64.b64encode(message.value).decode()}
        self._any_depth += 1
        try:
            printed = self.print(inner)
        finally:
            self._any_depth -= 1
        if kind is not None and kind.full_name in (*WITH_OWN_FORM, ANY):
            return {TYPE: message.type_url, VALUE: printed}
        return {TYPE: message.type_url, **printed}

    def _unknown(self, message: Message) -> list[str]:
        lines = []
        for number, wire_type, value in unknown_fields(message):
            self._values += 1
            if self._values > MAX_VALUES:
                raise MessageTooLarge
            lines.append(f"{number} group" if value is None else describe_field(number, wire_type, value))
        self.stale = self.stale or bool(lines)
        return lines


def _key(key: object) -> str:
    """A key of a map as JSON has it."""
    return str(key).lower() if isinstance(key, bool) else str(key)


def _real(value: float, *, single: bool) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    if not single:
        return value
    # The shortest text that is the same float: nine digits always are.
    return next(
        (short for digits in (6, 7, 8) if _single(short := float(f"{value:.{digits}g}")) == value), value
    )


def _single(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0] if abs(value) <= _LARGEST else math.inf
    return rounded
