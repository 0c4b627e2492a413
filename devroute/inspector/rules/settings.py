"""One rule as a user writes it, in `rules:` of devroute.yaml or in the page. Strict: what it does not know it
refuses, with what to write instead. Reads no file; RuleList does, at the first request.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from devroute.contract.conditions import read_method
from devroute.contract.options import read_duration
from devroute.errors import ConfigInvalid
from devroute.headers import PREFIX
from devroute.inspector.capture import FIELD_NAME, FIELD_VALUE, Direction
from devroute.inspector.rules.pattern import MAX_PATTERN, MAX_STARS
from devroute.quoting import quote
from devroute.settings import Settings

#: Rules of one `devroute up`; characters of a rule's name, which stands in a response header.
MAX_RULES: Final = 200
MAX_NAME: Final = 60
#: Bytes of a rule's response body: it stays in memory.
MAX_BODY_BYTES: Final = 4 * 1024 * 1024

#: Header fields of a response, or its trailers, and bytes of them: less than the tunnel accepts of either.
MAX_FIELDS: Final = 100
MAX_FIELD_BYTES: Final = 12 * 1024

#: Headers that frame a message: devroute derives them from the body.
FRAMING: Final = frozenset((
    "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade",
))  # fmt: skip

Fields = tuple[tuple[str, str], ...]

#: How the services of outgoing requests are named.
_OUTGOING: Final = re.compile(r"[^:/\s]+:[0-9]{1,5}")


def _name(value: object) -> str:
    text = _scalar(value, "a name")
    if not text.isprintable() or not text.isascii() or not 0 < len(text) <= MAX_NAME:
        raise ValueError(f"write a name of at most {MAX_NAME} printable ASCII characters")
    return text


def _scalar(value: object, what: str) -> str:
    """Text, or a number or truth value that YAML made of it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"write {what} as text")


def _methods(value: object) -> tuple[str, ...]:
    listed = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise ValueError("write a method or a list of methods, such as [GET, POST]")
    return tuple(read_method(each) for each in listed)


def _pattern(value: object, what: str) -> str:
    text = _scalar(value, what)
    if not text.isascii() or not text.isprintable() or len(text) > MAX_PATTERN:
        raise ValueError(f"write {what} of at most {MAX_PATTERN} printable ASCII characters")
    if text.count("*") > MAX_STARS:
        raise ValueError(f"{what} has at most {MAX_STARS} '*'")
    return text


def _path(value: object) -> str:
    text = _pattern(value, "a path")
    if not text.startswith(("/", "*")):
        raise ValueError(f"{quote(text)}: a path starts with /, such as /api/ (all below it) or /orders/*")
    if "?" in text or "#" in text:
        raise ValueError(f"{quote(text)}: a path has no query; match a header or the path alone")
    return text


def _header_patterns(value: object) -> Fields:
    return tuple((name.lower(), _pattern(text, f"the value of {name}")) for name, text in _pairs(value))


def _fields(value: object) -> Fields:
    found: list[tuple[str, str]] = []
    for name, given in _pairs(value):
        low = name.lower()
        if low in FRAMING:
            raise ValueError(f"{low}: leave it out, devroute derives it from the body")
        if low.startswith(PREFIX):
            raise ValueError(f"{low}: headers that start with {PREFIX} are devroute's own")
        for each in given if isinstance(given, list | tuple) else (given,):
            text = _scalar(each, f"the value of {name}").strip(" \t")
            if FIELD_VALUE.fullmatch(text) is None or not _is_latin1(text):
                raise ValueError(f"the value of {name} has characters that a header cannot have")
            found.append((name, text))
    if len(found) > MAX_FIELDS or sum(len(name) + len(text) for name, text in found) > MAX_FIELD_BYTES:
        raise ValueError(f"write at most {MAX_FIELDS} fields of {MAX_FIELD_BYTES >> 10} KiB together")
    return tuple(found)


def _pairs(value: object) -> Sequence[tuple[str, object]]:
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple) and all(isinstance(x, list | tuple) and len(x) == 2 for x in value):
        pairs = [(x[0], x[1]) for x in value]
    else:
        raise ValueError("write one header per line, such as x-tenant: acme")
    for name, _ in pairs:
        if not isinstance(name, str) or FIELD_NAME.fullmatch(name) is None:
            raise ValueError(f"{quote(str(name))} is not a header name")
    return pairs


def _is_latin1(text: str) -> bool:
    return all(ord(each) < 256 for each in text)


def _status(value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 599:
        raise ValueError(f"write an HTTP status from {least} to 599, such as 503")
    return value


def _fail(value: object) -> int | Literal["reset"]:
    if value == "reset":
        return "reset"
    try:
        return _status(value, 400)
    except ValueError:
        raise ValueError(
            "write a status from 400 to 599, or reset (the app ends the connection without a response)"
        ) from None


def _direction(value: object) -> str:
    if value in ("in", "out"):
        return str(value)
    raise ValueError("write in (requests to this laptop) or out (those from it to services of the mesh)")


def _break(value: object) -> str:
    if value in ("request", "response", "both"):
        return str(value)
    raise ValueError("write request, response or both")


def _base64(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None


def _as_json(value: object) -> object:
    """Only what JSON has: YAML knows dates too."""
    if isinstance(value, dict | list):
        return json.loads(json.dumps(value, default=str, allow_nan=False))
    return value


class Respond(Settings):
    """A response. `body` is text, or a list or mapping that is sent as JSON; `headers` and `trailers` are
    fields in order, a name's list of values as one field each."""

    status: Annotated[int, BeforeValidator(lambda value: _status(value, 200))] = 200
    headers: Annotated[Fields, BeforeValidator(_fields)] = ()
    body: Annotated[str | dict[str, Any] | list[Any], BeforeValidator(_as_json)] | None = None
    body_base64: Annotated[bytes, BeforeValidator(_base64)] | None = None
    body_file: Path | None = None
    trailers: Annotated[Fields, BeforeValidator(_fields)] = ()

    @model_validator(mode="after")
    def _one_body(self) -> "Respond":
        given = [name for name in ("body", "body_base64", "body_file") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if len(self.content()) > MAX_BODY_BYTES:
            raise ValueError(f"the body is longer than {MAX_BODY_BYTES >> 20} MiB")
        return self

    def content(self) -> bytes:
        """The body, save for a file's."""
        if isinstance(self.body, str):
            return self.body.encode("utf-8", "surrogatepass")
        if self.body is not None:
            return json.dumps(self.body, ensure_ascii=False).encode()
        return self.body_base64 or b""


class RuleSettings(Settings):
    """Which requests, and what happens to them: `respond`, `fail` or `break` at most, `delay` and `timeout`
    besides. Unset conditions match all requests of the direction."""

    name: Annotated[str, BeforeValidator(_name)] = ""
    enabled: bool = True
    direction: Annotated[Direction, BeforeValidator(_direction)] = "in"
    service: Annotated[str, BeforeValidator(lambda value: _scalar(value, "a service"))] = ""
    method: Annotated[tuple[str, ...], BeforeValidator(_methods)] = ()
    path: Annotated[str, BeforeValidator(_path)] = "*"
    header: Annotated[Fields, BeforeValidator(_header_patterns)] = ()
    #: Seconds before the request goes on.
    delay: Annotated[float, BeforeValidator(read_duration)] | None = None
    #: Seconds until the response has to be complete, the delay among them.
    timeout: Annotated[float, BeforeValidator(read_duration)] | None = None
    respond: Respond | None = None
    fail: Annotated[int | Literal["reset"], BeforeValidator(_fail)] | None = None
    break_: Annotated[str, BeforeValidator(_break)] | None = Field(default=None, alias="break")

    @model_validator(mode="after")
    def _one_action(self) -> "RuleSettings":
        actions = {"respond": self.respond, "fail": self.fail, "break": self.break_}
        given = [name for name, value in actions.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; write two rules")
        if not given and self.delay is None and self.timeout is None:
            raise ValueError("it does nothing; write one of respond, fail, break, delay, timeout")
        if self.break_ is not None and self.timeout is not None:
            raise ValueError("break and timeout exclude each other; what is held has a time of its own")
        return self

    @model_validator(mode="after")
    def _known_direction(self) -> "RuleSettings":
        if self.direction == "in" and ":" in self.service:
            raise ValueError(
                f"{quote(self.service)} is a service of the mesh; write direction: out beside it"
            )
        if self.direction == "out" and self.service and _OUTGOING.fullmatch(self.service) is None:
            raise ValueError(
                f"{quote(self.service)}: write name and port of an outgoing request's service, as --reach has"
                " them without tcp://, such as c.shop:80"
            )
        return self

    @property
    def label(self) -> str:
        """The name, or what the rule matches."""
        return self.name or f"{'/'.join(self.method)} {self.path}".strip()[:MAX_NAME]

    @property
    def body_file(self) -> Path | None:
        return None if self.respond is None else self.respond.body_file

    @property
    def does(self) -> str:
        """What happens to a request, in words."""
        parts = [] if self.delay is None else [f"delay {self.delay:g} s"]
        if self.timeout is not None:
            parts.append(f"timeout {self.timeout:g} s")
        if self.respond is not None:
            parts.append(f"respond {self.respond.status}")
        if self.fail is not None:
            parts.append(f"fail {self.fail}")
        if self.break_ is not None:
            parts.append(
                "break on request and response" if self.break_ == "both" else f"break on {self.break_}"
            )
        return ", ".join(parts)

    def as_document(self) -> dict[str, Any]:
        """The rule as a user would write it, without defaults; for JSON and YAML."""
        found: dict[str, Any] = {}
        for key in ("name", "direction", "service", "path"):
            if (value := getattr(self, key)) and (key, value) not in (("path", "*"), ("direction", "in")):
                found[key] = value
        if self.method:
            found["method"] = self.method[0] if len(self.method) == 1 else list(self.method)
        if self.header:
            found["header"] = dict(self.header)
        if not self.enabled:
            found["enabled"] = False
        for key in ("delay", "timeout"):
            if (seconds := getattr(self, key)) is not None:
                found[key] = seconds
        if self.respond is not None:
            found["respond"] = _respond_document(self.respond)
        if self.fail is not None:
            found["fail"] = self.fail
        if self.break_ is not None:
            found["break"] = self.break_
        return found


def _respond_document(respond: Respond) -> dict[str, Any]:
    found: dict[str, Any] = {"status": respond.status}
    for key in ("headers", "trailers"):
        by_name: dict[str, Any] = {}
        for name, value in getattr(respond, key):
            by_name.setdefault(name, []).append(value)
        if by_name:
            found[key] = {name: each[0] if len(each) == 1 else each for name, each in by_name.items()}
    if respond.body is not None:
        found["body"] = respond.body
    if respond.body_base64 is not None:
        found["body_base64"] = base64.b64encode(respond.body_base64).decode()
    if respond.body_file is not None:
        found["body_file"] = str(respond.body_file)
    return found


def read_rule(value: object, place: str) -> RuleSettings:
    """Raises ConfigInvalid that names `place` and the key."""
    if isinstance(value, RuleSettings):
        return value
    if not isinstance(value, Mapping):
        raise ConfigInvalid(f"{place}: write a rule as a mapping", hint="such as {path: /api/, delay: 2s}")
    try:
        return RuleSettings.model_validate(value)
    except ValidationError as error:
        raise ConfigInvalid(f"{place}: {_problem(error)}", hint=_HINT) from None


_HINT: Final = "docs/rules.md has an example of each rule"


def _problem(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    keys = [str(key) for key in first["loc"]]
    model = Respond if keys[:1] == ["respond"] and len(keys) > 1 else RuleSettings
    if first["type"] == "extra_forbidden":
        known = sorted(field.alias or name for name, field in model.model_fields.items())
        inside = " in respond" if model is Respond else ""
        return f"there is no {quote(keys[-1])}{inside}; there are {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    if keys == ["respond"] and first["type"] != "value_error":
        message = "write a mapping, such as {status: 503}"
    elif keys[:2] == ["respond", "body"]:
        keys, message = keys[:2], "write text, or a list or mapping that is sent as JSON"
    return ": ".join((".".join(keys), message)) if keys else message


def read_rules(
    value: object, place_of: Callable[[int], str] = lambda index: f"rule {index + 1}"
) -> tuple[RuleSettings, ...]:
    """The rules of a list; `place_of` names the place of one for messages. Raises ConfigInvalid."""
    if not isinstance(value, list | tuple):
        raise ConfigInvalid(
            f"{place_of(0)}: rules: write a list of rules", hint="such as - {path: /api/, delay: 2s}"
        )
    if len(value) > MAX_RULES:
        raise ConfigInvalid(f"{place_of(MAX_RULES)}: rules: there are more than {MAX_RULES}")
    return tuple(read_rule(each, place_of(index)) for index, each in enumerate(value))
