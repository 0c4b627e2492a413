"""The laptop's settings: names, types and defaults. Pure; cli/config/sources.py reads them."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr

from devroute.agent.reach.mesh_port import Forward, read_forwards
from devroute.contract.offer_options import (
    IDEMPOTENT_METHODS,
    SAFE_METHODS,
    OfferOptions,
    read_methods,
    read_paths,
    read_percent,
    read_statuses,
)
from devroute.contract.service_spec import ServiceSpec, read_specs
from devroute.contract.target import Malformed, check_label, parse_address, parse_host, parse_port
from devroute.errors import ConfigInvalid
from devroute.inspector.protobuf.schema_files import SchemaFiles
from devroute.inspector.redaction import redaction
from devroute.inspector.rules.settings import RuleSettings, read_rules
from devroute.quoting import quote
from devroute.settings import Settings
from devroute.tunnel.forward_proxy import ForwardProxy, from_environment
from devroute.upstream.dialer import RETRY_REFUSED_SECONDS

#: IANA's HTTP Method Registry (RFC 9110 §16.1.1): any other one in the settings is a typing mistake.
METHODS: Final = frozenset(
    (
        *("ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET"),
        *("HEAD", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MKREDIRECTREF"),
        *("MKWORKSPACE", "MOVE", "OPTIONS", "ORDERPATCH", "PATCH", "POST", "PROPFIND", "PROPPATCH"),
        *("PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "TRACE", "UNBIND", "UNCHECKOUT", "UNLINK"),
        *("UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL"),
    )
)


def _server(value: object) -> str:
    """The control port's URL, its scheme in lower case and without a final slash."""
    text = str(value)
    if "@" in text:  # before anything that quotes it
        raise ValueError("the URL holds a user or password; use a token instead")
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https", "ws", "wss") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(
            f"{quote(text)} is not a URL; write it like https://devroute.example or http://localhost:8081"
        )
    if url.query or url.fragment or re.search(r"[^!-~]", text):
        raise ValueError(
            f"{quote(text)} has parts that a server's URL cannot have; write it like https://devroute.example"
        )
    return f"{url.scheme}{text[len(url.scheme) :].rstrip('/')}"


def _forward_proxy(value: object) -> object:
    if value is None or isinstance(value, ForwardProxy) or str(value).lower() in ("off", "none", "false"):
        return "off" if value is not None and not isinstance(value, ForwardProxy) else value
    return ForwardProxy.parse(str(value))


def _words(value: object) -> object:
    """A command line as words, by a shell's rules of quoting. It is never run by a shell."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"{quote(value)}: {error}") from None


def _name(value: object) -> str | None:
    return None if value is None else check_label(str(value), "a laptop's name")


def _host_header(value: object) -> str:
    text = str(value).lower()
    if text in ("keep", "app"):
        return text
    try:
        return str(parse_address(text)) if ":" in text else parse_host(text)
    except Malformed as problem:
        raise ValueError(f"write app, keep, or a host name: {problem}") from None


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


def _methods(value: object) -> tuple[str, ...]:
    methods = read_methods(value)
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"{quote(method)} is not a method of HTTP, such as GET or POST")
    return methods


def file_paths(value: object) -> tuple[Path, ...]:
    """A list of files or folders; as text, separated as in PATH. Raises ValueError."""
    listed = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not all(isinstance(each, str | Path) for each in listed):
        raise ValueError("write a path or a list of paths")
    if not all(str(each) and "\0" not in str(each) for each in listed):
        raise ValueError("a path is empty, or has a NUL")
    try:
        return tuple(Path(each).expanduser() for each in listed)
    except RuntimeError:
        raise ValueError("a path begins with the home of an unknown user") from None


def _percent(value: object) -> float | None:
    return None if value is None else read_percent(value)


def _ignore(value: object) -> tuple[str, ...]:
    from devroute.inspector.compare import IgnoreRules  # for --shadow alone

    rules = value.split() if isinstance(value, str) else value
    if not isinstance(rules, list | tuple) or not all(isinstance(each, str) for each in rules):
        raise ValueError("write a list of places and headers, such as [$.timestamp, x-version]")
    try:
        IgnoreRules.parse(rules)
    except ConfigInvalid as error:
        raise ValueError(f"{error.message} ({error.hint})" if error.hint else error.message) from None
    return tuple(rules)


def _rules(value: object) -> tuple[RuleSettings, ...]:
    try:
        return read_rules(value)
    except ConfigInvalid as error:
        raise ValueError(error.message) from None


class ServerCredentials(Settings):
    """Credentials for one server: an entry of `servers:` in the home config."""

    token: SecretStr = SecretStr("")
    token_command: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    #: What `devroute login` has saved for this server; set by the command line, not by people.
    login: Path | None = None


class ClientSettings(ServerCredentials):
    """The settings of every command that connects to a server. `token_command` prints a token; `ca_file`
    replaces the system's trusted certificates."""

    #: No default: the token would be sent to a server that the user did not name.
    server: Annotated[str, BeforeValidator(_server)] = ""
    servers: dict[Annotated[str, BeforeValidator(_server)], ServerCredentials] = Field(default_factory=dict)
    #: For a network that encrypts by itself, as between sidecars; otherwise no token is sent over plain http.
    insecure_plain_http: bool = False
    #: A forward proxy to the server; None for the one that the environment names, "off" for none.
    forward_proxy: Annotated[ForwardProxy | Literal["off"] | None, BeforeValidator(_forward_proxy)] = None
    #: auto: for `up`, a page on a terminal that can draw one; lines of text otherwise.
    output: Literal["auto", "text", "json"] = "auto"

    def proxy_for_server(self, environment: Mapping[str, str] = os.environ) -> ForwardProxy | None:
        """The forward proxy in use. Raises ConfigInvalid naming a variable that is invalid."""
        if self.forward_proxy is not None:
            return None if self.forward_proxy == "off" else self.forward_proxy
        named = from_environment(self.server, environment)
        try:
            return None if named is None else ForwardProxy.parse(named)
        except ValueError as problem:
            raise ConfigInvalid(
                f"HTTPS_PROXY, HTTP_PROXY or ALL_PROXY: {problem}", hint="or use none: --proxy off"
            ) from None

    @property
    def has_credential(self) -> bool:
        """Whether there is anything that proves an identity."""
        return bool(self.token.get_secret_value() or self.token_command or self.login or self.client_cert)


class AgentSettings(ClientSettings):
    """`devroute up`. Without a name, the laptop is registered as the token's subject."""

    name: Annotated[str | None, BeforeValidator(_name)] = None
    services: Annotated[tuple[ServiceSpec, ...], BeforeValidator(read_specs)] = ()
    direct: str | None = None
    #: Take services over from other processes of the same laptop.
    takeover: bool = False
    #: The Host that apps get: as it comes (keep), their own address (app), or a name.
    host_header: Annotated[str, BeforeValidator(_host_header)] = "keep"
    #: Options of the offer of each service (contract/offer_options.py).
    only_path: Annotated[tuple[str, ...], BeforeValidator(read_paths)] = ()
    except_status: Annotated[tuple[int, ...], BeforeValidator(read_statuses)] = ()
    except_methods: Annotated[tuple[str, ...], BeforeValidator(_methods)] = IDEMPOTENT_METHODS
    #: Shadow traffic only: this percentage of requests with these methods, compared with the service's
    #: responses except at the places of `ignore`.
    shadow: Annotated[float | None, BeforeValidator(_percent)] = None
    shadow_methods: Annotated[tuple[str, ...], BeforeValidator(_methods)] = SAFE_METHODS
    ignore: Annotated[tuple[str, ...], BeforeValidator(_ignore)] = ()
    command: tuple[str, ...] = ()
    #: Seconds for which a connection that the app refuses is tried again: a save may restart it.
    retry_refused: Annotated[float, Field(ge=0, le=60)] = RETRY_REFUSED_SECONDS
    #: Port of the inspector; True is the first free one from 4040, False none.
    inspector: Annotated[bool | int, BeforeValidator(_inspector)] = True
    #: Services of the mesh with local ports of their own, for programs on this laptop.
    reach: Annotated[tuple[Forward, ...], BeforeValidator(read_forwards)] = ()
    #: The port for SOCKS and HTTP proxies; True is the first free one from PROXY_PORT, False none.
    reach_port: Annotated[bool | int, BeforeValidator(_inspector)] = False
    #: Whether the child's environment names that port.
    reach_env: bool = False
    #: Whether names outside of the mesh go past it, instead of being refused.
    reach_direct: bool = False
    #: Whether requests that belong to no contract get the one of this laptop's services.
    reach_contract: bool = False
    #: MiB of all captures, and of one body.
    inspector_memory_mb: Annotated[float, Field(gt=0, le=4096)] = 50
    inspector_body_mb: Annotated[float, Field(gt=0, le=1024)] = 1
    #: Whether the captures are kept on disk for the next `devroute up` of these services.
    inspector_history: bool = False
    #: Whether the inspector's port serves /metrics for Prometheus, to anyone on this machine.
    metrics: bool = False
    #: Names and JSON paths that are redacted in captures, besides those that always are.
    redact: Annotated[tuple[str, ...], BeforeValidator(_redact)] = ()
    #: What happens to requests that match them, before or instead of the app.
    rules: Annotated[tuple[RuleSettings, ...], BeforeValidator(_rules)] = ()
    #: Schemas of gRPC messages (inspector/protobuf/schema_files.py).
    descriptor_set: Annotated[tuple[Path, ...], BeforeValidator(file_paths)] = ()
    proto: Annotated[tuple[Path, ...], BeforeValidator(file_paths)] = ()
    proto_path: Annotated[tuple[Path, ...], BeforeValidator(file_paths)] = ()

    @property
    def reaches(self) -> bool:
        """Whether programs on this laptop reach services of the mesh."""
        return bool(self.reach or self.reach_env or self.reach_port is not False)

    @property
    def schema_files(self) -> SchemaFiles:
        return SchemaFiles(self.descriptor_set, self.proto, self.proto_path)

    @property
    def offer_options(self) -> OfferOptions:
        return OfferOptions(
            paths=self.only_path,
            except_status=self.except_status,
            except_methods=self.except_methods,
            shadow=self.shadow,
            shadow_methods=self.shadow_methods,
        )
