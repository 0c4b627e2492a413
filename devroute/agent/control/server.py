"""The socket of the control API, and who may use it: the user who runs `devroute up`, and no browser.

A Unix socket in a folder of the user's own; where the system has none, a loopback port and a token, which a
file of the user's own holds.
"""

import contextlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from aiohttp import web

from devroute.agent.control import running
from devroute.agent.control.api import Api, Controlled
from devroute.errors import ControlDenied
from devroute.inspector.access import is_loopback, is_own_host
from devroute.inspector.api import MAX_UPLOAD
from devroute.inspector.api.refusals import guard
from devroute.platforms import has_unix_sockets, is_to_own_process

#: Bytes of a socket's path that every system permits.
MAX_PATH: Final = 100
#: Seconds that clients have to read their last events.
CLOSE_SECONDS: Final = 1.0


class ControlServer:
    """`agent` is the process that is controlled, `state_folder` where others look for it."""

    def __init__(self, agent: Controlled, state_folder: Path) -> None:
        self._api = Api(agent)
        self._agent = agent
        self._state_folder = state_folder
        self._token = secrets.token_urlsafe(32)
        self._port: int | None = None
        self._file: Path | None = None
        app = web.Application(middlewares=[guard(self._admit)], client_max_size=MAX_UPLOAD)  # a HAR file
        self._api.add_to(app)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=CLOSE_SECONDS,
        )

    async def start(self, identity: str, wanted: str | None) -> str:
        """Listen, and be found by others. Returns why that is impossible, "" if it is not."""
        try:
            folder = running.own_folder(self._state_folder)
            file = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
            await self._runner.setup()
            path = await self._listen(file.with_suffix(".sock"))
            status = self._agent.status()
            about = running.Running(
                **{name: status[name] for name in ("pid", "server", "name", "started", "log")},
                wanted=wanted,
                identity=identity,
                socket=path,
                port=self._port,
                token="" if path else self._token,
            )
            running.write(file, about)
            self._file = file
        except OSError as error:
            await self._runner.cleanup()
            return f"{error.filename or self._state_folder}: {error.strerror}"
        return ""

    async def _listen(self, path: Path) -> str | None:
        """The socket's path, None where it is a port."""
        if has_unix_sockets() and len(os.fsencode(path)) <= MAX_PATH:
            await web.UnixSite(self._runner, str(path)).start()
            os.chmod(path, 0o600)
            return str(path)
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = int(self._runner.addresses[0][1])
        return None

    async def close(self) -> None:
        """Not to be found any more, end all events, and close."""
        if self._file is not None:
            for each in (self._file, self._file.with_suffix(".sock")):
                with contextlib.suppress(OSError):
                    each.unlink()
        await self._api.close()
        await self._runner.cleanup()

    # --- access

    def _admit(self, request: web.Request) -> None:
        """Raises ControlDenied."""
        headers = request.headers
        if "origin" in headers or "sec-fetch-site" in headers:
            raise ControlDenied("web pages may not use the control API")
        transport = request.transport
        if self._port is None:
            if transport is not None and not is_to_own_process(transport.get_extra_info("socket")):
                raise ControlDenied("this devroute up is another user's")
            return
        address = None if transport is None else transport.get_extra_info("peername")
        if not is_loopback(address[0] if address else None) or not is_own_host(
            headers.get("host"), self._port
        ):
            raise ControlDenied("the control API accepts requests from this machine only")
        sent = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            raise ControlDenied("the token of the control API is missing or wrong")
