"""Alerts and dashboard: they query metrics and labels that exist, promtool accepts them, each alert fires
when it is to and not before, and docs/runbook.md has a section for each.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devroute.mesh.manifests.alerts import ALERTS, RUNBOOK, Alert, rule_groups
from devroute.mesh.manifests.dashboard import dashboard, dashboard_json
from devroute.metrics.table import LAPTOP, PROCESS, TABLE
from tests.docs import pages
from tests.support.paths import ROOT
from tests.support.prometheus import PROMTOOL, needs_promtool

PAGE = ROOT / "docs" / "runbook.md"
#: What Prometheus adds to each series of a pod.
OF_A_SCRAPE = {"job", "instance", "namespace", "pod"}

LABELS: dict[str, set[str]] = {name: set() for name in PROCESS}
for metric in TABLE:
    if metric.kind == "histogram":
        LABELS[f"{metric.name}_bucket"] = {*metric.labels, "le"}
        LABELS[f"{metric.name}_count"] = LABELS[f"{metric.name}_sum"] = set(metric.labels)
    else:
        LABELS[metric.name] = set(metric.labels)


def problems(expression: str, legend: str = "") -> list[str]:
    """The names in a query that no metric has."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = bare.replace("$__rate_interval", "5m")
    matchers = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", " ".join(re.findall(r"\{([^}]*)\}", bare)))
    grouped = [each.strip() for group in re.findall(r"\bby \(([^)]*)\)", bare) for each in group.split(",")]
    rest = re.sub(r"\{[^}]*\}|\bby \([^)]*\)|\[[^]]*\]", "", bare)
    metrics = set(re.findall(r"\b[a-z]\w*_\w+\b", rest)) - {"histogram_quantile"}
    found = sorted(each for each in metrics if each not in LABELS)
    known = OF_A_SCRAPE.union(*(LABELS.get(each, set()) for each in metrics))
    shown = re.findall(r"\{\{(\w+)\}\}", legend)
    return (
        found
        + [each for each in (*matchers, *grouped, *shown) if each not in known]
        + ([] if metrics else ["no metric"])
    )


def queries() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of the dashboard's."""
    for panel in dashboard("devroute-proxy")["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_queries_metrics_and_labels_that_exist(alert: Alert) -> None:
    assert problems(alert.expression) == []


@pytest.mark.parametrize(("title", "expression", "legend"), list(queries()))
def test_a_panel_queries_metrics_and_labels_that_exist(title: str, expression: str, legend: str) -> None:
    assert problems(expression, legend) == []


@pytest.mark.parametrize(
    ("expression", "legend", "wrong"),
    [
        ("devroute_links", "", []),
        ("devroute_link", "", ["devroute_link"]),
        ("rate(http_server_request_duration_seconds[5m])", "", ["http_server_request_duration_seconds"]),
        (
            'sum by (le, laptop) (rate(devroute_resolve_duration_seconds_bucket{decision="x"}[5m]))',
            "",
            ["laptop"],
        ),
        ('devroute_requests_total{subject=~"alice"}', "{{status}}", ["subject", "status"]),
        ("1 > 0", "", ["no metric"]),
    ],
)
def test_a_name_that_no_metric_has_is_found(expression: str, legend: str, wrong: list[str]) -> None:
    assert problems(expression, legend) == wrong


def test_the_dashboard_shows_every_metric_of_the_proxy() -> None:
    text = " ".join(expression for _, expression, _ in queries())
    missing = [metric.name for metric in TABLE if metric.proxy and metric.name not in text]
    assert missing == []
    assert LAPTOP not in json.loads(dashboard_json("x")), "by default no metric has that label"


def test_panels_lie_side_by_side_with_ids_of_their_own() -> None:
    panels = dashboard("devroute-proxy")["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


# --- promtool -----------------------------------------------------------------------------------------------


def promtool(*words: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_alerts_and_the_dashboard_s_queries(tmp_path: Path) -> None:
    """Queries as recording rules, with values in place of Grafana's variables."""
    rules = [
        {
            "record": f"panel:query{number}",
            "expr": each.replace("$__rate_interval", "5m").replace("$service", "b"),
        }
        for number, (_, each, _) in enumerate(queries())
    ]
    for name, groups in (
        ("alerts", rule_groups()),
        ("panels", {"groups": [{"name": "all", "rules": rules}]}),
    ):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(groups))
        promtool("check", "rules", str(file))


#: For each alert, series under which it fires, and others under which it does not; the values are those of
#: each minute.
Given = dict[str, str]
FIRES: dict[str, tuple[Given, Given]] = {
    "DevrouteDown": ({"up": "0x30"}, {'devroute_build_info{version="1"}': "1x30"}),
    "DevrouteErrors": (
        {
            'devroute_requests_total{service="b",result="laptop",reason="tunnel"}': "0+60x30",
            'devroute_requests_total{service="b",result="error",reason="internal"}': "0+60x30",
        },
        {
            'devroute_requests_total{service="b",result="laptop",reason="tunnel"}': "0+60x30",
            'devroute_requests_total{service="b",result="error",reason="client-closed"}': "0+60x30",
            'devroute_requests_total{service="b",result="error",reason="internal"}': "0+6x30",
        },
    ),
    "DevrouteResolveSlow": (
        {
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="0.25"}': "0+6x30",
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="0.5"}': "0+60x30",
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="+Inf"}': "0+60x30",
        },
        {
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="0.1"}': "0+60x30",
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="0.25"}': "0+60x30",
            'devroute_resolve_duration_seconds_bucket{decision="detour",le="+Inf"}': "0+60x30",
        },
    ),
    "DevrouteFallbacks": (
        {
            'devroute_fallbacks_total{service="b",reason="laptop-offline"}': "0+60x40",
            'devroute_resolve_total{decision="fallback"}': "0+60x40",
            'devroute_resolve_total{decision="detour"}': "0+6x40",
            'devroute_resolve_total{decision="service"}': "0+600x40",
        },
        {
            'devroute_fallbacks_total{service="b",reason="laptop-offline"}': "0+6x40",
            'devroute_resolve_total{decision="fallback"}': "0+6x40",
            'devroute_resolve_total{decision="detour"}': "0+60x40",
        },
    ),
    "DevrouteRegistryDown": (
        {'devroute_registry_up{pod="p"}': "0x30"},
        {'devroute_registry_up{pod="p"}': "1x30"},
    ),
    "DevrouteRegistryLag": (
        {'devroute_registry_lag_seconds{pod="p"}': "60x30"},
        {'devroute_registry_lag_seconds{pod="p"}': "1x30"},
    ),
    "DevrouteReplicas": (
        {'devroute_replicas{pod="p"}': "2x30", 'devroute_replicas{pod="q"}': "1x30"},
        {'devroute_replicas{pod="p"}': "2x30", 'devroute_replicas{pod="q"}': "2x30"},
    ),
    "DevrouteEventLoopLag": (
        {'devroute_event_loop_lag_seconds{pod="p"}': "0.4x30"},
        {'devroute_event_loop_lag_seconds{pod="p"}': "0.01x30"},
    ),
    "DevroutePolicyRejected": (
        {'devroute_policy_reload_success{pod="p"}': "0x30"},
        {'devroute_policy_reload_success{pod="p"}': "1x30"},
    ),
    "DevrouteAuditDropped": (
        {'devroute_audit_dropped_total{pod="p"}': "0+1x30"},
        {'devroute_audit_dropped_total{pod="p"}': "3x30"},
    ),
    "DevrouteSpansDropped": (
        {'devroute_spans_dropped_total{pod="p", reason="unreachable"}': "0+1x30"},
        {'devroute_spans_dropped_total{pod="p", reason="unreachable"}': "3x30"},
    ),
}


def fired(name: str, given: Given, fires: bool, minutes: int) -> dict[str, Any]:
    """A test of promtool: whether there is such an alert, `minutes` after the start."""
    expression = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in given.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": f"{minutes}m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }


@needs_promtool
def test_each_alert_fires_once_it_has_held_for_its_time(tmp_path: Path) -> None:
    """All in one run, since one starts a storage."""
    tests = []
    for alert in ALERTS:
        bad, good = FIRES[alert.name]
        tests += [fired(alert.name, bad, True, 28), fired(alert.name, good, False, 28)]
        if alert.minutes > 1:
            tests.append(fired(alert.name, bad, False, alert.minutes - 1))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule_groups()))
    file = tmp_path / "tests.yaml"
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(file))


# --- the runbook --------------------------------------------------------------------------------------------


def test_the_runbook_has_a_section_for_each_alert_and_for_no_other() -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    by_name = {section.partition("\n")[0]: section for section in sections}
    assert list(by_name) == [alert.name for alert in ALERTS]
    for name, section in by_name.items():
        parts = re.findall(r"^\*\*(\w+)\.\*\* \S", section, flags=re.MULTILINE)
        assert parts == ["Symptom", "Check", "Remedy"], name


def test_the_link_of_each_alert_leads_to_its_section() -> None:
    anchors = pages.anchors(PAGE)
    for alert in ALERTS:
        page, _, anchor = alert.as_rule()["annotations"]["runbook_url"].partition("#")
        assert (page, anchor in anchors) == (RUNBOOK, True)
    assert RUNBOOK.endswith("/docs/runbook.md")
