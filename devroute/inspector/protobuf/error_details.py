"""google.rpc.Status and the usual details of an error, as descriptors: an app's own schema seldom has them.
Names and numbers are those of google/rpc/status.proto and google/rpc/error_details.proto.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

STATUS: Final = "google.rpc.Status"

_F = FieldDescriptorProto
_TYPES: Final = {"string": _F.TYPE_STRING, "int32": _F.TYPE_INT32}
_ANY: Final = "google/protobuf/any.proto"
_DURATION: Final = "google/protobuf/duration.proto"

# The fields of each message in the order of their numbers: a scalar's or another file's type, or the fields
# of a nested message. In a list: repeated; "map": from strings to strings.
_STATUS: Final[Mapping[str, Mapping[str, Any]]] = {
    "Status": {"code": "int32", "message": "string", "details": [".google.protobuf.Any"]}
}
_DETAILS: Final[Mapping[str, Mapping[str, Any]]] = {
    "ErrorInfo": {"reason": "string", "domain": "string", "metadata": "map"},
    "RetryInfo": {"retry_delay": ".google.protobuf.Duration"},
    "DebugInfo": {"stack_entries": ["string"], "detail": "string"},
    "QuotaFailure": {"violations": [{"subject": "string", "description": "string"}]},
    "PreconditionFailure": {
        "violations": [{"type": "string", "subject": "string", "description": "string"}]
    },
    "BadRequest": {"field_violations": [{"field": "string", "description": "string"}]},
    "RequestInfo": {"request_id": "string", "serving_data": "string"},
    "ResourceInfo": {
        "resource_type": "string", "resource_name": "string", "owner": "string", "description": "string",
    },
    "Help": {"links": [{"description": "string", "url": "string"}]},
    "LocalizedMessage": {"locale": "string", "message": "string"},
}  # fmt: skip


def files() -> list[FileDescriptorProto]:
    return [
        _file("google/rpc/status.proto", _ANY, _STATUS),
        _file("google/rpc/error_details.proto", _DURATION, _DETAILS),
    ]


def _file(name: str, imported: str, messages: Mapping[str, Mapping[str, Any]]) -> FileDescriptorProto:
    made = FileDescriptorProto(name=name, package="google.rpc", dependency=[imported], syntax="proto3")
    for each, fields in messages.items():
        made.message_type.append(_message(each, fields, ".google.rpc"))
    return made


def _message(name: str, fields: Mapping[str, Any], scope: str) -> DescriptorProto:
    made = DescriptorProto(name=name)
    for number, (field_name, kind) in enumerate(fields.items(), 1):
        field = made.field.add(name=field_name, number=number, label=_F.LABEL_OPTIONAL)
        if isinstance(kind, list) or kind == "map":
            field.label = _F.LABEL_REPEATED
            kind = kind[0] if isinstance(kind, list) else kind
        if kind in ("string", "int32"):
            field.type = _TYPES[kind]
            continue
        field.type = _F.TYPE_MESSAGE
        if isinstance(kind, str) and kind != "map":
            field.type_name = kind
            continue
        of_map = kind == "map"
        nested = field_name.title().replace("_", "") + ("Entry" if of_map else "")
        inside = {"key": "string", "value": "string"} if of_map else kind
        made.nested_type.append(_message(nested, inside, f"{scope}.{name}"))
        made.nested_type[-1].options.map_entry = of_map
        field.type_name = f"{scope}.{name}.{nested}"
    return made
