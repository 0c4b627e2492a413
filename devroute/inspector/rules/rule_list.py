"""The rules of one `devroute up`, in order of precedence: those of the page, the newest first, then those of
the settings. The first that matches applies. Owns whether they are on; saves nothing.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from devroute.errors import ConfigInvalid, NotFound
from devroute.http.http2.headers import is_grpc
from devroute.http.message import Headers, RequestHead
from devroute.inspector.capture import Direction
from devroute.inspector.rules.breakpoints import Breakpoints
from devroute.inspector.rules.pattern import Condition
from devroute.inspector.rules.responses import failure, make_response
from devroute.inspector.rules.settings import (
    MAX_BODY_BYTES,
    MAX_RULES,
    Respond,
    RuleSettings,
    read_rule,
)
from devroute.upstream.made_response import Made

Source = Literal["settings", "page"]


@cache
def _no_response() -> Respond:
    """Of a rule without one of its own. Not made before there is a rule: pydantic then builds its schema."""
    return Respond()


class Rule:
    """A rule that is ready to be applied. `hits`: requests that it has matched."""

    def __init__(self, number: int, settings: RuleSettings, source: Source) -> None:
        self.id = number
        self.source = source
        self.hits = 0
        self.read(settings)

    def read(self, settings: RuleSettings) -> None:
        """Take these settings from now on."""
        self.settings = settings
        self.label = settings.label
        self.condition = Condition(settings.method, settings.path, settings.header)
        respond = settings.respond or _no_response()
        self._status = respond.status
        self._fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in respond.headers]
        self._trailers: Headers = [(n.lower().encode(), v.encode("latin-1")) for n, v in respond.trailers]
        self._body = respond.content()
        if isinstance(respond.body, dict | list) and not any(
            n.lower() == b"content-type" for n, _ in self._fields
        ):
            self._fields.insert(0, (b"content-type", b"application/json"))
        self._file = respond.body_file
        self._read: tuple[int, int] | None = None

    @property
    def enabled(self) -> bool:
        return self.settings.enabled

    def enable(self, enabled: bool) -> None:
        self.settings = self.settings.model_copy(update={"enabled": enabled})

    def response(self, head: RequestHead) -> Made:
        """The response of `respond` or `fail`."""
        fail = self.settings.fail
        if isinstance(fail, int):
            return failure(head, fail, is_grpc(head.wire), self.label)
        if self._file is not None and not self._read_file(self._file):
            body = f"rule '{self.label}': {self._file} cannot be read\n".encode()
            return make_response(head.method, 500, [(b"content-type", b"text/plain")], body, [])
        return make_response(head.method, self._status, self._fields, self._body, self._trailers)

    def _read_file(self, file: Path) -> bool:
        """Read the body again if the file has changed."""
        try:
            status = file.stat()
            now = (status.st_mtime_ns, status.st_size)
            if now != self._read:
                if status.st_size > MAX_BODY_BYTES:
                    return False
                self._body = file.read_bytes()
                self._read = now
        except OSError:
            return False
        return True

    def as_document(self) -> dict[str, Any]:
        """As in devroute.yaml."""
        return self.settings.as_document()

    def as_json(self) -> dict[str, Any]:
        """Without the response, which may be long."""
        return {
            "id": self.id,
            "label": self.label,
            "direction": self.settings.direction,
            "service": self.settings.service,
            "does": self.settings.does,
            "source": self.source,
            "enabled": self.enabled,
            "hits": self.hits,
        }


class Applied(Protocol):
    """An upstream that applies rules: those of `direction` and `service`, in `rules`."""

    direction: Direction
    service: str
    rules: tuple[Rule, ...]


class RuleList:
    def __init__(self, rules: Iterable[RuleSettings] = ()) -> None:
        self.on = True
        #: Grows with each change of anything that the page shows.
        self.version = 0
        self.breakpoints = Breakpoints(self.changed)
        self._last_id = 0
        self._applied: list[Applied] = []
        self._callbacks: list[Callable[[], None]] = []
        self.rules = [self._made(settings, "settings") for settings in rules]

    def _made(self, settings: RuleSettings, source: Source) -> Rule:
        self._last_id += 1
        return Rule(self._last_id, settings, source)

    # --- who applies them, and who shows them

    def apply_to(self, upstream: Applied) -> None:
        """Keep its `rules` up to date."""
        self._applied.append(upstream)
        self._choose(upstream)

    def leave(self, upstream: Applied) -> None:
        """The upstream gets no more requests."""
        if upstream in self._applied:
            self._applied.remove(upstream)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change; returns the function that ends that."""
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def changed(self) -> None:
        self.version += 1
        for callback in list(self._callbacks):
            callback()

    def _update(self) -> None:
        for upstream in self._applied:
            self._choose(upstream)
        self.changed()

    def _choose(self, upstream: Applied) -> None:
        upstream.rules = tuple(
            each
            for each in self.rules
            if self.on
            and each.enabled
            and each.settings.direction == upstream.direction
            and each.settings.service in ("", upstream.service)
        )

    # --- changes

    @property
    def active(self) -> int:
        """Rules that apply now."""
        return sum(each.enabled for each in self.rules) if self.on else 0

    def get(self, number: int) -> Rule:
        for each in self.rules:
            if each.id == number:
                return each
        raise NotFound(f"there is no rule {number}")

    def add(self, document: object) -> Rule:
        """A rule from the page, before all others. Raises ConfigInvalid."""
        if len(self.rules) >= MAX_RULES:
            raise ConfigInvalid(f"there are {MAX_RULES} rules already", hint="delete some")
        rule = self._made(self._read(document), "page")
        self.rules.insert(0, rule)
        self._update()
        return rule

    def replace(self, number: int, document: object) -> Rule:
        """Raises NotFound, ConfigInvalid."""
        rule = self.get(number)
        rule.read(self._read(document, rule))
        self._update()
        return rule

    def _read(self, document: object, before: Rule | None = None) -> RuleSettings:
        """A page cannot name files: it could have any that this process reads sent to a caller."""
        settings = read_rule(document, "the rule")
        known = None if before is None else before.settings.body_file
        if settings.body_file not in (None, known):
            raise ConfigInvalid("the rule: body_file is for devroute.yaml", hint="write the body itself")
        served = sorted(each.service for each in self._applied if each.direction == "in")
        # A service of the mesh may be called later.
        if settings.direction == "in" and settings.service and settings.service not in served:
            raise ConfigInvalid(
                f"the rule: '{settings.service}' is not served here", hint=f"there are {', '.join(served)}"
            )
        return settings

    def enable(self, number: int, enabled: bool) -> Rule:
        rule = self.get(number)
        rule.enable(enabled)
        self._update()
        return rule

    def remove(self, number: int) -> None:
        self.rules.remove(self.get(number))
        self._update()

    def switch(self, on: bool) -> None:
        """All rules on, or off: then what is held continues too."""
        self.on = on
        self._update()
        if not on:
            self.breakpoints.release("the rules were turned off")

    def hit(self, rule: Rule) -> None:
        rule.hits += 1
        self.changed()

    # --- for the page

    def as_json(self) -> dict[str, Any]:
        return {
            "on": self.on,
            "rules": [each.as_json() for each in self.rules],
            "held": self.breakpoints.summaries(),
        }

    def as_yaml(self, numbers: Iterable[int] = ()) -> str:
        """The rules with these numbers, or all, as `rules:` of devroute.yaml."""
        import yaml

        wanted = set(numbers)
        documents = [each.as_document() for each in self.rules if not wanted or each.id in wanted]
        return yaml.safe_dump({"rules": documents}, sort_keys=False, allow_unicode=True, width=100)
