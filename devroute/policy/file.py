"""The policy file: its grammar, its sections, and the place of an error in it. Pure; policy/policy.py applies
the rules.

docs/policy.md describes the format with an example that a test reads.
"""

from functools import cached_property
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from devroute.contract.destination import Destination
from devroute.contract.target import Target
from devroute.errors import ConfigInvalid
from devroute.policy import values
from devroute.policy.ranges import Network
from devroute.policy.rules import any_matches, is_listed, matches_target, written_ports
from devroute.yaml_text import read_document

#: Characters of a policy file: more than a thousand rules. The proxy's requests wait while it is parsed, for
#: 0.1 to 0.2 s at this size.
MAX_FILE = 64 * 1024


# --- the sections -------------------------------------------------------------------------------------------

Networks = tuple[Annotated[Any, BeforeValidator(values.network)], ...]
Ports = tuple[Annotated[Any, BeforeValidator(values.ports)], ...]
Services = tuple[Annotated[str, BeforeValidator(values.service)], ...]
DEFAULT_PORTS = ((1024, 65535),)
#: The rank of a rule of `reach` that permits.
PERMITTED = 3
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

    subjects: tuple[Annotated[str, BeforeValidator(values.subject)], ...] = ()
    groups: tuple[Annotated[str, BeforeValidator(values.group)], ...] = ()

    @property
    def problem(self) -> str | None:
        """What makes a rule useless."""
        anyone = self.subjects or self.groups
        return None if anyone else "the rule applies to no one; add subjects or groups"

    def applies_to(self, subject: str, groups: frozenset[str]) -> bool:
        return not groups.isdisjoint(self.groups) or any_matches(self.subjects, subject)


class RegisterSection(_People):
    """Who may register these services."""

    services: Services = ("*",)


class AdminSection(_People):
    """Who may change what others own."""


class CallerSection(_Section):
    """Requests from these callers for these services may be detoured to these targets. `*` matches all."""

    callers: tuple[Annotated[str, BeforeValidator(values.caller)], ...] = Field(alias="from", min_length=1)
    services: Services = ("*",)
    targets: tuple[Annotated[Any, BeforeValidator(values.target)], ...] = ("*",)

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


class ReachSection(_People):
    """What these people's laptops may reach: services in these namespaces, and hosts outside of the cluster,
    on these ports."""

    services: Services = ("*",)
    namespaces: tuple[Annotated[str, BeforeValidator(values.namespace)], ...] = ()
    hosts: tuple[Annotated[str, BeforeValidator(values.host)], ...] = ()
    ports: Ports = ((1, 65535),)
    protocols: tuple[Literal["http", "tcp"], ...] = ("http",)

    def permitted(self) -> dict[str, list[str]]:
        """What it permits, without for whom, as JSON."""
        return {
            "services": list(self.services if self.namespaces else ()),
            "namespaces": list(self.namespaces),
            "hosts": list(self.hosts),
            "ports": written_ports(self.ports),
            "protocols": list(self.protocols),
        }

    @property
    def problem(self) -> str | None:
        nothing = not self.namespaces and not self.hosts
        return "the rule permits nothing; add namespaces or hosts" if nothing else super().problem

    def obstacle(self, destination: Destination) -> tuple[int, str]:
        """Why it does not permit a destination, and how close it came; PERMITTED if it does."""
        if destination.namespace:
            named = any_matches(self.services, destination.name)
            if not (named and any_matches(self.namespaces, destination.namespace)):
                return 0, f"no rule of reach lists {destination.name}.{destination.namespace}"
        elif not any_matches(self.hosts, destination.name):
            return 0, f"no rule of reach lists the host {destination.name}"
        if destination.protocol not in self.protocols:
            return 1, f"the rule lists {' and '.join(self.protocols)}, not {destination.protocol}"
        if not is_listed(destination.port, self.ports):
            return 2, f"port {destination.port} is not listed"
        return PERMITTED, ""


class LimitsSection(_Section):
    """Limits that override the proxy's settings; None leaves the setting in force.

    `in_flight_per_target`: concurrent requests to one target. `in_flight_per_subject`: concurrent requests to
    all laptops of one subject. `links_per_subject`: processes of a subject that may be online.
    `streams_per_link`: concurrent requests in one tunnel. `reach_per_subject`: concurrent requests and
    connections of all laptops of one subject to what they reach.
    """

    in_flight_per_target: _Count | None = None
    in_flight_per_subject: _Count | None = None
    links_per_subject: _Count | None = None
    streams_per_link: _Count | None = None
    reach_per_subject: _Count | None = None


class PolicyFile(_Section):
    """The whole file. An empty `register` or `callers` permits nothing; an absent one permits everything. An
    absent `reach` permits nothing."""

    direct: DirectSection = DirectSection()
    cluster: ClusterSection = ClusterSection()
    services: Services = ("*",)
    shadow: Services = ()
    registrations: tuple[RegisterSection, ...] | None = Field(None, alias="register")
    callers: tuple[CallerSection, ...] | None = None
    reach: tuple[ReachSection, ...] = ()
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
    for section, rules in (("register", file.registrations or ()), ("reach", file.reach)):
        for at, rule in enumerate(rules):
            if rule.problem is not None:
                raise ConfigInvalid(f"{place_of(node, (section, at), source)}: {rule.problem}")
    return file
