"""`devroute up` beside a running one that is alike: its services are served by that one, as long as this
command runs. Where the other one ends before, this one goes on by itself."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from devroute.errors import DevrouteError, ServerUnreachable
from devroute.platforms import Ended, signals_raise
from devroute.quoting import visible

if TYPE_CHECKING:
    from pathlib import Path

    from devroute.agent.control.running import Running
    from devroute.agent.settings import AgentSettings


def running_alike(settings: "AgentSettings", state_folder: "Path | None") -> "Running | None":
    """The process that can serve these services, too: of the same user and with the same settings. None if
    this one has to: it starts an app, takes services over, or there is no such process."""
    plain = settings.services and not settings.command and not settings.takeover and settings.direct is None
    if state_folder is None or not plain:
        return None
    from devroute.agent.control.running import all_running, identity_of

    identity = identity_of(settings)
    return next((each for each in all_running(state_folder) if each.identity == identity), None)


def serve_with(running: "Running", settings: "AgentSettings") -> int | None:
    """Have them served by `running` until a signal comes; returns the exit code, None if `running` has ended
    by itself. Raises why it refuses them."""
    from devroute.agent.control import client

    services = [f"{spec.service}={spec.place}" for spec in settings.services]
    as_json = settings.output == "json"
    last: dict[str, Any] = {}
    try:
        client.status(running)  # one that is stopped is not waited for
        with signals_raise(), client.follow(running, services) as events:
            if not as_json:
                typer.echo(
                    f"served by the devroute up of {running.name} that runs already (process {running.pid});"
                    " Ctrl-C here takes them away again"
                )
            for last in events:
                _print(last, as_json=as_json)
    except (KeyboardInterrupt, Ended) as end:
        for spec in settings.services:
            with suppress(DevrouteError):
                client.request(running, "DELETE", f"/v1/services/{spec.service}")
        if isinstance(end, Ended):
            return 0
        raise
    except ServerUnreachable as error:
        if last:
            raise
        if not as_json:
            typer.echo(f"{error.message}; this one goes on by itself")
        return None
    if last.get("event") == "ended" and last.get("by") == "down":
        return 0
    if not as_json:
        typer.echo(f"the devroute up of process {running.pid} has ended: this one goes on by itself")
    return None


def _print(event: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value for name, value in event.items() if name != "text"}), flush=True)
    elif text := event.get("text"):
        print("\n".join(map(visible, str(text).split("\n"))), flush=True)
