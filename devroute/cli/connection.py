"""The flags of commands that talk to a server: how one shows who one is, and whom one trusts. Those beyond
--server and --token are added to a command's own, and reach it with the rest of its invocation.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

T = TypeVar("T")

#: A command names these among its own parameters.
Server = Annotated[str | None, typer.Option(metavar="URL", help="of the control port [DEVROUTE_SERVER]")]
Token = Annotated[str | None, typer.Option(metavar="TOKEN", help="better in DEVROUTE_TOKEN, unseen by ps")]

_OPTIONS: Final[dict[str, Any]] = {
    "token_command": Annotated[
        str | None, typer.Option(metavar="COMMAND", help="prints your token; run again before it expires")
    ],
    "ca_file": Annotated[
        Path | None, typer.Option(metavar="FILE", help="trust these certificates, not the system's")
    ],
    "client_cert": Annotated[
        Path | None, typer.Option(metavar="FILE", help="shown to a server that wants a certificate")
    ],
    "client_key": Annotated[Path | None, typer.Option(metavar="FILE", help="its key")],
    "insecure_plain_http": Annotated[
        bool | None,
        typer.Option("--insecure-plain-http", help="the network encrypts: a token may go over plain http"),
    ],
}


def connecting(command: Callable[..., T]) -> Callable[..., T]:
    """The command with the flags of a connection; its first parameter has to be `context`."""

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
