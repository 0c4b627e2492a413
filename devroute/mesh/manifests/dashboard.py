"""Grafana's dashboard of devroute, as JSON and as the ConfigMap that Grafana's sidecar loads. Pure.

The HTTP histograms have the names that every service with OpenTelemetry has, so their queries name the job.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import Document
from devroute.metrics import table
from devroute.metrics.table import Metric

#: A query and its legend, in which `{{label}}` stands for a label's value.
Query = tuple[str, str]

#: A panel: title, unit, queries.
Panel = tuple[str, str, Sequence[Query]]

_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 24
_STATUS: Final = "http_response_status_code"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def _rate(metric: Metric, by: str = "", matchers: str = "", suffix: str = "") -> str:
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric.name}{suffix}{matchers}[$__rate_interval]))"


def _quantile(share: float, metric: Metric, by: str = "", matchers: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(metric, grouped, matchers, '_bucket')})"


def _quantiles(metric: Metric, by: str = "", matchers: str = "") -> list[Query]:
    """The median, and what one of a hundred exceeds."""
    legend = f" {{{{{by}}}}}" if by else ""
    return [(_quantile(share, metric, by, matchers), f"p{share * 100:g}{legend}") for share in (0.5, 0.99)]


def _rows(job: str) -> dict[str, list[Panel]]:
    """Panels by the title of their row. Longer than 40 lines: a list."""
    chosen = f'{{job="{job}", service=~"$service"}}'
    service, errors = '{service=~"$service"}', '{service=~"$service", result="error"}'
    return {
        "Requests": [
            ("Requests by result", "reqps", [(_rate(table.REQUESTS, "result", service), "{{result}}")]),
            ("Errors by reason", "reqps", [(_rate(table.REQUESTS, "reason", errors), "{{reason}}")]),
            (
                "Duration, breakpoints included",
                "s",
                _quantiles(table.SERVER_SECONDS, "service", chosen),
            ),
            (
                "Statuses",
                "reqps",
                [(_rate(table.SERVER_SECONDS, _STATUS, chosen, "_count"), f"{{{{{_STATUS}}}}}")],
            ),
            (
                "Duration at laptops and addresses, p95",
                "s",
                [(_quantile(0.95, table.CLIENT_SECONDS, "server_address", chosen), "{{server_address}}")],
            ),
            ("Bytes of bodies", "Bps", [(_rate(table.BODY_BYTES, "direction"), "{{direction}}")]),
        ],
        "Decisions": [
            ("/resolve by decision", "reqps", [(_rate(table.RESOLVES, "decision"), "{{decision}}")]),
            ("Fallbacks by reason", "reqps", [(_rate(table.FALLBACKS, "reason", service), "{{reason}}")]),
            ("Duration of /resolve", "s", _quantiles(table.RESOLVE_SECONDS)),
        ],
        "Laptops": [
            (
                "Online",
                "short",
                [(f"sum({table.LAPTOPS.name})", "processes"), (f"sum({table.LINKS.name})", "links")],
            ),
            ("Round trip", "s", _quantiles(table.RTT)),
            ("Reconnects", "cps", [(_rate(table.RECONNECTS), "reconnects")]),
            ("Reached in the mesh, by error", "reqps", [(_rate(table.REACH, "code"), "{{code}}")]),
            ("Open to what laptops reach", "short", [(f"sum({table.REACH_OPEN.name})", "open")]),
        ],
        "Replicas": [
            ("Known replicas", "short", [(table.REPLICAS.name, "{{pod}}")]),
            (
                "Registry",
                "short",
                [(table.REGISTRY_UP.name, "up {{pod}}"), (table.REGISTRY_LAG.name, "lag in s {{pod}}")],
            ),
            ("Forwarded by other replicas", "reqps", [(_rate(table.FORWARDED, "pod"), "{{pod}}")]),
        ],
        "Processes": [
            ("In flight", "short", [(table.IN_FLIGHT.name, "{{pod}}")]),
            ("Connections of sidecars", "short", [(table.SIDECARS.name, "{{pod}}")]),
            ("Event loop lag", "s", [(table.LOOP_LAG.name, "{{pod}}")]),
            (
                "CPU",
                "short",
                [(f'rate(process_cpu_seconds_total{{job="{job}"}}[$__rate_interval])', "{{pod}}")],
            ),
            ("Memory", "bytes", [(f'process_resident_memory_bytes{{job="{job}"}}', "{{pod}}")]),
            (
                "Lost lines, policies refused",
                "short",
                [
                    (_rate(table.AUDIT_DROPPED), "audit trail"),
                    (_rate(table.LOG_DROPPED), "log"),
                    (f"count({table.POLICY_SUCCESS.name} == 0)", "policies refused"),
                ],
            ),
            (
                "Spans of traces",
                "short",
                [
                    (_rate(table.SPANS_EXPORTED), "exported"),
                    (_rate(table.SPANS_DROPPED, "reason"), "dropped: {{reason}}"),
                ],
            ),
            ("Policy in force since", "dateTimeAsIso", [(f"{table.POLICY_TIME.name} * 1000", "{{pod}}")]),
            ("Versions", "short", [(f"count by (version) ({table.BUILD.name})", "{{version}}")]),
        ],
    }


def dashboard(job: str) -> Document:
    """For Grafana's import. `job`: the label that Prometheus gives the proxies; the operator takes the
    Service's name."""
    return {
        "uid": "devroute",
        "title": "devroute",
        "tags": ["devroute"],
        "schemaVersion": 39,
        "timezone": "browser",
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": list(_panels(_rows(job))),
    }


def _variables() -> list[Document]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    service = {
        "name": "service",
        "label": "Service",
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({table.REQUESTS.name}, service)",
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "sort": 1,
    }
    return [source, service]


def _panels(rows: dict[str, list[Panel]]) -> Iterator[Document]:
    """Three in a line, below the titles of their rows."""
    number, top = 1, 0
    for title, panels in rows.items():
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        number, top = number + 1, top + 1
        for at, panel in enumerate(panels):
            line, column = divmod(at, _COLUMNS // _WIDTH)
            yield _graph(number, panel, column * _WIDTH, top + line * _HEIGHT)
            number += 1
        top += -(-len(panels) // (_COLUMNS // _WIDTH)) * _HEIGHT


def _graph(number: int, panel: Panel, left: int, top: int) -> Document:
    title, unit, queries = panel
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "exemplar": "histogram_quantile" in expression,
        }
        for at, (expression, legend) in enumerate(queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": left, "y": top},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def dashboard_json(job: str) -> str:
    return json.dumps(dashboard(job), indent=2) + "\n"


def dashboard_config(installation: Installation) -> Document:
    metadata = installation.metadata("devroute-dashboard")
    metadata["labels"] = {**metadata["labels"], "grafana_dashboard": "1"}
    name = installation.proxy.name
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": {"devroute.json": dashboard_json(name)},
    }
