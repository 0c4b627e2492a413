"""`devroute manifests`: prints what a platform team applies to the cluster."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.edge import edge
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import Commands, argument, option
from devroute.cli.invocation import read_input, read_labels
from devroute.cli.manifests_check import check
from devroute.contract.offer_options import read_percent
from devroute.contract.target import Malformed
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests import destination_rules
from devroute.mesh.manifests.installation import (
    IMAGE,
    POD_NETWORKS,
    SERVICE_NETWORKS,
    IngressGateway,
    Installation,
)
from devroute.mesh.manifests.model import (
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
)
from devroute.mesh.manifests.outlier_detection import read_protected
from devroute.mesh.manifests.registry import Registry
from devroute.mesh.manifests.render import to_yaml
from devroute.mesh.manifests.sidecar_filter import envoy_filter

manifests_app = typer.Typer(cls=Commands, rich_markup_mode=None)


@manifests_app.callback(invoke_without_command=True)
def filter_of_a_scope(
    context: typer.Context,
    scope: Annotated[
        str, option("Sidecars that get the filter", **one_of("mesh", "namespace", "workload"))
    ] = "mesh",
    namespace: Annotated[
        str | None, option("Namespace of the sidecars; for a mesh, Istio's root namespace", "NAMESPACE")
    ] = None,
    service: Annotated[
        str | None, option("Name of the workload's service, as contracts use it", "SERVICE")
    ] = None,
    label: Annotated[
        list[str] | None, option("Label of the workload; repeatable; default: app=SERVICE", "KEY=VALUE")
    ] = None,
    shadow_share: Annotated[
        str | None, option("Share of requests without a contract that up --shadow may copy", "PERCENT")
    ] = None,
    proxy_namespace: Annotated[str, option("Namespace of the proxy", "NAMESPACE")] = "devroute",
    domain: Annotated[str, option("DNS domain of the cluster", "DOMAIN")] = "cluster.local",
) -> None:
    """Print the EnvoyFilter for a mesh, a namespace or a workload, as YAML for kubectl.

    \b
    Example: devroute manifests --scope workload --namespace shop --service b | kubectl apply -f -
    Example: devroute manifests --scope workload --namespace shop --service b --shadow-share 25
    """
    if context.invoked_subcommand is not None:
        for name in context.params:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                hint = f"--{name.replace('_', '-')}"
                raise typer.BadParameter("write it after the command", param_hint=hint)
        return
    _print_filter(scope, namespace, service, label, shadow_share, proxy_namespace, domain)


@exits_with_code
def _print_filter(
    scope: str,
    namespace: str | None,
    service: str | None,
    label: list[str] | None,
    shadow_share: str | None,
    proxy_namespace: str,
    domain: str,
) -> None:
    if shadow_share is not None and scope != "workload":
        raise typer.BadParameter("is for one workload; write --scope workload", param_hint="--shadow-share")
    generated = _scope(scope, namespace, service, label)
    if isinstance(generated, WorkloadScope):
        generated = replace(generated, shadow_share=_share(shadow_share))
    proxy = ProxyService(namespace=proxy_namespace, domain=domain)
    typer.echo(to_yaml(envoy_filter(generated, proxy)), nl=False)


def _scope(
    scope: str,
    namespace: str | None,
    service: str | None,
    label: list[str] | None,
    root_namespace: str = "istio-system",
    prefix: str = "",
) -> Scope:
    """The sidecars that options name; `prefix` is the beginning of their names. Raises BadParameter."""
    if scope != "workload" and (service or label):
        hint = f"--{prefix}{'service' if service else 'label'}"
        raise typer.BadParameter("is for one workload; write --scope workload", param_hint=hint)
    if scope == "mesh":
        return MeshScope(namespace or root_namespace)
    if scope not in ("namespace", "workload"):
        raise typer.BadParameter(f"'{scope}' is not one of mesh, namespace, workload", param_hint="--scope")
    if not namespace:
        raise typer.BadParameter(f"--scope {scope} needs a namespace", param_hint=f"--{prefix}namespace")
    if scope == "namespace":
        return NamespaceScope(namespace)
    if not service:
        raise typer.BadParameter("--scope workload needs a service", param_hint=f"--{prefix}service")
    return WorkloadScope(namespace, service, read_labels(label or [], f"--{prefix}label"))


def _share(text: str | None) -> float | None:
    """A percentage. 0 generates the configuration for shadow traffic, and copies nothing."""
    if text is None or text.removesuffix("%") == "0":
        return None if text is None else 0.0
    try:
        return read_percent(text)
    except Malformed as error:
        raise typer.BadParameter(str(error), param_hint="--shadow-share") from None


@manifests_app.command("dashboard")
def grafana_dashboard(
    job: Annotated[str, option("Prometheus' job of the proxies", "JOB")] = "devroute-proxy",
) -> None:
    """Print the dashboard for Grafana, as JSON for its import.

    \b
    Example: devroute manifests dashboard > devroute.json
    """
    from devroute.mesh.manifests.dashboard import dashboard_json

    typer.echo(dashboard_json(job), nl=False)


@manifests_app.command("install")
@exits_with_code
def installation(
    folder: Annotated[
        Path | None, option("Folder for a kustomize base and examples; default: print YAML", "FOLDER")
    ] = None,
    scope: Annotated[
        str, option("Sidecars that get the filter", **one_of("mesh", "namespace", "workload"))
    ] = "mesh",
    scope_namespace: Annotated[
        str | None, option("Namespace of those sidecars, if not the mesh's", "NAMESPACE")
    ] = None,
    scope_service: Annotated[
        str | None, option("Name of the workload's service, as contracts use it", "SERVICE")
    ] = None,
    scope_label: Annotated[
        list[str] | None, option("Label of the workload; repeatable; default: app=SERVICE", "KEY=VALUE")
    ] = None,
    outlier_detection: Annotated[
        list[str] | None,
        option("Port whose callers must not count laptops' errors; repeatable", "SERVICE.NAMESPACE:PORT"),
    ] = None,
    mesh_egress: Annotated[
        bool,
        typer.Option("--mesh-egress/--no-mesh-egress", help="Let --except-status fail over into the mesh"),
    ] = True,
    namespace: Annotated[str, option("Namespace of the proxy", "NAMESPACE")] = "devroute",
    image: Annotated[str | None, option("Image of the proxy in your registry", "IMAGE")] = None,
    replicas: Annotated[int, option("Replicas of the proxy; several need --registry or --valkey", "N")] = 1,
    registry: Annotated[
        str | None, option("Redis that replicas share; the pods take it from a Secret", "URL")
    ] = None,
    registry_network: Annotated[
        list[str] | None, option("Network of a Redis outside of the cluster; repeatable", "CIDR")
    ] = None,
    own_valkey: Annotated[
        bool, option("A small Valkey for replicas to share, instead of --registry", None, "--valkey")
    ] = False,
    network: Annotated[
        list[str] | None,
        option("Network of laptops reached without a tunnel; repeatable; default: none", "CIDR"),
    ] = None,
    service: Annotated[
        list[str] | None, option("Services that may be detoured; repeatable; default: all", "PATTERN")
    ] = None,
    pod_network: Annotated[
        list[str] | None, option("Network of pods, never a target; repeatable; default: kubeadm's", "CIDR")
    ] = None,
    service_network: Annotated[
        list[str] | None,
        option("Network of services, never a target; repeatable; default: kubeadm's", "CIDR"),
    ] = None,
    host: Annotated[
        str | None, option("Host name under which laptops connect, for the examples", "HOST")
    ] = None,
    entry_url: Annotated[
        list[str] | None,
        option("Where people call the mesh, for what laptops print; repeatable", "[NAME=]URL"),
    ] = None,
    entry_links: Annotated[
        bool, option("The gateway at these URLs has the edge's filter", None, "--entry-links")
    ] = False,
    ingress: Annotated[
        str | None, option("Gateway through which laptops connect", "NAMESPACE/SERVICEACCOUNT")
    ] = None,
    revision: Annotated[
        str | None, option("Revision of Istio that injects the proxy's sidecar", "REVISION")
    ] = None,
    istio_namespace: Annotated[
        str, option("Namespace of istiod and of mesh-wide settings", "NAMESPACE")
    ] = "istio-system",
    dns_namespace: Annotated[str, option("Namespace of the cluster's DNS", "NAMESPACE")] = "kube-system",
    monitoring_namespace: Annotated[str, option("Namespace of Prometheus", "NAMESPACE")] = "monitoring",
    domain: Annotated[str, option("DNS domain of the cluster", "DOMAIN")] = "cluster.local",
) -> None:
    """Print everything that runs the proxy and installs the filter, as YAML for kubectl.

    \b
    Example: devroute manifests install --image images.example/devroute:1 | kubectl apply -f -
    Example: devroute manifests install --network 10.8.0.0/16 --folder manifests
    Example: devroute manifests install --replicas 3 --registry redis://redis.tools:6379/0 --folder manifests
    Example: devroute manifests install --scope workload --scope-namespace shop --scope-service b
    """
    # Longer than 40 lines: one parameter per flag.
    if scope == "mesh" and scope_namespace:
        raise typer.BadParameter("write --istio-namespace for a mesh", param_hint="--scope-namespace")
    gateway = IngressGateway()
    default = f"{gateway.namespace}/{gateway.service_account}"
    ingress_namespace, _, account = (ingress or default).partition("/")
    if not ingress_namespace or not account:
        raise typer.BadParameter("write NAMESPACE/SERVICEACCOUNT", param_hint="--ingress")
    chosen = Installation(
        proxy=ProxyService(namespace=namespace, domain=domain),
        scope=_scope(scope, scope_namespace, scope_service, scope_label, istio_namespace, "scope-"),
        ingress=IngressGateway(ingress_namespace, account, host=host or gateway.host),
        image=image or IMAGE,
        replicas=replicas,
        registry=_registry(registry, registry_network or []),
        valkey=own_valkey,
        revision=revision,
        istio_namespace=istio_namespace,
        dns_namespace=dns_namespace,
        monitoring_namespace=monitoring_namespace,
        networks=tuple(network or ()),
        mesh_egress=mesh_egress,
        entry_urls=tuple(entry_url or ()),
        entry_links=entry_links,
        outlier_detection=tuple(map(read_protected, outlier_detection or ())),
        services=tuple(service or ("*",)),
        pod_networks=tuple(pod_network or POD_NETWORKS),
        service_networks=tuple(service_network or SERVICE_NETWORKS),
    )
    from devroute.mesh.manifests.folder import files, install, registry_secret

    if folder is None:
        typer.echo(install(chosen), nl=False)
    else:
        written = files(chosen)
        for path, text in written.items():
            _write(folder / path, text)
        typer.echo(f"wrote {len(written)} files; next: kubectl apply -k {folder / 'base'}", err=True)
    if secret := registry_secret(chosen):
        typer.echo(
            f"the pods wait for a Secret with the registry's URL, to be created by:\n{secret}", err=True
        )


def _registry(url: str | None, networks: list[str]) -> Registry | None:
    if url is None and networks:
        raise typer.BadParameter("is where --registry is; write both", param_hint="--registry-network")
    return None if url is None else Registry(url, tuple(networks))


@manifests_app.command("versions")
@exits_with_code
def versions_of_services(
    services: Annotated[
        list[str], argument("Versions of services; - reads pods from standard input", "SERVICE=VERSION,...|-")
    ],
    namespace: Annotated[
        str, option("Namespace of services that are named without one", "NAMESPACE")
    ] = "default",
    domain: Annotated[str, option("DNS domain of the cluster", "DOMAIN")] = "cluster.local",
) -> None:
    """Print DestinationRules with a subset for each version, for contracts that name version:v2.

    \b
    Example: devroute manifests versions b=v1,v2 c.shop=v3 | kubectl apply -f -
    Example: kubectl get pods -A -o yaml | devroute manifests versions - | kubectl apply -f -
    """
    if "-" in services and len(services) > 1:
        raise typer.BadParameter("either - or services, not both", param_hint="SERVICE")
    found = (
        destination_rules.from_pods(read_input("-")[0])
        if services == ["-"]
        else destination_rules.from_arguments(services, namespace)
    )
    for remark in found.remarks:
        typer.echo(f"devroute: {remark}", err=True)
    rules = found.rules(domain)
    if not rules:
        raise ConfigInvalid("no version is left for a subset")
    typer.echo(to_yaml(*rules), nl=False)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error


manifests_app.command("check")(check)
manifests_app.command("edge")(edge)
