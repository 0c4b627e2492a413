"""What `devroute up` prints: who is online and how to reach them, a line for each request, and hints.

Lines leave a batch at a time (agent/ui/writer.py); what the terminal does not take is counted, and said.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from devroute.agent.comparisons import ComparisonResult
from devroute.agent.ui.layout import caller_of
from devroute.agent.ui.writer import TerminalWriter
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable, DevrouteError
from devroute.tunnel.agent_link import Finished

#: Lines of one batch; more in a fiftieth of a second nobody reads.
MAX_LINES: Final = 2048

#: Differences of one answer that are shown; the inspector has all.
MAX_DIFFERENCES: Final = 5

#: At least so long between two lines that count what was the same, in seconds.
TALLY_SECONDS: Final = 5.0


@dataclass(slots=True)
class Tally:
    """Comparisons of a laptop's answers with the real service's. `unpaired`: there was nothing to compare;
    `ordinary`: of all of them, those without a contract."""

    same: int = 0
    different: int = 0
    unpaired: int = 0
    ordinary: int = 0

    def count(self, verdict: ComparisonResult, lost: int) -> None:
        self.unpaired += lost
        self.ordinary += not verdict.contract
        if verdict.differences is None:
            self.unpaired += 1
        elif verdict.differences:
            self.different += 1
        else:
            self.same += 1

    def __str__(self) -> str:
        unpaired = f", {self.unpaired:,} not compared" if self.unpaired else ""
        ordinary = f" ({self.ordinary:,} without a contract)" if self.ordinary else ""
        return f"shadow: {self.same:,} same, {self.different:,} different{unpaired}{ordinary}"


class LineReporter:
    """Turns events into lines, as text or as one JSON object a line. `flush` passes them on."""

    def __init__(self, form: Literal["text", "json"], printer: TerminalWriter) -> None:
        self._json = form == "json"
        self._printer = printer
        self._lines: list[str] = []
        self._finished: list[Finished] = []
        self._lost = 0
        self._unreachable: set[str] = set()
        self._several = False
        self._tally = Tally()
        self._told = ""  # the tally, as it was printed last
        self._tell_again = 0.0

    def request(self, finished: Finished) -> None:
        """On the request path: everything else happens in `flush`."""
        if len(self._finished) < MAX_LINES:
            self._finished.append(finished)
        else:
            self._lost += 1

    def compared(self, verdict: ComparisonResult, lost: int) -> None:
        """The real service's answer is known. Each difference is shown, and the tally now and then."""
        tally = self._tally
        tally.count(verdict, lost)
        found = verdict.differences
        if len(self._lines) >= MAX_LINES:
            self._lost += 1
        elif self._json:
            self._event(
                "shadow",
                service=verdict.service,
                method=verdict.method,
                path=verdict.target,
                contract=verdict.contract,
                differences=found,
                same=tally.same,
                different=tally.different,
                unpaired=tally.unpaired,
            )
        elif found:
            path = _printable(verdict.target)
            self._say(f"{clock()}  {verdict.service}  {verdict.method} {path}  differs from the real answer:")
            shown = [
                f"          {each['where']}: {each['left'] or 'nothing'} -> {each['right'] or 'nothing'}"
                for each in found[:MAX_DIFFERENCES]
            ]
            if len(found) > MAX_DIFFERENCES:
                shown.append(f"          and {len(found) - MAX_DIFFERENCES} more places")
            self._say(*map(_printable, shown))
            self._tell_again = 0.0

    def _say_tally(self, now: float) -> None:
        text = str(self._tally)
        if now >= self._tell_again and text != self._told and self._tally != Tally():
            self._told, self._tell_again = text, now + TALLY_SECONDS
            self._say(f"{clock()}  {text}")

    def online(
        self, name: str, server: str, services: Sequence[ServiceSpec], inspector: str | None = None
    ) -> None:
        contract = json.dumps({spec.service: name for spec in services})
        self._several = len(services) > 1
        curl = f"curl -H 'X-devroute: {contract}' http://{services[0].service}/"
        if self._json:
            offers = [
                {"service": s.service, "local": local(s), "direct": str(s.direct) if s.direct else None}
                for s in services
            ]
            self._event(
                "online",
                name=name,
                server=server,
                services=offers,
                contract=contract,
                curl=curl,
                inspector=inspector,
            )
            return
        self._say(f"{name} is online at {server}")
        for spec in services:
            way = f"{spec.direct} (direct)" if spec.direct else local(spec)
            self._say(f"  {spec.service} -> {way}")
        self._say("", "Requests with this header come here:", f"  X-devroute: {contract}", f"  {curl}", "")
        if inspector is not None:
            self._say(f"Inspector: {inspector}", "")

    def inspector(self, url: str) -> None:
        """The last link has been used; this one opens the inspector in another browser."""
        if self._json:
            self._event("inspector", url=url)
        else:
            self._say(f"{clock()}  the inspector is open; for another browser: {url}")
        self.flush()

    def no_inspector(self, error: DevrouteError) -> None:
        if self._json:
            self._event("no-inspector", code=error.code, reason=error.message)
        else:
            self._say(f"There is no inspector: {error.message} ({error.hint})")

    def back(self, name: str) -> None:
        if self._json:
            self._event("back", name=name)
        else:
            self._say(f"{clock()}  {name} is online again")

    def offline(self, reason: str) -> None:
        if self._json:
            self._event("offline", reason=reason)
        else:
            self._say(f"{clock()}  the tunnel is down: {reason}; dialling again")

    def network(self, before: str | None, now: str | None) -> None:
        """The laptop's own address on the way to the server; None where there is no way."""
        if self._json:
            self._event("network", before=before, now=now)
        elif now is None:
            self._say(f"{clock()}  there is no network to the server; waiting for one")
        else:
            self._say(f"{clock()}  the network has changed ({before or 'none'} -> {now})")

    def not_renewed(self, error: DevrouteError) -> None:
        if self._json:
            self._event("not-renewed", code=error.code, reason=error.message)
        else:
            self._say(f"{clock()}  the token is not renewed: {error.message}")

    def retry(self, error: DevrouteError, delay: float) -> None:
        if self._json:
            self._event("retry", code=error.code, reason=error.message, delay_s=round(delay, 2))

    def round_trip(self, seconds: float | None) -> None:
        """Of the tunnel; only a page that is drawn again and again shows it."""

    def close(self) -> None:
        self._tell_again = 0.0
        self.flush()
        self._printer.close()

    def flush(self) -> None:
        finished, self._finished = self._finished, []
        now = clock()
        for each in finished:
            self._lines.append(
                self._request_as_json(each) if self._json else self._request_as_text(each, now)
            )
            self._watch_app(each)
        if not self._json:
            self._say_tally(time.monotonic())
        if self._lost:
            lost, self._lost = self._lost, 0
            if self._json:
                self._event("lost", lines=lost)
            else:
                self._say(f"{clock()}  ({lost} more requests are not shown)")
        if self._lines:
            text = "\n".join(self._lines) + "\n"
            if not self._printer.put(text):
                self._lost += len(self._lines)
            self._lines.clear()

    def _request_as_json(self, each: Finished) -> str:
        return json.dumps(
            {
                "event": "request",
                "time": round(time.time(), 3),
                "service": each.service,
                "method": each.method,
                "path": each.target,
                "status": each.status,
                "ms": round(each.duration * 1000, 1),
                "bytes": each.size,
                "code": each.code or None,
                "caller": caller_of(each.head) or None,
            }
        )

    def _request_as_text(self, each: Finished, now: str) -> str:
        service = f"{each.service}  " if self._several else ""
        status = each.status or "---"
        path = each.target if each.target.isprintable() else ascii(each.target)
        problem = f"  {each.code}" if each.code else ""
        caller = f"  {caller_of(each.head)}" if each.head else ""
        return (
            f"{now}  {service}{each.method} {path}  {status}  {duration(each.duration)}"
            f"  {size(each.size)}{caller.rstrip()}{problem}"
        )

    def _watch_app(self, each: Finished) -> None:
        """A hint for the engineer when the app goes away, once until it is back."""
        if each.code != AppUnreachable.code:
            if each.status:
                self._unreachable.discard(each.service)
            return
        if each.service in self._unreachable:
            return
        self._unreachable.add(each.service)
        if self._json:
            self._event("app-unreachable", service=each.service, reason=each.reason)
        else:
            self._say(f"          {each.reason}: start the app of '{each.service}', or give its port")

    def _say(self, *lines: str) -> None:
        self._lines += lines

    def _event(self, event: str, **fields: object) -> None:
        self._lines.append(json.dumps({"event": event, "time": round(time.time(), 3), **fields}))


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def local(spec: ServiceSpec) -> str:
    host = f"[{spec.host}]" if ":" in spec.host else spec.host
    return f"{spec.scheme}://{host}:{spec.port}"


def clock() -> str:
    return time.strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds >= 10
        else f"{seconds * 1000:.0f} ms"
        if seconds >= 0.01
        else f"{seconds * 1000:.1f} ms"
    )


def size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        if size < 1_000_000 or unit == "GB":
            return f"{size / 1000:.1f} {unit}"
        size //= 1000
    raise AssertionError("unreachable")
