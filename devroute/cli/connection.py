"""The flags of every command that connects to a server: URL, credentials, trusted certificates.

`connecting` adds all but --server and --token to a command's own flags and passes them in its Invocation.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

T = TypeVar("T")

#: Types of parameters that a command declares itself.
Server = Annotated[str | None, typer.Option(metavar="URL", help="URL of the control port [DEVROUTE_SERVER]")]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Your token; in DEVROUTE_TOKEN, ps does not show it")
]

_OPTIONS: Final[dict[str, Any]] = {
    "token_command": Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Command that prints a token; run again before it expires"),
    ],
    "ca_file": Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA certificates to trust instead of the system's")
    ],
    "client_cert": Annotated[Path | None, typer.Option(metavar="FILE", help="Client certificate, in PEM")],
    "client_key": Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the client certificate, in PEM")
    ],
    "insecure_plain_http": Annotated[
        bool | None,
        typer.Option(
            "--insecure-plain-http", help="Permit plain http for tokens: the network itself encrypts"
        ),
    ],
}


def connecting(command: Callable[..., T]) -> Callable[..., T]:
    """Adds the flags to a command, whose first parameter has to be `context`."""

    @wraps(command)
    def wrapper(context: typer.Context, **values: Any) -> T:
        flags = {name: values.pop(name) for name in _OPTIONS}
        context.obj = replace(context.obj, flags=flags)
        return command(context, **values)

    signature = inspect.signature(command)
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own]
    )
    wrapper.__annotations__ = {**command.__annotations__, **_OPTIONS}
    return wrapper
