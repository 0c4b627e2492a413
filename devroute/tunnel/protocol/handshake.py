"""The JSON bodies of HELLO, WELCOME and RENEWED, and of what the proxy sends to the agent itself. Pure.

They arrive from the network, so pydantic validates them. Fields that this version does not know are ignored:
a newer peer may add some, as long as the protocol's version is the same.
"""

from functools import partial
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from devroute.contract.entry_urls import read_entry_urls
from devroute.contract.offer_options import DEFAULT_OPTIONS, OfferOptions
from devroute.contract.service_spec import MAX_SERVICES
from devroute.contract.target import Address, Malformed, check_label, check_service, parse_address
from devroute.errors import ProtocolError
from devroute.tunnel.protocol.frames import VERSION


def _direct(value: object) -> Address | None:
    if value is None or isinstance(value, Address):
        return value
    if not isinstance(value, str):  # pydantic would make an Address of a mapping, whatever is in it
        raise ValueError("an address is a string, HOST:PORT")
    return parse_address(value)


def _terms(value: object) -> object:
    return value if isinstance(value, OfferOptions) else OfferOptions.from_mapping(value)


def _version(version: int) -> int:
    if version != VERSION:
        newer = "server" if version > VERSION else "agent"
        raise ValueError(
            f"protocol version {version}, but this side speaks version {VERSION}: upgrade the {newer}"
        )
    return version


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True, arbitrary_types_allowed=True)

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


class _Greeting(_Message):
    version: Annotated[int, AfterValidator(_version)] = VERSION


class Offer(_Message):
    """A service on the laptop, `b` or `b.namespace`. With `direct`, the proxy reaches it at that address,
    not by the tunnel. `terms`: which requests the laptop wants, and how."""

    service: Annotated[str, AfterValidator(check_service)]
    scheme: Literal["http", "grpc"] = "http"
    direct: Annotated[Address | None, BeforeValidator(_direct)] = None
    terms: Annotated[OfferOptions, BeforeValidator(_terms)] = DEFAULT_OPTIONS

    @model_serializer
    def _as_json(self) -> dict[str, object]:
        return {
            "service": self.service,
            "scheme": self.scheme,
            "direct": str(self.direct) if self.direct else None,
            **({"terms": terms} if (terms := self.terms.as_dict()) else {}),
        }


def _unique(offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    if len({offer.service for offer in offers}) != len(offers):
        raise ValueError("a service is offered twice")
    return offers


#: The agent's service that receives a Notice; no service of a mesh can have that name.
NOTICE_SERVICE: Final = "@notices"


#: Links that one process may have at the same time: each at another replica.
MAX_LINKS: Final = 2


class Hello(_Greeting):
    """From the agent. `name`: of the laptop, None for the token's subject. `instance`: random, the same each
    time that one process registers, None from agents that do not know it. `takeover`: take services over
    from other processes with this name. `link`: which one of the process's links this is; it replaces the
    earlier one of that number or, unless it is to stand `beside` the other one, all earlier ones. `reach`:
    the agent wants to open streams, too; it may have no services then. `windows`: it knows windows that
    grow."""

    agent: Annotated[str, Field(max_length=64, pattern=r"^[!-~]*$")]
    name: Annotated[str, AfterValidator(partial(check_label, what="a laptop's name"))] | None = None
    services: Annotated[tuple[Offer, ...], Field(max_length=MAX_SERVICES), AfterValidator(_unique)]
    instance: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]+$")] | None = None
    takeover: bool = False
    link: Annotated[int, Field(ge=0, lt=MAX_LINKS)] = 0
    beside: bool = False
    reach: bool = False
    windows: bool = False

    @model_validator(mode="after")
    def _not_idle(self) -> Self:
        if not self.services and not self.reach:
            raise ValueError("services: there is none")
        return self


#: What this version of the proxy supports and older ones ignore without an error.
FEATURES = ("terms", "renew", "shadow", "links", "windows")
#: The same, of a proxy that has a way into the mesh for what a laptop reaches.
REACH: Final = "reach"


class OtherProcess(_Message):
    """Another process of the same laptop, with services of its: `since` when (RFC 3339)."""

    services: tuple[str, ...]
    agent: str
    since: str


class Notice(OtherProcess):
    """From the proxy, as a request to NOTICE_SERVICE: another process "joined" under the same name with these
    services, or they were "taken-over" by it."""

    event: str


#: The agent's service that receives a Move. Older agents refuse the request, as one for an unknown service.
MOVE_SERVICE: Final = "@move"


class Move(_Message):
    """From a proxy that is about to stop, as a request to MOVE_SERVICE: dial another replica, at a moment of
    the agent's choice within so many seconds, and let go of this link only then."""

    within: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0


def _entries(value: object) -> dict[str, str]:
    """Those that can be shown: a newer proxy may permit more, and no laptop goes offline over them."""
    try:
        return read_entry_urls(value)
    except Malformed:
        return {}


class Welcome(_Greeting):
    """From the proxy. `name`: of the laptop from now on. `features`: what the proxy supports beyond the
    protocol's version. `expires_in`: seconds until the token expires, None for never. `taken_over`: services,
    by the process that had them; `others`: the other processes of this laptop. `entries`: where people
    outside send requests into the mesh, by name; `entry_links`: whether `?devroute=` works there. `replica`:
    random id of this start of the proxy, None where it is the only one; `replicas`: how many there are."""

    server: str
    name: Annotated[str, AfterValidator(partial(check_label, what="a laptop's name"))]
    features: tuple[str, ...] = ()
    expires_in: float | None = None
    taken_over: tuple[OtherProcess, ...] = ()
    others: tuple[OtherProcess, ...] = ()
    entries: Annotated[dict[str, str], BeforeValidator(_entries)] = {}
    entry_links: bool = False
    replica: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]+$")] | None = None
    replicas: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class Refusal(_Message):
    """An error, as in RENEWED."""

    code: str
    message: str
    hint: str = ""


class Renewed(_Message):
    """From the proxy, after RENEW: seconds until the newer token expires, or why it was refused."""

    expires_in: float | None = None
    error: Refusal | None = None


_M = TypeVar("_M", Hello, Welcome, Renewed, Notice, Move)


def decode(kind: type[_M], body: bytes) -> _M:
    """Raises ProtocolError naming the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "it"
        reason = first["msg"].removeprefix("Value error, ")
        raise ProtocolError(f"{kind.__name__.upper()}: {place}: {reason}") from None
