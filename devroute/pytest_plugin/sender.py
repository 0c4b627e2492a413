"""What the clients of a test run share: the contract, the hosts that get it, and who answered."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from devroute.agent.trace import new_trace
from devroute.contract.verifier import check_written
from devroute.errors import DevrouteError
from devroute.headers import CONTRACT, REASON, RESULT, TRACE
from devroute.quoting import visible

#: Different outcomes that are reported.
MAX_LINES: Final = 30
#: Requests that are traced: the first one of each of so many tests. A server keeps 256 traces, of all people.
MAX_TRACES: Final = 16

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

#: Host, result and reason of responses, and how many there were.
Counted = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Host:
    """`port`: None for every port of the host."""

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Host":
        """HOST, HOST:PORT, or a URL, of which host and port count. Raises ValueError."""
        is_url = "://" in text
        parts = urlsplit(text if is_url else f"//{text}")
        name, port = parts.hostname, parts.port
        if not name or "@" in parts.netloc or "*" in name or not (is_url or text == parts.netloc):
            raise ValueError
        return cls(name.rstrip("."), port or _DEFAULT_PORTS.get(parts.scheme))

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port is None else f"{name}:{self.port}"


class Sender:
    """Puts the contract on requests of these hosts. Requests may be sent by several threads."""

    def __init__(self, contract: str, hosts: Sequence[Host]) -> None:
        self.contract = contract
        self.hosts = hosts
        self._counts: Counter[tuple[str, str, str]] = Counter()
        #: The traces of requests, and whether the next request is traced.
        self.traces: list[str] = []
        self._trace_next = False
        self._lock = Lock()
        self._patches = ExitStack()

    def __str__(self) -> str:
        """What goes where."""
        return f"{self.contract} to {', '.join(map(str, self.hosts))}"

    def patch(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a function of a client's until `close`."""
        original = getattr(owner, name)
        setattr(owner, name, replacement)
        self._patches.callback(setattr, owner, name, original)

    def close(self) -> None:
        self._patches.close()

    def applies(self, host: str | None, port: int | None) -> bool:
        name = (host or "").lower().strip("[]").rstrip(".")
        return any(each.name == name and each.port in (None, port) for each in self.hosts)

    def applies_to(self, url: str) -> bool:
        parts = urlsplit(url)
        try:
            return self.applies(parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme))
        except ValueError:
            return False

    def differs(self, headers: Mapping[str, str]) -> bool:
        """Whether a request, with names in lower case, has a contract of the test's own."""
        return headers.get(CONTRACT) not in (None, self.contract)

    def put_on(self, headers: Any, host: str | None, port: int | None) -> bool:
        """Set the header in a client's mutable mapping, or take away what came along with a redirect to
        another host. A test's own contract stays. Returns whether the request has the contract."""
        if self.differs(headers):
            return False
        own = headers.get(CONTRACT)
        applies = self.applies(host, port)
        if applies:
            given = headers.get(TRACE)
            headers.update(self.own_headers() if given is None else {CONTRACT: self.contract})
        elif own is not None:
            del headers[CONTRACT]
            if headers.get(TRACE) in self.traces:
                del headers[TRACE]
        return applies

    def own_headers(self) -> dict[str, str]:
        """What one request gets: the contract, and the id of a trace if it is the first one of a test."""
        with self._lock:
            if not self._trace_next:
                return {CONTRACT: self.contract}
            self._trace_next = False
            self.traces.append(new_trace())
            return {CONTRACT: self.contract, TRACE: self.traces[-1]}

    def next_test(self) -> None:
        self._trace_next = len(self.traces) < MAX_TRACES

    def count(self, host: str | None, headers: Mapping[str, str]) -> None:
        """A response to a request with the contract."""
        outcome = host or "", headers.get(RESULT) or "", headers.get(REASON) or ""
        with self._lock:
            self._counts[outcome] += 1

    def counts(self) -> tuple[list[Counted], list[str]]:
        """And the traces."""
        return [(*outcome, count) for outcome, count in self._counts.items()], self.traces

    def add(self, counted: Sequence[Counted], traces: Sequence[str]) -> None:
        """What another process has counted."""
        for host, result, reason, count in counted:
            self._counts[host, result, reason] += count
        self.traces += traces

    def report(self) -> list[str]:
        """Who answered, the most frequent outcome first."""
        lines = [str(self)]
        for (host, result, reason), count in self._counts.most_common(MAX_LINES):
            outcome = result or "no sidecar with devroute's filter saw the contract"
            why = f": {reason}" if reason and reason != result else ""
            lines.append(visible(f"{count:>6}  {host}  {outcome}{why}"))
        if not self._counts:
            lines.append("no request was sent to these hosts")
        elif len(self._counts) > MAX_LINES:
            lines.append(f"and {len(self._counts) - MAX_LINES} other outcomes")
        return lines

    def traced(self) -> list[str]:
        """Who answered at the services that the contract names."""
        if not self.traces:
            return []
        from devroute.pytest_plugin.traces import in_lines, server

        return [visible(line) for line in in_lines(server(), self.traces)]


def create(contract: str, hosts: Sequence[str]) -> Sender:
    """With every client patched that is installed. Raises pytest.UsageError."""
    from devroute.pytest_plugin import browsers, clients

    sender = Sender(_checked(contract), [_host(each) for each in hosts])
    if not sender.hosts:
        raise pytest.UsageError("--devroute: which hosts get the contract? name them: --devroute-host HOST")
    for patch in (*clients.PATCHES, *browsers.PATCHES):
        patch(sender)
    return sender


def _host(text: str) -> Host:
    try:
        return Host.parse(text)
    except ValueError:
        raise pytest.UsageError(f"--devroute-host: {text!r} is neither HOST, HOST:PORT nor a URL") from None


def _checked(contract: str) -> str:
    try:
        check_written(contract)
    except DevrouteError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise pytest.UsageError(f"--devroute: {error.message}{hint}") from None
    return contract
