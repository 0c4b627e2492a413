"""One login, from the server's name to a token that the server accepts."""

import asyncio
import time
from collections.abc import Callable

from devroute.agent.api_client import fetch, fetch_public
from devroute.agent.login.device_flow import DeviceAuthorization, LoginSettings, poll, read, start
from devroute.agent.login.issuer_client import IssuerClient
from devroute.agent.login.stored_login import StoredLogin, granted
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_token
from devroute.errors import LoginFailed, NotFound
from devroute.quoting import quote


async def log_in(settings: ClientSettings, ask: Callable[[DeviceAuthorization], None]) -> StoredLogin:
    """A login at the issuer of the server. `ask` is called once, to show the person where to enter which
    code. Raises LoginFailed, ServerUnreachable, and the server's own errors."""
    try:
        document = await fetch_public(settings, "/api/login")
    except NotFound:
        raise LoginFailed(
            f"{settings.server} offers no login",
            hint="use a token (devroute init), or ask the platform team for oidc_client_id (docs/sso.md)",
        ) from None
    login = read(LoginSettings, document, f"{settings.server}/api/login")
    login.check_named_by(settings.server)
    client = IssuerClient(settings)
    provider = await client.discover(login)
    started = await start(provider, login, client.post)
    where = started.authorization.verification_uri
    if not where.startswith(("https://", "http://")):
        raise LoginFailed(f"the issuer '{login.issuer}' names {quote(where)}, which is no page")
    ask(started.authorization)
    loop = asyncio.get_running_loop()
    response = await poll(provider, login, started, client.post, asyncio.sleep, loop.time)
    return granted(settings.server, login, response, time.time())


async def whoami(settings: ClientSettings, login: StoredLogin) -> dict[str, object]:
    """What the server knows of the person. Raises its error if it does not accept the token."""
    return await fetch(with_token(settings, login.token), "/api/status")
