"""The result of one check."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from devroute.errors import DevrouteError


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `error` is set if it failed, and determines the exit code."""

    check: str
    result: Literal["ok", "warn", "fail", "skip"]
    text: str
    remedy: str = ""
    error: DevrouteError | None = None

    def as_dict(self) -> dict[str, object]:
        return asdict(replace(self, error=None)) | {"error": self.error and self.error.code}


def failure(check: str, error: DevrouteError) -> Finding:
    return Finding(check, "fail", error.message, error.hint, error)
