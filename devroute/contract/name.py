"""The name of a saved contract, which stands for it wherever a contract may: `X-devroute: @checkout`. Pure;
routing/named_contracts.py has the contracts themselves.

A name is a label, and does not contain the member of a trace, whose id may follow it (contract/trace_id.py).
"""

from typing import Final

from devroute.contract.target import MAX_LABEL, Malformed, check_label
from devroute.contract.trace_id import MEMBER
from devroute.errors import ContractInvalid
from devroute.quoting import quote

#: What a name begins with where a contract may stand.
SIGN: Final = "@"
#: Characters of a name, without the sign.
MAX_NAME: Final = MAX_LABEL


def is_named(raw: str) -> bool:
    """Whether a contract, without a trace's id, is meant to be a name."""
    return raw.startswith(SIGN)


def check_name(text: str) -> str:
    """A name without its sign, unchanged. Raises Malformed."""
    check_label(text, "a contract's name")
    if MEMBER in text:
        raise Malformed(f"a contract's name does not contain {MEMBER}, which marks a trace's id")
    return text


def parse_name(text: str) -> str:
    """The name in a text, with or without its sign. Raises ContractInvalid."""
    name = text.removeprefix(SIGN)
    try:
        return check_name(name)
    except Malformed as problem:
        raise ContractInvalid(
            f"{quote(text)}: {problem}",
            hint="write the name of a saved contract, such as @checkout; devroute contract list shows them",
        ) from None
