"""`devroute up`: receives requests for services on this laptop, and runs the app beside it."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from devroute.agent.settings import AgentSettings
from devroute.cli.config.sources import agent_settings
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.env import report, workload_environment
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.invocation import Invocation, is_given
from devroute.cli.output import Output, print_json
from devroute.cli.status import describe_reach
from devroute.errors import ConfigInvalid
from devroute.platforms import loop_factory, without_collections

#: Flags of `devroute reach`, too.
Name = Annotated[
    str | None, option("Name of the laptop; default: the token's subject [DEVROUTE_NAME]", "NAME")
]
ReachDirect = Annotated[
    bool | None,
    option("Let names outside of the mesh pass it by, at the port for proxies", None, "--reach-direct"),
]
Inspector = Annotated[
    str | None, option("Port of the inspector; default: the first free one from 4040", "PORT|off")
]


@exits_with_code
@connecting
def up(
    context: typer.Context,
    services: Annotated[
        list[str] | None, argument("Service, and the app's local port or URL", "SERVICE=PORT")
    ] = None,
    server: Server = None,
    token: Token = None,
    name: Name = None,
    direct: Annotated[
        str | None, option("Address to which requests are sent directly, without the tunnel", "HOST[:PORT]")
    ] = None,
    host_header: Annotated[
        str | None,
        option(
            "Host that the app gets: keep (as it came), app (its own address), or a name", "app|keep|NAME"
        ),
    ] = None,
    reach: Annotated[
        list[str] | None,
        option("Service of the mesh to call from here, at a local port; repeatable", "[PORT=]NAME:PORT"),
    ] = None,
    reach_env: Annotated[
        bool | None, option("Have the app call the mesh by HTTP_PROXY and others", None, "--reach-env")
    ] = None,
    reach_direct: ReachDirect = None,
    reach_contract: Annotated[
        bool | None,
        option("Add my contract to requests that belong to none", None, "--reach-contract"),
    ] = None,
    takeover: Annotated[
        bool | None,
        option("Take the services over from another devroute up of yours", None, "--takeover"),
    ] = None,
    only_path: Annotated[
        list[str] | None, option("Receive only requests below this path; repeatable", "/PATH")
    ] = None,
    except_status: Annotated[
        str | None, option("On these statuses the service in the mesh answers instead", "404,503")
    ] = None,
    except_methods: Annotated[
        str | None, option("Methods that --except-status covers; default: the idempotent ones", "GET,POST")
    ] = None,
    shadow: Annotated[
        str | None, option("Only compare: receive copies of this share of the requests", "25%")
    ] = None,
    shadow_methods: Annotated[
        str | None, option("Methods that are copied; default: the safe ones (GET, HEAD, ...)", "GET,POST")
    ] = None,
    ignore: Annotated[
        list[str] | None, option("Differences to ignore with --shadow; repeatable", "$.PATH|HEADER")
    ] = None,
    inspector: Inspector = None,
    descriptor_set: Annotated[
        list[str] | None, option("Descriptor set of the gRPC messages that the inspector shows", "FILE")
    ] = None,
    proto: Annotated[
        list[str] | None, option("The same as a .proto file, which protoc or grpcio-tools compiles", "FILE")
    ] = None,
    proto_path: Annotated[
        list[str] | None, option("Folder of the imports of --proto, as protoc's --proto_path", "FOLDER")
    ] = None,
    env_from: Annotated[
        str | None,
        option("Manifests of the first service: the app gets the environment of its workload", "FILE|-"),
    ] = None,
    detach: Annotated[
        bool, option("Run in the background, and return once online", None, "--detach")
    ] = False,
    wait: Annotated[
        bool, option("Wait for a server that is starting, and for the apps to listen", None, "--wait")
    ] = False,
    timeout: Annotated[float, option("How long to --wait", "SECONDS", min=0, max=3600)] = 60.0,
    separate: Annotated[
        bool, option("Register by itself, also beside a devroute up that is alike", None, "--separate")
    ] = False,
    output: Output = None,
) -> int:
    """Receive requests for services on this laptop.

    The command after -- is run as the app, and its exit code is passed on. In a second terminal, the services
    are added to the devroute up that runs already, unless the settings differ; Ctrl-C takes them away again.

    \b
    Example: devroute up b=8001 c=grpc://localhost:9000 -- uvicorn app:app
    Example: devroute up b=8001 --reach c.shop:80 --reach tcp://orders-db:5432 -- ./app
    Example: devroute up b=8001 --env-from deployment.yaml -- uvicorn app:app
    Example: devroute up b=8001 --only-path /api/ --except-status 404,503
    Example: devroute up b=8001 --shadow 25% --ignore '$.timestamp'
    Example: devroute up b=8001 --detach --wait -- ./app
    """
    # Longer than 40 lines: one parameter per flag.
    if not wait and is_given(context, "timeout"):
        raise typer.BadParameter("needs --wait, whose limit it is", param_hint="--timeout")
    invocation: Invocation = context.obj
    settings = invocation.settings(agent_settings, context.params | {"command": invocation.command})
    variables = {} if env_from is None else _workload_variables(env_from, settings)
    start = partial(run_agent, settings, invocation.state_folder, variables, timeout if wait else None)
    if detach:
        return _in_the_background(settings, invocation.state_folder, start)
    if not separate and not wait and (code := _beside(settings, invocation.state_folder)) is not None:
        return code
    return start()


def _beside(settings: AgentSettings, state_folder: Path | None) -> int | None:
    """The exit code, if another process has served the services until the end."""
    from devroute.cli.second_terminal import running_alike, serve_with

    running = running_alike(settings, state_folder)
    return None if running is None else serve_with(running, settings)


def run_agent(
    settings: AgentSettings,
    state_folder: Path | None,
    variables: Mapping[str, str] | None = None,
    patience: float | None = None,
    ready: Callable[[Mapping[str, Any]], None] = lambda status: None,
    log_file: Path | None = None,
) -> int:
    """Run it until it ends; returns the exit code. `patience` is Readiness' `wait`; other arguments as of
    Readiness and agent.app.run."""
    with without_collections():
        from devroute import log
        from devroute.agent import app
        from devroute.agent.readiness import Readiness
    log.configure_libraries()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        readiness = Readiness(patience, ready)
        return runner.run(app.run(settings, state_folder, variables, readiness, log_file))


def _workload_variables(source: str, settings: AgentSettings) -> dict[str, str]:
    """The environment of the first service's workload, and what is missing of it on standard error. Raises
    ConfigInvalid."""
    if not settings.command or not settings.services:
        raise ConfigInvalid("--env-from needs a service and an app", hint="write the app's command after --")
    found = workload_environment(source, settings.services[0].service)
    report(found, runs=True)
    return found.values


def _in_the_background(settings: AgentSettings, state_folder: Path | None, start: Callable[..., int]) -> int:
    """`start` is run_agent without its last two arguments."""
    from devroute.agent.log_file import new_log
    from devroute.cli.background import run_in_background

    if state_folder is None:
        raise ConfigInvalid("detach: there is no folder for the log", hint="set HOME or XDG_STATE_HOME")
    try:
        log_file = new_log(state_folder / "logs")
    except OSError as error:
        raise ConfigInvalid(f"{state_folder / 'logs'}: {error.strerror}") from None
    status, code = run_in_background(lambda ready: start(ready, log_file), log_file)
    if status and settings.output == "json":
        print_json(status)
    elif status:
        typer.echo(f"{status['name']} is online at {status['server']}, in the background")
        for each in status["services"]:
            typer.echo(f"  {each['service']} -> {each['direct'] or each['local']}")
        for line in describe_reach(status):
            typer.echo(line)
        typer.echo(
            f"Requests with this header come here:\n  X-devroute: {status['contract']}\n  {status['curl']}"
        )
        if status["inspector"]:
            typer.echo(f"Inspector: {status['inspector']}")
        typer.echo(f"Its output is in {log_file}\nEnd it with: devroute down {status['name']}")
    return code
