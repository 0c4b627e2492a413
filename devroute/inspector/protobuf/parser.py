"""JSON documents (ProtoJSON) as messages. Needs the library `protobuf`.

The library's errors do not name the place in lists, and it accepts some values of the wrong type: the
document is checked first, and then converted by the library.
"""

import base64
import binascii
import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from devroute.errors import RequestMalformed
from devroute.inspector.capture import REDACTED
from devroute.inspector.json_path import Location, format_path
from devroute.inspector.protobuf.printer import ANY, TYPE, UNKNOWN, VALUE, WITH_OWN_FORM
from devroute.inspector.protobuf.schema import Schema, map_entry, new

#: Levels of nesting; the library has the same limit.
MAX_DEPTH: Final = 100
#: Names of an enum that an error lists.
MAX_LISTED: Final = 12

_F = FieldDescriptor
_INTEGERS: Final = {
    _F.TYPE_INT32: ("int32", -(1 << 31), (1 << 31) - 1),
    _F.TYPE_SINT32: ("sint32", -(1 << 31), (1 << 31) - 1),
    _F.TYPE_SFIXED32: ("sfixed32", -(1 << 31), (1 << 31) - 1),
    _F.TYPE_UINT32: ("uint32", 0, (1 << 32) - 1),
    _F.TYPE_FIXED32: ("fixed32", 0, (1 << 32) - 1),
    _F.TYPE_INT64: ("int64", -(1 << 63), (1 << 63) - 1),
    _F.TYPE_SINT64: ("sint64", -(1 << 63), (1 << 63) - 1),
    _F.TYPE_SFIXED64: ("sfixed64", -(1 << 63), (1 << 63) - 1),
    _F.TYPE_UINT64: ("uint64", 0, (1 << 64) - 1),
    _F.TYPE_FIXED64: ("fixed64", 0, (1 << 64) - 1),
}
_WHOLE = re.compile(r"-?\d{1,20}")
_REALS: Final = ("NaN", "Infinity", "-Infinity")


def parse_document(schema: Schema, kind: Descriptor, document: Any, at: Location = ()) -> bytes:
    """The message of this type, serialised. Redacted values and unknown fields are left out. `at`: where the
    document is. Raises RequestMalformed naming the field and what it has to be."""
    try:
        document = _without_redacted(document)
    except RecursionError:
        raise RequestMalformed("the JSON is nested too deep") from None
    _Check(schema).message(kind, document, at, 0)
    message = new(kind)
    try:
        _convert(schema, document, message)
        return message.SerializeToString()
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise RequestMalformed(f"not a {kind.full_name}: {_reason(error)}") from None


def _convert(schema: Schema, document: Any, message: Message) -> None:
    json_format.ParseDict(document, message, descriptor_pool=schema.pool, max_recursion_depth=MAX_DEPTH)


def _reason(error: Exception) -> str:
    """The library's message without the places that it nests."""
    return str(error).rpartition("field: ")[2].splitlines()[0].strip(". ")[:200]


def _without_redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_redacted(each) for key, each in value.items() if key != UNKNOWN and each != REDACTED
        }
    return (
        [_without_redacted(each) for each in value if each != REDACTED] if isinstance(value, list) else value
    )


class _Check:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def message(self, kind: Descriptor, value: Any, at: Location, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise RequestMalformed(f"{_place(at)}: nested deeper than {MAX_DEPTH} levels")
        if kind.full_name in WITH_OWN_FORM:
            self._own_form(kind, value, at)
            return
        if not isinstance(value, dict):
            raise _expected(at, f"an object ({kind.full_name})", value)
        if kind.full_name == ANY:
            self._any(value, at, depth)
            return
        by_name = {field.json_name: field for field in kind.fields} | dict(kind.fields_by_name)
        for name, each in value.items():
            field = by_name.get(name)
            if field is not None:
                self._field(field, each, (*at, name), depth)
            elif not (name.startswith("[") and name.endswith("]") and kind.is_extendable):
                close = get_close_matches(name, by_name, 1)
                has = ", ".join(list(kind.fields_by_name)[:MAX_LISTED]) or "no fields"
                raise RequestMalformed(
                    f"{_place((*at, name))}: {kind.full_name} has no field {name!r:.60}",
                    hint=f"did you mean {close[0]}?" if close else f"it has {has}",
                )

    def _own_form(self, kind: Descriptor, value: Any, at: Location) -> None:
        try:
            _convert(self._schema, value, new(kind))
        except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RequestMalformed(
                f"{_place(at)}: not a {kind.full_name}, {_shown(value)}: {_reason(error)}"
            ) from None

    def _any(self, value: dict[str, Any], at: Location, depth: int) -> None:
        if not value:
            return
        name = value.get(TYPE)
        kind = self._schema.type(name.rpartition("/")[2]) if isinstance(name, str) else None
        if kind is None:
            raise RequestMalformed(
                f'{_place(at)}: "{TYPE}" has to name a type of the schema, not {_shown(name)}'
            )
        if kind.full_name in (*WITH_OWN_FORM, ANY):
            self.message(kind, value.get(VALUE), (*at, VALUE), depth + 1)
        else:
            inner = {key: each for key, each in value.items() if key != TYPE}
            self.message(kind, inner, at, depth + 1)

    def _field(self, field: FieldDescriptor, value: Any, at: Location, depth: int) -> None:
        if value is None:
            return  # absent
        if not field.is_repeated:
            self._value(field, value, at, depth)
        elif (entry := map_entry(field)) is not None:
            if not isinstance(value, dict):
                raise _expected(at, "an object (map)", value)
            key_of, value_of = (entry.fields_by_name[each] for each in ("key", "value"))
            for key, each in value.items():
                self._key(key_of, key, (*at, key))
                self._value(value_of, each, (*at, key), depth)
        else:
            if not isinstance(value, list):
                raise _expected(at, "a list", value)
            for index, each in enumerate(value):
                self._value(field, each, (*at, index), depth)

    def _key(self, field: FieldDescriptor, key: str, at: Location) -> None:
        if field.type == _F.TYPE_BOOL:
            if key not in ("true", "false"):
                raise _expected(at, 'the key "true" or "false"', key)
        elif field.type != _F.TYPE_STRING:
            self._value(field, key, at, 0)

    def _value(self, field: FieldDescriptor, value: Any, at: Location, depth: int) -> None:
        if field.message_type is not None:
            self.message(field.message_type, value, at, depth + 1)
        elif field.enum_type is not None:
            names = field.enum_type.values_by_name
            if not (isinstance(value, str) and value in names) and not _is_integer(
                value, -(1 << 31), 1 << 31
            ):
                listed = ", ".join([*names][:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
                raise _expected(at, f"one of {listed} ({field.enum_type.full_name})", value)
        elif (integer := _INTEGERS.get(field.type)) is not None:
            name, least, most = integer
            if not _is_integer(int(value) if _is_whole(value) else value, least, most + 1):
                raise _expected(at, f"a whole number from {least} to {most} ({name})", value)
        else:
            words, fits = _SCALARS[field.type]
            if not fits(value):
                raise _expected(at, words, value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, str) and _WHOLE.fullmatch(value) is not None


def _is_integer(value: Any, least: int, beyond: int) -> bool:
    if isinstance(value, float):
        return value.is_integer() and least <= value < beyond
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < beyond


def _is_real(value: Any) -> bool:
    if isinstance(value, str):
        return (
            value in _REALS or re.fullmatch(r"-?\d{1,40}(\.\d{0,40})?([eE][+-]?\d{1,3})?", value) is not None
        )
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_base64(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        base64.b64decode(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_SCALARS: Final[dict[int, tuple[str, Callable[[Any], bool]]]] = {
    _F.TYPE_STRING: ("a string", lambda value: isinstance(value, str)),
    _F.TYPE_BOOL: ("true or false", lambda value: isinstance(value, bool)),
    _F.TYPE_BYTES: ("bytes in base64", _is_base64),
    _F.TYPE_DOUBLE: ("a number (double)", _is_real),
    _F.TYPE_FLOAT: ("a number (float)", _is_real),
}


def _expected(at: Location, words: str, value: Any) -> RequestMalformed:
    return RequestMalformed(f"{_place(at)}: expected {words}, not {_shown(value)}")


def _place(at: Location) -> str:
    return format_path(at)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value!r:.60}"
