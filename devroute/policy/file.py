"""The policy file: its grammar, its sections, and the place of an error in it. Pure; policy/policy.py applies
the rules.

docs/policy.md describes the format with an example that a test reads.
"""

import ipaddress
import re
from functools import cached_property
from ipaddress import IPv6Network
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from devroute.contract.conditions import MAX_TEXT
from devroute.contract.mesh_identity import URI_PATTERN
from devroute.contract.target import MAX_LABEL, Target
from devroute.errors import ConfigInvalid
from devroute.policy.ranges import Network
from devroute.policy.rules import any_matches, matches_target
from devroute.quoting import quote
from devroute.yaml_text import read_document

#: Characters of a policy file: more than a thousand rules. The proxy's requests wait while it is parsed, for
#: 0.1 to 0.2 s at this size.
MAX_FILE = 64 * 1024
#: `*` in one pattern. Matching gets slower with each, and useful patterns have one or two.
MAX_STARS = 4


# --- values -------------------------------------------------------------------------------------------------


def _network(text: object) -> Network:
    if not isinstance(text, str):
        raise ValueError("a network is a string such as 192.168.0.0/16")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a network; write it like 192.168.0.0/16") from None
    host = text.partition("/")[0]
    if ipaddress.ip_address(host) != network.network_address:
        raise ValueError(f"{quote(text)} has bits set outside its mask; write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{quote(text)} is IPv4-mapped; list the IPv4 network")
    return network


def _ports(value: object) -> tuple[int, int]:
    """8001 or "1024-65535", as the first and the last port."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value))
    if match and not isinstance(value, bool):
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError(f"{quote(str(value))} is not a port or a range; write 8001 or 1024-65535")


def _checked(value: object, grammar: str, max_length: int, what: str) -> str:
    text = str(value)
    if not isinstance(value, str | int) or len(text) > max_length or not re.fullmatch(grammar, text):
        raise ValueError(f"{quote(text)} is not {what}")
    if text.count("*") > MAX_STARS:
        raise ValueError(f"{quote(text)} has more than {MAX_STARS} `*`")
    return text


def _service(value: object) -> str:
    if not isinstance(value, str):
        value = str(value)
    return _checked(
        value, r"[-a-z0-9*]+", MAX_LABEL, 'a service\'s name or a pattern; write b, team-* or "*"'
    )


def _subject(value: object) -> str:
    return _checked(value, r"[-a-z0-9*]+", MAX_LABEL, 'a subject or a pattern; write alice, ci-* or "*"')


def _group(value: object) -> str:
    text = _checked(value, r"[^\x00-\x1f\x7f]+", MAX_TEXT, "the name of a group")
    if "*" in text:
        raise ValueError(f"{quote(text)}: a group is written in full, without `*`")
    return text


def _caller(value: object) -> str:
    return _checked(
        value,
        rf"\*|{URI_PATTERN}|[-a-z0-9*]+/[-.a-z0-9*]+",
        MAX_TEXT,
        "a mesh identity or a pattern; write namespace/serviceaccount, namespace/*,"
        ' spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT, or "*" for every caller',
    )


def _target(value: object) -> Network | str:
    """A network, or a pattern for the names of laptops, hosts or versions."""
    text = value if isinstance(value, str) else str(value)
    if "/" in text or ":" in text.removeprefix("version:") or re.fullmatch(r"[0-9.]+", text):
        return _network(text)
    host = (
        r"([-_a-z0-9*]+\.)+(?![0-9*]+$)[-_a-z0-9*]+"  # the last label is not a number, as in an IPv4 address
    )
    name = rf"[-a-z0-9*]+|version:[-_.A-Za-z0-9*]+|{host}"
    return _checked(
        text, name, MAX_TEXT,
        "a target; write a laptop's name (alice, ci-*), a network (192.168.0.0/16), a host (*.vpn.example),"
        ' a version (version:v2) or "*"',
    )  # fmt: skip


# --- the sections -------------------------------------------------------------------------------------------

Networks = tuple[Annotated[Any, BeforeValidator(_network)], ...]
Ports = tuple[Annotated[Any, BeforeValidator(_ports)], ...]
Services = tuple[Annotated[str, BeforeValidator(_service)], ...]
DEFAULT_PORTS = ((1024, 65535),)
_Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class DirectRule(_Section):
    """Additional addresses for some services."""

    services: Annotated[Services, Field(min_length=1)]
    networks: Networks
    ports: Ports = DEFAULT_PORTS


class DirectSection(_Section):
    """The addresses that contracts and registrations may name."""

    networks: Networks = ()
    ports: Ports = DEFAULT_PORTS
    rules: tuple[DirectRule, ...] = ()


class ClusterSection(_Section):
    """The cluster's own ranges: denied as targets unless a listed network lies inside them."""

    pods: Networks = ()
    services: Networks = ()


class _People(_Section):
    """These subjects, and the members of these groups."""

    subjects: tuple[Annotated[str, BeforeValidator(_subject)], ...] = ()
    groups: tuple[Annotated[str, BeforeValidator(_group)], ...] = ()

    def applies_to(self, subject: str, groups: frozenset[str]) -> bool:
        return not groups.isdisjoint(self.groups) or any_matches(self.subjects, subject)


class RegisterSection(_People):
    """Who may register these services."""

    services: Services = ("*",)


class AdminSection(_People):
    """Who may change what others own."""


class CallerSection(_Section):
    """Requests from these callers for these services may be detoured to these targets. `*` matches all."""

    callers: tuple[Annotated[str, BeforeValidator(_caller)], ...] = Field(alias="from", min_length=1)
    services: Services = ("*",)
    targets: tuple[Annotated[Any, BeforeValidator(_target)], ...] = ("*",)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(each for each in self.targets if isinstance(each, str))

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        return tuple(each for each in self.targets if not isinstance(each, str))

    def applies_to(self, service: str, target: Target) -> bool:
        return any_matches(self.services, service) and (
            "*" in self.names or matches_target(self.names, self.networks, target)
        )


class LimitsSection(_Section):
    """Limits that override the proxy's settings; None leaves the setting in force.

    `in_flight_per_target`: concurrent requests to one target. `in_flight_per_subject`: concurrent requests to
    all laptops of one subject. `links_per_subject`: laptops of a subject that may be online.
    `streams_per_link`: concurrent requests in one tunnel.
    """

    in_flight_per_target: _Count | None = None
    in_flight_per_subject: _Count | None = None
    links_per_subject: _Count | None = None
    streams_per_link: _Count | None = None


class PolicyFile(_Section):
    """The whole file. An empty `register` or `callers` permits nothing; an absent one permits everything."""

    direct: DirectSection = DirectSection()
    cluster: ClusterSection = ClusterSection()
    services: Services = ("*",)
    shadow: Services = ()
    registrations: tuple[RegisterSection, ...] | None = Field(None, alias="register")
    callers: tuple[CallerSection, ...] | None = None
    require: Literal["signed"] | None = None
    limits: LimitsSection = LimitsSection()
    admins: AdminSection = AdminSection()


# --- parsing ------------------------------------------------------------------------------------------------

Place = tuple[str | int, ...]


def load(text: str, source: str) -> tuple[object, yaml.Node | None]:
    """The document in a YAML text (None if it is empty), and its nodes for `place_of`. Raises
    ConfigInvalid."""
    if len(text) > MAX_FILE:
        raise ConfigInvalid(f"{source}: larger than {MAX_FILE} characters")
    return read_document(text, source, quotes=True)


def place_of(node: yaml.Node | None, place: Place, source: str) -> str:
    """`policy.yaml:7: direct.networks.0` for a place in a document, with the line of the nearest node."""
    line = 0 if node is None else node.start_mark.line + 1
    for step in place:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    where = f"{source}:{line}" if line else source
    named = ".".join(str(step) for step in place)
    return f"{where}: {named}" if named else where


def problem_of(error: ValidationError, model: type[BaseModel]) -> tuple[Place, str]:
    """The place of the first problem, and its description. `model` is that of the whole document."""
    first = error.errors(include_url=False)[0]
    place, problem = first["loc"], first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        problem = f"there is no such field; the fields here are {', '.join(_fields(model, place[:-1]))}"
    elif first["type"] == "missing":
        problem = "it is missing"
    elif first["type"] in ("tuple_type", "list_type"):
        problem = "write a list, such as [a, b]"
    elif first["type"] in ("model_type", "dict_type", "model_attributes_type"):
        problem = "write fields below it, one per line"
    return place, problem


def _fields(model: type[BaseModel], place: Place) -> list[str]:
    """The names in the file of the fields of the section at a place."""
    for step in place:
        if isinstance(step, str):
            by_alias = {field.alias or name: field for name, field in model.model_fields.items()}
            found = _section_in(by_alias[step].annotation)
            if found is not None:
                model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, getattr(annotation, "__args__", ()))), None)


def read(text: str, source: str = "policy.yaml") -> PolicyFile:
    """Parse a file's text. Raises ConfigInvalid naming `source`, line and field."""
    document, node = load(text, source)
    return from_mapping({} if document is None else document, source, node)


def from_mapping(document: object, source: str, node: yaml.Node | None = None) -> PolicyFile:
    """Validate a parsed document. Raises ConfigInvalid naming `source` and the field."""
    if not isinstance(document, dict):
        raise ConfigInvalid(f"{source}: write a mapping with `direct:` and `services:`")
    try:
        file = PolicyFile.model_validate(document)
    except ValidationError as error:
        place, problem = problem_of(error, PolicyFile)
        raise ConfigInvalid(f"{place_of(node, place, source)}: {problem}") from None
    for at, rule in enumerate(file.registrations or ()):
        if not rule.subjects and not rule.groups:
            where = place_of(node, ("register", at), source)
            raise ConfigInvalid(f"{where}: the rule applies to no one; add subjects or groups")
    return file
