"""The values that filters are made from: where the proxy is, and which sidecars get the filter. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from devroute.contract.target import Malformed, check_label
from devroute.errors import ConfigInvalid
from devroute.headers import PREFIX, TRACEPARENT, TRACESTATE
from devroute.http import carriers
from devroute.quoting import quote

#: A manifest, or a part of an Envoy configuration, as plain data.
Document = dict[str, Any]

#: The label of everything that belongs to devroute.
PART_OF = {"app.kubernetes.io/part-of": "devroute"}


def manifest(api_version: str, kind: str, metadata: Document, spec: Document) -> Document:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def check_named(setting: str, text: str, what: str) -> None:
    """Raises ConfigInvalid for what Kubernetes would not take as a name."""
    try:
        check_label(text, what)
    except Malformed as problem:
        raise ConfigInvalid(f"{setting}: {problem}") from None


def metadata_of(name: str, namespace: str) -> Document:
    """The metadata of an object that is no part of the installation itself."""
    return {"name": name, "namespace": namespace, "labels": dict(PART_OF)}


@dataclass(frozen=True, slots=True)
class ProxyService:
    """Where the mesh finds `devroute proxy`: a Kubernetes service and its ports. Its service account has the
    same name."""

    name: str = "devroute-proxy"
    namespace: str = "devroute"
    data_port: int = 8080
    control_port: int = 8081
    domain: str = "cluster.local"

    def __post_init__(self) -> None:
        check_named("namespace", self.namespace, "a namespace")
        check_named("name", self.name, "a service's name")
        for label in self.domain.split("."):
            check_named("domain", label, "each part of a domain")

    @property
    def principal(self) -> str:
        """Its identity in the mesh, as namespace/serviceaccount."""
        return f"{self.namespace}/{self.name}"

    @property
    def data_cluster(self) -> str:
        """Istio's name of the cluster that takes detoured requests."""
        return self._cluster(self.data_port)

    @property
    def control_cluster(self) -> str:
        """Istio's name of the cluster that the filter asks."""
        return self._cluster(self.control_port)

    def _cluster(self, port: int) -> str:
        return f"outbound|{port}||{self.name}.{self.namespace}.svc.{self.domain}"


#: In a sidecar's container, in memory: istiod's injection mounts it, and its agent writes a bootstrap there.
SIDECAR_FOLDER: Final = "/etc/istio/proxy"
#: Headers that a platform team may name: each costs every request a test.
MAX_NAMED: Final = 8
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
#: Headers that have a meaning of their own.
_TAKEN: Final = re.compile(
    r"host|cookie|authorization|connection|te|upgrade|expect|trailer|accept|user-agent|origin|referer|b3|grpc-.*"
    r"|content-.*|transfer-.*|proxy-.*|x-forwarded-.*|x-envoy-.*|x-b3-.*|x-request-id|x-datadog-.*|uber-trace-id"
    rf"|{TRACEPARENT}|{PREFIX}(-.*)?"
)


@dataclass(frozen=True, slots=True)
class Carriers:
    """What sidecars write a contract to, beside its header: names in `devroute.http.carriers.KNOWN`, or
    headers of the platform team's own, which hold the contract alone. With `tracestate`, a request that has
    no `traceparent` gets one, since tracers read both or neither; `sampled` asks them to record that trace.
    Raises ConfigInvalid for what cannot carry a contract."""

    written: tuple[str, ...] = carriers.DEFAULT
    sampled: bool = False

    def __post_init__(self) -> None:
        for name in self.written:
            if name not in carriers.KNOWN and (not _HEADER.fullmatch(name) or _TAKEN.fullmatch(name)):
                raise ConfigInvalid(
                    f"carrier: {quote(name)} cannot carry a contract",
                    hint=f"one of {', '.join(carriers.KNOWN)}, or a header of your own in lower case",
                )
        if len(self.named) > MAX_NAMED:
            raise ConfigInvalid(f"carrier: more than {MAX_NAMED} headers are named")
        if self.sampled and TRACESTATE not in self.written:
            raise ConfigInvalid("carrier: sampled is for tracestate, which is not among them")

    @property
    def named(self) -> tuple[str, ...]:
        """The headers that only this mesh knows as carriers."""
        return tuple(name for name in self.written if name not in carriers.KNOWN)

    @property
    def settings(self) -> dict[str, str | tuple[str, ...]]:
        """What the filters' Lua has to know of them."""
        parent = {"parent": "01" if self.sampled else "00"} if TRACESTATE in self.written else {}
        return {"carriers": self.written, **parent}


@dataclass(frozen=True, slots=True)
class MeshScope:
    """Every sidecar; each finds out its service's name itself."""

    root_namespace: str = "istio-system"

    def __post_init__(self) -> None:
        check_named("namespace", self.root_namespace, "a namespace")


@dataclass(frozen=True, slots=True)
class NamespaceScope:
    """Every sidecar of one namespace."""

    namespace: str

    def __post_init__(self) -> None:
        check_named("namespace", self.namespace, "a namespace")


@dataclass(frozen=True, slots=True)
class WorkloadScope:
    """The sidecars of one service, whose name is given. Laptops may get copies of `shadow_share` per cent of
    the requests without a contract; with None there is not even a route for that. With a `trace_folder`, in
    which sidecars may write, a request that the workload sends gets the contract of the received one whose
    trace id it bears."""

    namespace: str
    service: str
    labels: Mapping[str, str] = field(default_factory=dict)
    shadow_share: float | None = None
    trace_folder: str | None = None

    def __post_init__(self) -> None:
        check_named("namespace", self.namespace, "a namespace")
        check_named("service", self.service, "a service's name")

    @property
    def selector(self) -> dict[str, str]:
        return dict(sorted(self.labels.items())) or {"app": self.service}


Scope = MeshScope | NamespaceScope | WorkloadScope
