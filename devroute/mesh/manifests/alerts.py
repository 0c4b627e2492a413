"""The alerts of devroute, as a PrometheusRule for the Prometheus operator. Pure.

docs/runbook.md has a section for each: symptom, check, remedy.
"""

from dataclasses import dataclass
from typing import Final, Literal

from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import Document
from devroute.metrics.table import (
    AUDIT_DROPPED,
    BUILD,
    FALLBACKS,
    LOOP_LAG,
    POLICY_SUCCESS,
    REGISTRY_LAG,
    REGISTRY_UP,
    REPLICAS,
    REQUESTS,
    RESOLVE_SECONDS,
    RESOLVES,
    SPANS_DROPPED,
)

#: Where the page of an alert is, followed by its heading.
RUNBOOK: Final = "https://devroute.example/docs/runbook.md"

#: What a caller or a contract asked for is no failure of devroute's.
_INTENDED: Final = "client-closed|fault-injected"
#: Decisions that concern a laptop.
_LAPTOPS: Final = "detour|mirror|fallback"


@dataclass(frozen=True, slots=True)
class Alert:
    """`minutes` for which `expression` has to hold. `description`: what people notice."""

    name: str
    expression: str
    minutes: int
    severity: Literal["critical", "warning"]
    summary: str
    description: str

    @property
    def runbook_url(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"

    def as_rule(self) -> Document:
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": f"{self.minutes}m",
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": self.runbook_url,
            },
        }


ALERTS: Final = (
    Alert(
        "DevrouteDown",
        f"absent({BUILD.name})",
        5,
        "critical",
        "No devroute proxy is scraped.",
        "Requests with a contract get the service instead of a laptop.",
    ),
    Alert(
        "DevrouteErrors",
        f'sum(rate({REQUESTS.name}{{result="error", reason!~"{_INTENDED}"}}[5m]))'
        f" / sum(rate({REQUESTS.name}[5m])) > 0.2",
        10,
        "warning",
        "{{ $value | humanizePercentage }} of the detoured requests fail.",
        "Callers whose requests have a contract get errors of devroute.",
    ),
    Alert(
        "DevrouteResolveSlow",
        f"histogram_quantile(0.99, sum by (le) (rate({RESOLVE_SECONDS.name}_bucket[5m]))) > 0.25",
        10,
        "warning",
        "1% of /resolve takes more than {{ $value | humanizeDuration }}.",
        "A sidecar waits 500 ms; then the service responds in the laptop's place.",
    ),
    Alert(
        "DevrouteFallbacks",
        f'sum(rate({FALLBACKS.name}[10m])) / sum(rate({RESOLVES.name}{{decision=~"{_LAPTOPS}"}}[10m])) > 0.5',
        15,
        "warning",
        "{{ $value | humanizePercentage }} of the decisions about laptops are fallbacks.",
        "People who asked for a laptop get the service.",
    ),
    Alert(
        "DevrouteRegistryDown",
        f"{REGISTRY_UP.name} == 0",
        2,
        "critical",
        "A proxy cannot use the registry that replicas share.",
        "What is known goes on. A laptop that dials now is known to its own replica only.",
    ),
    Alert(
        "DevrouteRegistryLag",
        f"{REGISTRY_LAG.name} > 15",
        2,
        "warning",
        "A proxy has not compared its registry with Redis for {{ $value | humanizeDuration }}.",
        "It may send requests to laptops that have left, and not know those that have come.",
    ),
    Alert(
        "DevrouteReplicas",
        f"min({REPLICAS.name}) < count({REPLICAS.name})",
        5,
        "warning",
        "Some replica knows only {{ $value }} replicas, itself included.",
        "Laptops of a replica that another does not know cannot be reached by way of that one.",
    ),
    Alert(
        "DevrouteEventLoopLag",
        f"{LOOP_LAG.name} > 0.25",
        5,
        "warning",
        "A proxy's event loop is {{ $value | humanizeDuration }} late.",
        "Everything that this replica does is late by as much.",
    ),
    Alert(
        "DevroutePolicyRejected",
        f"{POLICY_SUCCESS.name} == 0",
        5,
        "warning",
        "A proxy could not read its policy, and keeps the one before.",
        "A change of the policy has no effect.",
    ),
    Alert(
        "DevrouteAuditDropped",
        f"increase({AUDIT_DROPPED.name}[10m]) > 0",
        1,
        "critical",
        "{{ $value }} events of the audit trail are lost.",
        "The audit trail has a gap, which it states itself.",
    ),
    Alert(
        "DevrouteSpansDropped",
        f"sum without (reason) (increase({SPANS_DROPPED.name}[10m])) > 0",
        10,
        "warning",
        "{{ $value | humanize }} spans of 10 minutes did not reach the collector.",
        "Traces lack the proxy's and the laptops' spans; requests go on.",
    ),
)


def rule_groups() -> Document:
    """As in a rule file of Prometheus."""
    return {"groups": [{"name": "devroute", "rules": [alert.as_rule() for alert in ALERTS]}]}


def prometheus_rule(installation: Installation) -> Document:
    return installation.manifest("monitoring.coreos.com/v1", "PrometheusRule", rule_groups())
