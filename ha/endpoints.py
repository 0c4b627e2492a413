"""The endpoints of a Service, as Envoy learns of them while they come and go: from a file that it watches."""

import json
from collections.abc import Sequence
from pathlib import Path

from devroute.mesh.istio.sidecar import Document, Endpoint, address

_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


class Endpoints:
    """`cluster` replaces the fixed endpoints of the cluster of that name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._file = folder / "endpoints.json"
        self._version = 0
        folder.mkdir()
        self.set([])

    def set(self, places: Sequence[Endpoint]) -> None:
        """Envoy looks when a file is moved into its place."""
        self._version += 1
        hosts = [{"endpoint": {"address": address(place)}} for place in places]
        resource = {"@type": _TYPE, "cluster_name": self._name, "endpoints": [{"lb_endpoints": hosts}]}
        newer = self._folder / "newer.json"
        newer.write_text(
            json.dumps({"version_info": str(self._version), "resources": [resource]}), encoding="utf-8"
        )
        newer.replace(self._file)

    @property
    def cluster(self) -> Document:
        """What the cluster has instead of `type` and `load_assignment`."""
        source = {"path": str(self._file), "watched_directory": {"path": str(self._folder)}}
        eds = {"path_config_source": source, "resource_api_version": "V3"}
        return {"type": "EDS", "eds_cluster_config": {"service_name": self._name, "eds_config": eds}}
