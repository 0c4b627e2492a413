"""The upstream around an app, or around a service of the mesh, that applies the laptop's rules. Without any
it is one test for each request.

It stands inside the recorder, so that captures show what rules did, and outside everything that is the app's
own: rules see requests and responses as the mesh does.
"""

from functools import partial
from typing import Final

from devroute.errors import DevrouteError, UpstreamReset
from devroute.http.message import RequestHead
from devroute.inspector.capture import Direction
from devroute.inspector.recorder import App
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules.held_streams import Breaking, HeldRequest, ResponseBreak
from devroute.inspector.rules.marking import MarkingSink
from devroute.inspector.rules.responses import RespondUpstream
from devroute.inspector.rules.rule_list import Rule, RuleList
from devroute.upstream.faults import Delayed, DelayUpstream, TimeoutUpstream, too_long
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.quota import RefusingUpstream

#: Requests of a service that rules delay; further ones are refused.
MAX_DELAYED: Final = 2048


class RulesUpstream:
    """Implements recorder.App. `rules`: those that apply now, which the list keeps up to date until `close`.
    `service` and `direction` as of Capture."""

    def __init__(
        self, app: App, service: str, rule_list: RuleList, redact: Redaction, direction: Direction = "in"
    ) -> None:
        self.rules: tuple[Rule, ...] = ()
        self.direction: Direction = direction
        self.service = service
        self._app = app
        self._rule_list = rule_list
        self._redact = redact
        self._delayed = Delayed(MAX_DELAYED)
        rule_list.apply_to(self)

    async def close(self) -> None:
        self._rule_list.leave(self)
        await self._app.close()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        for rule in self.rules:
            if rule.condition.matches(head):
                return self._apply(rule, head, sink)
        return self._app.open(head, sink)

    def _apply(self, rule: Rule, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        self._rule_list.hit(rule)
        settings = rule.settings
        marking = MarkingSink(sink, head.method, rule.label)
        upstream: Upstream = self._app
        if settings.respond is not None or isinstance(settings.fail, int):
            upstream = RespondUpstream(rule.response, self.service)
            doing = "responded" if settings.fail is None else f"failed it with {settings.fail}"
        elif settings.fail is not None:
            doing = "ended the connection"
            text = f"the connection was ended by rule '{rule.label}' of the laptop"
            upstream = RefusingUpstream(UpstreamReset(text, hint="the rule has 'fail: reset'"))
        else:
            doing = ""
            if settings.break_ is not None:
                upstream = self._breaking(rule)
        if settings.delay is not None:
            marking.add(f"delayed it by {settings.delay:g} s")
            upstream = DelayUpstream(upstream, settings.delay, self._delayed)
        if settings.timeout is not None:
            late = partial(self._too_long, rule.label, settings.timeout, marking)
            upstream = TimeoutUpstream(upstream, settings.timeout, late)
        if doing:
            marking.add(doing)
        return upstream.open(head, marking)

    def _too_long(self, label: str, seconds: float, marking: MarkingSink) -> DevrouteError:
        marking.note(f"ended it after {seconds:g} s")
        return too_long(self.service, seconds, f"the timeout of rule '{label}' of the laptop")

    def _breaking(self, rule: Rule) -> Upstream:
        how = Breaking(self._rule_list.breakpoints, self._redact, rule.label, self.service)
        upstream: Upstream = self._app
        if rule.settings.break_ != "request":
            upstream = ResponseBreak(how, upstream)
        if rule.settings.break_ != "response":
            upstream = _RequestBreak(how, upstream)
        return upstream


class _RequestBreak:
    """Holds requests for `app`; implements Upstream."""

    def __init__(self, how: Breaking, app: Upstream) -> None:
        self._how = how
        self._app = app

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        assert isinstance(sink, MarkingSink)
        if obstacle := self._how.breakpoints.obstacle():
            sink.note(f"did not hold the request: {obstacle}")
            return self._app.open(head, sink)
        return HeldRequest(self._how, self._app, head, sink)
