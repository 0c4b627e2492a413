"""Every metric of devroute: name, type, labels, buckets and meaning. Pure.

The one source: exposition, docs/metrics.md, the dashboard and the alerts are made from it or tested against
it. Names and labels of the two `http_` histograms are OpenTelemetry's stable HTTP metrics as its Prometheus
exporters write them.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

#: The bucket boundaries that OpenTelemetry's HTTP metrics advise, in seconds.
HTTP_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
#: A sidecar waits 500 ms for /resolve.
RESOLVE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)
#: From the same office to a phone's network.
RTT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: The value of a label for all that has no value of its own.
OTHER: Final = "_OTHER"

#: The label that the setting metrics_by_laptop adds to the metrics of BY_LAPTOP.
LAPTOP: Final = "laptop"


@dataclass(frozen=True, slots=True)
class Metric:
    """`help` is one sentence without a full stop. `agent`: `devroute up` has it too, `proxy`: the proxy
    has it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    agent: bool = False
    proxy: bool = True


_HTTP: Final = ("http_request_method", "http_response_status_code", "error_type", "service")

SERVER_SECONDS: Final = Metric(
    "http_server_request_duration_seconds",
    "histogram",
    "Seconds from a request's head to the end of its response",
    _HTTP,
    HTTP_BUCKETS,
    agent=True,
)
CLIENT_SECONDS: Final = Metric(
    "http_client_request_duration_seconds",
    "histogram",
    "Seconds that laptop or address took, from the request sent to the end of the response",
    (*_HTTP, "server_address"),
    HTTP_BUCKETS,
)
REQUESTS: Final = Metric(
    "devroute_requests_total",
    "counter",
    "Detoured requests by result (laptop, mirror, service, error) and the code of the reason",
    ("service", "result", "reason"),
)
RESOLVE_SECONDS: Final = Metric(
    "devroute_resolve_duration_seconds",
    "histogram",
    "Seconds that /resolve took, connecting to an address or pinging a laptop included",
    ("decision",),
    RESOLVE_BUCKETS,
)
RESOLVES: Final = Metric("devroute_resolve_total", "counter", "Responses of /resolve", ("decision",))
FALLBACKS: Final = Metric(
    "devroute_fallbacks_total",
    "counter",
    "Decisions of /resolve that a service responds in a laptop's place; a sidecar keeps one for 250 ms",
    ("service", "reason"),
)
LAPTOPS: Final = Metric(
    "devroute_laptops_online",
    "gauge",
    "Processes of laptops whose older link ends at this replica, so that a sum counts each once",
)
LINKS: Final = Metric("devroute_links", "gauge", "Open links of tunnels", agent=True)
RTT: Final = Metric(
    "devroute_tunnel_rtt_seconds", "histogram", "Round trips of pings on links", (), RTT_BUCKETS, agent=True
)
RECONNECTS: Final = Metric(
    "devroute_reconnects_total",
    "counter",
    "Registrations of a link that was registered before",
    agent=True,
)
IN_FLIGHT: Final = Metric(
    "devroute_requests_in_flight", "gauge", "Requests whose response is not complete", agent=True
)
BODY_BYTES: Final = Metric(
    "devroute_body_bytes_total", "counter", "Bytes of bodies of requests and responses", ("direction",)
)
SIDECARS: Final = Metric("devroute_sidecar_connections", "gauge", "Connections to the data port")
REPLICAS: Final = Metric(
    "devroute_replicas", "gauge", "Replicas that this one knows, itself included, where they share a registry"
)
REGISTRY_UP: Final = Metric(
    "devroute_registry_up", "gauge", "1 while the registry that replicas share can be used, else 0"
)
REGISTRY_LAG: Final = Metric(
    "devroute_registry_lag_seconds",
    "gauge",
    "Seconds since this replica last compared what it knows with the shared registry; about 1 at most",
)
FORWARDED: Final = Metric(
    "devroute_forwarded_total", "counter", "Requests that other replicas forwarded to this one"
)
REACH: Final = Metric(
    "devroute_reach_total",
    "counter",
    "Requests and connections of laptops to what they reach in the mesh, by protocol and error (ok without)",
    ("protocol", "code"),
)
REACH_OPEN: Final = Metric("devroute_reach_open", "gauge", "Those that are open")
POLICY_SUCCESS: Final = Metric(
    "devroute_policy_reload_success", "gauge", "1 if the policy file was last read without an error, else 0"
)
POLICY_TIME: Final = Metric(
    "devroute_policy_reload_timestamp_seconds", "gauge", "When the policy in force was read, as Unix time"
)
AUDIT_DROPPED: Final = Metric(
    "devroute_audit_dropped_total", "counter", "Lines of the audit trail that could not be written"
)
LOG_DROPPED: Final = Metric(
    "devroute_log_dropped_total", "counter", "Lines of the log that could not be written"
)
SPANS_EXPORTED: Final = Metric("devroute_spans_exported_total", "counter", "Spans that the collector took")
SPANS_DROPPED: Final = Metric(
    "devroute_spans_dropped_total",
    "counter",
    "Spans of sampled requests that the collector did not take, or that were never sent",
    ("reason",),
)
LOOP_LAG: Final = Metric(
    "devroute_event_loop_lag_seconds", "gauge", "The longest delay of a timer within the last 30 s"
)
BUILD: Final = Metric("devroute_build_info", "gauge", "1, with the version", ("version",), agent=True)

#: In the order in which they are exposed. `process_*` of prometheus_client comes after them.
TABLE: Final = (
    SERVER_SECONDS, CLIENT_SECONDS, REQUESTS, RESOLVE_SECONDS, RESOLVES, FALLBACKS, LAPTOPS, LINKS, RTT,
    RECONNECTS, IN_FLIGHT, BODY_BYTES, SIDECARS, REPLICAS, REGISTRY_UP, REGISTRY_LAG, FORWARDED,
    REACH, REACH_OPEN,
    POLICY_SUCCESS, POLICY_TIME, AUDIT_DROPPED, LOG_DROPPED, SPANS_EXPORTED, SPANS_DROPPED, LOOP_LAG, BUILD,
)  # fmt: skip

#: What the setting metrics_by_laptop splits by laptop.
BY_LAPTOP: Final = (REQUESTS, FALLBACKS)

#: Of prometheus_client, on Linux.
PROCESS: Final = (
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
)


def labels_of(metric: Metric, *, by_laptop: bool) -> tuple[str, ...]:
    return (*metric.labels, LAPTOP) if by_laptop and metric in BY_LAPTOP else metric.labels
