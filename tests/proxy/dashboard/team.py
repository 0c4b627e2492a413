"""A proxy in the test's own process, with people who have tokens, and laptops that are links of the test."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from devroute.auth.tokens import new_token
from devroute.errors import DevrouteError
from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from devroute.routing.route import Route
from devroute.tunnel.agent_link import AgentLink
from tests.support.loopback import connect

PEOPLE = ("alice", "bob", "carol")
#: carol administrates.
POLICY = "direct: {networks: [127.0.0.0/8]}\nadmins: {subjects: [carol]}\n"
LOCAL = {f"{each}_host": "127.0.0.1" for each in ("data", "control", "admin", "peer")}
PORTS = {f"{each}_port": 0 for each in ("data", "control", "admin", "peer")}
JSON = {"content-type": "application/json"}


@dataclass
class Team:
    """`secrets`: tokens by subject. `client` has no cookies of its own."""

    proxy: Proxy
    folder: Path
    secrets: dict[str, str]
    client: aiohttp.ClientSession
    links: list[AgentLink] = field(default_factory=list)
    stopped: bool = False

    async def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            await self.proxy.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.control_port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.proxy.control_port}"

    def token(self, subject: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secrets[subject]}"}

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: object = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON or text, and headers. Follows no redirect."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.client.request(
            method, self.url + path, headers=headers, data=data, allow_redirects=False
        ) as response:
            text = await response.text()
            return (
                response.status,
                json.loads(text) if text.startswith(("{", "[")) else text,
                response.headers,
            )

    async def code(self, subject: str, origin: str | None = None, host: str | None = None) -> str:
        headers = self.token(subject) | JSON | ({} if host is None else {"host": host})
        body = {"origin": origin or self.url}
        status, answer, _ = await self.ask("POST", "/api/login", headers, body)
        assert status == 200, answer
        return str(answer["code"])

    async def session(self, subject: str) -> dict[str, str]:
        """The headers of a browser that has opened the subject's link."""
        headers = {"sec-fetch-site": "none"}
        path = f"/dashboard/?code={await self.code(subject)}"
        status, text, answered = await self.ask("GET", path, headers)
        assert status == 303, text
        return {"cookie": answered["set-cookie"].partition(";")[0], "sec-fetch-site": "same-origin"}

    async def laptop(self, name: str, *services: str, subject: str | None = None) -> AgentLink:
        link = await connect(
            self,  # type: ignore[arg-type]  # it has a `url`
            dict.fromkeys(services, None),  # type: ignore[arg-type]  # nothing is sent there
            token=self.secrets[subject or name.partition("--")[0]],
            name=name,
            instance="ab" * 8,
        )
        await link.welcome
        self.links.append(link)
        return link

    def revoke(self, subject: str) -> None:
        file = self.folder / "tokens.yaml"
        parts = file.read_text().split("- subject: ")
        file.write_text("".join(f"- subject: {each}" for each in parts[1:] if not each.startswith(subject)))

    def audited(self, event: str) -> list[dict[str, Any]]:
        *lines, _ = (self.folder / "audit").read_text().split("\n")  # the last may be half written
        return [each for each in map(json.loads, lines) if each["event"] == event]

    @asynccontextmanager
    async def events(self, headers: Mapping[str, str]) -> AsyncIterator["Stream"]:
        async with self.client.get(f"{self.url}/dashboard/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            yield Stream(response)


class Stream:
    """The events of a page, and the rows that it has."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.hello: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    async def next(self) -> bool:
        """Take the next event; False once the stream has ended."""
        name = data = ""
        async for line in self._response.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                data = text.removeprefix("data: ")
            elif name:
                document = json.loads(data)
                if name == "hello":
                    self.hello = document
                else:
                    self.rows.update({each["id"]: each for each in document["changed"]})
                    for gone in document["gone"]:
                        del self.rows[gone]
                return True
        return False

    async def until(self, condition: Any) -> Any:
        while not (found := condition(self)):
            assert await self.next(), "the stream has ended"
        return found

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.rows.values() if each["kind"] == kind]


class Exchange:
    """A completed one, as far as Activity reads it."""

    def __init__(self, route: Route | None, status: int = 200, error: DevrouteError | None = None) -> None:
        self.route = route
        self.status = status
        self.error = error


def _write_files(folder: Path, like: Team | None) -> dict[str, str]:
    """Policy and tokens, those of `like` or new ones. Returns the secrets by subject."""
    folder.mkdir(exist_ok=True)
    made = {subject: new_token(subject) for subject in PEOPLE}
    tokens = "".join(record.as_yaml() for _, record in made.values())
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "tokens.yaml").write_text(tokens if like is None else (like.folder / "tokens.yaml").read_text())
    return {subject: secret for subject, (secret, _) in made.items()} if like is None else like.secrets


@asynccontextmanager
async def team(folder: Path, like: Team | None = None, **settings: Any) -> AsyncIterator[Team]:
    """`like`: of another replica."""
    secrets = _write_files(folder, like)
    files = {each: str(folder / f"{each}.yaml") for each in ("policy", "tokens")}
    options = {**LOCAL, **PORTS, **files, "audit": str(folder / "audit"), "drain_timeout": 1.0, **settings}
    proxy = Proxy(ProxySettings.model_validate(options))
    await proxy.start()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        running = Team(proxy, folder, secrets, client)
        try:
            yield running
        finally:
            for link in running.links:
                link.transport.abort()
            await running.stop()
