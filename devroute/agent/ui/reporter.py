"""What `devroute up` reports, whatever shows it: each event once, as JSON fields and in words.

Owns the words and the counts of comparisons. Never writes: lines.py prints, page.py draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from devroute.agent.invitation import Invitation
from devroute.agent.ui.layout import printable
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import DevrouteError
from devroute.quoting import visible
from devroute.tunnel.protocol.handshake import Notice, OtherProcess
from devroute.tunnel.served_stream import Finished, OpenRequest

if TYPE_CHECKING:  # they take long to import, and are not always used
    from devroute.agent.comparisons import ComparisonResult
    from devroute.agent.reach.reach import LocalPort

#: Differences of one response that are shown; the inspector has all.
MAX_DIFFERENCES: Final = 5


#: Rules that are named in one line.
MAX_RULES: Final = 4


class Event(NamedTuple):
    """`name` and `fields` are the JSON of --output json; `text` is the same for people, "" for none."""

    name: str
    text: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Tally:
    """Comparisons so far. `unpaired`: one of the two responses was missing; `ordinary`: of all of them, those
    of requests without a contract."""

    same: int = 0
    different: int = 0
    unpaired: int = 0
    ordinary: int = 0

    def count(self, result: "ComparisonResult", lost: int) -> None:
        self.unpaired += lost
        self.ordinary += not result.contract
        if result.differences is None:
            self.unpaired += 1
        elif result.differences:
            self.different += 1
        else:
            self.same += 1

    def __str__(self) -> str:
        unpaired = f", {self.unpaired:,} not compared" if self.unpaired else ""
        ordinary = f" ({self.ordinary:,} without a contract)" if self.ordinary else ""
        return f"shadow: {self.same:,} same, {self.different:,} different{unpaired}{ordinary}"


class Reporter(ABC):
    """`show` and `request` note what happened; `flush` passes it on, without waiting for the terminal.
    `reads_keys`: keys that are typed have an effect."""

    reads_keys = False

    def __init__(self) -> None:
        self.tally = Tally()

    @abstractmethod
    def show(self, event: Event) -> None: ...

    @abstractmethod
    def request(self, finished: Finished) -> None: ...  # on the request path

    @property
    def full(self) -> bool:
        """Whether more requests wait than are shown: then `skip` does for the next ones."""
        return False

    def skip(self, count: int) -> None:
        """Count requests that are not shown."""
        raise NotImplementedError  # never full

    @property
    def waiting(self) -> bool:
        """Whether a flush was not enough for all requests."""
        return False

    @abstractmethod
    def open(self, requests: Sequence[OpenRequest]) -> None:
        """Those that have been open for a while, the oldest first; called again as long as there are some,
        and once without."""

    @abstractmethod
    def round_trip(self, seconds: float | None) -> None: ...

    @abstractmethod
    def flush(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    # --- events

    def online(
        self,
        name: str,
        server: str,
        services: Sequence[ServiceSpec],
        invited: Invitation,
        inspector: str | None = None,
        mode: Sequence[str] = (),
    ) -> None:
        """The first registration. `inspector` is the link that opens it; `mode`, what is unlike an offer of
        all requests."""
        offers = [spec.as_json() for spec in services]
        lines = [f"{name} is online at {server}"]
        lines += [f"  {service} -> {place}" for service, place in places(offers)]
        lines += [f"  {each}" for each in mode]
        lines += _invitation(invited) if services else []
        lines += [""] if invited.link is None else ["", f"Browser: {invited.link}", ""]
        if inspector is not None:
            lines += [f"Inspector: {inspector}", ""]
        fields = {
            "services": offers,
            "contract": invited.contract,
            "curl": invited.command,
            "link": invited.link,
            "entries": invited.entries,
            "inspector": inspector,
            "mode": mode,
        }
        self._report("online", "\n".join(lines), name=name, server=server, **fields)

    def changed(
        self,
        what: Literal["added", "removed"],
        services: Sequence[ServiceSpec],
        serving: Sequence[ServiceSpec],
        invited: Invitation,
    ) -> None:
        """Services were added or removed while `devroute up` runs. `serving`: all that are served now."""
        offers = [spec.as_json() for spec in serving]
        for spec in services:
            text = f"{spec.service} -> {spec.place} is served, too; X-devroute: {invited.contract}"
            if what == "removed":
                text = f"{spec.service} is not served any more"
            fields = {"service": spec.service, "local": spec.place, "serving": offers}
            more = {"contract": invited.contract, "curl": invited.command, "link": invited.link}
            self._report(what, text, **fields, **more)

    def ended(self, by: str, code: int) -> None:
        """The last event. `by`: who asked for it, "down", "signal" or "app"; `code`: the exit code."""
        self._report("ended", "", by=by, code=code)

    def no_control(self, problem: str) -> None:
        """Other processes of the user cannot control this one."""
        text = f"devroute status and devroute down do not find this devroute up: {problem}"
        self._report("no-control", text, reason=problem)

    def inspector(self, url: str) -> None:
        """Each link opens the inspector once; this is the next one."""
        self._report("inspector", f"the inspector is open; for another browser: {url}", url=url)

    def no_inspector(self, error: DevrouteError) -> None:
        text = f"there is no inspector: {error.message} ({error.hint})"
        self._report("no-inspector", text, code=error.code, reason=error.message)

    def inspector_history(self, text: str) -> None:
        """Something is in the way of the inspector's history."""
        self._report("inspector-history", text, reason=text)

    def reach(self, ports: "Sequence[LocalPort]", proxy: int | None) -> None:
        """What programs on this laptop reach in the mesh, and how."""
        rows = [(each.to.address, each.address, next(iter(each.variables.items()))) for each in ports]
        columns = [max((len(row[at]) for row in rows), default=0) for at in (0, 1)]
        lines = [f"  {to:<{columns[0]}}  {at:<{columns[1]}}  {name}={text}" for to, at, (name, text) in rows]
        for index, each in enumerate(ports):
            if each.port != each.wanted:
                lines[index] += f"  ({each.wanted} is in use)"
        if proxy is not None:
            lines += [f"  SOCKS and HTTP proxy: socks5h://127.0.0.1:{proxy}, http://127.0.0.1:{proxy}"]
        text = "\n".join(["Reached from this laptop:", *lines, ""])
        self._report("reach", text, ports=[each.as_json() for each in ports], proxy=proxy)

    def reach_failed(self, service: str, error: DevrouteError) -> None:
        """A program of this laptop was refused, or got no connection into the mesh."""
        text = f"-> {printable(service)}  {error.message}" + (f" ({error.hint})" if error.hint else "")
        about = {"service": service, "code": error.code, "reason": error.message, "hint": error.hint}
        self._report("reach-failed", text, **about)

    def back(self, name: str) -> None:
        self._report("back", f"{name} is online again", name=name)

    def moved(self, name: str) -> None:
        """From a replica that stops to another one; nothing that people have to know."""
        self._report("moved", "", name=name)

    def links(self, count: int, reason: str = "") -> None:
        """How many links there are, and why there are not two; nothing that people have to know."""
        self._report("links", "", links=count, **({"reason": reason} if reason else {}))

    def took_over(self, name: str, other: OtherProcess) -> None:
        """With --takeover, at the first registration."""
        text = f"{_listed(other)} of {name} taken over from another devroute up {_had(other)}"
        self._report("took-over", text, **other.model_dump())

    def shares(self, name: str, other: OtherProcess) -> None:
        """At the first registration: another process of the same laptop. One that serves nothing (`devroute
        reach`) is nothing that people have to know."""
        text = f"{name} has another devroute up, which serves {_listed(other)} {_had(other)}"
        self._report("shares", text if other.services else "", **other.model_dump())

    def noticed(self, name: str, notice: Notice) -> None:
        """Another process of the same laptop has registered. Events of newer servers are not shown."""
        services, fields = _listed(notice), notice.model_dump(exclude={"event"})
        if notice.event == "joined":
            text = (
                f"another devroute up (version {printable(notice.agent)}) joined {name}: it serves {services}"
            )
            self._report("joined", text if notice.services else "", **fields)
        elif notice.event == "taken-over":
            text = (
                f"another devroute up (version {printable(notice.agent)}) took over {services} (--takeover):"
                " no requests for it come here any more; to get it back, start this one again with --takeover"
            )
            self._report("taken-over", text, **fields)

    def app(self, spec: ServiceSpec, problem: str | None, started: bool = False) -> None:
        """What a service's app lacks to be connected to; None once it can be. `started`: by us."""
        what = {"service": spec.service, "local": spec.place}
        if problem is None:
            self._report("app-listens", f"{spec.service}: {spec.place} listens now", **what)
        else:
            remedy = (
                "give the port of the app that was started" if started else "start the app, or give its port"
            )
            text = f"{spec.service}: {spec.place} {problem}: {remedy}"
            self._report("app-missing", text, **what, reason=problem)

    def offline(self, reason: str) -> None:
        self._report("offline", f"the tunnel is down: {reason}; dialling again", reason=reason)

    def retry(self, error: DevrouteError, delay: float) -> None:
        """An attempt has failed; the next one follows within `delay` seconds."""
        fields = {"code": error.code, "reason": error.message, "delay_s": round(delay, 2)}
        self._report("retry", f"{error.message}; dialling again", **fields)

    def network(self, before: str | None, now: str | None) -> None:
        """The laptop's own address on the route to the server; None where there is no route."""
        changed = f"the network has changed ({before or 'none'} -> {now})"
        text = changed if now is not None else "no network leads to the server; waiting for one"
        self._report("network", text, before=before, now=now)

    def rules(self, on: bool, active: int, labels: Sequence[str]) -> None:
        """How many of the laptop's rules apply now; `labels`: those that do while the rules are on."""
        named = printable(", ".join(labels[:MAX_RULES])) + (", …" if len(labels) > MAX_RULES else "")
        text = f"rules {'on' if on else 'off'}: {named}" if labels else "no rules are on"
        self._report("rules", text, on=on, active=active, rules=list(labels))

    def not_renewed(self, error: DevrouteError) -> None:
        text = f"the token is not renewed: {error.message}"
        self._report("not-renewed", text, code=error.code, reason=error.message)

    def advice(self, service: str, text: str) -> None:
        """What the app's response shows to be wrong, and what to do about it."""
        self._report("advice", text, service=service, advice=text)

    def compared(self, result: "ComparisonResult", lost: int) -> None:
        """Waits for `flush`. `lost`: comparisons that the proxy dropped before this one."""
        self.tally.count(result, lost)
        counts = {name: getattr(self.tally, name) for name in ("same", "different", "unpaired")}
        what = {"service": result.service, "method": result.method, "path": result.target}
        fields = {**what, "contract": result.contract, "differences": result.differences, **counts}
        self.show(Event("shadow", _differences(result), fields))

    def _report(self, event: str, text: str, /, **fields: object) -> None:
        lines = text.split("\n")
        self.show(Event(event, "\n".join(map(visible, lines)), fields))  # the server writes reasons
        self.flush()


def _invitation(invited: Invitation) -> list[str]:
    lines = ["", "Requests with this header come here:", f"  X-devroute: {invited.contract}"]
    lines += [f"  {invited.command}"]
    if invited.url is None:
        lines += ["  (the proxy's setting entry_url states no URL for it)"]
    return lines + [f"  also by {other}: {url}" for other, url in invited.others.items()]


def places(offers: Sequence[Mapping[str, str | None]]) -> list[tuple[str, str]]:
    """Each service of the event "online", and where its requests go."""
    return [
        (str(o["service"]), f"{o['direct']} (direct)" if o["direct"] else str(o["local"])) for o in offers
    ]


def _listed(other: OtherProcess) -> str:
    return printable(", ".join(f"'{service}'" for service in other.services))


def _had(other: OtherProcess) -> str:
    return printable(f"since {other.since} (version {other.agent})")


def _differences(result: "ComparisonResult") -> str:
    if not result.differences:
        return ""
    request = f"{result.service}  {result.method} {printable(result.target)}"
    lines = [f"{request}  differs from the service's response:"]
    for each in result.differences[:MAX_DIFFERENCES]:
        sides = f"{each['left'] or 'nothing'} -> {each['right'] or 'nothing'}"
        lines.append(printable(f"          {each['where']}: {sides}"))
    if (more := len(result.differences) - MAX_DIFFERENCES) > 0:
        lines.append(f"          and {more} more")
    return "\n".join(lines)
