"""A container's fields of its pod (`fieldRef`) and its resources (`resourceFieldRef`), on a laptop."""

import os
import re
import uuid
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Final, NamedTuple

from devroute.agent.workload.objects import Object, Workload, mapping, text_of

_KEYED: Final = re.compile(r"metadata\.(labels|annotations)\['([^']{1,317})'\]")

#: The suffixes of quantities (Kubernetes' resource.Quantity).
_SUFFIXES: Final = {
    "": Fraction(1),
    **{each: Fraction(1000) ** power for power, each in zip(range(-3, 0), "num", strict=True)},
    **{each: Fraction(1000) ** power for power, each in enumerate("kMGTPE", 1)},
    **{f"{each}i": Fraction(1024) ** power for power, each in enumerate("KMGTPE", 1)},
}
_QUANTITY: Final = re.compile(
    r"([+-]?)([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"
)


class Field(NamedTuple):
    """`made_up`: the cluster decides it, and here it is what fits a laptop."""

    value: str
    made_up: bool = False


def field_of(workload: Workload, path: str) -> Field | None:
    """The value of a fieldRef; None for a path that no container can ask for."""
    if (keyed := _KEYED.fullmatch(path)) is not None:
        return Field(text_of(mapping(workload.metadata.get(keyed[1])).get(keyed[2])))
    known = _FIELDS.get(path)
    return None if known is None else known(workload)


def _name(workload: Workload) -> Field:
    """A pod's own; those of other kinds get their names when they are made."""
    own = workload.kind == "Pod"
    return Field(workload.name if own else f"{workload.name}-laptop", made_up=not own)


def _uid(workload: Workload) -> Field:
    if workload.kind == "Pod" and (known := text_of(workload.metadata.get("uid"))):
        return Field(known)
    return Field(str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{workload.name}.{workload.namespace}")), made_up=True)


def _namespace(workload: Workload) -> Field:
    return Field(workload.namespace or "default", made_up=not workload.namespace)


def _account(workload: Workload) -> Field:
    return Field(text_of(workload.spec.get("serviceAccountName")) or "default")


def _always(value: str) -> Callable[[Workload], Field]:
    return lambda workload: Field(value, made_up=True)


_FIELDS: Final[dict[str, Callable[[Workload], Field]]] = {
    "metadata.name": _name,
    "metadata.namespace": _namespace,
    "metadata.uid": _uid,
    "spec.serviceAccountName": _account,
    "spec.nodeName": _always("laptop"),
    **dict.fromkeys(
        ("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"), _always("127.0.0.1")
    ),
}


def resource_of(container: Object, resource: str, divisor: str) -> Field | None:
    """The value of a resourceFieldRef such as limits.cpu, in whole divisors, rounded up. Without a limit it
    is what the machine has, as on a node. None for what is no resource or no quantity."""
    side, _, name = resource.partition(".")
    if side not in ("limits", "requests") or not name:
        return None
    resources = mapping(container.get("resources"))
    given = mapping(resources.get(side)).get(name)
    if given is None and side == "requests":
        given = mapping(resources.get("limits")).get(name)  # as the API server sets it
    unit = quantity(divisor) or Fraction(1)  # 0 counts as 1
    if given is not None:
        amount = quantity(str(given))
        return None if amount is None else Field(str(ceil(amount / unit)))
    if side == "requests":
        return Field("0")
    whole = _MACHINE.get(name)
    return None if whole is None else Field(str(ceil(Fraction(whole()) / unit)), made_up=True)


def quantity(text: str) -> Fraction | None:
    """A quantity such as 500m, 1.5Gi or 1e3; None for any other text, and below 0."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    suffix = match[3] or ""
    factor = _SUFFIXES.get(suffix)
    if factor is None:
        factor = Fraction(10) ** int(suffix[1:])
    return None if match[1] == "-" else Fraction(match[2].rstrip(".")) * factor


def _memory() -> int:
    """Bytes of the machine's memory; 8 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


_MACHINE: Final[dict[str, Callable[[], int]]] = {"cpu": lambda: os.cpu_count() or 1, "memory": _memory}
