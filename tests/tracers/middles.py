"""Services that pass on what their tracer does: how each is started, and what goes on (docs/propagation.md,
"What survives", has the same table).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.tracers.packages import HERE, PYTHON, folder

#: The tracers have no collector, and need none to pass headers on.
SILENT = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
    "DD_TRACE_STARTUP_LOGS": "false",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
}
#: Datadog's tracers take it for a wish to be off, and Node's SDK is given an exporter of its own.
NO_SPANS = {"OTEL_TRACES_EXPORTER": "none"}
TRACECONTEXT = {"OTEL_PROPAGATORS": "tracecontext"}
B3 = {"OTEL_PROPAGATORS": "b3multi"}
DATADOG_ALONE = {"DD_TRACE_PROPAGATION_STYLE": "datadog"}
DATADOG_TRACECONTEXT = {"DD_TRACE_PROPAGATION_STYLE": "datadog,tracecontext"}

#: The folder of what each language needs; a service without a tracer is one in Python.
_RUNTIMES = {
    "any": "python",
    "Python": "python",
    "Node.js": "node",
    "Go": "go",
    "Java": "java",
    "Java, Spring Boot 4.0": "spring",
}


@dataclass(frozen=True, slots=True)
class Middle:
    """A service of `language` that a `tracer` with `propagators` (as the page names them) passes headers
    through.

    `passes_on` are the carriers in which a contract that came in all of them goes on, `trace` the headers in
    which the id of the request's trace does, if the request had it in all that are usual.
    """

    language: str
    tracer: str
    propagators: str
    command: tuple[str, ...]
    passes_on: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> tuple[str, ...]:
        """The first cells of the page's row."""
        cells = (self.passes_on, self.trace)
        return (
            self.language,
            self.tracer,
            self.propagators,
            *(", ".join(f"`{each}`" for each in cell) or "nothing" for cell in cells),
        )

    @property
    def runtime(self) -> str:
        return _RUNTIMES[self.language]

    def arguments(self) -> list[str]:
        return [word.replace("{folder}", str(folder(self.runtime))) for word in self.command]

    def environment(self) -> dict[str, str]:
        installed = str(folder(self.runtime))
        paths = {"python": {"PYTHONPATH": installed}, "node": {"NODE_PATH": f"{installed}/node_modules"}}
        return {**SILENT, **paths.get(self.runtime, {}), **self.settings}


def _python(word: str = "", starter: str = "") -> tuple[str, ...]:
    started = (PYTHON, f"{{folder}}/bin/{starter}") if starter else ()
    return (*started, PYTHON, str(HERE / "python" / "app.py"), word)


def _node(required: str, *words: str) -> tuple[str, ...]:
    required = str(HERE / "node" / required) if required.endswith(".cjs") else required
    return ("node", *(("--require", required) if required else ()), str(HERE / "node" / "app.cjs"), *words)


_PY_OTEL = _python(starter="opentelemetry-instrument")
_PY_DATADOG = _python(starter="ddtrace-run")
_NODE_OTEL = _node("opentelemetry.cjs")
_NODE_DATADOG = _node("dd-trace/init")
_GO = "{folder}/middle"
_JAVA_OTEL = ("java", "-javaagent:{folder}/opentelemetry-javaagent.jar", "-cp", "{folder}", "App")


def _spring(tracing: str, *words: str) -> tuple[str, ...]:
    return (
        "java",
        "-jar",
        f"{{folder}}/spring-boot-starter-{tracing}.jar",
        "--server.address=127.0.0.1",
        *words,
    )


_REMOTE_FIELDS = "management.tracing.baggage.remote-fields=x-devroute"

_JAEGER = ("uberctx-devroute",)
_W3C = ("tracestate",)
_BOTH = ("baggage", "tracestate")
_ELASTIC = ("traceparent", "elastic-apm-traceparent")
_OT = "ot-baggage-devroute"
_DATADOG = ("traceparent", "x-datadog-trace-id")

MIDDLES = (
    Middle("Python", "OpenTelemetry 1.45", "default", _PY_OTEL, _BOTH, ("traceparent",), NO_SPANS),
    Middle(
        "Python",
        "OpenTelemetry 1.45",
        "`tracecontext`",
        _PY_OTEL,
        _W3C,
        ("traceparent",),
        {**NO_SPANS, **TRACECONTEXT},
    ),
    Middle("Python", "OpenTelemetry 1.45", "`b3multi`", _PY_OTEL, (), ("x-b3-traceid",), {**NO_SPANS, **B3}),
    Middle(
        "Python",
        "OpenTelemetry 1.45",
        "`b3multi,baggage`",
        _PY_OTEL,
        ("baggage",),
        ("x-b3-traceid",),
        {**NO_SPANS, "OTEL_PROPAGATORS": "b3multi,baggage"},
    ),
    Middle("Python", "ddtrace 4.16", "default", _PY_DATADOG, _BOTH, _DATADOG),
    Middle(
        "Python",
        "ddtrace 4.16",
        "`datadog,tracecontext`",
        _PY_DATADOG,
        _W3C,
        _DATADOG,
        DATADOG_TRACECONTEXT,
    ),
    Middle("Python", "Elastic APM 6.26", "default", _python("elastic"), _W3C, _ELASTIC),
    Middle("Python", "Jaeger client 4.8", "default", _python("jaeger"), _JAEGER, ("uber-trace-id",)),
    Middle("Python", "py-zipkin 1.2", "B3", _python("zipkin"), (), ("x-b3-traceid",)),
    Middle("Python", "Sentry 2.75", "default", _python("sentry")),
    Middle("Node.js", "OpenTelemetry 2.12", "default", _NODE_OTEL, _BOTH, ("traceparent",)),
    Middle(
        "Node.js", "OpenTelemetry 2.12", "`tracecontext`", _NODE_OTEL, _W3C, ("traceparent",), TRACECONTEXT
    ),
    Middle("Node.js", "OpenTelemetry 2.12", "`b3multi`", _NODE_OTEL, (), ("x-b3-traceid",), B3),
    Middle("Node.js", "dd-trace 5.132", "default", _NODE_DATADOG, (*_BOTH, _OT), _DATADOG),
    Middle(
        "Node.js",
        "dd-trace 5.132",
        "`datadog`",
        _NODE_DATADOG,
        (_OT,),
        ("x-datadog-trace-id",),
        DATADOG_ALONE,
    ),
    Middle("Node.js", "Elastic APM 4.18", "default", _node("elastic.cjs"), _W3C, ("traceparent",)),
    Middle("Node.js", "Jaeger client 3.19", "default", _node("", "jaeger"), _JAEGER, ("uber-trace-id",)),
    Middle("Node.js", "zipkin 0.22", "B3", _node("", "zipkin"), (), ("x-b3-traceid",)),
    Middle("Node.js", "Sentry 11.12", "default", _node("sentry.cjs")),
    Middle("Go", "OpenTelemetry 1.47", "default", (_GO, "otel")),
    Middle(
        "Go", "OpenTelemetry 1.47", "`TraceContext{}`", (_GO, "otel-tracecontext"), _W3C, ("traceparent",)
    ),
    Middle(
        "Go",
        "OpenTelemetry 1.47",
        "`TraceContext{}`, `Baggage{}`",
        (_GO, "otel-tracecontext-baggage"),
        _BOTH,
        ("traceparent",),
    ),
    Middle("Go", "dd-trace-go 2", "default", (_GO, "datadog"), (*_BOTH, _OT), _DATADOG),
    Middle("Go", "Jaeger client 2.30", "default", (_GO, "jaeger"), _JAEGER, ("uber-trace-id",)),
    Middle("Go", "zipkin-go 0.4", "B3", (_GO, "zipkin"), (), ("x-b3-traceid",)),
    Middle("Java", "OpenTelemetry's agent 2.31", "default", _JAVA_OTEL, _BOTH, ("traceparent",), NO_SPANS),
    Middle(
        "Java",
        "OpenTelemetry's agent 2.31",
        "`tracecontext`",
        _JAVA_OTEL,
        _W3C,
        ("traceparent",),
        {**NO_SPANS, **TRACECONTEXT},
    ),
    Middle(
        "Java, Spring Boot 4.0", "OpenTelemetry", "default", _spring("opentelemetry"), _BOTH, ("traceparent",)
    ),
    Middle("Java, Spring Boot 4.0", "Brave", "default", _spring("zipkin"), (), ("traceparent",)),
    Middle(
        "Java, Spring Boot 4.0",
        "Brave",
        f"`{_REMOTE_FIELDS}`",
        _spring("zipkin", f"--{_REMOTE_FIELDS}"),
        ("x-devroute",),
        ("traceparent",),
    ),
    Middle(
        "any", "by hand", "`x-request-id` and B3", _python("by-hand"), (), ("x-b3-traceid", "x-request-id")
    ),
    Middle("any", "none", "none", _python()),
)
