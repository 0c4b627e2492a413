"""Checks a platform team's own file: what is wrong where, and which releases of Istio it suits.

Each EnvoyFilter is applied, as by istiod, to configurations of a sidecar and a gateway in Istio's shape, and
the Envoy of each release validates the result. Does no I/O: an Envoy is a function here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from devroute.errors import ConfigInvalid
from devroute.mesh.istio import gateway, rules, sidecar
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.patches import turn
from devroute.mesh.istio.rules import RELEASES, ManifestFinding, Release
from devroute.mesh.istio.sidecar import HCM, Endpoint, Sidecar
from devroute.mesh.istio.untyped import untyped
from devroute.mesh.manifests.model import Document
from devroute.mesh.preflight import callers, reach, schemas
from devroute.mesh.preflight.policies import passed_by
from devroute.mesh.preflight.report import ReleaseResult, Report
from devroute.quoting import quote
from devroute.yaml_text import read_documents

#: Why Envoy refuses a configuration, None if it does not.
Validate = Callable[[Document], str | None]
#: Envoy releases such as "1.40", each with the exact version and its validation.
Envoys = Mapping[str, tuple[str, Validate]]

#: Characters of Envoy's error, which can repeat the whole Lua.
MAX_COMPLAINT = 400

#: The configurations are only validated: nothing listens there.
_NOWHERE = Endpoint("127.0.0.1", 1)
_DEFAULT_PORT = 8080
#: In a match: the name of an inbound virtual host, or the port of a listener.
_PORTS = re.compile(r"(?:'inbound\|http\||'portNumber': )(\d{1,5})\b")
_LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"


class Shape(NamedTuple):
    """A proxy of the mesh to which patches of one context are applied."""

    context: str
    workload: Sidecar | gateway.Gateway
    configuration: Document


def check(text: str, source: str, envoys: Envoys, istio: Sequence[str] = ()) -> Report:
    """The report about a file with one or more documents.

    `istio` names the releases to check, by default all. Raises ConfigInvalid if the file cannot be parsed or
    has nothing to check.
    """
    documents = list(_documents(text, source))
    report = Report(releases=tuple(map(_release, istio)) or RELEASES)
    for place, document in documents:
        kind = str(document.get("kind"))
        if kind not in _CHECKED or (kind in schemas.KINDS and not schemas.of_istio(document)):
            continue
        report.looked_at.append(place)
        wrong = list(schemas.by_schema(document)) if kind in schemas.KINDS else []
        wrong += _RULES[kind](document) if kind in _RULES else ()
        for finding in wrong:
            report.add(finding, place)
        if kind == "EnvoyFilter" and not wrong:
            _judge_filter(report, place, document, envoys)
        elif kind == "TrafficExtension":
            _judge_extension(report, place, document, envoys)
    if not report.looked_at:
        raise ConfigInvalid(
            f"{source}: it has nothing that can be checked",
            hint=f"it checks {', '.join(_CHECKED)}, each of Istio",
        )
    _services(report, documents)
    for finding, place in reach.missing(documents):
        report.add(finding, place)
    for release in report.releases:
        version = envoys[release.envoy][0] if release.envoy in envoys else ""
        refused = any(each.severity == "error" and release in each.releases for each in report.findings)
        outcome: Literal["suits", "does not suit", "not tried"]
        outcome = "does not suit" if refused else "suits" if version else "not tried"
        report.results.append(ReleaseResult(release, outcome, version))
    return report


def _release(name: str) -> Release:
    found = next((each for each in RELEASES if each.istio == name), None)
    if found is None:
        known = ", ".join(each.istio for each in RELEASES)
        raise ConfigInvalid(f"Istio {quote(name)} cannot be checked; write one of {known}")
    return found


def _documents(text: str, source: str) -> Iterator[tuple[str, Document]]:
    """Each document, those inside lists too, and its name in messages."""
    for each in read_documents(text, source):
        items = each.get("items") if isinstance(each, dict) and each.get("kind") == "List" else None
        for document in items if isinstance(items, list) else [each]:
            if isinstance(document, dict):
                metadata = document.get("metadata")
                given = metadata if isinstance(metadata, dict) else {}
                # kubectl's default.
                named = {key: str(given.get(key) or "default") for key in ("namespace", "name")}
                place = f"{document.get('kind')} {named['namespace']}/{named['name']}"
                yield place, {**document, "metadata": named}


# --- EnvoyFilter --------------------------------------------------------------------------------------------


def _judge_filter(report: Report, place: str, document: Document, envoys: Envoys) -> None:
    spec = {key: value for key, value in document["spec"].items() if value is not None}
    document = {**document, "spec": spec}
    patches: dict[int, Document] = {}
    for number, patch in enumerate(document["spec"]["configPatches"]):
        broken = False
        settings = rules.value_at(patch, "patch", "value")
        for finding in (*rules.patch(patch), *untyped(settings, "patch.value")):
            report.add(finding, f"{place}: configPatches[{number}]")
            broken = broken or finding.severity == "error"
        if not broken:
            patches[number] = {**patch, "match": patch.get("match") or {}}
            for finding in passed_by(patch, spec.get("priority")):
                report.add(finding, f"{place}: configPatches[{number}]")
    report.needs += sorted(rules.clusters_named(list(patches.values())) - set(report.needs))
    done: set[int] = set()
    for release in report.releases:
        _, validate = envoys.get(release.envoy, ("", None))
        chosen = {number: each for number, each in patches.items() if rules.applies(each, release)}
        for shape in _shapes(document, chosen):
            done |= _judge_shape(report, place, document, chosen, shape, release, validate)
    for number in patches.keys() - done:
        meant_for = [release for release in RELEASES if rules.applies(patches[number], release)]
        if meant_for and not set(meant_for) & set(report.releases):
            continue  # for other releases than those that are checked
        report.add(
            ManifestFinding("warning", "match", "matches nothing in a sidecar or gateway of Istio's shape"),
            f"{place}: configPatches[{number}]",
        )


def _judge_shape(
    report: Report,
    place: str,
    document: Document,
    patches: Mapping[int, Document],
    shape: Shape,
    release: Release,
    validate: Validate | None,
) -> set[int]:
    """Applies the patches one after the other, in istiod's order, and asks Envoy about the result; returns
    those that changed something or could not be tried."""
    configuration = shape.configuration
    applied: dict[int, Document] = {}
    untried = set()
    for number, patch in sorted(patches.items(), key=lambda each: turn(each[1])):
        if patch["match"].get("context", "ANY") not in (shape.context, "ANY"):
            continue
        try:
            patched = apply([_alone(document, patch, shape.context)], shape.workload, configuration)
        except ConfigInvalid as error:
            problem = re.sub(r"^EnvoyFilter .*?: configPatches\[0\]: ", "", error.message)
            inside = f"{place}: configPatches[{number}]"
            report.add(ManifestFinding("warning", "", f"cannot be applied here: {problem}"), inside)
            untried.add(number)
            continue
        if patched != configuration:
            applied[number] = patch
            configuration = patched
    if validate is not None and applied and validate(configuration) is not None:
        for number, complaint in _refused(document, applied, shape, validate):
            inside = f"{place}: configPatches[{number}]"
            report.add(_complaint("patch.value", complaint, release), inside)
    return untried.union(applied)


def _refused(
    document: Document, patches: Mapping[int, Document], shape: Shape, validate: Validate
) -> Iterator[tuple[int, str]]:
    """The patches that Envoy refuses, and why. Each is left out before the next is tried, since Envoy reports
    one error only."""
    configuration = shape.configuration
    for number, patch in patches.items():
        patched = apply([_alone(document, patch, shape.context)], shape.workload, configuration)
        complaint = validate(patched)
        if complaint is None:
            configuration = patched
        else:
            yield number, complaint


def _complaint(place: str, complaint: str, release: Release) -> ManifestFinding:
    problem = f"Envoy reports: {complaint[:MAX_COMPLAINT]}"
    return ManifestFinding("error", place, problem, releases=frozenset({release}))


def _alone(document: Document, patch: Document, context: str) -> Document:
    """The EnvoyFilter with one patch, for one context and any version."""
    match = {**patch["match"], "context": context}
    proxy = {key: value for key, value in match.pop("proxy", {}).items() if key != "proxyVersion"}
    if proxy:
        match["proxy"] = proxy
    return {**document, "spec": {**document["spec"], "configPatches": [{**patch, "match": match}]}}


def _shapes(document: Document, patches: Mapping[int, Document]) -> Iterator[Shape]:
    """The proxies that the patches are for, by their contexts and the ports that they name."""
    wanted = {each["match"].get("context", "ANY") for each in patches.values()}
    namespace = document["metadata"]["namespace"]
    labels = document["spec"].get("workloadSelector", {}).get("labels", {})
    clusters = {name: _NOWHERE for each in patches.values() for name in _callees(each["match"])}
    ports = {int(port) for port in _PORTS.findall(str([each["match"] for each in patches.values()]))}
    if wanted & {"SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "ANY"}:
        for port in sorted(ports or {_DEFAULT_PORT}):
            services = {"other": _NOWHERE}
            app = Sidecar("app", _NOWHERE, namespace, labels, port, services, clusters)
            configuration = sidecar.bootstrap(app)
            for context in ("SIDECAR_INBOUND", "SIDECAR_OUTBOUND"):
                if wanted & {context, "ANY"}:
                    yield Shape(context, app, configuration)
    if wanted & {"GATEWAY", "ANY"}:
        ingress = gateway.Gateway({"app.example": _NOWHERE}, clusters, namespace)
        if labels:
            ingress = replace(ingress, labels=labels)
        yield Shape("GATEWAY", ingress, gateway.bootstrap(ingress))


def _callees(match: Document) -> Iterator[str]:
    """The cluster of a service that a match names: callers of any service may be meant."""
    found = rules.value_at(match, "cluster")
    if match.get("context") == "SIDECAR_INBOUND" or not isinstance(found, Mapping):
        return
    service, subset = found.get("service"), found.get("subset") or ""
    if service and found.get("portNumber"):
        yield f"outbound|{found['portNumber']}|{subset}|{service}"


# --- the others ---------------------------------------------------------------------------------------------


def _judge_extension(report: Report, place: str, document: Document, envoys: Envoys) -> None:
    code = rules.value_at(document, "spec", "lua", "inlineCode")
    if not isinstance(code, str):
        return
    report.needs += sorted(rules.clusters_named(code) - set(report.needs))
    configuration = sidecar.bootstrap(Sidecar("app", _NOWHERE))
    chain = configuration["static_resources"]["listeners"][0]["filter_chains"][0]
    (manager,) = (each["typed_config"] for each in chain["filters"] if each["name"] == HCM)
    typed = {"@type": _LUA_TYPE, "default_source_code": {"inline_string": code}}
    manager["http_filters"].insert(-1, {"name": "lua", "typed_config": typed})
    for release in report.releases:
        if release.envoy in envoys and (complaint := envoys[release.envoy][1](configuration)):
            report.add(_complaint("spec.lua.inlineCode", complaint, release), place)


def _services(report: Report, documents: list[tuple[str, Document]]) -> None:
    """If the file has the Service that a patch calls, that has to have the port."""
    for place, document in documents:
        if document.get("kind") != "Service":
            continue
        start = "{name}.{namespace}.svc.".format(**document["metadata"])
        listed = rules.value_at(document, "spec", "ports")
        ports = [rules.value_at(each, "port") for each in listed] if isinstance(listed, list) else []
        for port, host in report.needs:
            if host.startswith(start) and port not in ports:
                problem = f"has no port {port}, which the filter calls"
                report.add(ManifestFinding("error", "spec.ports", problem), place)


_RULES: dict[str, Callable[[Document], Iterator[ManifestFinding]]] = {
    "EnvoyFilter": rules.envoy_filter,
    "TrafficExtension": rules.traffic_extension,
    "DestinationRule": callers.with_callers,
    "VirtualService": callers.virtual_service,
}
_CHECKED = tuple(dict.fromkeys((*_RULES, *schemas.KINDS)))
