"""Settings of the proxy and the agent: names, types, defaults, and where they come from. The only place with
defaults. Pure: the environment, the flags and the files' texts are passed in (cli.py reads them).

Flags come before DEVROUTE_* variables, these before ./devroute.yaml; ~/.config/devroute/config.yaml is last.
The agent's settings stand at the top of a file, the proxy's under `proxy:`. Tokens are bound to servers:
./devroute.yaml comes with a repository, so the server that it names gets no token of the flags, the
environment or the home config, unless that names the same server (credentials.py says the rule).
"""

import ipaddress
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from devroute import repository_file
from devroute.contract import MAX_BYTES, MAX_ENTRIES, MOST_ENTRIES
from devroute.credentials import Source as Source
from devroute.credentials import bind, is_exposed
from devroute.errors import ConfigInvalid
from devroute.inspector.compare import Rules
from devroute.inspector.redact import redaction
from devroute.target import Address, Malformed, check_label, parse_address, parse_host, parse_port, quote
from devroute.terms import IDEMPOTENT, SAFE, Terms, read_methods, read_paths, read_percent, read_statuses
from devroute.tunnel.frames import MAX_STREAMS
from devroute.yaml_text import single

#: What stands before a variable's name in the environment.
ENV_PREFIX = "DEVROUTE_"
#: Settings that no single variable can hold; DEVROUTE_SERVICES is a list.
_NOT_A_VARIABLE = frozenset({"command", "services", "servers"})
#: Services of one agent: as many as a contract can name.
MAX_SERVICES = 64


# --- where settings come from -------------------------------------------------------------------------------


def read_file(text: str, source: str, *, own: bool = True) -> Source:
    """A configuration file; `own` is false for ./devroute.yaml. Raises ConfigInvalid naming the file."""
    document, _ = single(text, source)  # its errors quote nothing: there may be a token
    if document is None:
        return Source(source, {})
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigInvalid(f"{source}: write one setting a line, such as server: https://devroute.example")
    known = {*AgentSettings.model_fields, "proxy"} - {"command"}
    for key in document:
        if key not in known:
            raise ConfigInvalid(
                f"{source}: there is no setting {quote(key)}", hint=f"there are {', '.join(sorted(known))}"
            )
        if not own:
            repository_file.check(key, document[key], source)
    return Source(source, document, own)


def read_environment(environment: Mapping[str, str]) -> Source:
    """The DEVROUTE_* variables that name a setting, no others. Empty ones count as absent."""
    found: dict[str, object] = {}
    for name in {*AgentSettings.model_fields, *ProxySettings.model_fields} - {
        "command",
        "services",
        "servers",
    }:
        if value := environment.get(ENV_PREFIX + name.upper()):
            found[name] = value
    if services := environment.get(ENV_PREFIX + "SERVICES"):
        found["services"] = services.replace(",", " ").split()
    return Source("the environment", found)


# --- the laptop ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service and where it runs on the laptop; with `direct`, requests come to that address."""

    service: str
    host: str
    port: int
    scheme: Literal["http", "grpc"] = "http"
    direct: Address | None = None

    @property
    def url(self) -> str:
        """What a program on this laptop would call."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "ServiceSpec":
        """`foo=8001`, `foo=host:8001`, `foo=http://host:8001`, `foo=grpc://localhost:9000`. Or Malformed."""
        service, equals, place = text.partition("=")
        if not equals:
            raise Malformed(f"{quote(text)}: write SERVICE=PORT, such as foo=8001")
        try:
            check_label(service, "a service's name")
            scheme, host, port = _local(place)
        except Malformed as problem:
            raise Malformed(f"{quote(text)}: {problem}") from None
        return cls(service, host, port, scheme)


def _local(place: str) -> tuple[Literal["http", "grpc"], str, int]:
    scheme: Literal["http", "grpc"] = "http"
    named, separator, rest = place.partition("://")
    if separator:
        place = rest.removesuffix("/")
        if named == "grpc":
            scheme = "grpc"
        elif named != "http":
            raise Malformed(f"scheme {quote(named)} is not supported; write http:// or grpc://")
    if not place:
        raise Malformed("the port is missing; write SERVICE=PORT, such as foo=8001")
    if place.isdigit():
        # localhost and not 127.0.0.1: what listens on "localhost" has ::1 only on many machines.
        return scheme, "localhost", parse_port(place)
    if ":" not in place:
        raise Malformed(f"port {quote(place)} is not a number from 1 to 65535")
    address = parse_address(place)
    return scheme, address.host, address.port


def with_direct(services: Iterable[ServiceSpec], direct: str) -> tuple[ServiceSpec, ...]:
    """The services, each registered at an address of the laptop's own: `HOST` with each service's port, or
    `HOST:PORT` for the only service. Raises Malformed."""
    specs = tuple(services)
    try:
        whole = parse_address(direct)
    except Malformed:
        host = _bare_host(direct)
        return tuple(replace(spec, direct=Address(host, spec.port)) for spec in specs)
    if len(specs) != 1:
        raise Malformed(
            f"{quote(direct)} has a port, but there are {len(specs)} services; write the host only"
        )
    return (replace(specs[0], direct=whole),)


def _bare_host(text: str) -> str:
    literal = text.removeprefix("[").removesuffix("]")
    if ":" in literal:
        try:
            return str(ipaddress.IPv6Address(literal))
        except ValueError:
            raise Malformed(f"{quote(text)} is not an address; write HOST or HOST:PORT") from None
    return parse_host(literal)


def _server(value: object) -> str:
    """The control port's URL without a final slash."""
    text = str(value)
    url: SplitResult | None
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        url, host, port = None, None, None
    if url is None or url.scheme not in ("http", "https", "ws", "wss") or not host or port == 0:
        raise ValueError(
            f"{quote(text)} is not a URL; write it like https://devroute.example or http://localhost:8081"
        )
    if url.username is not None or url.password is not None:
        raise ValueError("the URL holds a user or password; use a token")
    if url.query or url.fragment or re.search(r"[^!-~]", text):
        raise ValueError(
            f"{quote(text)} has parts that a server's URL has not; write it like https://devroute.example"
        )
    return text.rstrip("/")


def _specs(value: object) -> object:
    if isinstance(value, Mapping):
        value = [f"{service}={place}" for service, place in value.items()]
    if not isinstance(value, list | tuple):
        raise ValueError("write a list such as [foo=8001]")
    specs = tuple(spec if isinstance(spec, ServiceSpec) else ServiceSpec.parse(str(spec)) for spec in value)
    if len(specs) > MAX_SERVICES:
        raise ValueError(f"{len(specs)} services are given; at most {MAX_SERVICES} are allowed")
    for index, spec in enumerate(specs):
        if any(other.service == spec.service for other in specs[:index]):
            raise ValueError(f"service '{spec.service}' is given twice")
    return specs


def _words(value: object) -> object:
    """A command line as words, by a shell's rules of quoting; no shell ever sees it."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"{quote(value)}: {error}") from None


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


def _name(value: object) -> str | None:
    return None if value is None else check_label(str(value), "a laptop's name")


def _inspector(value: object) -> bool | int:
    text = str(value).lower()
    if text in ("true", "on", "yes"):
        return True
    if text in ("false", "off", "no", "none"):
        return False
    try:
        return parse_port(text)
    except Malformed:
        raise ValueError(f"{quote(text)} is neither a port nor true or false") from None


def _redact(value: object) -> tuple[str, ...]:
    rules = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(rules, list | tuple) or not all(isinstance(each, str) for each in rules):
        raise ValueError("write a list of names and paths, such as [x-session, $.user.card]")
    try:
        redaction(rules)
    except ConfigInvalid as error:
        raise ValueError(error.message) from None
    return tuple(rules)


def _percent(value: object) -> float | None:
    return None if value is None else read_percent(value)


def _ignore(value: object) -> tuple[str, ...]:
    rules = value.split() if isinstance(value, str) else value
    if not isinstance(rules, list | tuple) or not all(isinstance(each, str) for each in rules):
        raise ValueError("write a list of places and headers, such as [$.timestamp, x-version]")
    try:
        Rules.parse(rules)
    except ConfigInvalid as error:
        raise ValueError(f"{error.message} ({error.hint})" if error.hint else error.message) from None
    return tuple(rules)


def _audit(value: object) -> object:
    """YAML takes off for a truth value."""
    return "off" if value is False or value == "" else value


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ServerCredentials(_Settings):
    """An entry of `servers:` in the home config: what is used with that server only."""

    token: SecretStr = SecretStr("")
    token_command: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None


class ClientSettings(ServerCredentials):
    """What every command needs that talks to a server. `token_command` prints a token; `ca_file` replaces the
    system's trusted certificates."""

    #: No default: a wrong one would be asked in silence, and be told the token.
    server: Annotated[str, BeforeValidator(_server)] = ""
    servers: dict[Annotated[str, BeforeValidator(_server)], ServerCredentials] = {}
    #: For a network that encrypts by itself, as between sidecars; otherwise no token goes over plain http.
    insecure_plain_http: bool = False
    #: auto: a page for `up` where standard output is a terminal that can show it, lines of text otherwise.
    output: Literal["auto", "text", "json"] = "auto"

    @property
    def has_credential(self) -> bool:
        """Whether there is anything that says who we are."""
        return bool(self.token.get_secret_value() or self.token_command or self.client_cert)


class AgentSettings(ClientSettings):
    """`devroute up`. Without a name, the laptop is registered as the token's subject."""

    name: Annotated[str | None, BeforeValidator(_name)] = None
    services: Annotated[tuple[ServiceSpec, ...], BeforeValidator(_specs)] = ()
    direct: str | None = None
    #: On which terms all of them are served (terms.py).
    only_path: Annotated[tuple[str, ...], BeforeValidator(read_paths)] = ()
    except_status: Annotated[tuple[int, ...], BeforeValidator(read_statuses)] = ()
    except_methods: Annotated[tuple[str, ...], BeforeValidator(read_methods)] = IDEMPOTENT
    #: Copies only, for this percentage of the requests with one of these methods; what differs from the real
    #: service's answers is shown, except at these places.
    shadow: Annotated[float | None, BeforeValidator(_percent)] = None
    shadow_methods: Annotated[tuple[str, ...], BeforeValidator(read_methods)] = SAFE
    ignore: Annotated[tuple[str, ...], BeforeValidator(_ignore)] = ()
    command: tuple[str, ...] = ()
    #: The inspector's port; True takes 4040 or the next free one, False none.
    inspector: Annotated[bool | int, BeforeValidator(_inspector)] = True
    #: MiB of all captures, and of one body.
    inspector_memory_mb: Annotated[float, Field(gt=0, le=4096)] = 50
    inspector_body_mb: Annotated[float, Field(gt=0, le=1024)] = 1
    #: Names and JSON paths that captures do without, besides what always is redacted.
    redact: Annotated[tuple[str, ...], BeforeValidator(_redact)] = ()

    @property
    def terms(self) -> Terms:
        return Terms(
            paths=self.only_path,
            except_status=self.except_status,
            except_methods=self.except_methods,
            shadow=self.shadow,
            shadow_methods=self.shadow_methods,
        )


# --- the mesh -----------------------------------------------------------------------------------------------

_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, le=86_400)]


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


class ProxySettings(_Settings):
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
    max_contract_entries: Annotated[int, Field(ge=1, le=MOST_ENTRIES)] = MAX_ENTRIES
    #: Requests in flight to one target. This and the next three can be overridden in the policy (`limits:`).
    max_in_flight: Annotated[int, Field(ge=1)] = 2048
    #: Requests in flight to the laptops of one subject, and by one of its tunnels.
    max_in_flight_per_subject: Annotated[int, Field(ge=1)] = 4096
    max_streams_per_link: Annotated[int, Field(ge=1, le=MAX_STREAMS)] = MAX_STREAMS
    #: Laptops that one subject may have online.
    max_links_per_subject: Annotated[int, Field(ge=1)] = 16


# --- putting them together ----------------------------------------------------------------------------------

_S = TypeVar("_S", bound=_Settings)


def given_settings(sources: Iterable[Source]) -> AgentSettings:
    """What is given so far, for commands that can do without the rest. Raises ConfigInvalid."""
    return _bound(AgentSettings, sources)


def client_settings(sources: Iterable[Source]) -> ClientSettings:
    """For `ls` and `status`; sources in order of precedence. Raises ConfigInvalid naming source and field."""
    settings = _bound(ClientSettings, sources)
    _complete(_missing(settings))
    return settings


def agent_settings(sources: Iterable[Source]) -> AgentSettings:
    """For `up`; sources in order of precedence. Raises ConfigInvalid naming source and field."""
    settings = _bound(AgentSettings, sources)
    _complete(_missing(settings) + ([] if settings.services else ["services"]))
    try:
        settings.terms.check()
    except Malformed as problem:
        raise ConfigInvalid(f"shadow and except_status: {problem}") from None
    if settings.direct is not None:
        try:
            services = with_direct(settings.services, settings.direct)
        except Malformed as problem:
            raise ConfigInvalid(f"direct: {problem}") from None
        settings = settings.model_copy(update={"services": services})
    return settings


def _missing(settings: ClientSettings) -> list[str]:
    given = {"server": settings.server, "token": settings.has_credential}
    return [name for name, value in given.items() if not value]


#: What to do about each setting that is missing.
_REMEDIES: Mapping[str, str] = {
    "server": "server: in a script, set DEVROUTE_SERVER=https://devroute.example",
    "token": "token: in a script, set DEVROUTE_TOKEN; the platform team makes one: devroute token new NAME",
    "services": "services: devroute up foo=8001, or for this folder: devroute init --project foo=8001",
}


def _complete(missing: Sequence[str]) -> None:
    """Raises ConfigInvalid that names everything that is missing, and what to do, all of it at once."""
    if not missing:
        return
    steps = [_REMEDIES[name] for name in missing]
    if asked := [name for name in missing if name != "services"]:
        steps.insert(0, f"devroute init asks for {' and '.join(asked)}, and keeps what you answer")
    listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
    raise ConfigInvalid(f"not set up yet: {listed} missing", hint="\n".join(steps))


def proxy_settings(sources: Iterable[Source]) -> ProxySettings:
    """For `proxy`; sources in order of precedence. Raises ConfigInvalid naming source and field."""
    settings = _build(ProxySettings, sources)
    if (settings.tls_cert is None) is not (settings.tls_key is None):
        raise ConfigInvalid("tls_cert and tls_key belong together; one of them is missing")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ConfigInvalid("tls_client_ca is of no use without tls_cert and tls_key")
    if settings.tls_client_subject != "off" and settings.tls_client_ca is None:
        raise ConfigInvalid("tls_client_subject is of no use without tls_client_ca")
    if settings.oidc_issuer is None:
        if settings.oidc_audience or settings.oidc_jwks:
            raise ConfigInvalid("oidc_audience and oidc_jwks are of no use without oidc_issuer")
    elif not settings.oidc_audience:
        raise ConfigInvalid(
            "oidc_audience is missing: the issuer's tokens for everything else would be accepted here"
        )
    elif settings.oidc_subject_claim == "email" and settings.oidc_email_domain is None:
        raise ConfigInvalid(
            "oidc_subject_claim is email: oidc_email_domain has to say whose addresses these are"
        )
    return settings


_C = TypeVar("_C", bound=ClientSettings)


def _bound(model: type[_C], sources: Iterable[Source]) -> _C:
    settings = _build(model, repository_file.with_more_redacted(bind(list(sources))))
    if (settings.client_cert is None) is not (settings.client_key is None):
        raise ConfigInvalid("client_cert and client_key belong together; one of them is missing")
    tokens = settings.token.get_secret_value() or settings.token_command
    if tokens and is_exposed(settings.server) and not settings.insecure_plain_http:
        raise ConfigInvalid(
            f"{settings.server} is plain http: everybody on the way could read your token",
            hint="write https://; if the network itself encrypts (a mesh), say --insecure-plain-http",
        )
    return settings


def _build(model: type[_S], sources: Iterable[Source]) -> _S:
    chosen: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, values, _ in sources:
        section = _section(model, name, values)
        for field, value in section.items():
            if field in model.model_fields and value is not None and field not in chosen:
                chosen[field], origin[field] = value, name
    try:
        return model.model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = str(first["loc"][0])
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigInvalid(f"{origin[field]}: {field}: {problem}") from None


def _section(model: type[_S], name: str, values: Mapping[str, object]) -> Mapping[str, object]:
    """The proxy's settings stand under `proxy:` in files, and by themselves in flags and environment."""
    section = values.get("proxy") if model is ProxySettings else None
    if section is None:
        return values
    if not isinstance(section, Mapping):
        raise ConfigInvalid(f"{name}: proxy: write one setting a line below it, such as data_port: 8080")
    for key in section:
        if key not in model.model_fields:
            raise ConfigInvalid(f"{name}: proxy: there is no setting {quote(str(key))}")
    return section
