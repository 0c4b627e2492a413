"""What replicas write about themselves, laptops and saved contracts, as JSON in Redis (REGISTRY.md). Pure.

Redis is shared: what another program has put there, or a newer release, is read strictly and ignored where it
does not fit. Nothing in a record is secret; a ticket lets its bearer send copies of ordinary requests, no
more.
"""

import base64
import binascii
import ipaddress
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from devroute.auth.tokens import owns
from devroute.contract.grammar import MAX_BYTES as MAX_CONTRACT
from devroute.contract.name import check_name
from devroute.contract.target import Address, check_label, check_subject
from devroute.errors import DevrouteError
from devroute.routing.named_contracts import NamedContract
from devroute.routing.registration import Registration
from devroute.routing.registry import MAX_LINKS_PER_SUBJECT
from devroute.tunnel.protocol.frames import MAX_GREETING
from devroute.tunnel.protocol.handshake import Hello

#: Hexadecimal digits of a replica's id, which is random for each start.
ID_LENGTH: Final = 16
#: Bytes of a replica's own record.
MAX_REPLICA: Final = 8 * 1024
#: Processes of one laptop at one replica, and bytes of all of them: as many of the longest HELLO as a subject
#: may have links, unless the settings say otherwise.
MAX_PROCESSES: Final = 1024
MAX_VALUE: Final = MAX_LINKS_PER_SUBJECT * MAX_GREETING
#: Bytes of a saved contract's record: its text with escapes, and little else.
MAX_CONTRACT_RECORD: Final = 2 * MAX_CONTRACT + 1024
#: Bytes of a certificate; ours have some 350.
_MAX_CERTIFICATE: Final = 4096


def _place(text: str) -> str:
    """`10.0.3.7:8080` or `[fd00::7]:8080`, in the form in which Envoy knows hosts."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") else host
    canonical = ipaddress.ip_address(bare)
    if str(Address(str(canonical), int(port))) != text or not 0 < int(port) < 65536:
        raise ValueError("not an IP address and a port")
    return text


def split_place(place: str) -> tuple[str, int]:
    """Host and port of what `str` makes of an Address."""
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port)


def _certificate(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class ReplicaRecord(_Record):
    """A replica: `data` and `peer` are the addresses of its ports, `certificate` (DER) is that of the key
    which it made for this start, `started` seconds since the epoch. With another `format` it is none."""

    format: Literal[1] = 1

    id: Annotated[str, Field(pattern=rf"^[0-9a-f]{{{ID_LENGTH}}}$")]
    data: Annotated[str, AfterValidator(_place)]
    peer: Annotated[str, AfterValidator(_place)]
    version: Annotated[str, Field(max_length=64, pattern=r"^[!-~]*$")]
    started: float
    certificate: Annotated[bytes, BeforeValidator(_certificate), Field(max_length=_MAX_CERTIFICATE)]

    def encode(self) -> bytes:
        certificate = base64.b64encode(self.certificate).decode("ascii")
        return self.model_copy(update={"certificate": certificate}).model_dump_json(warnings=False).encode()


_Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]


class ProcessRecord(_Record):
    """A process of a laptop, with its HELLO."""

    subject: Annotated[str, AfterValidator(check_subject)]
    generation: Annotated[int, Field(ge=0, lt=1 << 62)]
    since: _Time
    hello: Hello
    tickets: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]] = {}


_PROCESSES: Final = TypeAdapter(Annotated[tuple[ProcessRecord, ...], Field(max_length=MAX_PROCESSES)])


def encode_processes(processes: list[Registration]) -> bytes:
    """The processes of one laptop whose links end at one replica."""
    records = tuple(
        ProcessRecord(
            subject=each.subject,
            generation=each.generation,
            since=each.since,
            hello=each.hello,
            tickets=dict(each.tickets),
        )
        for each in processes
    )
    return _PROCESSES.dump_json(records)


def decode_processes(name: str, raw: bytes) -> tuple[ProcessRecord, ...]:
    """Raises ValueError for anything that no replica would write about the laptop `name`."""
    check_label(name, "a laptop's name")
    if len(raw) > MAX_VALUE:
        raise ValueError("too long")
    records = _PROCESSES.validate_json(raw)
    for each in records:
        if not owns(each.subject, name):
            raise ValueError("a name of another subject")
        if any(
            offer.terms.shadow is not None and offer.service not in each.tickets
            for offer in each.hello.services
        ):
            raise ValueError("a ticket is missing")
    return records


def decode_replica(raw: bytes) -> ReplicaRecord:
    """Raises ValueError."""
    if len(raw) > MAX_REPLICA:
        raise ValueError("too long")
    return ReplicaRecord.model_validate_json(raw)


class ContractRecord(_Record):
    """A saved contract: `text` as it may stand in X-devroute, times in seconds since the epoch."""

    text: Annotated[str, Field(max_length=MAX_CONTRACT)]
    owner: Annotated[str, AfterValidator(check_subject)]
    saved: _Time
    expires: _Time


def encode_contract(contract: NamedContract) -> bytes:
    return (
        ContractRecord(
            text=contract.text, owner=contract.owner, saved=contract.saved, expires=contract.expires
        )
        .model_dump_json()
        .encode()
    )


def decode_contract(name: str, raw: bytes) -> NamedContract:
    """Raises ValueError for anything that no replica would write."""
    check_name(name)
    if len(raw) > MAX_CONTRACT_RECORD:
        raise ValueError("too long")
    record = ContractRecord.model_validate_json(raw)
    try:
        return NamedContract.of(name, record.text, record.owner, record.saved, record.expires)
    except DevrouteError as error:
        raise ValueError(error.message) from None
