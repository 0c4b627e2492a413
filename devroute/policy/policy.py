"""Decides which detours, registrations and callers are permitted; denies by default. policy/file.py owns the
file's format, policy/rules.py the single rules.

Pure; never resolves a name: whatever resolves one calls `permit_address` for each of its addresses, and
connects to permitted ones only.
A reload makes a new Policy, so decisions may be cached for each Policy.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from devroute.contract.destination import Destination
from devroute.contract.grammar import Contract, Entry
from devroute.contract.target import Address
from devroute.contract.validity import check_time
from devroute.errors import (
    AdminRequired,
    CallerDenied,
    ContractUnsigned,
    ReachDenied,
    RegistrationDenied,
    ShadowDenied,
    TargetDenied,
)
from devroute.policy import file
from devroute.policy.file import (
    DEFAULT_PORTS,
    PERMITTED,
    AdminSection,
    CallerSection,
    LimitsSection,
    PolicyFile,
    ReachSection,
    RegisterSection,
)
from devroute.policy.ranges import SPECIAL, NamedRange, Network, effective_addresses
from devroute.policy.rules import AddressRule, Ports, Refusal, any_matches, is_caller
from devroute.quoting import quote


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The rules in force. Compared and hashed by identity, so that decisions can be cached for each policy.

    `rules`: the addresses that may be targets; the first one applies to all services. `cluster`: the
    cluster's own ranges. If `registrations` is None, every subject may register every service that may be
    detoured; if `callers` is None, callers are not checked.
    """

    services: tuple[str, ...] = ("*",)
    shadow: tuple[str, ...] = ()
    rules: tuple[AddressRule, ...] = (AddressRule(("*",), (), DEFAULT_PORTS),)
    cluster: tuple[NamedRange, ...] = ()
    registrations: tuple[RegisterSection, ...] | None = None
    callers: tuple[CallerSection, ...] | None = None
    reach: tuple[ReachSection, ...] = ()
    require_signed: bool = False
    limits: LimitsSection = field(default_factory=LimitsSection)
    admins: AdminSection = field(default_factory=AdminSection)

    @classmethod
    def parse(cls, text: str, source: str = "policy.yaml") -> "Policy":
        """The policy in a file's text; an empty text is the default policy. Raises ConfigInvalid naming the
        place."""
        return cls.of(file.read(text, source))

    @classmethod
    def from_mapping(cls, document: object, source: str = "policy.yaml") -> "Policy":
        """The policy in a parsed document. Raises ConfigInvalid naming `source` and the field."""
        return cls.of(file.from_mapping(document, source))

    @classmethod
    def of(cls, file: PolicyFile) -> "Policy":
        direct, cluster = file.direct, file.cluster
        return cls(
            services=file.services,
            shadow=file.shadow,
            rules=(
                AddressRule(("*",), direct.networks, direct.ports),
                *(
                    AddressRule(rule.services, rule.networks, rule.ports, f"direct.rules.{at}")
                    for at, rule in enumerate(direct.rules)
                ),
            ),
            cluster=(
                *((network, "cluster's pod") for network in cluster.pods),
                *((network, "cluster's service") for network in cluster.services),
            ),
            registrations=file.registrations,
            callers=file.callers,
            reach=file.reach,
            require_signed=file.require == "signed",
            limits=file.limits,
            admins=file.admins,
        )

    @property
    def networks(self) -> tuple[Network, ...]:
        return self.rules[0].networks

    @property
    def ports(self) -> Ports:
        return self.rules[0].ports

    # --- contracts

    def permit(self, entry: Entry) -> None:
        """Check a contract's entry without resolving names and without a caller. Raises TargetDenied, or
        CallerDenied if no caller may use the target."""
        self.permit_service(entry.service)
        if isinstance(entry.target, Address):
            self.permit_target(entry.target, service=entry.service)
        if self.callers_of(entry) == ():
            raise self._caller_denied(entry, "policy lists no caller that may use this target")

    def permit_service(self, service: str) -> None:
        """Raises TargetDenied if the service may not be detoured."""
        if not any_matches(self.services, service):
            raise TargetDenied(
                f"service '{service}': policy does not permit detours of it",
                hint=f"the platform team can add '{service}' to services in the policy",
                service=service,
            )

    # --- callers

    def callers_of(self, entry: Entry) -> tuple[str, ...] | None:
        """Patterns of the callers whose requests may go to the entry's target; None permits all callers."""
        if self.callers is None:
            return None
        found = [rule.callers for rule in self.callers if rule.applies_to(entry.service, entry.target)]
        patterns = tuple(dict.fromkeys(caller for callers in found for caller in callers))
        return None if "*" in patterns else patterns

    def permit_caller(self, entry: Entry, caller: str) -> None:
        """Check the mesh identity of a request's caller, "" for a caller without one. Raises CallerDenied."""
        patterns = self.callers_of(entry)
        if patterns is not None and not any(is_caller(pattern, caller) for pattern in patterns):
            who = quote(caller) if caller else "a caller without a mesh identity"
            raise self._caller_denied(entry, f"no rule of callers lets {who} use this target")

    def _caller_denied(self, entry: Entry, rule: str) -> CallerDenied:
        return CallerDenied(
            f"service '{entry.key}': target {quote(str(entry.target))}: denied by policy: {rule}",
            service=entry.key,
            target=str(entry.target),
        )

    # --- registrations

    def permit_registration(self, subject: str, groups: frozenset[str], service: str) -> None:
        """Check the registration of a service, with or without its namespace, by a subject. Raises
        RegistrationDenied."""
        service = service.partition(".")[0]
        if not any_matches(self.services, service):
            rule = f"service '{service}' may not be detoured"
            raise self._registration_denied(subject, service, rule, f"'{service}' to services")
        permitted = self.may_register(subject, groups)
        if any_matches(permitted, service):
            return
        rule = f"'{subject}' may register {', '.join(permitted) or 'nothing'}, not '{service}'"
        hint = f"a rule to register with '{subject}' or one of its groups, and '{service}'"
        raise self._registration_denied(subject, service, rule, hint)

    def permit_shadow(self, service: str) -> None:
        """Check a laptop's offer to take a service's shadow traffic, which includes the real responses.
        Raises ShadowDenied."""
        service = service.partition(".")[0]
        if not any_matches(self.shadow, service):
            raise ShadowDenied(
                f"service '{service}': policy does not permit shadow traffic of it",
                hint=f"the platform team can add '{service}' to shadow in the policy",
                service=service,
            )

    def may_register(self, subject: str, groups: frozenset[str]) -> tuple[str, ...]:
        """Patterns of the services that a subject may register."""
        if self.registrations is None:
            return self.services
        rules = [rule for rule in self.registrations if rule.applies_to(subject, groups)]
        return tuple(dict.fromkeys(pattern for rule in rules for pattern in rule.services))

    # --- what laptops reach

    def may_reach(self, subject: str, groups: frozenset[str]) -> list[ReachSection]:
        """The rules that say what a subject's laptops may reach."""
        return [rule for rule in self.reach if rule.applies_to(subject, groups)]

    def permit_reach(self, subject: str, groups: frozenset[str], destination: Destination) -> None:
        """Check what a subject's laptop wants to reach, by its name. Raises ReachDenied."""
        obstacles = [rule.obstacle(destination) for rule in self.may_reach(subject, groups)]
        rank, why = max(obstacles, default=(0, f"no rule of reach is for '{subject}'"))
        if rank == PERMITTED:
            return
        raise ReachDenied(
            f"'{subject}' may not reach {destination}: denied by policy: {why}",
            hint=f"the platform team can add to reach in the policy: {_reach_rule(subject, destination)}",
            service=str(destination),
        )

    def permit_reached_address(
        self, host_ip: str, destination: Destination, *, outside: bool = False
    ) -> None:
        """Check an address of what a laptop reaches by TCP, before connecting to it. A host outside of the
        cluster has none inside, nor has a service that is an alias of one (`outside`). Raises ReachDenied."""
        try:
            ips = effective_addresses(ipaddress.ip_address(host_ip))
        except ValueError:  # a zone id
            ips = ()
        inside_too = destination.namespace and not outside
        never = SPECIAL if inside_too else SPECIAL + self.cluster
        inside = [(ip, name) for ip in ips for network, name in never if ip in network]
        if ips and not inside:
            return
        ip, name = inside[0] if inside else (host_ip, "link-local")
        raise ReachDenied(
            f"{destination} leads to {ip}, in the {name} range: no laptop may reach that",
            hint="the platform team can look at what the name resolves to",
            service=str(destination),
        )

    def is_admin(self, subject: str, groups: frozenset[str]) -> bool:
        """Whether a subject may change what others own."""
        return self.admins.applies_to(subject, groups)

    def permit_admin(self, subject: str, groups: frozenset[str]) -> None:
        """Raises AdminRequired."""
        if not self.is_admin(subject, groups):
            raise AdminRequired(f"'{subject}' is no administrator")

    def _registration_denied(self, subject: str, service: str, rule: str, missing: str) -> RegistrationDenied:
        return RegistrationDenied(
            f"'{subject}' may not register service '{service}': denied by policy: {rule}",
            hint=f"the platform team can add {missing} in the policy",
            service=service,
            target=subject,
        )

    # --- addresses

    def permit_target(self, address: Address, *, service: str) -> None:
        """Check a target that is an address. Of a name only the port is checked, and that some network is
        listed. Raises TargetDenied."""
        if address.is_literal:
            self.permit_address(address.host, address.port, service=service)
            return
        rules = [rule for rule in self._address_rules(service) if rule.networks]
        if not rules:
            nothing = "no networks are listed"
            hint = "the platform team can list networks in direct.networks"
            raise self._denied(address, service, Refusal(0, nothing, hint))
        refusals = [rule.port_refusal(address.port) for rule in rules]
        if None not in refusals:
            raise self._denied(address, service, next(filter(None, refusals)))

    def permit_address(self, host_ip: str, port: int, *, service: str) -> None:
        """Check an IP address before connecting to it. Raises TargetDenied naming the rule."""
        address = Address(host_ip, port)
        try:
            if "%" in host_ip:
                raise ValueError("zone id")
            ips = effective_addresses(ipaddress.ip_address(host_ip))
        except ValueError:
            unusual = "it is not an IP address in its usual form"
            hint = "write four decimal numbers such as 192.168.1.12, or IPv6 without a zone"
            raise self._denied(address, service, Refusal(0, unusual, hint)) from None
        special = SPECIAL + self.cluster
        refusals = []
        for rule in self._address_rules(service):
            refusal = rule.refusal(ips, port, special)
            if refusal is None:
                return
            refusals.append(refusal)
        raise self._denied(address, service, max(refusals, key=lambda each: each.rank))

    def _address_rules(self, service: str) -> Iterator[AddressRule]:
        """The rules for a service, with or without its namespace."""
        name = service.partition(".")[0]
        return (rule for rule in self.rules if any_matches(rule.services, name))

    def _denied(self, address: Address, service: str, refusal: Refusal) -> TargetDenied:
        return TargetDenied(
            f"service '{service}': target {quote(str(address))}: denied by policy: {refusal.rule}",
            hint=refusal.hint,
            service=service,
            target=str(address),
        )


def permit_contract(contract: Contract, policy: Policy, now: float) -> None:
    """Check that a contract is signed, if the policy requires it, and in force at `now` (seconds since the
    epoch). Raises ContractUnsigned, ContractExpired or ContractNotYetValid."""
    if contract.signature is not None:
        check_time(contract.signature, now)
    elif policy.require_signed:
        raise ContractUnsigned("the contract is not signed, but policy requires it (`require: signed`)")


def _reach_rule(subject: str, destination: Destination) -> str:
    """The narrowest rule that permits a destination."""
    name, port, protocol = destination.name, destination.port, destination.protocol
    where = f"services: [{name}], namespaces: [{destination.namespace}]"
    if not destination.namespace:
        where = f"hosts: [{name}]"
    return f"{{subjects: [{subject}], {where}, ports: [{port}], protocols: [{protocol}]}}"
