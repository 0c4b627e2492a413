"""Finds settings without a type: istiod's webhook refuses an Any without `@type`. Pure."""

from collections.abc import Iterator, Mapping

from devroute.mesh.istio.rules import ManifestFinding

#: Fields that hold an Any, and maps with an Any as each value; protobuf reads both spellings.
_ANY = frozenset({"typed_config", "typedConfig"})
_ANYS = frozenset(
    {
        *("typed_per_filter_config", "typedPerFilterConfig", "typed_filter_metadata", "typedFilterMetadata"),
        *("typed_extension_protocol_options", "typedExtensionProtocolOptions"),
    }
)
#: Hold any JSON: what looks like a setting there is none.
_FREE_FIELDS = frozenset({"filter_metadata", "filterMetadata"})
_FREE_TYPES = (".TypedStruct", ".Struct")
_FILTER_CONFIG = "envoy.config.route.v3.FilterConfig"
_EXAMPLE = "'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
_EXAMPLE_OF_ROUTE = f"{_EXAMPLE}PerRoute"


def untyped(value: object, place: str) -> Iterator[ManifestFinding]:
    """Each Any inside a patch's value that has no type; `place` is the value's own."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from untyped(each, f"{place}[{number}]")
    elif isinstance(value, Mapping):
        type_of = str(value.get("@type"))
        if type_of.endswith(_FREE_TYPES):
            return
        for key, each in value.items():
            inside = f"{place}.{key}"
            if key in _FREE_FIELDS:
                continue
            if key in _ANY or (key == "config" and type_of.endswith(_FILTER_CONFIG)):
                yield from _any(each, inside, _EXAMPLE if key in _ANY else _EXAMPLE_OF_ROUTE)
            elif key in _ANYS and isinstance(each, Mapping):
                for name, one in each.items():
                    yield from _any(one, f"{inside}.{name}", _EXAMPLE_OF_ROUTE)
            yield from untyped(each, inside)


def _any(value: object, place: str, example: str) -> Iterator[ManifestFinding]:
    if value is None:
        return
    if not isinstance(value, Mapping):
        problem, hint = "is not a mapping", f"write one that begins with its type, such as {example}"
        yield ManifestFinding("error", place, problem, hint)
    elif not (isinstance(given := value.get("@type"), str) and given):
        hint = f"write the type that Envoy's documentation names for it as its first field, such as {example}"
        yield ManifestFinding("error", place, "has no '@type': Istio's webhook refuses an untyped Any", hint)
