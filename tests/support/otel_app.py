"""An app with the OpenTelemetry SDK, and an Envoy whose tracer is OpenTelemetry's: what joins our traces."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

from devroute.mesh.istio.sidecar import HCM, HCM_TYPE, Document, Endpoint
from tests.envoy.harness import serving

#: The cluster by which a sidecar knows the collector.
COLLECTOR = "outbound|4318||collector.observability.svc.cluster.local"
#: Envoy sends a batch once it has so many spans, else after 5 s.
ENVOYS_BATCH = 5


@asynccontextmanager
async def otel_app(collector: str, name: str) -> AsyncIterator[Endpoint]:
    """Makes a server span of each request, below the span that the propagator finds in its headers."""
    provider = TracerProvider(resource=Resource({"service.name": name}))
    exporter = OTLPSpanExporter(endpoint=f"{collector}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
    tracer = provider.get_tracer("app")

    async def respond(request: web.Request) -> web.Response:
        carrier = {key.lower(): value for key, value in request.headers.items()}
        context = get_global_textmap().extract(carrier)
        with tracer.start_as_current_span("respond", context, kind=SpanKind.SERVER):
            return web.json_response(carrier)

    async with serving(respond) as app:
        yield app
    provider.shutdown()


def tracing_filter(name: str) -> Document:
    """A team's EnvoyFilter: the sidecar's requests have spans of OpenTelemetry."""
    http = {"uri": "http://collector:4318/v1/traces", "cluster": COLLECTOR, "timeout": "5s"}
    return filter_with_tracer(
        "opentelemetry", "OpenTelemetry", http_service={"http_uri": http}, service_name=name
    )


def filter_with_tracer(name: str, kind: str, **settings: object) -> Document:
    """The same with another of Envoy's tracers: its name, the kind of its settings, and those."""
    typed = {"@type": f"type.googleapis.com/envoy.config.trace.v3.{kind}Config", **settings}
    provider = {"name": f"envoy.tracers.{name}", "typed_config": typed}
    connections = {
        "@type": HCM_TYPE,
        "tracing": {"provider": provider, "spawn_upstream_span": True},
    }
    patch = {
        "applyTo": "NETWORK_FILTER",
        "match": {"context": "SIDECAR_INBOUND", "listener": {"filterChain": {"filter": {"name": HCM}}}},
        "patch": {"operation": "MERGE", "value": {"name": HCM, "typed_config": connections}},
    }
    return {"metadata": {"name": "tracing", "namespace": "default"}, "spec": {"configPatches": [patch]}}
