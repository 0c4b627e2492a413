"""The upstreams of the laptop's apps, and what wraps each: recorder, rules, rewriting of Host."""

from collections.abc import Callable

from devroute.agent.settings import AgentSettings
from devroute.contract.service_spec import ServiceSpec
from devroute.inspector.recorder import App, Recorder, RecordingUpstream
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.rules.upstream import RulesUpstream
from devroute.upstream.local_app import local_app


def app_upstreams(
    settings: AgentSettings, rules: RuleList, redact: Redaction, recorder: Recorder | None
) -> Callable[[ServiceSpec], App]:
    """What makes that of a service. `recorder`: None where there is no inspector, and so no rules beside the
    settings' own."""

    def around(spec: ServiceSpec) -> App:
        app: App = local_app(spec, settings.retry_refused)
        if settings.host_header != "keep":
            from devroute.agent.host_header import HostRewriting

            app = HostRewriting(app, spec, settings.host_header)
        if recorder is not None or settings.rules:
            app = RulesUpstream(app, spec.service, rules, redact)
        return app if recorder is None else RecordingUpstream(app, spec.service, recorder)

    return around
