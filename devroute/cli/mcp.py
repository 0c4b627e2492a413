"""`devroute mcp`: tools for a coding agent, over standard input and output."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Final

import typer

from devroute.cli.config.sources import client_settings, given_settings
from devroute.cli.connection import Server, connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.invocation import Invocation
from devroute.contract.entry_urls import read_entry_url
from devroute.contract.target import Malformed
from devroute.errors import ConfigInvalid

if TYPE_CHECKING:
    from devroute.agent.mcp.mesh_tools import MeshTools

_INSTALL: Final = "pip install 'devroute[mcp]', or pipx inject devroute mcp"


@exits_with_code
@connecting
def mcp(
    context: typer.Context,
    allow_send: Annotated[
        bool, option("Offer tools that send requests: replay, and into the mesh", None, "--allow-send")
    ] = False,
    laptop: Annotated[
        str | None, option("Name of the laptop, if several devroute up run on this machine", "NAME")
    ] = None,
    entry: Annotated[
        list[str] | None,
        option("URL at which requests may enter the mesh, instead of the server's; repeatable", "URL"),
    ] = None,
    server: Server = None,
) -> None:
    """Let a coding agent read what reached this laptop, by the Model Context Protocol (stdio).

    The coding agent starts it. It reads what the inspector of the running devroute up has recorded, and asks
    the server with your token. Nothing is sent or changed unless --allow-send is given.

    \b
    Example: devroute mcp
    Example: devroute mcp --allow-send --entry http://a.qa.example
    """
    invocation: Invocation = context.obj
    own = {name: value for name, value in context.params.items() if name not in ("laptop", "entry")}
    entries, serve = _entries(entry or []), _server()
    from devroute.agent.mcp.laptop_tools import LaptopTools
    from devroute.agent.mcp.mesh_tools import MeshTools

    tools = MeshTools(
        settings=lambda: client_settings(invocation.sources(own)),
        laptop_settings=lambda: given_settings(invocation.sources(own)),
        laptop=LaptopTools(invocation.state_folder, laptop),
        entries=entries,
        may_send=allow_send,
    )
    asyncio.run(serve(tools))


def _entries(urls: list[str]) -> list[str]:
    """Raises BadParameter."""
    try:
        return [read_entry_url(each) for each in urls]
    except Malformed as problem:
        raise typer.BadParameter(str(problem), param_hint="--entry") from None


def _server() -> "Callable[[MeshTools], Coroutine[None, None, None]]":
    """What serves the tools. Raises ConfigInvalid where the SDK is not installed."""
    try:
        from devroute.agent.mcp.server import serve
    except ModuleNotFoundError as missing:
        if missing.name not in ("mcp", "mcp_types"):
            raise
        raise ConfigInvalid("the library mcp is not installed", hint=_INSTALL) from None
    return serve
