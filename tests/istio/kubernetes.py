"""A small client of the Kubernetes API: server-side apply, as kubectl does it, and little more."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, TCPConnector

from tests.istio.netns import Namespace

Document = dict[str, Any]
_MANAGER = "devroute-tests"


class Refused(Exception):
    """The API server, or a webhook that it asked, refused a document: `reason` says why."""

    def __init__(self, what: str, status: int, reason: str) -> None:
        super().__init__(f"{what}: {status} {reason}")
        self.status, self.reason = status, reason


class Kubernetes:
    """The API at an address, by a token that may do everything."""

    def __init__(self, session: ClientSession, server: str) -> None:
        self._session, self._server = session, server
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    async def is_ready(self) -> bool:
        try:
            async with self._session.get(f"{self._server}/readyz") as response:
                return response.status == 200
        except OSError:
            return False

    async def apply(self, documents: Iterable[Document], *, dry_run: bool = False) -> None:
        """Server-side apply, in order. Raises Refused."""
        for document in documents:
            query = {"fieldManager": _MANAGER, "force": "true", "fieldValidation": "Strict"}
            path = await self._path(document)
            body = json.dumps(document).encode()
            kind = "application/apply-patch+yaml"
            await self.call("PATCH", path, body, kind, query | ({"dryRun": "All"} if dry_run else {}))

    async def delete(self, documents: Iterable[Document]) -> None:
        """Those that are gone already are no error."""
        for document in documents:
            try:
                await self.call("DELETE", await self._path(document))
            except Refused as refused:
                if refused.status != 404:
                    raise

    async def set_status(self, document: Document, status: Document) -> None:
        body = json.dumps({"status": status}).encode()
        path = f"{await self._path(document)}/status"
        await self.call("PATCH", path, body, "application/merge-patch+json")

    async def token(self, namespace: str, account: str, audience: str) -> str:
        """A token of a service account for a day, as the kubelet has it made for pods."""
        request = {"spec": {"audiences": [audience], "expirationSeconds": 86400}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        made = await self.call("POST", path, json.dumps(request).encode(), "application/json")
        return str(made["status"]["token"])

    async def get(self, path: str) -> Document | None:
        """A resource by its path; None if it is not there."""
        try:
            return await self.call("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    async def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "", query: dict[str, str] | None = None
    ) -> Document:
        headers = {"content-type": kind} if kind else {}
        async with self._session.request(
            method, self._server + path, data=body or None, headers=headers, params=query
        ) as response:
            found: Document = await response.json()
            if response.status >= 400:
                raise Refused(f"{method} {path}", response.status, str(found.get("message")))
            return found

    async def _path(self, document: Document) -> str:
        version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
        plural, namespaced = await self._kind(version, kind)
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        within = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        return f"{group}{within}/{plural}/{metadata['name']}"

    async def _kind(self, version: str, kind: str) -> tuple[str, bool]:
        """The plural of a kind, and whether its resources have a namespace. A CRD is served a moment after it
        was applied."""
        async with asyncio.timeout(60):
            while kind not in self._kinds.get(version, {}):
                prefix = "/apis" if "/" in version else "/api"
                found = await self.get(f"{prefix}/{version}") or {"resources": []}
                self._kinds[version] = {
                    each["kind"]: (each["name"], each["namespaced"])
                    for each in found["resources"]
                    if "/" not in each["name"]
                }
                await asyncio.sleep(0 if kind in self._kinds[version] else 0.2)
        return self._kinds[version][kind]


@asynccontextmanager
async def connected(namespace: Namespace, server: str, token: str) -> AsyncIterator[Kubernetes]:
    """A client whose connections are made in a network namespace."""
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    connector = TCPConnector(
        ssl=unchecked, socket_factory=lambda info: namespace.open_socket(info[0], info[1])
    )
    headers = {"authorization": f"Bearer {token}"}
    async with ClientSession(connector=connector, headers=headers) as session:
        yield Kubernetes(session, server)
