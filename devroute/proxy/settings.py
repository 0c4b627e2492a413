"""The proxy's settings: names, types and defaults. Pure; cli/config/sources.py says where they come from."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from devroute.auth.tls import is_exposed
from devroute.contract.destination import DEFAULT_DOMAIN, DEFAULT_NAMESPACE
from devroute.contract.entry_urls import read_entry_urls
from devroute.contract.grammar import MAX_BYTES, MAX_CONFIGURABLE_ENTRIES, MAX_ENTRIES
from devroute.contract.target import Address, check_label, parse_address
from devroute.downstream.context import Timeouts
from devroute.quoting import quote
from devroute.replicas.redis_url import SCHEMES
from devroute.settings import Settings
from devroute.tunnel.protocol.frames import MAX_STREAMS
from devroute.upstream.dialer import RETRY_REFUSED_SECONDS

#: Where a collector takes traces, below its base URL (OTLP/HTTP).
TRACES_PATH: Final = "/v1/traces"

#: The registry of a single replica.
MEMORY: Final = "memory"

_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _mesh_egress(value: object) -> Address | None:
    """`http://127.0.0.1:15080`: on this machine, since policy does not judge what goes there."""
    if value is None or isinstance(value, Address):
        return value
    if not (text := str(value)).startswith("http://"):
        raise ValueError(f"{quote(text)} is not an http URL; write it like http://127.0.0.1:15080")
    address = parse_address(text.removeprefix("http://").rstrip("/"))
    if not address.is_literal or not ipaddress.ip_address(address.host).is_loopback:
        raise ValueError(f"{quote(text)} is not on this machine; write it like http://127.0.0.1:15080")
    return address


def _namespace(value: object) -> str:
    return check_label(str(value), "a namespace's name")


def _audit(value: object) -> object:
    """YAML reads `off` as false."""
    return "off" if value is False or value == "" else value


def _issuer(value: object) -> str:
    """Exactly as in the tokens' `iss`, a final slash included."""
    text = str(value)
    if urlsplit(text).scheme not in ("https", "http") or not urlsplit(text).hostname:
        raise ValueError(f"{quote(text)} is not a URL; write it like https://accounts.example")
    if is_exposed(text):
        raise ValueError(
            f"{quote(text)} is plain http, so that anyone on the network path could forge keys; write https://"
        )
    return text


def _jwks(value: object) -> str:
    """A URL or a file name."""
    text = str(value)
    return _issuer(text) if "://" in text else text


def _ip_address(value: object) -> str:
    """As Envoy knows it."""
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{quote(str(value))} is not an IP address; write that of the pod") from None


def _registry(value: object) -> str:
    """Never in an error: the URL may hold a password."""
    text = str(value)
    if text != MEMORY and text.partition(":")[0].lower() not in SCHEMES:  # urlsplit's errors quote it
        raise ValueError(
            f"write '{MEMORY}', or a URL that starts with {', '.join(f'{s}://' for s in SCHEMES)}"
        )
    return text


def read_collector_url(value: object) -> str:
    """The URL that traces are sent to: the given one, or OTLP's below it where it has no path. Raises
    ValueError."""
    text = str(value)
    parts = urlsplit(text)
    if "@" in parts.netloc:
        raise ValueError("a collector's URL holds no password; let one beside the proxy add it")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{quote(text)} is not a URL; write it like http://collector.observability:4318")
    return text.rstrip("/") + TRACES_PATH if parts.path in ("", "/") and not parts.query else text


def _list(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


class ProxySettings(Settings):
    """`devroute proxy`. A port of 0 takes any free one. Times in seconds."""

    section = "proxy"

    data_host: str = "0.0.0.0"
    data_port: _Port = 8080
    control_host: str = "0.0.0.0"
    control_port: _Port = 8081
    admin_host: str = "0.0.0.0"
    admin_port: _Port = 9090
    #: Where the registered laptops are kept: in this process alone, or in Redis, for several replicas
    #: (docs/ha.md). The URL may hold a password. The prefix keeps the meshes of one Redis apart.
    registry: Annotated[str, BeforeValidator(_registry)] = MEMORY
    registry_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "devroute"
    #: The port for other replicas, and the address by which they and sidecars reach this one, its pod's; by
    #: default the one that it has towards Redis. Unused while the registry is in memory.
    peer_host: str = "0.0.0.0"
    peer_port: _Port = 8082
    advertise_host: Annotated[str, BeforeValidator(_ip_address)] | None = None
    #: Without a policy no address is permitted, without tokens no laptop can register.
    policy: Path | None = None
    tokens: Path | None = None
    #: JWKS with the public keys that may sign contracts: a URL or a file. Without it no signed contract is
    #: accepted.
    contract_keys: Annotated[str, BeforeValidator(_jwks)] | None = None
    #: The longest lifetime of a signed contract: a day of testing.
    contract_max_ttl: Annotated[float, Field(gt=0, le=31 * 86_400)] = 86_400.0
    #: The control port over TLS, for laptops where there is no ingress. Requires a certificate and its key,
    #: which are read again when they change.
    tls_port: _Port = 8443
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: The CAs of client certificates, and whether a laptop needs one.
    tls_client_ca: Path | None = None
    tls_client_auth: Literal["required", "optional"] = "required"
    #: The part of a client certificate that replaces the token's subject; off: a token is required as well.
    tls_client_subject: Literal["off", "cn", "dns", "uri"] = "off"
    #: The issuer of OIDC tokens; without one, static tokens only. `oidc_jwks` is a URL or a file, by default
    #: the `jwks_uri` of the issuer's discovery document.
    oidc_issuer: Annotated[str, BeforeValidator(_issuer)] | None = None
    oidc_audience: Annotated[tuple[str, ...], BeforeValidator(_list)] = ()
    oidc_jwks: Annotated[str, BeforeValidator(_jwks)] | None = None
    oidc_ca_file: Path | None = None
    #: The client that `devroute login` is at the issuer, published at /api/login together with its secret,
    #: which is none: for issuers that give one to programs that people install. The scopes, and the token
    #: that is sent here.
    oidc_client_id: str | None = None
    oidc_client_secret: str | None = None
    oidc_scopes: Annotated[tuple[str, ...], BeforeValidator(_list)] = ("openid", "email", "offline_access")
    oidc_login_token: Literal["id_token", "access_token"] = "id_token"
    #: The claim that holds the subject, a DNS label; of `email` it is the part before @`oidc_email_domain`.
    oidc_subject_claim: str = "sub"
    oidc_email_domain: str | None = None
    oidc_groups_claim: str = "groups"
    #: The tolerated difference of the issuer's clock; the tunnel of an expired token stays so long, too.
    oidc_clock_skew: Annotated[float, Field(ge=0, le=300)] = 5.0
    #: How long the issuer's keys stay valid while it cannot be reached: a working day.
    oidc_keys_max_age: _Seconds = 8 * 3600.0
    #: Destination of the audit trail: `-` for standard output, a file, or off.
    audit: Annotated[str, BeforeValidator(_audit)] = "off"
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: The share of the requests that did not fail which have a line in the log. One that failed has a line,
    #: as a warning.
    log_sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    #: Whether devroute_requests_total and devroute_fallbacks_total have the laptop's name as a label.
    metrics_by_laptop: bool = False
    #: The collector that gets the spans of sampled requests, by OTLP/HTTP (docs/tracing.md).
    otlp_endpoint: Annotated[str, BeforeValidator(read_collector_url)] | None = None
    #: How often policy, token and key files are checked for changes.
    reload_interval: _Seconds = 1.0
    #: How long a client may take for its request's head, and between two chunks of its body.
    head_timeout: _Seconds = 10.0
    body_timeout: _Seconds = 60.0
    #: How long a laptop may take: generous, because of breakpoints.
    first_byte_timeout: _Seconds = 3600.0
    idle_timeout: _Seconds = 3600.0
    #: How long a sidecar's connection may be idle.
    keep_alive_timeout: _Seconds = 620.0
    connect_timeout: _Seconds = 5.0
    #: How long a connection that an address refuses is tried again: an app that restarts is back soon.
    retry_refused: Annotated[float, Field(ge=0, le=60)] = RETRY_REFUSED_SECONDS
    #: Whether caches may keep laptops' responses; else they get `cache-control: no-store`, since a shared
    #: cache would serve them to others.
    cacheable_responses: bool = False
    #: A listener of the proxy's own sidecar that leads into the mesh, for failover (--except-status); without
    #: it failover is not possible.
    mesh_egress: Annotated[Address | None, BeforeValidator(_mesh_egress)] = None
    #: What laptops reach in the mesh (policy: `reach`): the namespace of names without one, the cluster's
    #: domain, the namespaces that no rule opens (the proxy's own has its registry), and for how long a
    #: request or connection may carry nothing.
    reach_namespace: Annotated[str, BeforeValidator(_namespace)] = DEFAULT_NAMESPACE
    reach_domain: str = DEFAULT_DOMAIN
    reach_denied_namespaces: Annotated[tuple[str, ...], BeforeValidator(_list)] = (
        "devroute", "istio-system", "kube-system",
    )  # fmt: skip
    reach_idle_timeout: _Seconds = 3600.0
    #: Where people outside send requests into the mesh, and whether the gateway there has the edge's filter,
    #: so that `?devroute=` works. For what laptops print.
    entry_url: Annotated[Mapping[str, str], BeforeValidator(read_entry_urls)] = {}
    entry_links: bool = False
    #: How long /resolve may take to connect to a direct target: below the 500 ms that the filter waits.
    probe_timeout: _Seconds = 0.3
    #: How long requests in flight may take after SIGTERM: below Kubernetes' 30 s.
    drain_timeout: _Seconds = 20.0
    #: How long an exchange may take in all, upgrades and streams included.
    total_timeout: _Seconds = 86_400.0
    #: Bytes of a request's head: Envoy passes 60 KiB by default. A tunnel's frame has room for 96 KiB and for
    #: what the proxy adds.
    max_head_bytes: Annotated[int, Field(ge=1024, le=96 * 1024)] = 64 * 1024
    #: Field lines of a request's head: twice Envoy's own limit, for what meshes add.
    max_header_fields: Annotated[int, Field(ge=16, le=4096)] = 200
    #: Bytes of a contract (of a signed one with its signature), and services in it.
    max_contract_bytes: Annotated[int, Field(ge=256, le=MAX_BYTES)] = MAX_BYTES
    max_contract_entries: Annotated[int, Field(ge=1, le=MAX_CONFIGURABLE_ENTRIES)] = MAX_ENTRIES
    #: Requests in flight to one target. This and the next four can be overridden in the policy (`limits:`).
    max_in_flight: Annotated[int, Field(ge=1)] = 2048
    #: Requests in flight to the laptops of one subject, and by one of its tunnels.
    max_in_flight_per_subject: Annotated[int, Field(ge=1)] = 4096
    max_streams_per_link: Annotated[int, Field(ge=1, le=MAX_STREAMS)] = MAX_STREAMS
    #: Processes (`devroute up`) that one subject may have online; one with two links counts once.
    max_links_per_subject: Annotated[int, Field(ge=1)] = 16
    #: Requests and connections that the laptops of one subject have open to what they reach.
    max_reach_per_subject: Annotated[int, Field(ge=1)] = 256

    @property
    def timeouts(self) -> Timeouts:
        """Those of the data port."""
        return Timeouts(
            head=self.head_timeout,
            body=self.body_timeout,
            first_byte=self.first_byte_timeout,
            idle=self.idle_timeout,
            keep_alive=self.keep_alive_timeout,
            total=self.total_timeout,
        )
