"""What the control port's handlers depend on: those for sidecars (sidecars.py) and for people (api.py)."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from devroute.auth.identity import Authenticate
from devroute.contract.grammar import Contract, parse
from devroute.contract.target import Address
from devroute.policy.policy import Policy
from devroute.proxy.control.contract_store import ContractStore
from devroute.proxy.telemetry.audit_events import RecordEvent, discard_event
from devroute.routing.decision import Decision, Directory
from devroute.routing.named_contracts import NamedContracts
from devroute.routing.shadow.assignment import Assignment
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.routing.trace import KnownServices, Reports, Traces

#: What errors call it.
PORT: Final = "devroute's control port"


class Listing(Directory, Protocol):
    """The laptops that are online, for the sidecars and for people."""

    def listing(self) -> Sequence[Mapping[str, object]]:
        """A JSON object for each laptop. The registry chooses its keys; one is `name`."""

    def count(self) -> int:
        """How many objects `listing` has."""


class SharedReports(Protocol):
    """Reports of sidecars that have reached other replicas, or are for them (replicas/reports.py)."""

    async def traces(self, trace_id: str) -> list[Reports]:
        """What the other replicas know of a trace."""

    def pass_on(self, key: str) -> None:
        """A service's response has been reported here, and the copy of its request is not known here."""


#: Connects to a direct target for a service: an IP address, or a name whose addresses policy has to permit.
#: Raises TargetUnreachable or TargetDenied.
Probe = Callable[[Address, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Control:
    """What the handlers depend on. `policy()` is called for each request, so that a reload takes effect;
    `probe` may take `probe_timeout` seconds. `resolved` is called with each decision and its duration.
    `names` are the saved contracts, `contracts` changes them; `read` reads contracts, also by those names.
    `entries`: the entry URLs by name."""

    directory: Listing
    policy: Callable[[], Policy]
    authenticate: Authenticate
    probe: Probe
    probe_timeout: float
    traces: Traces = field(default_factory=Traces)
    services: KnownServices = field(default_factory=KnownServices)
    shadow: ShadowTraffic = field(default_factory=lambda: ShadowTraffic(time.monotonic))
    read: Callable[[str], Contract] = parse
    record: RecordEvent = discard_event
    names: NamedContracts = field(default_factory=NamedContracts)
    contracts: ContractStore | None = None
    shared_reports: SharedReports | None = None
    replicas: Callable[[], Mapping[str, object]] = dict
    clock: Callable[[], float] = time.time
    resolved: Callable[[Decision | Assignment, float], None] = lambda resolved, seconds: None
    #: What GET /api/login responds with; None if there is no login.
    login: Mapping[str, object] | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
