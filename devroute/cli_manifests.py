"""`devroute manifests`: what a platform team applies, from the command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from devroute import versions
from devroute.errors import ConfigInvalid
from devroute.exits import reported
from devroute.manifests import (
    IMAGE,
    IngressGateway,
    Installation,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
    files,
    install,
    render,
    to_yaml,
)

manifests_app = typer.Typer(rich_markup_mode=None)


@manifests_app.callback(invoke_without_command=True)
def filter_of_a_scope(
    context: typer.Context,
    scope: Annotated[
        str, typer.Option(metavar="mesh|namespace|workload", help="which sidecars get the filter")
    ] = "mesh",
    namespace: Annotated[
        str | None, typer.Option(help="of the sidecars; for the mesh, Istio's root namespace")
    ] = None,
    service: Annotated[str | None, typer.Option(help="of the workload: the name that contracts use")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="selects the workload; default app=SERVICE")
    ] = None,
) -> None:
    """Print the EnvoyFilter for a mesh, a namespace or a workload, as YAML for kubectl.

    \b
    Example: devroute manifests --scope workload --namespace shop --service foo | kubectl apply -f -
    """
    if context.invoked_subcommand is not None:
        for name in context.params:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise typer.BadParameter("write it behind the command", param_hint=f"--{name}")
        return
    _print_filter(scope, namespace, service, label)


@reported
def _print_filter(scope: str, namespace: str | None, service: str | None, label: list[str] | None) -> None:
    generated: Scope
    if scope == "mesh":
        generated = MeshScope(namespace or "istio-system")
    elif scope not in ("namespace", "workload"):
        raise typer.BadParameter(f"'{scope}' is not one of mesh, namespace, workload", param_hint="--scope")
    elif not namespace:
        raise typer.BadParameter("is needed for this scope", param_hint="--namespace")
    elif scope == "namespace":
        generated = NamespaceScope(namespace)
    elif not service:
        raise typer.BadParameter("is needed for a workload", param_hint="--service")
    else:
        labels = dict(text.partition("=")[::2] for text in label or [])
        if not all(labels.values()):
            raise typer.BadParameter("write KEY=VALUE", param_hint="--label")
        generated = WorkloadScope(namespace, service, labels)
    typer.echo(render(generated), nl=False)


@manifests_app.command("install")
@reported
def installation(
    folder: Annotated[
        Path | None, typer.Option(help="write a kustomize base and examples there instead of printing")
    ] = None,
    namespace: Annotated[str, typer.Option(help="of the proxy")] = "devroute",
    image: Annotated[str | None, typer.Option(help="of the proxy, as your registry has it")] = None,
    replicas: Annotated[int, typer.Option(help="of the proxy; tunnels need all of them to be one")] = 1,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="where laptops are reached without a tunnel; default nowhere"),
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="which services may be detoured; default all")
    ] = None,
    host: Annotated[str | None, typer.Option(help="by which laptops dial in (examples)")] = None,
    ingress: Annotated[
        str | None,
        typer.Option(metavar="NAMESPACE/SERVICEACCOUNT", help="of the gateway by which laptops dial in"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="of Istio, for the proxy's sidecar")] = None,
    istio_namespace: Annotated[str, typer.Option(help="of istiod and mesh-wide settings")] = "istio-system",
    monitoring_namespace: Annotated[str, typer.Option(help="of Prometheus")] = "monitoring",
    domain: Annotated[str, typer.Option(help="of the cluster")] = "cluster.local",
) -> None:
    """Print all that runs the proxy and puts the filter into the mesh, as YAML for kubectl.

    \b
    Example: devroute manifests install --image images.example/devroute:1 | kubectl apply -f -
    Example: devroute manifests install --network 10.8.0.0/16 --folder manifests
    """
    gateway = IngressGateway()
    ingress_namespace, _, account = (ingress or f"{gateway.namespace}/{gateway.service_account}").partition(
        "/"
    )
    if not ingress_namespace or not account:
        raise typer.BadParameter("write NAMESPACE/SERVICEACCOUNT", param_hint="--ingress")
    chosen = Installation(
        proxy=ProxyService(namespace=namespace, domain=domain),
        scope=MeshScope(istio_namespace),
        ingress=IngressGateway(ingress_namespace, account, host=host or gateway.host),
        image=image or IMAGE,
        replicas=replicas,
        revision=revision,
        istio_namespace=istio_namespace,
        monitoring_namespace=monitoring_namespace,
        networks=tuple(network or ()),
        services=tuple(service or ("*",)),
    )
    if folder is None:
        typer.echo(install(chosen), nl=False)
        return
    for path, text in files(chosen).items():
        _write(folder / path, text)
    typer.echo(f"wrote {len(files(chosen))} files; next: kubectl apply -k {folder / 'base'}", err=True)


@manifests_app.command("versions")
@reported
def versions_of_services(
    services: Annotated[
        list[str], typer.Argument(metavar="SERVICE=VERSION,...|-", help="- reads pods from standard input")
    ],
    namespace: Annotated[str, typer.Option(help="of services that are given without one")] = "default",
    domain: Annotated[str, typer.Option(help="of the cluster")] = "cluster.local",
) -> None:
    """Print a DestinationRule with a subset for each version, so that contracts can say version:v2.

    \b
    Example: devroute manifests versions foo=v1,v2 bar.shop=v3 | kubectl apply -f -
    Example: kubectl get pods -A -o yaml | devroute manifests versions - | kubectl apply -f -
    """
    if "-" in services and len(services) > 1:
        raise typer.BadParameter("either - or services, not both", param_hint="SERVICE")
    found = (
        versions.from_pods(_standard_input())
        if services == ["-"]
        else versions.from_arguments(services, namespace)
    )
    for remark in found.remarks:
        typer.echo(f"devroute: {remark}", err=True)
    rules = found.rules(domain)
    if not rules:
        raise ConfigInvalid("no version is left to make a subset of")
    typer.echo(to_yaml(*rules), nl=False)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"standard input: not UTF-8 at byte {error.start}") from None


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error
