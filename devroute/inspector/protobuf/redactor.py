"""Redacts protobuf messages by their schema, as inspector/masks.py redacts JSON: fields with secret names, at
secret paths, and secrets in texts. Needs the library `protobuf`.
"""

from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from devroute.inspector.capture import REDACTED
from devroute.inspector.json_path import Location, PathMatcher, format_path
from devroute.inspector.masks import Masks
from devroute.inspector.patterns import might_have_patterns, overwritten
from devroute.inspector.protobuf.printer import ANY, MAX_ANY_DEPTH, MAX_VALUES, MessageTooLarge
from devroute.inspector.protobuf.schema import Schema, map_entry, parse

#: Types that are JSON: places in them are those of the JSON.
_JSON: Final = frozenset(("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"))
#: Types whose fields have names that are not in the schema: keys, and other messages.
_OPEN: Final = frozenset((ANY, *_JSON))

#: Places of removed values that are remembered of one message.
MAX_LISTED: Final = 20


class Redactor:
    def __init__(self, schema: Schema, masks: Masks) -> None:
        self._schema = schema
        self._masks = masks
        self._paths = PathMatcher(masks.paths)
        self._known: dict[str, bool] = {}
        self._values = 0
        self._any_depth = 0
        self._removed: list[str] = []

    def may_hold_secrets(self, kind: Descriptor) -> bool:
        """Whether a message of this type may have secrets by their names."""
        found = self._known.get(kind.full_name)
        if found is None:
            found = self._known[kind.full_name] = bool(self._masks.paths) or self._search(kind)
        return found

    def _search(self, kind: Descriptor) -> bool:
        waiting, seen = [kind], {kind.full_name}
        while waiting:
            current = waiting.pop()
            if current.full_name in _OPEN or current.is_extendable or current.GetOptions().map_entry:
                return True
            for field in current.fields:
                if self._is_named(field):
                    return True
                inner = field.message_type
                if inner is not None and inner.full_name not in seen:
                    seen.add(inner.full_name)
                    waiting.append(inner)
        return False

    def message(self, kind: Descriptor, data: bytes) -> tuple[bytes | None, tuple[str, ...]]:
        """The message without its secrets, None if the bytes are no such message; and the places of values
        that were removed, since numbers cannot have the redaction text. Raises MessageTooLarge."""
        message = parse(kind, data)
        if message is None:
            return None, ()
        if not self._may_have_secrets(kind, data):
            return data, ()
        self._values = 0
        self._removed = []
        changed = self._message(message, ())
        return (message.SerializeToString() if changed else data), tuple(self._removed)

    def _may_have_secrets(self, kind: Descriptor, data: bytes) -> bool:
        return self.may_hold_secrets(kind) or might_have_patterns(data) or self._masks.might_be_in(data)

    def _is_named(self, field: FieldDescriptor) -> bool:
        return field.name in self._masks.names or field.json_name in self._masks.names

    def _message(self, message: Message, at: Location) -> bool:
        """Redact a message in place; whether it has changed."""
        if message.DESCRIPTOR.full_name == ANY:
            return self._any(message, at)
        transparent = message.DESCRIPTOR.full_name in _JSON
        changed = False
        for field, value in message.ListFields():
            here = at if transparent else (*at, field.name)
            if self._is_named(field) or self._paths.matches(here):
                if not _replace(message, field):
                    self._remove(here)
                changed = True
            elif not field.is_repeated:
                changed = self._single(message, field, value, here) or changed
            elif (entry := map_entry(field)) is not None:
                changed = self._map(entry.fields_by_name["value"], value, here) or changed
            else:
                changed = self._list(field, value, here) or changed
        return changed

    def _single(self, message: Message, field: FieldDescriptor, value: Any, at: Location) -> bool:
        if field.message_type is not None:
            return self._message(value, at)
        clean = self._scalar(value)
        if clean == value:
            return False
        _set(message, field, clean)
        return True

    def _list(self, field: FieldDescriptor, values: Any, at: Location) -> bool:
        changed = False
        for index, value in enumerate(values):
            if field.message_type is not None:
                changed = self._message(value, (*at, index)) or changed
            elif (clean := self._scalar(value)) != value:
                values[index] = clean
                changed = True
        return changed

    def _map(self, field: FieldDescriptor, values: Any, at: Location) -> bool:
        changed = False
        for key in list(values):
            here = (*at, str(key))
            if (isinstance(key, str) and key in self._masks.names) or self._paths.matches(here):
                if not _replace_entry(field, values, key):
                    del values[key]
                    self._remove(here)
                changed = True
            elif field.message_type is not None:
                changed = self._message(values[key], here) or changed
            elif (clean := self._scalar(values[key])) != values[key]:
                values[key] = clean
                changed = True
        return changed

    def _any(self, message: Any, at: Location) -> bool:
        kind = self._schema.type(message.type_url.rpartition("/")[2]) if message.type_url else None
        inner = None if kind is None or self._any_depth >= MAX_ANY_DEPTH else parse(kind, message.value)
        if inner is None:
            clean = overwritten(message.value)
        else:
            self._any_depth += 1
            try:
                clean = inner.SerializeToString() if self._message(inner, at) else message.value
            finally:
                self._any_depth -= 1
        if clean == message.value:
            return False
        message.value = clean
        return True

    def _remove(self, at: Location) -> None:
        if len(self._removed) < MAX_LISTED:
            self._removed.append(format_path(at))

    def _scalar(self, value: Any) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise MessageTooLarge
        if isinstance(value, str):
            return self._masks.json(value.encode()).decode("utf-8", "replace")
        return overwritten(value) if isinstance(value, bytes) else value


def _replace(message: Message, field: FieldDescriptor) -> bool:
    """Redact a field: a text has the redaction text then, anything else is removed. Whether it was a text."""
    text = not field.is_repeated and field.type == FieldDescriptor.TYPE_STRING
    if text:
        _set(message, field, REDACTED)
    elif field.is_extension:
        message.ClearExtension(field)  # type: ignore[arg-type]
    else:
        message.ClearField(field.name)
    return text


def _replace_entry(field: FieldDescriptor, values: Any, key: Any) -> bool:
    """The same for a value of a map."""
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Value":
        values[key].string_value = REDACTED
        return True
    if field.type == FieldDescriptor.TYPE_STRING:
        values[key] = REDACTED
        return True
    return False


def _set(message: Any, field: FieldDescriptor, value: Any) -> None:
    if field.is_extension:
        message.Extensions[field] = value
    else:
        setattr(message, field.name, value)
