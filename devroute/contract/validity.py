"""When a signed contract is valid. Apart from the verifier, which loads 9 MiB of cryptography."""

from typing import Final

from devroute.contract.grammar import Signature
from devroute.errors import ContractExpired, ContractNotYetValid

#: Seconds by which the signer's and the proxy's clocks may differ.
SKEW_S: Final = 30.0


def check_time(signature: Signature, now: float) -> None:
    """Raises ContractExpired or ContractNotYetValid. `now`: seconds since the epoch."""
    if now >= signature.expires + SKEW_S:
        ago = now - signature.expires
        raise ContractExpired(f"the contract of '{signature.subject}' expired {duration(ago)} ago")
    if now < signature.starts - SKEW_S:
        ahead = signature.starts - now
        raise ContractNotYetValid(
            f"the contract of '{signature.subject}' is not valid for another {duration(ahead)}"
        )


def duration(seconds: float) -> str:
    """A duration in its largest unit, rounded."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
