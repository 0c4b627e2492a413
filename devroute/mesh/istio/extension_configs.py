"""Settings of HTTP filters that istiod sends apart from the listener (EXTENSION_CONFIG), so that new ones
drain no connection. Pure.

A configuration here is an Envoy bootstrap, which has no place for them: they stand beside it, in a key of our
own. `on_files` makes Envoy read them from files, as it reads them from istiod; `inline` puts them where they
are used, since `envoy --mode validate` discovers nothing.
"""

import copy
from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]

#: The key of our own.
KEY = "extension_configs"
_CONFIG_TYPE = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"


def add(configuration: Document, value: Document) -> None:
    """Add an envoy.config.core.v3.TypedExtensionConfig; of two with one name the last counts."""
    configuration.setdefault(KEY, {})[value["name"]] = copy.deepcopy(value)


def inline(configuration: Document) -> Document:
    """The bootstrap with each discovered filter's settings in the listener, and without those filters of
    whose settings nothing is known."""
    bootstrap = copy.deepcopy(configuration)
    known = bootstrap.pop(KEY, {})
    for filters in _http_filters(bootstrap):
        for found in filters:
            if "config_discovery" in found and found["name"] in known:
                del found["config_discovery"]
                found["typed_config"] = known[found["name"]]["typed_config"]
        filters[:] = [each for each in filters if "config_discovery" not in each]
    return bootstrap


def on_files(configuration: Document, folder: str) -> tuple[Document, dict[str, Document]]:
    """The bootstrap, whose discovered filters read files of `folder`, and the files' contents by name: each
    a DiscoveryResponse with one resource. A file that is replaced takes effect at once."""
    bootstrap = copy.deepcopy(configuration)
    known = bootstrap.pop(KEY, {})
    files = {}
    discovered = [
        each for filters in _http_filters(bootstrap) for each in filters if "config_discovery" in each
    ]
    for found in discovered:
        name = f"extension-{found['name']}.json"
        source = {"path": f"{folder}/{name}", "watched_directory": {"path": folder}}
        found["config_discovery"]["config_source"] = {
            "path_config_source": source,
            "resource_api_version": "V3",
        }
        if found["name"] in known:
            files[name] = {"resources": [{"@type": _CONFIG_TYPE, **known[found["name"]]}]}
    return bootstrap, files


def _http_filters(bootstrap: Document) -> Iterator[list[Document]]:
    """Of each HTTP connection manager."""
    for listener in bootstrap.get("static_resources", {}).get("listeners", []):
        for chain in listener["filter_chains"]:
            for each in chain["filters"]:
                if isinstance(found := each.get("typed_config", {}).get("http_filters"), list):
                    yield found
