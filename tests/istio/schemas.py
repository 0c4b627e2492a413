"""Writes devroute/mesh/preflight/schemas.json: what the CRDs of the pinned Istio say about four kinds.

`python -m tests.istio.schemas`, after Istio's pin has changed; tests/mesh/preflight/test_schemas.py says when
the file is stale. Descriptions, `status` and all rules in CEL but that of durations are left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from devroute.yaml_text import LOADER
from tests.support.go_programs import ISTIO, built
from tests.support.paths import ROOT

FILE = ROOT / "devroute" / "mesh" / "preflight" / "schemas.json"
KINDS = ("AuthorizationPolicy", "DestinationRule", "Gateway", "VirtualService")
DURATION = "duration(self) >= duration('1ms')"
#: Taken over as they are.
_FACTS = ("type", "enum", "required", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def schemas(folder: Path) -> str:
    """The file's text, of a folder with Istio's crd-all.gen.yaml. The versions of a kind share a schema."""
    found = {}
    for crd in yaml.load_all((folder / "crd-all.gen.yaml").read_text(), LOADER):
        spec = crd["spec"]
        if (kind := spec["names"]["kind"]) in KINDS:
            (schema, *others) = [each["schema"]["openAPIV3Schema"] for each in spec["versions"]]
            assert all(each == schema for each in others), kind
            versions = [f"{spec['group']}/{each['name']}" for each in spec["versions"]]
            found[kind] = {"versions": versions, "spec": _facts(schema["properties"]["spec"])}
    assert sorted(found) == sorted(KINDS)
    lines = [f"{json.dumps(kind)}: {json.dumps(found[kind], sort_keys=True)}" for kind in KINDS]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _facts(schema: dict[str, Any]) -> dict[str, Any]:
    found = {key: schema[key] for key in _FACTS if key in schema}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = _facts(schema[key])
    if "properties" in schema:
        found["properties"] = {key: _facts(each) for key, each in schema["properties"].items()}
    if any(each["rule"] == DURATION for each in schema.get("x-kubernetes-validations", ())):
        found["duration"] = True
    if one_of := list(_exclusive(schema)):
        found["oneOf"] = one_of
    return found


def _exclusive(schema: dict[str, Any]) -> Iterator[list[str]]:
    """Fields of which a value may have one; Istio writes `none of them, or exactly one`."""
    for each in (schema, *schema.get("allOf", ())):
        if "oneOf" in each:
            names = [one["required"][0] for one in each["oneOf"] if "required" in one]
            if len(names) > 1:
                yield names


if __name__ == "__main__":
    FILE.write_text(schemas(built(ISTIO)))
