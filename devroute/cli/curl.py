"""`devroute curl`: runs curl with a contract for your services, and reports whose code answered."""

import asyncio
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from devroute.cli.config.sources import ENV_PREFIX, Source, client_settings, given_settings
from devroute.cli.connection import Server, connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.invocation import Invocation
from devroute.errors import ConfigInvalid, NotFound
from devroute.headers import REASON, RESULT

#: A contract that is sent unchanged, such as a signed one, without a request to the server.
CONTRACT_VARIABLE: Final = ENV_PREFIX + "CONTRACT"


@connecting
@exits_with_code
def curl(
    context: typer.Context,
    service: Annotated[
        list[str] | None,
        option("Service to detour; repeatable; default: all of yours that are online", "SERVICE"),
    ] = None,
    server: Server = None,
) -> int:
    """Send a request by curl with a contract for your services, and report whose code answered.

    All other arguments and the exit code are curl's. If DEVROUTE_CONTRACT is set, for example to a
    signed contract, that one is sent.

    \b
    Example: devroute curl http://a.qa.example/
    Example: devroute curl --service b -i -X POST http://a.qa.example/orders -d '{}'
    """
    invocation: Invocation = context.obj
    program = shutil.which("curl")
    if program is None:
        raise ConfigInvalid("curl is not installed", hint="install it in a folder of PATH")
    if not context.args:
        raise typer.BadParameter("give a URL, and any of curl's options")
    contract = invocation.environment.get(CONTRACT_VARIABLE) or asyncio.run(
        _my_contract(invocation.sources(context.params), service or [])
    )
    with tempfile.TemporaryDirectory(prefix="devroute-") as folder:  # ps would show a signed contract
        header, heads = Path(folder, "contract"), Path(folder, "heads")
        header.write_text(f"X-devroute: {contract}\n", encoding="utf-8")
        own = {"-D", "--dump-header"} & set(context.args)
        dump = [] if own else ["--dump-header", str(heads)]
        arguments = [program, *dump, "--header", f"@{header}", *context.args]
        code = subprocess.run(arguments, check=False).returncode
        text = heads.read_text("latin-1") if heads.exists() else ""
    if not own and text:
        typer.echo(f"devroute: {responder_in(text)}", err=True)
    return code


async def _my_contract(sources: list[Source], services: list[str]) -> str:
    """A contract for the services that this person has online. Raises NotFound where there are none."""
    from devroute.agent.api_client import fetch
    from devroute.agent.token_source import with_fetched_token

    settings = await with_fetched_token(client_settings(sources))
    name = given_settings(sources).name or str((await fetch(settings, "/api/status")).get("you"))
    listed = (await fetch(settings, "/api/laptops")).get("laptops")
    laptops = listed if isinstance(listed, list) else []
    mine = next((each for each in laptops if each.get("name") == name), None)
    if mine is None:
        raise NotFound(f"laptop '{name}' is not online", hint="start it: devroute up SERVICE=PORT")
    online = [str(each["service"]) for each in mine["services"]]
    for wanted in services:
        if wanted not in online:
            served = f"laptop '{name}' serves {', '.join(online)}, not '{wanted}'"
            raise NotFound(served, hint=f"run: devroute up {wanted}=PORT")
    return json.dumps(dict.fromkeys(services or online, name))


def responder_in(heads: str) -> str:
    """Whose code answered, by the response heads that curl has dumped; the last one counts."""
    fields: dict[str, str] = {}
    for line in heads.splitlines():
        name, colon, value = line.partition(":")
        if line.startswith("HTTP/"):
            fields = {}
        elif colon:
            fields[name.strip().lower()] = "".join(c for c in value.strip() if c.isprintable())
    result, reason = fields.get(RESULT), fields.get(REASON)
    if result is None:
        return "no sidecar with devroute's filter saw the contract"
    who = {"laptop": "a laptop answered", "version": "another version answered", "error": "an error"}
    text = who.get(result, "the mesh's own service answered")
    return f"{text} ({result}{': ' + reason if reason else ''})"
