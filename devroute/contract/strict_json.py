"""Strict JSON (RFC 8259) for contracts, with errors that say what to write instead. Pure; contract/grammar.py
checks the content.
"""

import json
import math
from typing import NoReturn

from devroute.errors import ContractInvalid
from devroute.quoting import quote

#: Digits of a number. Well below the limit of int(), whose cost grows with the square of the digits.
MAX_DIGITS = 20


class JsonObject(list[tuple[str, object]]):
    """The members of a JSON object as (name, value), with duplicate names kept."""


def load(raw: str) -> object:
    """Parse strict JSON; objects become JsonObject. Raises ContractInvalid naming the place."""
    try:
        return json.loads(
            raw,
            object_pairs_hook=JsonObject,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise ContractInvalid(f"not valid JSON at character {error.pos + 1}: {_advice(raw, error)}") from None
    except RecursionError:
        raise ContractInvalid("the JSON is nested too deeply; an entry is a string or one object") from None


def json_type(value: object) -> str:
    """The JSON type of a value, with its article."""
    if isinstance(value, JsonObject):
        return "an object"
    types = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return types.get(type(value), "null")


def _advice(raw: str, error: json.JSONDecodeError) -> str:
    rest = raw[error.pos :]
    if error.msg == "Extra data":
        if rest.lstrip(" \t").startswith(","):
            return "more text follows the contract; send X-devroute once, with all services in one object"
        return f"{quote(rest)} follows the end of the contract; remove it"
    if rest.startswith("'"):
        return "JSON needs double quotes, not single ones"
    after_comma = rest[:1] in ("}", "]") and raw[: error.pos].rstrip(" \t").endswith(",")
    if after_comma or "trailing comma" in error.msg:  # the latter from Python 3.13 on
        return "a comma follows the last entry; remove it"
    if error.pos == 0:
        return 'write {"SERVICE": "TARGET"}'
    if not rest.strip():
        return "the contract ends too early; is a brace missing?"
    return f"{error.msg[0].lower()}{error.msg[1:]}"


def _constant(name: str) -> NoReturn:
    raise ContractInvalid(f"{name} is not a JSON value (RFC 8259, section 3)")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ContractInvalid(f"the number {quote(digits)} has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or not math.isfinite(number := float(digits)):
        raise ContractInvalid(f"the number {quote(digits)} is out of range")
    return number
