"""`devroute manifests install` and `chart`: the proxy and the filter, as a kustomize base or as a Helm chart.

Both have the options of an installation, which `describes_installation` adds.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from devroute.cli.completion import one_of
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.invocation import read_labels
from devroute.cli.proxy_options import ENTRY_LINKS, EntryUrls, OtlpEndpoint
from devroute.errors import ConfigInvalid
from devroute.http import carriers
from devroute.mesh.manifests.installation import (
    IMAGE,
    POD_NETWORKS,
    SERVICE_NETWORKS,
    IngressGateway,
    Installation,
)
from devroute.mesh.manifests.model import (
    Carriers,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
)
from devroute.mesh.manifests.outlier_detection import read_protected
from devroute.mesh.manifests.reach import read_reachable
from devroute.mesh.manifests.registry import Registry


def scope_of(
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


Carried = Annotated[
    list[str] | None,
    option(
        "Header that carries contracts beside x-devroute; repeatable; default: baggage, tracestate", "HEADER"
    ),
]
Sampled = Annotated[
    bool, typer.Option("--sampled", help="Mark the traceparent that devroute adds as sampled")
]


def carriers_of(carrier: list[str] | None, sampled: bool) -> Carriers:
    """What options say of carriers; the name `none` is for no further ones. Raises ConfigInvalid."""
    if carrier is not None and "none" in carrier[1:] + carrier[:-1]:
        raise ConfigInvalid(
            "--carrier none cannot be combined with other carriers", hint="leave it out, or the others"
        )
    written = carriers.DEFAULT if carrier is None else () if carrier == ["none"] else tuple(carrier)
    return Carriers(tuple(dict.fromkeys(map(str.lower, written))), sampled)


def _installation(
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
        typer.Option(
            "--mesh-egress/--no-mesh-egress", help="The proxy's way into the mesh: --except-status, --reach"
        ),
    ] = True,
    reach: Annotated[
        list[str] | None,
        option(
            "What all laptops may reach; repeatable; default: nothing", "[tcp://]SERVICE.NAMESPACE[:PORT]"
        ),
    ] = None,
    reach_network: Annotated[
        list[str] | None,
        option("Network of --reach hosts outside of the cluster; repeatable", "CIDR"),
    ] = None,
    reach_namespace: Annotated[
        str | None, option("Namespace of what laptops reach by a name without one", "NAMESPACE")
    ] = None,
    reach_denied: Annotated[
        list[str] | None, option("Further namespace that no laptop reaches; repeatable", "NAMESPACE")
    ] = None,
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
    carrier: Carried = None,
    sampled: Sampled = False,
    entry_url: EntryUrls = None,
    entry_links: Annotated[bool, ENTRY_LINKS] = False,
    otlp_endpoint: OtlpEndpoint = None,
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
) -> Installation:
    """What the options describe. Raises BadParameter and ConfigInvalid."""
    # Longer than 40 lines: one parameter per flag.
    if scope == "mesh" and scope_namespace:
        raise typer.BadParameter("write --istio-namespace for a mesh", param_hint="--scope-namespace")
    gateway = IngressGateway()
    default = f"{gateway.namespace}/{gateway.service_account}"
    ingress_namespace, _, account = (ingress or default).partition("/")
    if not ingress_namespace or not account:
        raise typer.BadParameter("write NAMESPACE/SERVICEACCOUNT", param_hint="--ingress")
    return Installation(
        proxy=ProxyService(namespace=namespace, domain=domain),
        scope=scope_of(scope, scope_namespace, scope_service, scope_label, istio_namespace, "scope-"),
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
        reach=tuple(map(read_reachable, reach or ())),
        reach_networks=tuple(reach_network or ()),
        reach_namespace=reach_namespace,
        reach_denied=tuple(reach_denied or ()),
        carriers=carriers_of(carrier, sampled),
        entry_urls=tuple(entry_url or ()),
        entry_links=entry_links,
        otlp_endpoint=otlp_endpoint,
        outlier_detection=tuple(map(read_protected, outlier_detection or ())),
        services=tuple(service or ("*",)),
        pod_networks=tuple(pod_network or POD_NETWORKS),
        service_networks=tuple(service_network or SERVICE_NETWORKS),
    )


def _registry(url: str | None, networks: list[str]) -> Registry | None:
    if url is None and networks:
        raise typer.BadParameter("only applies with --registry", param_hint="--registry-network")
    return None if url is None else Registry(url, tuple(networks))


def describes_installation(command: Callable[..., None]) -> Callable[..., None]:
    """The command, of `folder` and `installation`, with the options of an installation for the latter."""

    @wraps(command)
    def wrapper(folder: Path | None, **values: Any) -> None:
        command(folder, installation=_installation(**values))

    first = next(iter(inspect.signature(command).parameters.values()))
    own = inspect.signature(_installation).parameters.values()
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (first, *own)]
    )
    wrapper.__annotations__ = {first.name: first.annotation, **{each.name: each.annotation for each in own}}
    return wrapper


@exits_with_code
@describes_installation
def install(
    folder: Annotated[
        Path | None, option("Folder for a kustomize base and examples; default: print YAML", "FOLDER")
    ] = None,
    *,
    installation: Installation,
) -> None:
    """Print everything that runs the proxy and installs the filter, as YAML for kubectl.

    \b
    Example: devroute manifests install --image images.example/devroute:1 | kubectl apply -f -
    Example: devroute manifests install --network 10.8.0.0/16 --folder manifests
    Example: devroute manifests install --replicas 3 --registry redis://redis.tools:6379/0 --folder manifests
    Example: devroute manifests install --scope workload --scope-namespace shop --scope-service b
    Example: devroute manifests install --reach '*.shop' --reach tcp://orders-db.data:5432 --folder manifests
    """
    from devroute.mesh.manifests import folder as manifests

    if folder is None:
        typer.echo(manifests.install(installation), nl=False)
    else:
        written = manifests.files(installation)
        write_files(folder, written)
        typer.echo(f"wrote {len(written)} files; next: kubectl apply -k {folder / 'base'}", err=True)
    _mention_secrets(installation)


@exits_with_code
@describes_installation
def chart(
    folder: Annotated[Path, option("Folder for the chart", "FOLDER")],
    *,
    installation: Installation,
) -> None:
    """Write a Helm chart of what `install` writes; the options are its defaults.

    Fixed when the chart is written are --network, --pod-network, --service-network, --outlier-detection,
    --carrier and --sampled; all others are values. --host is for the examples of install, which are no part
    of the chart.

    \b
    Example: devroute manifests chart --image images.example/devroute:1 --folder chart
    Example: devroute manifests chart --network 10.8.0.0/16 --replicas 3 --valkey --folder chart
    """
    from devroute.mesh.manifests.chart import chart_files

    written = chart_files(installation)
    write_files(folder, written)
    namespace = installation.istio_namespace
    typer.echo(
        f"wrote {len(written)} files; next: helm install devroute {folder} --namespace {namespace}", err=True
    )
    _mention_secrets(installation)


def _mention_secrets(installation: Installation) -> None:
    from devroute.mesh.manifests.folder import registry_secret

    namespace, tokens = installation.proxy.namespace, installation.tokens_secret
    lines = [
        "devroute token new alice --file tokens.yaml",
        f"kubectl --namespace {namespace} create secret generic {tokens} --from-file=tokens.yaml",
    ]
    if secret := registry_secret(installation):
        if "$DEVROUTE_REGISTRY" in secret:
            lines.append("# with the whole URL in DEVROUTE_REGISTRY, its password and options included:")
        lines.append(secret)
    typer.echo("\n".join(["the pods wait for Secrets, to be created by:", *lines]), err=True)


def write_files(folder: Path, texts: dict[str, str]) -> None:
    """By their paths in the folder. Raises ConfigInvalid."""
    for path, text in texts.items():
        file = folder / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error
