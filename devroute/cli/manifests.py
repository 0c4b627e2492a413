"""`devroute manifests`: prints what a platform team applies to the cluster."""

from dataclasses import replace
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.edge import edge
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import Commands, argument, option
from devroute.cli.invocation import is_given, read_input
from devroute.cli.manifests_check import check
from devroute.cli.manifests_install import Carried, Sampled, carriers_of, chart, install, scope_of
from devroute.contract.offer_options import read_percent
from devroute.contract.target import Malformed
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests import destination_rules
from devroute.mesh.manifests.model import SIDECAR_FOLDER, ProxyService, WorkloadScope
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
    by_trace_id: Annotated[
        bool,
        typer.Option(
            "--by-trace-id",
            help="Pass a contract on by its trace id, for apps that forward nothing else",
        ),
    ] = False,
    carrier: Carried = None,
    sampled: Sampled = False,
    proxy_namespace: Annotated[str, option("Namespace of the proxy", "NAMESPACE")] = "devroute",
    domain: Annotated[str, option("DNS domain of the cluster", "DOMAIN")] = "cluster.local",
) -> None:
    """Print the EnvoyFilter for a mesh, a namespace or a workload, as YAML for kubectl.

    \b
    Example: devroute manifests --scope workload --namespace shop --service b | kubectl apply -f -
    Example: devroute manifests --scope workload --namespace shop --service b --shadow-share 25
    Example: devroute manifests --scope workload --namespace shop --service a --by-trace-id
    """
    # Longer than 40 lines: one parameter per flag.
    if context.invoked_subcommand is not None:
        for name in context.params:
            if is_given(context, name):
                hint = f"--{name.replace('_', '-')}"
                raise typer.BadParameter("write it after the command", param_hint=hint)
        return
    carriers, place = (carrier, sampled), (proxy_namespace, domain)
    _print_filter(scope, namespace, service, label, shadow_share, by_trace_id, carriers, place)


@exits_with_code
def _print_filter(
    scope: str,
    namespace: str | None,
    service: str | None,
    label: list[str] | None,
    shadow_share: str | None,
    by_trace_id: bool,
    carriers: tuple[list[str] | None, bool],
    place: tuple[str, str],
) -> None:
    if shadow_share is not None and scope != "workload":
        raise typer.BadParameter("is for one workload; write --scope workload", param_hint="--shadow-share")
    if by_trace_id and scope != "workload":
        raise typer.BadParameter("is for one workload; write --scope workload", param_hint="--by-trace-id")
    generated = scope_of(scope, namespace, service, label)
    if isinstance(generated, WorkloadScope):
        folder = SIDECAR_FOLDER if by_trace_id else None
        generated = replace(generated, shadow_share=_share(shadow_share), trace_folder=folder)
    proxy_namespace, domain = place
    proxy = ProxyService(namespace=proxy_namespace, domain=domain)
    typer.echo(to_yaml(envoy_filter(generated, proxy, carriers_of(*carriers))), nl=False)


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


manifests_app.command("install")(install)
manifests_app.command("chart")(chart)
manifests_app.command("check")(check)
manifests_app.command("edge")(edge)
