"""`devroute manifests`: what a platform team applies, from the command line."""

from typing import Annotated

import typer

from devroute.exits import reported
from devroute.manifests import MeshScope, NamespaceScope, Scope, WorkloadScope, render

manifests_app = typer.Typer(rich_markup_mode=None)


@manifests_app.callback(invoke_without_command=True)
@reported
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
        return
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
