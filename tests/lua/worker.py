"""One of Envoy's workers, as a filter's Lua sees it: a Lua state, hand-written handles of requests and
responses."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lupa.luajit21 import LuaRuntime

from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import Carriers

CONTROL, DATA = "control-cluster", "data-cluster"
OWN = "inbound|8080||"
#: Of the filters in sidecars.
SETTINGS: dict[str, lua.Constant] = {"control": CONTROL, "data": DATA, **Carriers().settings}
#: Names of globals that Envoy's own Lua has, and the two that a filter defines.
PREPARED = """
local builtin = pairs
function pairs(subject)
  local meta = getmetatable(subject)
  return (meta and meta.__pairs or builtin)(subject)
end
function iterated(entries, fields)
  return setmetatable(entries, { __pairs = function() return fields end })
end
function require_that(condition, problem)
  if not condition then
    violate(problem)
    error(problem)
  end
end
local given = { envoy_on_request = true, envoy_on_response = true }
setmetatable(_G, {
  __newindex = function(globals, name, value)
    require_that(given[name], "global " .. name .. " is set")
    rawset(globals, name, value)
  end,
  __index = function(_, name)
    require_that(given[name], "global " .. name .. " is not defined")
  end,
})
"""
CALLED_WITHOUT_HEADERS = "http call headers must include ':path', ':method', and ':authority'"

Fields = list[tuple[str, str]]


def runtime(
    source: str, environment: Mapping[str, str] | None = None, violations: list[str] | None = None
) -> tuple[LuaRuntime, Any]:
    """A Lua state that refuses globals which nothing defines, and what `source` returns. `violations` gets
    what was refused."""
    state = LuaRuntime(unpack_returned_tuples=True, encoding="latin-1")
    state.globals().os.getenv = (environment or {}).get
    state.globals().violate = [].append if violations is None else violations.append
    state.execute(PREPARED)
    return state, state.execute(source)


def exports(parts: str, *names: str) -> tuple[LuaRuntime, Any]:
    """A Lua state with single parts, and their functions by name."""
    table = ", ".join(f"{name} = {name}" for name in names)
    return runtime(lua.joined(f"-- parts: {parts}\nreturn {{ {table} }}\n"))


class Handle:
    """What a filter sees of one request or its response. Methods get the Lua `self` first, as in
    `handle:headers()`."""

    def __init__(self, worker: "Worker", fields: Fields, sni: str = "", caller: str | None = None) -> None:
        self.worker, self.fields, self.sni, self.caller = worker, fields, sni, caller
        self.decided: dict[tuple[str, str], Any] = {}
        self.responded: tuple[dict[str, str], str] | None = None
        self.cleared = False
        self.host: tuple[str, bool] | None = None
        self.chunks: list[bytes] = []
        self.read = 0
        self.trailing: Fields = []
        #: What the filter has asked of header objects: method and name.
        self.calls: list[tuple[str, str]] = []
        self.yields = 0

    def sent(self, name: str) -> str | None:
        """A header as it goes on; repeated ones are joined, as Envoy does for Lua."""
        values = [value for key, value in self.fields if key == name]
        return ",".join(values) if values else None

    def replace(self, _: object, name: str, value: str) -> None:
        self.fields = [each for each in self.fields if each[0] != name] + [(name, value)]

    def remove(self, _: object, name: str) -> None:
        self.fields = [each for each in self.fields if each[0] != name]

    def add(self, _: object, name: str, value: str) -> None:
        self.fields.append((name, value))

    def headers(self, _: object) -> object:
        """Invalid behind a yield, as Envoy's own."""
        taken = self.yields

        def counted(method: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(subject: object, name: str, *more: object) -> Any:
                self.worker.require(taken == self.yields, "object used outside of proper scope")
                self.calls.append((method, name))
                return function(subject, name, *more)

            return call

        methods = {
            "getNumValues": lambda _, name: sum(key == name for key, _ in self.fields),
            "getAtIndex": lambda _, name, index: [v for key, v in self.fields if key == name][index],
            "get": lambda _, name: self.sent(name),
            "replace": self.replace,
            "remove": self.remove,
            "add": self.add,
        }
        entries = self.worker.table(**{name: counted(name, each) for name, each in methods.items()})
        return self.worker.iterated(entries, self.fields)

    def trailers(self, _: object) -> object:
        return self.worker.iterated(self.worker.table(), self.trailing) if self.trailing else None

    def bodyChunks(self, _: object) -> object:
        waiting = iter(self.chunks)

        def following(*_: object) -> object:
            chunk = next(waiting, None)
            if chunk is None:
                return None
            self.read += 1
            return self.worker.table(
                length=lambda _: len(chunk),
                getBytes=lambda _, first, size: chunk[first : first + size].decode("latin-1"),
            )

        return following

    def metadata(self, _: object) -> object:
        return self.worker.table(get=lambda _, key: self.worker.converted(self.worker.settings.get(key)))

    def streamInfo(self, _: object) -> object:
        tls = self.caller and self.worker.table(
            peerCertificatePresented=lambda _: True,
            uriSanPeerCertificate=lambda _: self.worker.lua.table(self.caller),
            uriSanLocalCertificate=lambda _: self.worker.lua.table("spiffe://cluster.local/ns/shop/sa/foo"),
        )
        return self.worker.table(
            requestedServerName=lambda _: self.sni,
            downstreamSslConnection=lambda _: tls,
            filterState=lambda _: self.worker.table(get=lambda _, key: self.worker.filter_state.get(key)),
            downstreamLocalAddress=lambda _: "10.0.0.5:8080",
            downstreamRemoteAddress=lambda _: self.worker.address,
            downstreamDirectRemoteAddress=lambda _: self.worker.address,
            dynamicMetadata=lambda _: self.worker.table(set=self._decide, get=self._decided),
        )

    def _decide(self, _: object, namespace: str, key: str, value: object) -> None:
        self.decided[namespace, key] = value

    def _decided(self, _: object, namespace: str) -> object:
        found = {key: value for (owner, key), value in self.decided.items() if owner == namespace}
        return self.worker.converted(found) if found else None

    def timestamp(self, _: object) -> int:
        return self.worker.now

    def httpCall(
        self, _: object, cluster: str, headers: Any, body: str | None, timeout: int, at_once: bool = False
    ) -> Any:
        if cluster not in self.worker.clusters:
            self.worker.lua.execute('error("http call cluster invalid. Must be configured")')
        if not list(headers):
            self.worker.lua.execute(f'error("{CALLED_WITHOUT_HEADERS}")')
        self.worker.require(cluster == CONTROL, f"{cluster} is called")
        if at_once:
            self.worker.reported.append(dict(headers) | ({} if body is None else {"body": body}))
            return None
        self.worker.asked.append(dict(headers) | {"timeout": timeout})
        self.yields += 1
        return self.worker.response()

    def respond(self, _: object, headers: Any, body: str) -> None:
        self.responded = dict(headers), body

    def setUpstreamOverrideHost(self, _: object, host: str, strict: bool) -> None:
        self.worker.require(not self.cleared, "the route is chosen already")
        self.host = host, strict

    def clearRouteCache(self, _: object) -> None:
        self.cleared = True

    def logErr(self, _: object, message: str) -> None:
        self.worker.logged.append(message)

    def __getitem__(self, key: str) -> str | None:
        """The decision, its result or its reason."""
        if key == "decision":
            return "detour" if self["result"] == "error" else self["result"]
        return self.decided.get((self.worker.namespace, key))


class Worker:
    """One Lua state, as each of Envoy's workers has one for each filter configuration."""

    namespace = "devroute"

    def __init__(self, source: str, environment: Mapping[str, str] | None = None, **settings: object) -> None:
        #: What the filter did that it must not: it catches errors, and so those that refuse this.
        self.violations: list[str] = []
        self.lua, _ = runtime(source, environment, self.violations)
        #: In the route's metadata, as the gateway's filter has them.
        self.settings = settings
        self.now = 1_000_000
        self.address = "192.0.2.1:4711"
        self.asked: list[dict[str, Any]] = []
        self.reported: list[dict[str, str]] = []
        self.clusters = {CONTROL, DATA, OWN}
        #: By object key.
        self.filter_state: dict[str, str] = {}
        self.logged: list[str] = []
        self.response: Callable[[], Any] = self.responds("")

    def require(self, condition: bool, problem: str) -> None:
        if not condition:
            self.violations.append(problem)
            raise AssertionError(problem)

    def table(self, **entries: object) -> Any:
        return self.lua.table_from(entries)

    def owns(self, *services: str) -> None:
        """The services of the sidecar's own cluster, as "foo.shop"."""
        hosts = ",".join(f'{{"host":"{service}.svc.cluster.local"}}' for service in services)
        self.filter_state["devroute.services"] = f"[{hosts}]"

    def converted(self, value: object) -> Any:
        """Lists and mappings as tables, recursively."""
        if isinstance(value, Mapping):
            return self.lua.table_from({key: self.converted(each) for key, each in value.items()})
        if isinstance(value, (list, tuple)):
            return self.lua.table_from([self.converted(each) for each in value])
        return value

    def iterated(self, entries: Any, fields: Fields) -> Any:
        """A table of methods that `pairs` goes over as Envoy's headers."""
        remaining: Iterator[tuple[str, str]] = iter(list(fields))
        return self.lua.globals().iterated(entries, lambda *_: next(remaining, (None, None)))

    def responds(self, body: str, status: str = "200") -> Callable[[], Any]:
        return lambda: (self.lua.table_from({":status": status}), body)

    def handle(self, handle: Handle, hook: str = "envoy_on_request") -> Handle:
        names = (
            *("headers", "trailers", "bodyChunks", "metadata", "streamInfo", "timestamp", "httpCall"),
            *("respond", "clearRouteCache", "setUpstreamOverrideHost", "logErr"),
        )
        table = self.lua.table_from({name: getattr(handle, name) for name in names})
        self.lua.globals()[hook](table)
        assert self.violations == []
        return handle

    def request(self, *contracts: str, sni: str = "", caller: str | None = None, **more: str) -> Handle:
        """`more` are further headers: `_authority` is :authority, `x_own` is x-own."""
        fields = {":method": "GET", ":path": "/", ":authority": "foo:8080"}
        fields |= {re.sub("^-", ":", name.replace("_", "-")): value for name, value in more.items()}
        headers = [("x-devroute", each) for each in contracts] + list(fields.items())
        return self.handle(Handle(self, headers, sni, caller))
