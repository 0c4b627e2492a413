"""Prints a software bill of materials of what is installed with devroute: CycloneDX 1.6, as JSON.

python image/sbom.py [SITE_PACKAGES]

It needs nothing but Python, so that the image can make its own. The same packages give the same text: the
serial number is derived from them, and the time is SOURCE_DATE_EPOCH, if that is set. Packages of the base
image's operating system are not in it; a scanner of images lists those.
"""

import argparse
import json
import os
import platform
import re
import sys
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from typing import Any

ROOT = "devroute"
SPEC = "1.6"
#: Trove classifiers that name one licence of SPDX's list; others are repeated as they are.
LICENCES = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
}


def plain(name: str) -> str:
    """A project's name as an index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(distribution: Distribution) -> set[str]:
    """Names of what it requires, with any extra: which of these were asked for, the installed packages
    show."""
    return {plain(re.split(r"[^\w.-]", each)[0]) for each in distribution.requires or ()}


def closure(installed: dict[str, Distribution]) -> dict[str, list[str]]:
    """What devroute requires, directly or not, as far as it is installed: name to names."""
    edges: dict[str, list[str]] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name not in edges:
            edges[name] = sorted((required(installed[name]) & installed.keys()) - {name})
            waiting += edges[name]
    return edges


def licences(distribution: Distribution) -> list[dict[str, Any]]:
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = [each for each in about.get_all("Classifier") or () if each.startswith("License :: ")]
    named = [LICENCES[each] for each in classifiers if each in LICENCES]
    if named:
        return [{"license": {"id": each}} for each in sorted(set(named))]
    texts = [each.rpartition(" :: ")[2] for each in classifiers]
    short = about.get("License") or ""
    texts = texts or ([short] if short and len(short) <= 64 and "\n" not in short else [])
    return [{"license": {"name": each}} for each in texts]


def reference(distribution: Distribution) -> str:
    """A package URL (purl)."""
    return f"pkg:pypi/{plain(distribution.metadata['Name'])}@{distribution.version}"


def component(distribution: Distribution, kind: str = "library") -> dict[str, Any]:
    described = {
        "type": kind,
        "bom-ref": reference(distribution),
        "name": plain(distribution.metadata["Name"]),
        "version": distribution.version,
        "description": distribution.metadata.get("Summary"),
        "purl": reference(distribution),
        "licenses": licences(distribution),
    }
    return {name: value for name, value in described.items() if value}


def bill(installed: dict[str, Distribution]) -> dict[str, Any]:
    edges = closure(installed)
    packages = [installed[name] for name in sorted(edges.keys() - {ROOT})]
    python = {
        "type": "platform",
        "bom-ref": f"python@{platform.python_version()}",
        "name": platform.python_implementation(),
        "version": platform.python_version(),
    }
    contents = [component(each) for each in packages] + [python]
    root = component(installed[ROOT], "application")
    metadata: dict[str, Any] = {"component": root}
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata = {"timestamp": datetime.fromtimestamp(int(epoch), UTC).isoformat(), **metadata}
    graph = [
        {
            "ref": reference(installed[name]),
            "dependsOn": [reference(installed[each]) for each in needed]
            + ([python["bom-ref"]] if name == ROOT else []),
        }
        for name, needed in sorted(edges.items())
    ]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([root, contents, graph], sort_keys=True))
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": metadata,
        "components": contents,
        "dependencies": graph,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", help="site-packages; default: that of this Python")
    folder = parser.parse_args().folder
    found = distributions(path=[folder]) if folder else distributions()
    installed = {plain(each.metadata["Name"]): each for each in found}
    if ROOT not in installed:
        sys.exit(f"sbom: devroute is not installed in {folder or sys.prefix}")
    print(json.dumps(bill(installed), indent=2))


if __name__ == "__main__":
    main()
