"""Files of four kinds of Istio and of EnvoyFilters, and who refuses each: `devroute manifests check`,
`istioctl validate` (istiod's webhook), the API server (CRDs, kubectl's strict fields).
"""

from typing import Any, NamedTuple

import yaml

_LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
_STRUCT = "type.googleapis.com/xds.type.v3.TypedStruct"
_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
_VERSIONS = {"AuthorizationPolicy": "security.istio.io/v1", "EnvoyFilter": "networking.istio.io/v1alpha3"}


class Case(NamedTuple):
    """A file: its kind and spec (YAML), and what `manifests check` says of it, None if nothing.

    `webhook` and `server`: whether istioctl and the API server (server-side apply) refuse it.
    """

    name: str
    kind: str
    spec: str
    says: str | None
    webhook: bool
    server: bool

    @property
    def document(self) -> dict[str, Any]:
        version = _VERSIONS.get(self.kind, "networking.istio.io/v1")
        metadata = {"name": "own", "namespace": "default"}
        spec = yaml.safe_load(self.spec)
        return {"apiVersion": version, "kind": self.kind, "metadata": metadata, "spec": spec}


def _route(fields: str) -> str:
    return "{hosts: [a], http: [{route: [{destination: {host: a}}], ...}]}".replace("...", fields)


def _policy(fields: str) -> str:
    return "{host: a, trafficPolicy: {...}}".replace("...", fields)


def _server(fields: str) -> str:
    server = "{hosts: [a.example], port: {number: 80, name: http, protocol: HTTP}...}"
    return f"{{servers: [{server.replace('...', fields)}]}}"


def _filter(value: str, apply_to: str = "VIRTUAL_HOST", operation: str = "MERGE") -> str:
    patch = f"patch: {{operation: {operation}, value: {value}}}"
    return f"{{configPatches: [{{applyTo: {apply_to}, match: {{context: SIDECAR_INBOUND}}, {patch}}}]}}"


def _everyone(name: str, kind: str, spec: str, says: str) -> Case:
    return Case(name, kind, spec, says, webhook=True, server=True)


def _nobody(name: str, kind: str, spec: str) -> Case:
    return Case(name, kind, spec, None, webhook=False, server=False)


#: The API server asks istiod's webhook as well, if a file keeps to its CRD.
REFUSED_BY_ALL = (
    _everyone("unknown", "VirtualService", _route("timeOut: 3s"), "spec.http[0]: has no field 'timeOut'"),
    _everyone("no-number", "VirtualService", _route("timeout: 3"), "spec.http[0].timeout: '3' is not text"),
    _everyone("unit", "VirtualService", _route("timeout: 3 s"), "timeout: '3 s' is not a duration"),
    _everyone("zero", "VirtualService", _route("timeout: 0s"), "timeout: '0s' is shorter than 1ms"),
    _everyone("short", "VirtualService", _route("timeout: 999us"), "timeout: '999us' is shorter than 1ms"),
    _everyone("negative", "VirtualService", _route("timeout: -1s"), "timeout: '-1s' is shorter than 1ms"),
    _everyone(
        "per-try", "VirtualService", _route("retries: {attempts: 2, perTryTimeout: 0s}"), "perTryTimeout"
    ),
    _everyone("retry", "VirtualService", _route("retries: 3"), "spec.http[0].retries: '3' is not a mapping"),
    _everyone("no-list", "VirtualService", "{hosts: a, tcp: []}", "spec.hosts: 'a' is not a list"),
    _everyone(
        "enum",
        "VirtualService",
        _route("corsPolicy: {unmatchedPreflights: NEVER}"),
        "unmatchedPreflights: 'NEVER' is not one of UNSPECIFIED, FORWARD, IGNORE",
    ),
    _everyone(
        "header", "VirtualService", _route("match: [{headers: {x: a}}]"), "headers.x: 'a' is not a mapping"
    ),
    _everyone(
        "no-destination",
        "VirtualService",
        "{hosts: [a], http: [{route: [{weight: 100}]}]}",
        "spec.http[0].route[0].destination: is missing",
    ),
    _everyone(
        "no-host",
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {subset: v1}}]}]}",
        "spec.http[0].route[0].destination.host: is missing",
    ),
    _everyone("host", "DestinationRule", "{trafficPolicy: {}}", "spec.host: is missing"),
    _everyone(
        "subset", "DestinationRule", "{host: a, subsets: [{labels: {a: b}}]}", "subsets[0].name: is missing"
    ),
    _everyone("tls", "DestinationRule", _policy("tls: {mode: ISTIO}"), "mode: 'ISTIO' is not one of DISABLE"),
    _everyone(
        "label",
        "DestinationRule",
        "{host: a, subsets: [{name: v1, labels: {version: 1}}]}",
        "version: '1' is not text",
    ),
    _everyone("balancer", "DestinationRule", _policy("loadBalancer: ROUND_ROBIN"), "is not a mapping"),
    _everyone(
        "ejection",
        "DestinationRule",
        _policy("outlierDetection: {interval: 0s}"),
        "interval: '0s' is shorter",
    ),
    _everyone(
        "port", "DestinationRule", _policy("portLevelSettings: [{port: 80}]"), "port: '80' is not a mapping"
    ),
    _everyone("no-port", "Gateway", "{servers: [{hosts: [a.example]}]}", "spec.servers[0].port: is missing"),
    _everyone(
        "mode", "Gateway", _server(", tls: {mode: NONE}"), "mode: 'NONE' is not one of PASSTHROUGH, SIMPLE"
    ),
    _everyone("redirect", "Gateway", _server(', tls: {httpsRedirect: "yes"}'), "'yes' is not true or false"),
    _everyone(
        "selector", "Gateway", "{selector: [a], servers: []}", "spec.selector: a list is not a mapping"
    ),
    _everyone(
        "action", "AuthorizationPolicy", "{action: BLOCK}", "spec.action: 'BLOCK' is not one of ALLOW, DENY"
    ),
    _everyone("rule", "AuthorizationPolicy", "{rules: [{form: []}]}", "spec.rules[0]: has no field 'form'"),
    _everyone(
        "source",
        "AuthorizationPolicy",
        "{rules: [{from: [{principals: [a]}]}]}",
        "from[0]: has no field 'principals'",
    ),
    _everyone(
        "operation",
        "AuthorizationPolicy",
        "{rules: [{to: [{operation: {methods: GET}}]}]}",
        "methods: 'GET' is not a list",
    ),
    _everyone(
        "no-key", "AuthorizationPolicy", "{rules: [{when: [{values: [a]}]}]}", "when[0].key: is missing"
    ),
    _everyone(
        "any",
        "EnvoyFilter",
        _filter("{name: x, typed_config: {a: b}}", "HTTP_FILTER", "INSERT_BEFORE"),
        "has no '@type'",
    ),
    _everyone(
        "any-empty",
        "EnvoyFilter",
        _filter("{name: x, typedConfig: {}}", "HTTP_FILTER", "INSERT_BEFORE"),
        "has no '@type'",
    ),
    _everyone(
        "any-text",
        "EnvoyFilter",
        _filter("{name: x, typed_config: a}", "HTTP_FILTER", "INSERT_BEFORE"),
        "not a mapping",
    ),
    _everyone(
        "any-of-route",
        "EnvoyFilter",
        _filter("{typed_per_filter_config: {a: {disabled: true}}}"),
        "patch.value.typed_per_filter_config.a: has no '@type'",
    ),
    _everyone(
        "any-of-filter",
        "EnvoyFilter",
        _filter(f"{{typed_per_filter_config: {{a: {{'@type': {_FILTER_CONFIG}, config: {{}}}}}}}}"),
        "patch.value.typed_per_filter_config.a.config: has no '@type'",
    ),
    _everyone(
        "any-of-cluster",
        "EnvoyFilter",
        _filter("{typed_extension_protocol_options: {a: {explicit_http_config: {}}}}", "CLUSTER"),
        "typed_extension_protocol_options.a: has no '@type'",
    ),
    _everyone(
        "any-of-metadata",
        "EnvoyFilter",
        _filter("{metadata: {typed_filter_metadata: {a: {b: c}}}}"),
        "has no '@type'",
    ),
)

#: istioctl reads JSON as protobuf does: numbers in quotes, names with underscores, the last of several
#: exclusive fields. kubectl and the API server hold files to the CRD.
REFUSED_BY_CRD = (
    Case(
        "quoted",
        "VirtualService",
        "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: '80'}}}]}]}",
        "number: '80' is not a whole number",
        webhook=False,
        server=True,
    ),
    Case(
        "underscore",
        "VirtualService",
        _route("cors_policy: {max_age: 1s}"),
        "spec.http[0]: has no field 'cors_policy'",
        webhook=False,
        server=True,
    ),
    Case(
        "two-matches",
        "VirtualService",
        _route("match: [{uri: {exact: /a, prefix: /b}}]"),
        "match[0].uri: has exact and prefix",
        webhook=False,
        server=True,
    ),
    Case(
        "two-balancers",
        "DestinationRule",
        _policy("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"),
        "loadBalancer: has simple and consistentHash",
        webhook=False,
        server=True,
    ),
)

#: Rules of the webhook beyond the CRDs, which `manifests check` does not know.
REFUSED_BY_WEBHOOK = (
    Case("no-routes", "VirtualService", "{hosts: [a]}", None, True, True),
    Case("pattern", "VirtualService", _route("match: [{uri: {regex: '('}}]"), None, True, True),
    Case("no-servers", "Gateway", "{selector: {a: b}}", None, True, True),
    Case("certificate", "Gateway", _server(", tls: {mode: SIMPLE}"), None, True, True),
    Case("condition", "AuthorizationPolicy", "{rules: [{when: [{key: a, values: [b]}]}]}", None, True, True),
)

#: The API server drops fields that are null when it creates an object; server-side apply refuses them.
REFUSED_BY_APPLY = (Case("null", "VirtualService", _route("timeout: null"), None, False, True),)

ACCEPTED = (
    _nobody("delegate", "VirtualService", "{http: [{route: [{destination: {host: a}}]}]}"),
    _nobody("route", "VirtualService", _route("timeout: 1.5s")),
    _nobody("shortest", "VirtualService", _route("timeout: 1ms")),
    _nobody("sum", "VirtualService", _route("timeout: 1h2m3.5s")),
    _nobody("retries", "VirtualService", _route("retries: {attempts: 0}")),
    _nobody("match", "VirtualService", _route("match: [{headers: {x: {exact: a}}, uri: {prefix: /a}}]")),
    _nobody("fault", "VirtualService", _route("fault: {abort: {httpStatus: 500, percentage: {value: 0.5}}}")),
    _nobody(
        "rule",
        "DestinationRule",
        "{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets: [{name: v1, labels: {version: v1}}]}",
    ),
    _nobody("hash", "DestinationRule", _policy("loadBalancer: {consistentHash: {useSourceIp: true}}")),
    _nobody(
        "nullable",
        "DestinationRule",
        _policy("connectionPool: {tcp: {maxConnections: 10, connectTimeout: 1s}}"),
    ),
    _nobody("gateway", "Gateway", _server(", tls: {httpsRedirect: true}")),
    _nobody("deny-all", "AuthorizationPolicy", "{}"),
    _nobody(
        "allow",
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]}]}",
    ),
    _nobody(
        "typed",
        "EnvoyFilter",
        _filter(f"{{name: x, typed_config: {{'@type': {_LUA}}}}}", "HTTP_FILTER", "INSERT_FIRST"),
    ),
    _nobody(
        "off",
        "EnvoyFilter",
        _filter(f"{{typed_per_filter_config: {{a: {{'@type': {_FILTER_CONFIG}, disabled: true}}}}}}"),
    ),
    _nobody("free", "EnvoyFilter", _filter("{metadata: {filter_metadata: {a: {typed_config: {a: b}}}}}")),
    _nobody(
        "struct",
        "EnvoyFilter",
        _filter(
            f"{{name: x, typed_config: {{'@type': {_STRUCT}, value: {{typed_config: {{}}}}}}}}",
            "HTTP_FILTER",
            "INSERT_FIRST",
        ),
    ),
)
CASES = (*REFUSED_BY_ALL, *REFUSED_BY_CRD, *REFUSED_BY_WEBHOOK, *REFUSED_BY_APPLY, *ACCEPTED)
