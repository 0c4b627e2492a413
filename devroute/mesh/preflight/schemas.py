"""What Istio's CRDs refuse in four kinds: unknown fields, types, missing fields, values, exclusive fields and
durations. Pure, but for reading its own data once.

schemas.json is written by tests/istio/schemas.py from Istio's CRDs. The API server holds new objects to the
same rules (and kubectl makes unknown fields errors); of the CRDs' rules in CEL, only that of durations is
known.
"""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from devroute.mesh.istio.rules import ManifestFinding
from devroute.mesh.manifests.model import Document
from devroute.quoting import quote

KINDS = ("AuthorizationPolicy", "DestinationRule", "Gateway", "VirtualService")
#: Fields of each object beside `spec` and `status`.
_ENVELOPE = ("apiVersion", "kind", "metadata", "spec", "status")
#: Of Go's durations, each in nanoseconds; micro is one of two letters.
_UNITS = {"ns": 1, "us": 1e3, "\xb5s": 1e3, "\u03bcs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_PART = rf"(\d{{1,18}}(?:\.\d{{0,18}})?|\.\d{{1,18}})({'|'.join(_UNITS)})"
_DURATION = re.compile(rf"\+?(?:{_PART})+")
_MIN_DURATION = 1e6
#: Beyond this, no field is meant, and none is searched for a similar name.
_MAX_FIELD = 64
_TYPES = {"string": "text", "boolean": "true or false", "array": "a list", "object": "a mapping"}
_TYPES |= {"integer": "a whole number", "number": "a number"}


def of_istio(document: Document) -> bool:
    """Whether Istio's schemas are for a document: other products have a Gateway or VirtualService too."""
    group = str(document.get("apiVersion")).partition("/")[0]
    return group.endswith("istio.io") or "." not in group


def by_schema(document: Document) -> Iterator[ManifestFinding]:
    """What the CRD of the document's kind (one of KINDS) refuses. Places are paths in the document."""
    known = _schemas()[str(document.get("kind"))]
    version = document.get("apiVersion")
    if version not in known["versions"]:
        problem = f"{quote(str(version))} has no {document['kind']}"
        yield _error("apiVersion", problem, f"write {known['versions'][0]}")
    yield from _unknown(document, _ENVELOPE, "")
    if document.get("spec") is not None:
        yield from _wrong(document["spec"], known["spec"], "spec")


@cache
def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files(__package__).joinpath("schemas.json").read_text("utf-8"))
    return found


def _wrong(value: object, schema: Mapping[str, Any], place: str) -> Iterator[ManifestFinding]:
    if not _has_type(value, schema["type"]):
        yield _error(
            place, f"{_shown(value)} is not {_TYPES[schema['type']]}", _type_hint(value, schema["type"])
        )
    elif isinstance(value, Mapping):
        yield from _fields(value, schema, place)
    elif isinstance(value, list):
        yield from _size(len(value), schema, "Items", place)
        for number, each in enumerate(value):
            yield from _wrong(each, schema["items"], f"{place}[{number}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield _error(place, f"{value} is not within {schema.get('minimum')} to {schema.get('maximum')}")
    elif not isinstance(value, bool):
        yield from _text(str(value), schema, place)


def _fields(value: Mapping[Any, Any], schema: Mapping[str, Any], place: str) -> Iterator[ManifestFinding]:
    """The API server drops fields that are null when it creates an object."""
    given = {str(key): each for key, each in value.items() if each is not None}
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in given:
            yield _error(f"{place}.{key}", "is missing")
    for group in schema.get("oneOf", ()):
        if len(both := [key for key in group if key in given]) > 1:
            yield _error(place, f"has {' and '.join(both)}", "write one of them")
    others = schema.get("additionalProperties")
    if others is None:
        yield from _unknown(value, tuple(properties), place)
    for key, each in given.items():
        inner = properties.get(key, others)
        if inner is not None:
            yield from _wrong(each, inner, f"{place}.{key}")


def _unknown(value: Mapping[Any, Any], known: tuple[str, ...], place: str) -> Iterator[ManifestFinding]:
    for key in map(str, value):
        if key not in known:
            lowered = {each.lower(): each for each in known}
            plain = key[:_MAX_FIELD].replace("_", "").replace("-", "").lower()
            similar = get_close_matches(plain, lowered, 1)
            hint = f"write {lowered[similar[0]]}" if similar else f"it has {', '.join(known)}"
            yield _error(place, f"has no field {quote(key)}", hint)


def _text(value: str, schema: Mapping[str, Any], place: str) -> Iterator[ManifestFinding]:
    if "enum" in schema and value not in schema["enum"]:
        yield _error(place, f"{quote(value)} is not one of {', '.join(filter(None, schema['enum']))}")
    yield from _size(len(value), schema, "Length", place)
    if not schema.get("duration"):
        return
    if (found := _duration(value)) is None:
        yield _error(place, f"{quote(value)} is not a duration", "write a number and its unit, such as 1.5s")
    elif found < _MIN_DURATION:
        hint = "leave the field out for none, or write at least 1ms"
        yield _error(
            place, f"{quote(value)} is shorter than 1ms, the shortest duration that Istio takes", hint
        )


def _size(size: int, schema: Mapping[str, Any], what: str, place: str) -> Iterator[ManifestFinding]:
    unit = "characters" if what == "Length" else "items"
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    if size < least:
        yield _error(place, f"has {size} {unit}; at least {least} are needed")
    elif most is not None and size > most:
        yield _error(place, f"has {size} {unit}; {most} are allowed")


def _duration(text: str) -> float | None:
    """A duration of Go in nanoseconds, None if it is none."""
    if text.lstrip("+-") == "0" or text.startswith("-"):
        return -1.0 if text == "0" or _DURATION.fullmatch(text[1:]) else None
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))


def _has_type(value: object, name: str) -> bool:
    if name == "object":
        return isinstance(value, Mapping)
    if name == "array":
        return isinstance(value, list)
    if name == "boolean" or isinstance(value, bool):
        return name == "boolean" and isinstance(value, bool)
    if name == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if name == "number":
        return isinstance(value, int | float)
    # YAML's dates are text for Kubernetes.
    return value is not None and not isinstance(value, int | float | Mapping | list)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else quote(str(value))


def _type_hint(value: object, name: str) -> str:
    if name == "string" and isinstance(value, bool):
        return "put it in quotes: YAML reads on, off, yes, no, true and false as a truth value"
    if name == "string" and isinstance(value, int | float):
        return "put it in quotes; a duration needs its unit: 3s"
    if isinstance(value, str) and name in ("integer", "number", "boolean"):
        return "write it without quotes"
    return "write a list, such as [a]" if name == "array" else ""


def _error(place: str, problem: str, hint: str = "") -> ManifestFinding:
    return ManifestFinding("error", place, problem, hint)
