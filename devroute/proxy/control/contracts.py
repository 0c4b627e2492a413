"""/api/contracts of the control port: people list, save and delete contracts that have a name.

Owns the form of requests and responses. routing/named_contracts.py knows who may change what, and
replicas/shared_contracts.py where replicas keep them.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devroute.auth.identity import Identity
from devroute.contract.grammar import Contract
from devroute.contract.name import is_named, parse_name
from devroute.contract.trace_id import split_trace
from devroute.errors import ContractInvalid, ContractUntrusted, DevrouteError, RequestMalformed
from devroute.policy.policy import Policy, permit_contract
from devroute.proxy.control.contract_store import ContractStore
from devroute.proxy.telemetry.audit_events import RecordEvent, refusal_fields
from devroute.routing.named_contracts import DEFAULT_TTL_S, MAX_TTL_S, NamedContract, NamedContracts
from devroute.timestamps import rfc3339

#: The paths, for the application and for its clients.
PATH: Final = "/api/contracts"


class _Saving(BaseModel):
    """The body of PUT: `contract` as it would stand in X-devroute, `ttl_s` in seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    contract: str
    ttl_s: Annotated[int, Field(ge=1, le=MAX_TTL_S)] = DEFAULT_TTL_S


@dataclass(frozen=True, slots=True)
class ContractsApi:
    """`read` verifies signatures; `authorise` raises for a request without a valid token."""

    names: NamedContracts
    store: ContractStore
    policy: Callable[[], Policy]
    read: Callable[[str], Contract]
    authorise: Callable[[web.Request], Awaitable[Identity]]
    record: RecordEvent
    clock: Callable[[], float] = time.time

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get(PATH, self.listing)
        router.add_get(f"{PATH}/{{name}}", self.show)
        router.add_put(f"{PATH}/{{name}}", self.save)
        router.add_delete(f"{PATH}/{{name}}", self.delete)

    async def listing(self, request: web.Request) -> web.Response:
        """GET /api/contracts: all of them, by name, without their texts."""
        await self.authorise(request)
        now = self.clock()
        return web.json_response({"contracts": [summary(each, now) for each in self.names.listing(now)]})

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/contracts/NAME. Raises ContractUnknown."""
        await self.authorise(request)
        now = self.clock()
        return web.json_response(_whole(self.names.find(parse_name(request.match_info["name"]), now), now))

    async def save(self, request: web.Request) -> web.Response:
        """PUT /api/contracts/NAME: 201, or 200 for one that has replaced another. Raises RequestMalformed,
        ContractInvalid, what makes a signature invalid, ContractNotOwned and TooManyContracts."""
        identity = await self.authorise(request)
        try:
            draft = self._draft(
                parse_name(request.match_info["name"]), await request.read(), identity.subject
            )
            admin = self.policy().is_admin(identity.subject, identity.groups)
            before = await self.store.save(draft, admin=admin)
        except DevrouteError as error:
            self._refused(error, identity, request)
            raise
        self._changed("saved", draft, before, identity, request)
        document = {**_whole(draft, self.clock()), "replaced": before is not None}
        return web.json_response(document, status=201 if before is None else 200)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/contracts/NAME: what it was. Raises ContractUnknown and ContractNotOwned."""
        identity = await self.authorise(request)
        try:
            name = parse_name(request.match_info["name"])
            admin = self.policy().is_admin(identity.subject, identity.groups)
            before = await self.store.delete(name, identity.subject, admin=admin)
        except DevrouteError as error:
            self._refused(error, identity, request)
            raise
        self._changed("deleted", before, before, identity, request)
        return web.json_response(_whole(before, self.clock()))

    def _draft(self, name: str, body: bytes, subject: str) -> NamedContract:
        try:
            saving = _Saving.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "the body"
            raise RequestMalformed(
                f"{place}: {first['msg']}",
                hint='send {"contract": "{\\"b\\": \\"alice\\"}", "ttl_s": 28800}; ttl_s is seconds, at most'
                f" {MAX_TTL_S}",
            ) from None
        text, _ = split_trace(saving.contract)
        if is_named(text):
            raise ContractInvalid(
                "a name stands for a contract, not for another name", hint="write the contract itself"
            )
        contract, now = self.read(text), self.clock()
        permit_contract(contract, self.policy(), now)
        expires = now + saving.ttl_s
        if (signature := contract.signature) is not None:
            if signature.subject != subject:
                raise ContractUntrusted(
                    f"the contract is signed by '{signature.subject}', and saved by '{subject}'",
                    hint=f"its signer has to save it; or sign it as '{subject}': devroute sign CONTRACT",
                )
            expires = min(expires, signature.expires)
        return NamedContract.of(name, text, subject, now, expires)

    def _refused(self, error: DevrouteError, identity: Identity, request: web.Request) -> None:
        if error.status < 500:
            fields = refusal_fields(error, subject=identity.subject, peer=request.remote)
            self.record("refusal", at="api", **fields)

    def _changed(
        self,
        action: str,
        contract: NamedContract,
        before: NamedContract | None,
        identity: Identity,
        request: web.Request,
    ) -> None:
        self.record(
            "contract",
            action=action,
            subject=identity.subject,
            peer=request.remote,
            contract=contract.name,
            owner=None if before is None else before.owner,
            expires=rfc3339(contract.expires),
        )


def summary(contract: NamedContract, now: float) -> dict[str, object]:
    """A saved contract as a JSON object, without its text. `services`: its targets, by service."""
    signature = contract.contract.signature
    return {
        "name": contract.name,
        "owner": contract.owner,
        "services": contract.services,
        "signed": signature is not None,
        "saved": rfc3339(contract.saved),
        "expires": rfc3339(contract.expires),
        "expires_in_s": max(0, round(contract.expires - now)),
    }


def _whole(contract: NamedContract, now: float) -> dict[str, object]:
    return {
        **summary(contract, now),
        "contract": contract.text,
        "explanation": contract.explanation(),
    }
