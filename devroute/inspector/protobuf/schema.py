"""A schema: the services and types of a set of descriptors. Needs the library `protobuf`.

Descriptors come from the app or from a file, and are not trusted: a file that is wrong is left out, with what
imports it.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, NamedTuple

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DESCRIPTOR as DESCRIPTOR_FILE
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from devroute.inspector.protobuf import error_details

#: Files of one schema; further ones are left out.
MAX_FILES: Final = 2000

#: Parts of descriptors that are not used.
_NOT_READ: Final = ("options", "source_code_info")

_STANDARD: Final = (
    any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2,
)  # fmt: skip


class Method(NamedTuple):
    """The types of a call's messages, and whether the client sends any number of them."""

    request: Descriptor
    response: Descriptor
    client_streaming: bool


class Schema:
    """`missing`: imports that are not among the files. `problems`: why files were left out, by name."""

    def __init__(self, files: Iterable[bytes]) -> None:
        """`files`: FileDescriptorProtos in any order. Those of the well-known types may be missing."""
        self.pool = descriptor_pool.DescriptorPool()
        self.problems: dict[str, str] = {}
        self.files = {**well_known_files(), **_parsed(files), **well_known_files()}
        for file in error_details.files():
            self.files.setdefault(file.name, file)
        self._done: set[str] = set()
        imported = {each for file in self.files.values() for each in file.dependency}
        self.missing = sorted(imported - self.files.keys())
        for name in self.files:
            self._add(name)

    def _add(self, name: str) -> None:
        """Add a file after its imports. Without recursion: a chain of imports may be as long as the list of
        files. Files that import each other are refused by the pool."""
        waiting, begun = [name], set[str]()
        while waiting:
            current = waiting.pop()
            if current in self._done or current not in self.files:
                continue
            file = self.files[current]
            if current not in begun:
                begun.add(current)
                waiting += [current, *(each for each in file.dependency if each not in begun)]
                continue
            self._done.add(current)
            try:
                self.pool.AddSerializedFile(file.SerializeToString())
            except TypeError as error:
                self.problems[current] = " ".join(str(error).split())[:200]

    def method(self, path: str) -> Method | None:
        """The method that a call to `path` has, such as /shop.Orders/Place."""
        service, _, name = path.partition("?")[0].removeprefix("/").rpartition("/")
        try:
            found: Any = self.pool.FindServiceByName(service).FindMethodByName(name)
        except KeyError:
            return None
        if found is None:
            return None
        return Method(found.input_type, found.output_type, bool(found.client_streaming))

    def type(self, name: str) -> Descriptor | None:
        try:
            return self.pool.FindMessageTypeByName(name)
        except KeyError:
            return None


def parse(kind: Descriptor, data: bytes) -> Message | None:
    """The message, None if the bytes are none of this type."""
    message = new(kind)
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    return message


def new(kind: Descriptor) -> Message:
    made: Message = message_factory.GetMessageClass(kind)()
    return made


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """The type of a map's entries, with the fields `key` and `value`; None for a field that is no map."""
    kind = field.message_type
    return kind if kind is not None and kind.GetOptions().map_entry else None


def unknown_fields(message: Message) -> Iterator[tuple[int, int, int | bytes | None]]:
    """Number, wire type and value of each field that the message's type does not have; None for a group."""
    found: Any = UnknownFieldSet(message)
    for field in found:
        yield field.field_number, field.wire_type, field.data if isinstance(field.data, int | bytes) else None


def _parsed(files: Iterable[bytes]) -> dict[str, FileDescriptorProto]:
    """The files by name. The first one of a name counts, and what cannot be parsed is left out."""
    found: dict[str, FileDescriptorProto] = {}
    for each in files:
        file = FileDescriptorProto()
        try:
            file.ParseFromString(each)
            _check(file)
        except (DecodeError, ValueError):
            continue
        if file.name and len(found) < MAX_FILES:
            found.setdefault(file.name, file)
    return found


def _is_entry(message: DescriptorProto) -> bool:
    return {field.name: field.number for field in message.field} == {"key": 1, "value": 2}


def _check(message: Message) -> None:
    """Raises ValueError for what the library accepts in a file, and fails at later: texts that are not UTF-8
    (it has bytes instead), names that are not ASCII, entries of maps that are none."""
    if isinstance(message, DescriptorProto) and message.options.map_entry and not _is_entry(message):
        raise ValueError
    for field, value in message.ListFields():
        if field.name in _NOT_READ:
            continue
        for each in value if field.is_repeated else (value,):
            if field.message_type is not None:
                _check(each)
            elif isinstance(each, bytes) and field.type == FieldDescriptor.TYPE_STRING:
                raise ValueError
            elif field.name == "name" and not isinstance(message, FileDescriptorProto):
                each.encode("ascii")


@cache
def well_known_files() -> dict[str, FileDescriptorProto]:
    """Those that the library has code for: no other version of them counts. Never modified."""
    files = {}
    for each in (DESCRIPTOR_FILE, *(module.DESCRIPTOR for module in _STANDARD)):
        file = files[each.name] = FileDescriptorProto()
        each.CopyToProto(file)
    return files
