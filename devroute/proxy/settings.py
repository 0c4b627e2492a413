"""The proxy's settings: names, types and defaults. Pure; cli/config/sources.py says where they come from."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from devroute.auth.tls import is_exposed
from devroute.contract.grammar import MAX_BYTES, MAX_CONFIGURABLE_ENTRIES, MAX_ENTRIES
from devroute.contract.target import Address, parse_address
from devroute.quoting import quote
from devroute.settings import Settings
from devroute.tunnel.protocol.frames import MAX_STREAMS

_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _mesh_egress(value: object) -> Address | None:
    """`http://127.0.0.1:15080`: on this machine, since no policy is asked about what goes there."""
    if value is None or isinstance(value, Address):
        return value
    if not (text := str(value)).startswith("http://"):
        raise ValueError(f"{quote(text)} is not a URL of http; write it like http://127.0.0.1:15080")
    address = parse_address(text.removeprefix("http://").rstrip("/"))
    if not address.is_literal or not ipaddress.ip_address(address.host).is_loopback:
        raise ValueError(f"{quote(text)} is not on this machine; write it like http://127.0.0.1:15080")
    return address


def _audit(value: object) -> object:
    """YAML takes off for a truth value."""
    return "off" if value is False or value == "" else value


def _issuer(value: object) -> str:
    """Exactly as the tokens' `iss` says it, final slash and all."""
    text = str(value)
    if urlsplit(text).scheme not in ("https", "http") or not urlsplit(text).hostname:
        raise ValueError(f"{quote(text)} is not a URL; write it like https://accounts.example")
    if is_exposed(text):
        raise ValueError(
            f"{quote(text)} is plain http: whoever is on the way could forge keys; write https://"
        )
    return text


def _jwks(value: object) -> str:
    """A URL, or a file's name."""
    text = str(value)
    return _issuer(text) if "://" in text else text


def _list(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


class ProxySettings(Settings):
    """`devroute proxy`. A port of 0 takes any free one. Times in seconds."""

    data_host: str = "0.0.0.0"
    data_port: _Port = 8080
    control_host: str = "0.0.0.0"
    control_port: _Port = 8081
    admin_host: str = "0.0.0.0"
    admin_port: _Port = 9090
    #: Without a policy no address is permitted, without tokens nobody can register.
    policy: Path | None = None
    tokens: Path | None = None
    #: Public keys of those who may sign contracts, a JWKS: a URL or a file. Without it, signed contracts are
    #: not accepted.
    contract_keys: Annotated[str, BeforeValidator(_jwks)] | None = None
    #: How long a signed contract may be made to hold: a day of testing.
    contract_max_ttl: Annotated[float, Field(gt=0, le=31 * 86_400)] = 86_400.0
    #: The control port over TLS, for laptops where there is no ingress: only with a certificate and its key,
    #: which are read again when they change.
    tls_port: _Port = 8443
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: Client certificates: who has to have signed them, and whether a laptop may come without one.
    tls_client_ca: Path | None = None
    tls_client_auth: Literal["required", "optional"] = "required"
    #: What of a client certificate is the subject, in place of a token; off: a token is needed as well.
    tls_client_subject: Literal["off", "cn", "dns", "uri"] = "off"
    #: Tokens of an issuer (OIDC); without one, static tokens only. `oidc_jwks` is a URL or a file, by default
    #: what the issuer's discovery document names.
    oidc_issuer: Annotated[str, BeforeValidator(_issuer)] | None = None
    oidc_audience: Annotated[tuple[str, ...], BeforeValidator(_list)] = ()
    oidc_jwks: Annotated[str, BeforeValidator(_jwks)] | None = None
    oidc_ca_file: Path | None = None
    #: The claim that is the subject, a DNS label; of `email` it is the part before @`oidc_email_domain`.
    oidc_subject_claim: str = "sub"
    oidc_email_domain: str | None = None
    oidc_groups_claim: str = "groups"
    #: By how much the issuer's clock may differ; for so long the tunnel of an expired token stays, too.
    oidc_clock_skew: Annotated[float, Field(ge=0, le=300)] = 5.0
    #: How long the issuer's keys are good while it cannot be reached: a working day, and no more.
    oidc_keys_max_age: _Seconds = 8 * 3600.0
    #: Where the audit trail goes: `-` for standard output, a file, or off.
    audit: Annotated[str, BeforeValidator(_audit)] = "off"
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    #: How often the policy and token files are looked at for changes.
    reload_interval: _Seconds = 1.0
    #: How long a client may take for its request's head, and between two pieces of its body.
    head_timeout: _Seconds = 10.0
    body_timeout: _Seconds = 60.0
    #: How long a laptop may take: generous, because of breakpoints.
    first_byte_timeout: _Seconds = 3600.0
    idle_timeout: _Seconds = 3600.0
    #: How long a sidecar's connection may wait for its next request.
    keep_alive_timeout: _Seconds = 620.0
    connect_timeout: _Seconds = 5.0
    #: A listener of the proxy's own sidecar that leads into the mesh, for requests that a laptop hands back
    #: (--except-status); without it no laptop can.
    mesh_egress: Annotated[Address | None, BeforeValidator(_mesh_egress)] = None
    #: How long /resolve looks for a direct target: below the 500 ms that the filter waits.
    probe_timeout: _Seconds = 0.3
    #: How long requests may go on after SIGTERM: below Kubernetes' 30 s.
    drain_timeout: _Seconds = 20.0
    #: How long a request may take in all, upgrades and streams too.
    total_timeout: _Seconds = 86_400.0
    #: Bytes of a request's head: Envoy lets 60 KiB through by default. A tunnel's frame has room for 96 KiB,
    #: and for what is added on the way.
    max_head_bytes: Annotated[int, Field(ge=1024, le=96 * 1024)] = 64 * 1024
    #: Field lines of it: twice Envoy's own limit, for what meshes add.
    max_header_fields: Annotated[int, Field(ge=16, le=4096)] = 200
    #: Bytes of a contract, signed ones as they come, and services in it.
    max_contract_bytes: Annotated[int, Field(ge=256, le=MAX_BYTES)] = MAX_BYTES
    max_contract_entries: Annotated[int, Field(ge=1, le=MAX_CONFIGURABLE_ENTRIES)] = MAX_ENTRIES
    #: Requests in flight to one target. This and the next three can be overridden in the policy (`limits:`).
    max_in_flight: Annotated[int, Field(ge=1)] = 2048
    #: Requests in flight to the laptops of one subject, and by one of its tunnels.
    max_in_flight_per_subject: Annotated[int, Field(ge=1)] = 4096
    max_streams_per_link: Annotated[int, Field(ge=1, le=MAX_STREAMS)] = MAX_STREAMS
    #: Laptops that one subject may have online.
    max_links_per_subject: Annotated[int, Field(ge=1)] = 16
