"""The flags of every command that connects to a server (URL, credentials, trusted certificates), and its
requests.

`connecting` adds all but --server and --token to a command's own flags; their values are in
`context.params`.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from devroute.cli.help import option

T = TypeVar("T")

#: Types of parameters that a command declares itself.
Server = Annotated[str | None, option("URL of the control port [DEVROUTE_SERVER]", "URL")]
Token = Annotated[str | None, option("Your token; safer in DEVROUTE_TOKEN, which ps does not show", "TOKEN")]

#: Those that `connecting` adds.
CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    "token_command": Annotated[
        str | None, option("Command that prints a token; run again before it expires", "COMMAND")
    ],
    "ca_file": Annotated[Path | None, option("CA certificates to trust instead of the system's", "FILE")],
    "client_cert": Annotated[Path | None, option("Client certificate, in PEM", "FILE")],
    "client_key": Annotated[Path | None, option("Private key of the client certificate, in PEM", "FILE")],
    "forward_proxy": Annotated[
        str | None,
        option("Forward proxy to the server; default: HTTPS_PROXY, unless NO_PROXY", "URL|off", "--proxy"),
    ],
    "insecure_plain_http": Annotated[
        bool | None,
        option("Send tokens over plain http too: the network itself encrypts", None, "--insecure-plain-http"),
    ],
}


_PASSWORD_SHOWN: Final = (
    "devroute: ps shows the password in --proxy to all users of this machine; DEVROUTE_FORWARD_PROXY, or"
    " forward_proxy in your own configuration, does not"
)


def connecting(command: Callable[..., T]) -> Callable[..., T]:
    """Adds the flags to a command, whose first parameter has to be `context`."""

    @wraps(command)
    def wrapper(context: typer.Context, **values: Any) -> T:
        if "@" in (values["forward_proxy"] or ""):
            typer.echo(_PASSWORD_SHOWN, err=True)
        return command(context, **{n: value for n, value in values.items() if n not in CONNECTION_OPTIONS})

    signature = inspect.signature(command)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in CONNECTION_OPTIONS.items()
    ]
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own]
    )
    wrapper.__annotations__ = {**command.__annotations__, **CONNECTION_OPTIONS}
    return wrapper


def ask(
    context: typer.Context, method: str, path: str, document: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The JSON object in the server's response to a request with the user's token; `document` is its body.
    `context.params["output"]` becomes what the configuration names. Raises as api_client.fetch."""
    import asyncio

    from devroute.agent.api_client import change, fetch
    from devroute.cli.config.sources import client_settings

    settings = context.obj.settings(client_settings, context.params)
    context.params["output"] = settings.output
    request = fetch(settings, path) if method == "GET" else change(settings, method, path, document)
    return asyncio.run(request)
