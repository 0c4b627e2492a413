"""`devroute manifests edge`: prints what an ingress gateway needs to let contracts in."""

from collections.abc import Mapping
from typing import Annotated, Final

import typer

from devroute.cli.completion import one_of
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.invocation import read_labels
from devroute.cli.manifests_install import carriers_of
from devroute.mesh.manifests.gateway_filter import (
    EdgeSettings,
    SameSite,
    edge_filter,
    request_authentication,
)
from devroute.mesh.manifests.model import Document, ProxyService
from devroute.mesh.manifests.render import to_yaml

SAME_SITE: Final[Mapping[str, SameSite]] = {"lax": "Lax", "none": "None"}


@exits_with_code
def edge(
    namespace: Annotated[str, option("Namespace of the gateway", "NAMESPACE")] = "istio-system",
    label: Annotated[
        list[str] | None,
        option("Label of the gateway; repeatable; default: istio=ingressgateway", "KEY=VALUE"),
    ] = None,
    issuer: Annotated[
        str | None, option("Issuer of the tokens of callers; default: print no rule for tokens", "URL")
    ] = None,
    audience: Annotated[str | None, option("Audience of these tokens; default: devroute", "AUDIENCE")] = None,
    jwks: Annotated[
        str | None, option("Address of the issuer's keys; default: ISSUER/.well-known/jwks.json", "URL")
    ] = None,
    claim: Annotated[
        str, option("Claim that lets contracts in; dots separate the names of a path", "CLAIM")
    ] = "devroute",
    claim_value: Annotated[
        str | None, option("Value of the claim, or one in its list; default: true", "VALUE")
    ] = None,
    network: Annotated[
        list[str] | None, option("Network of callers that need no token; repeatable", "CIDR")
    ] = None,
    signed: Annotated[
        bool, typer.Option("--signed/--no-signed", help="Whether signed contracts enter from any caller")
    ] = True,
    cookie_seconds: Annotated[int, option("How long a browser sends a contract", "SECONDS")] = 3600,
    cookie_domain: Annotated[
        str | None, option("Domain whose hosts share the cookie; default: one host", "DOMAIN")
    ] = None,
    cookie_same_site: Annotated[
        str, option("none sends the cookie with forms of other sites (form_post)", **one_of(*SAME_SITE))
    ] = "lax",
    carrier: Annotated[
        list[str] | None,
        option("Header of your own that carries contracts in the mesh; repeatable", "HEADER"),
    ] = None,
    proxy_namespace: Annotated[str, option("Namespace of the proxy", "NAMESPACE")] = "devroute",
    domain: Annotated[str, option("DNS domain of the cluster", "DOMAIN")] = "cluster.local",
) -> None:
    """Print the filters that let contracts in at an ingress gateway, as YAML for kubectl.

    \b
    Example: devroute manifests edge --issuer https://id.example | kubectl apply -f -
    Example: devroute manifests edge --network 10.8.0.0/16 --cookie-domain qa.example
    """
    # Longer than 40 lines: one parameter per flag.
    same_site = SAME_SITE.get(cookie_same_site)
    if same_site is None:
        hint = "--cookie-same-site"
        raise typer.BadParameter(f"'{cookie_same_site}' is not one of lax, none", param_hint=hint)
    settings = EdgeSettings(
        namespace=namespace,
        selector=read_labels(label or ["istio=ingressgateway"], "--label"),
        claim=tuple(claim.split(".")),
        claim_value=claim_value,
        networks=tuple(network or ()),
        signed=signed,
        cookie_seconds=cookie_seconds,
        cookie_domain=cookie_domain,
        cookie_same_site=same_site,
        control=ProxyService(namespace=proxy_namespace, domain=domain).control_cluster,
        carriers=carriers_of(carrier or ["none"], sampled=False).named,
    )
    documents = [edge_filter(settings), *_rules_for_tokens(settings, issuer, audience, jwks)]
    typer.echo(to_yaml(*documents), nl=False)


def _rules_for_tokens(
    settings: EdgeSettings, issuer: str | None, audience: str | None, jwks: str | None
) -> list[Document]:
    """Raises BadParameter for what would be ignored, or refused by Istio."""
    if issuer is None:
        for name, value in (("--audience", audience), ("--jwks", jwks)):
            if value is not None:
                raise typer.BadParameter("only applies with --issuer", param_hint=name)
        return []
    keys = jwks or f"{issuer.rstrip('/')}/.well-known/jwks.json"
    if not keys.startswith(("https://", "http://")):
        name, hint = ("--issuer", ", or name the keys by --jwks") if jwks is None else ("--jwks", "")
        raise typer.BadParameter(f"write a URL that begins with https://{hint}", param_hint=name)
    return [request_authentication(settings, issuer, audience or "devroute", keys)]
