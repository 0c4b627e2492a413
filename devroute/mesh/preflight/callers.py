"""Checks of a team's VirtualServices and DestinationRules: their retries, timeouts and ejections apply to a
laptop's responses, and devroute cannot change them (docs/rollout.md). Pure.
"""

from collections.abc import Iterator

from devroute.mesh.istio.rules import ManifestFinding, destination_rule, traffic_policies, value_at
from devroute.mesh.manifests.model import Document

#: In a VirtualService's `retryOn`: asks again even for responses with x-envoy-ratelimited.
INSISTS = "envoy-ratelimited"


def virtual_service(document: Document) -> Iterator[ManifestFinding]:
    """Warnings about routes that cut a laptop's responses short, or ask for them again."""
    routes = value_at(document, "spec", "http")
    for number, route in enumerate(routes if isinstance(routes, list) else ()):
        if "devroute-proxy" in str(value_at(route, "route")):
            continue  # the way of laptops to the proxy
        place = f"spec.http[{number}]"
        if _is_set(value_at(route, "timeout")):
            yield _warning(
                f"{place}.timeout",
                "ends requests to a laptop that is held at a breakpoint",
                "leave it out in test environments, or expect 504 after that time",
            )
        retries = value_at(route, "retries")
        if _is_set(value_at(retries, "perTryTimeout")) and value_at(retries, "attempts") != 0:
            yield _warning(
                f"{place}.retries.perTryTimeout",
                "sends a request again to a laptop that is held at a breakpoint",
                "leave it out in test environments",
            )
        if INSISTS in str(value_at(retries, "retryOn") or ""):
            yield _warning(
                f"{place}.retries.retryOn",
                f"{INSISTS} asks again for a laptop's errors, which are marked so that no retry does",
                f"leave out {INSISTS}",
            )


def _is_set(duration: object) -> bool:
    return duration is not None and str(duration).strip("0smh") != ""


def with_callers(document: Document) -> Iterator[ManifestFinding]:
    """A DestinationRule: Istio's rules, and whether callers eject pods for a laptop's errors."""
    yield from destination_rule(document)
    host = str(value_at(document, "spec", "host") or "")
    if host.split(".")[0] == "devroute-proxy":
        return
    for each in traffic_policies(document):
        if value_at(each, "outlierDetection") is not None:
            yield _warning(
                "spec.trafficPolicy.outlierDetection",
                "counts a laptop's errors: it may eject a pod of the service for all callers",
                "devroute manifests install --outlier-detection SERVICE.NAMESPACE:PORT",
            )
            return


def _warning(place: str, problem: str, hint: str) -> ManifestFinding:
    return ManifestFinding("warning", place, problem, hint)
