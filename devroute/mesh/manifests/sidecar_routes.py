"""The routes by which a sidecar turns devroute's filters on, and by which decided requests leave. Pure.

Each is tested before the service's own routes, and matches requests with a contract, a trace's id or a
decision alone (or, for shadow traffic, a share of all).
"""

from typing import NamedTuple

from devroute import headers
from devroute.http import carriers as known
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import Carriers, Document, ProxyService
from devroute.mesh.manifests.patches import (
    FILTER_STATE_TYPE,
    LUA_ROUTE_TYPE,
    MUTATION_ROUTE_TYPE,
    turned_on,
    undecided,
)

#: Name of the metadata in which the filters leave their result.
FILTER = headers.METADATA
#: The entry of `lua/` that the filter runs on responses to copied requests, where the route says so.
COMPARE = "compare"
#: Decisions that lead to the cluster, or send a copy to the one, that the Lua names. All others fall to the
#: service's own route.
ELSEWHERE = ("mirror", "version")
#: The denominator of a share: fine enough for any percentage.
MILLION = 1_000_000
#: Of a detour. A replica that has just gone is an endpoint for a moment yet: another one gets the request if
#: no byte of it has been sent, and never later, since the laptop may have seen it. The last: the sidecar of
#: the replica's pod is there, and has sent it no byte (`own_sidecar`).
RETRY_ON = "connect-failure,refused-stream,reset-before-request,retriable-headers"
RETRIES = 3
#: Hosts that are drawn until one comes up that was not tried before.
HOST_DRAWS = 16


class Names(NamedTuple):
    """The names of one scope's filters: where a sidecar has those of several scopes, a route turns on its
    own."""

    scope: str

    @property
    def front(self) -> str:
        return f"{self.scope}.front"

    @property
    def undecided(self) -> str:
        """With `again`, where Envoy can do without Lua: sets the metadata."""
        return f"{self.scope}.undecided"

    @property
    def again(self) -> str:
        """Has the route chosen again."""
        return f"{self.scope}.again"

    @property
    def decide(self) -> str:
        return self.scope

    @property
    def shadow(self) -> str:
        return f"{self.scope}.shadow"

    @property
    def outbound(self) -> str:
        return f"{self.scope}.outbound"

    @property
    def services(self) -> str:
        """Says which services the request's own cluster serves."""
        return f"{self.scope}.services"

    @property
    def result(self) -> str:
        """Puts the result on the response."""
        return f"{self.scope}.result"


def contract_routes(names: Names, proxy: ProxyService, carriers: Carriers) -> list[Document]:
    """Of requests with a contract. Each costs every request a test, so a carrier that is neither a default
    nor written has none: no sidecar writes it."""
    read = dict.fromkeys((*known.DEFAULT, *carriers.written))
    return [
        *(_ask_route(f"devroute-ask-{carrier}", _carried_by(carrier), names) for carrier in read),
        _ask_route("devroute-ask", _carries_contract(), names),
        _traced_route(names),
        _decided_route(names),
        _detour_route(proxy),
    ]


def _result(value: Document, **options: bool) -> Document:
    return {"filter": FILTER, "path": [{"key": "result"}], "value": value, **options}


def _exactly(text: str) -> Document:
    return {"string_match": {"exact": text}}


def _match(carried: list[Document], result: Document, **options: bool) -> Document:
    return {"prefix": "/", "headers": carried, "dynamic_metadata": [_result(result, **options)]}


def _carries_contract() -> list[Document]:
    """Cheap to test, and false for all other requests."""
    return [{"name": headers.CONTRACT, "present_match": True}]


def _carried_by(carrier: str) -> list[Document]:
    """What an app passes on whose tracer knows the carrier; the Lua makes the header of it.

    Of a list two tests have to succeed; the first is cheap and fails for others' members. The regex takes any
    byte; `.` would take UTF-8 only.
    """
    if not known.is_list(carrier):
        return [{"name": carrier, "present_match": True}]
    key, space = headers.BAGGAGE_CONTRACT, "[ \t]"
    if carrier == headers.TRACESTATE:
        tests = {"contains": key}, {"safe_regex": {"regex": rf"(\C*,)?{space}*{key}(-1)?=\C*"}}
    else:
        tests = {"contains": key}, {"safe_regex": {"regex": rf"\C*{key}{space}*=\C*"}}
    return [{"name": carrier, "string_match": each} for each in tests]


def _ask_route(name: str, carried: list[Document], names: Names) -> Document:
    """Carries a contract, no decision yet: turns the filters on, of which the first one leaves this route.

    The route's own response appears only if that one dies.
    """
    return {
        "name": name,
        "match": _match(carried, {"present_match": True}, invert=True),
        "direct_response": _undecided(),
        "response_headers_to_add": [
            header("content-type", "application/json", "OVERWRITE_IF_EXISTS_OR_ADD"),
            header(headers.RESULT, "error", "ADD_IF_ABSENT"),
        ],
        "typed_per_filter_config": {
            **_front(names),
            names.services: turned_on({"@type": FILTER_STATE_TYPE}),
            names.decide: _on(),
            names.result: turned_on({"@type": MUTATION_ROUTE_TYPE}),
        },
    }


def _traced_route(names: Names) -> Document:
    """The same for requests of a trace, with or without a contract: a prefix is as cheap to test as whether a
    header is present. Without a contract nothing else comes of it than a report."""
    of_trace = [{"name": headers.TRACEPARENT, "string_match": {"prefix": lua.TRACED_PARENT}}]
    return _ask_route("devroute-ask-trace", of_trace, names)


def _front(names: Names) -> Document:
    """Turns on what the sidecar has of the first filter: the Lua, or two of Envoy's own. It ignores names
    that its chain does not have."""
    # Any filter's settings of a route turn a filter on; set_metadata has none of its own before Envoy 1.39.
    own = turned_on({"@type": FILTER_STATE_TYPE})
    return {names.front: _on(), names.undecided: own, names.again: own}


def _on() -> Document:
    """On a route: runs the code that the filter has."""
    return turned_on({"@type": LUA_ROUTE_TYPE, "filter_context": {}})


def shadow_route(share: float, names: Names) -> Document:
    """A share of the requests without a contract: the Lua runs, and has some of them copied. All others pay
    for the draw alone. The routes for requests with a contract come first."""
    fraction = {"numerator": round(share * MILLION / 100), "denominator": "MILLION"}
    return {
        "name": "devroute-shadow",
        "match": {
            "prefix": "/",
            "runtime_fraction": {"default_value": fraction, "runtime_key": "devroute.shadow_share"},
            "dynamic_metadata": [_result({"present_match": True}, invert=True)],
        },
        "direct_response": _undecided(),
        "typed_per_filter_config": {**_front(names), names.shadow: _on()},
    }


def copied_route(names: Names) -> Document:
    """Copied without a contract. The header alone, which a client can send too, leads nowhere."""
    match = _match([{"name": headers.COPY, "present_match": True}], _exactly(lua.COPIED))
    return {"name": "devroute-copied", "match": match, **_elsewhere(names.shadow)}


def _detour_route(proxy: ProxyService) -> Document:
    """Decided: to the proxy, as a stream. Without timeouts, since a debugger may hold the laptop's app."""
    return {
        "name": "devroute-detour",
        "match": _match(_carries_contract(), _exactly(lua.SENT_TO_PROXY)),
        "route": {
            "cluster": proxy.data_cluster,
            "timeout": "0s",
            "idle_timeout": "0s",
            "retry_policy": _on_another_replica(),
        },
        "request_headers_to_remove": [headers.CLUSTER, headers.SHADOW],
        "response_headers_to_remove": [headers.UNSENT],
    }


def _on_another_replica() -> Document:
    """Where the owner cannot be reached, the request goes by balancing: Envoy forgets the host that the Lua
    chose."""
    predicate = "envoy.retry_host_predicates.previous_hosts"
    kind = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": RETRY_ON,
        "retriable_headers": [{"name": headers.UNSENT, "present_match": True}],
        "num_retries": RETRIES,
        "retry_host_predicate": [{"name": predicate, "typed_config": {"@type": kind}}],
        "host_selection_retry_max_attempts": HOST_DRAWS,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
    }


def _decided_route(names: Names) -> Document:
    """Decided: to the cluster that the Lua wrote over whatever a client had sent; for a mirrored request to
    the service's own, with a copy to the proxy. Detours have a route that needs no such headers."""
    results = [_exactly(result) for result in ELSEWHERE]
    match = _match(_carries_contract(), {"or_match": {"value_matchers": results}})
    return {"name": "devroute-decided", "match": match, **_elsewhere(names.decide)}


def _elsewhere(reporter: str) -> Document:
    """To the cluster that the Lua named, with a copy to the cluster that it named for copies, if any. The
    filter `reporter` reports the service's response where the laptop's owner wants a comparison."""
    return {
        "route": {
            "cluster_header": headers.CLUSTER,
            "timeout": "0s",
            "idle_timeout": "0s",
            "request_mirror_policies": [{"cluster_header": headers.SHADOW}],
        },
        # Envoy reads the mirror's header after this removal, so that one stays, and the service receives it.
        "request_headers_to_remove": [headers.CLUSTER],
        "typed_per_filter_config": {reporter: turned_on({"@type": LUA_ROUTE_TYPE, "name": COMPARE})},
    }


def _undecided() -> Document:
    return undecided("the devroute filter made no decision", "see the log of the sidecar")


def header(name: str, value: str, action: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": action, "keep_empty_value": False}
