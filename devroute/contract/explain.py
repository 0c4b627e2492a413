"""Explains a contract in English, for `devroute contract check`. Pure."""

from devroute.contract.grammar import Contract, Entry
from devroute.contract.target import Address, Laptop, Version


def explain(contract: Contract) -> list[str]:
    """One sentence for each entry of the contract."""
    return [_sentence(entry) for entry in contract.entries.values()]


def _sentence(entry: Entry) -> str:
    which = [f"{'/'.join(entry.methods) or 'all'} requests for {entry.service}"]
    if entry.namespace:
        which.append(f"in namespace {entry.namespace}")
    if entry.path is not None:
        which.append(f"under {entry.path}")
    if entry.callers:
        which.append(f"from {' or '.join(entry.callers)}")
    if entry.percent < 100:
        which.insert(0, f"{entry.percent:g}% of")
    return f"{' '.join(which)} {_verb(entry)}{''.join(f'; {line}' for line in _consequences(entry))}"


def _verb(entry: Entry) -> str:
    where = {
        Address: f"the address {entry.target}",
        Laptop: f"the laptop {entry.target}",
        Version: f"version {getattr(entry.target, 'name', '')} of the service",
    }[type(entry.target)]
    if entry.abort_status is not None:
        return f"get a {entry.abort_status} response; {where} is not contacted"
    return f"are mirrored to {where}; the real service responds" if entry.mirror else f"go to {where}"


def _consequences(entry: Entry) -> list[str]:
    lines = []
    if entry.delay_s is not None:
        lines.append(f"each is delayed by {_duration(entry.delay_s)}")
    if entry.timeout_s is not None:
        lines.append(f"each may take at most {_duration(entry.timeout_s)}")
    if not entry.mirror and entry.abort_status is None:
        failure = "the caller gets an error" if entry.fallback == "fail" else "the real service responds"
        lines.append(f"if that fails, {failure}")
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
