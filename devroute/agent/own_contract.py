"""The contract that detours requests to one's own laptop."""

import json
from collections.abc import Sequence

from devroute.agent.api_client import fetch
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_fetched_token
from devroute.errors import NotFound


async def own_contract(settings: ClientSettings, name: str | None, services: Sequence[str] = ()) -> str:
    """A contract for these services, or all, that the user's laptop has online; `name`: of the laptop, if not
    the token's subject. Raises NotFound where it has none, and as `fetch`."""
    settings = await with_fetched_token(settings)
    name = name or str((await fetch(settings, "/api/status")).get("you"))
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
