"""A service that calls DOWNSTREAM for each request; only its tracer knows of headers.

The first argument is a tracer that is set up in code, "by-hand" or "". OpenTelemetry and Datadog need none:
they start the program.
"""

import os
import sys

import requests
from flask import Flask, request

WHICH = sys.argv[1]
NOWHERE = "http://127.0.0.1:9"  # no collector is needed to pass headers on

if WHICH == "sentry":
    import sentry_sdk

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0)

app = Flask("middle")


def onward(headers):
    return requests.get(os.environ["DOWNSTREAM"], headers=headers, timeout=30).text


if WHICH == "elastic":
    from elasticapm.contrib.flask import ElasticAPM

    app.config["ELASTIC_APM"] = {
        "SERVICE_NAME": "middle",
        "SERVER_URL": NOWHERE,
        "CENTRAL_CONFIG": "false",
        "CLOUD_PROVIDER": "none",
    }
    ElasticAPM(app)


if WHICH == "jaeger":
    import opentracing
    from jaeger_client import Config

    FORMAT = opentracing.Format.HTTP_HEADERS
    tracer = Config({"sampler": {"type": "const", "param": 1}}, service_name="middle").initialize_tracer()

    @app.get("/")
    def handle():
        headers = {}
        with tracer.start_span("call", child_of=tracer.extract(FORMAT, dict(request.headers))) as span:
            tracer.inject(span, FORMAT, headers)
        return onward(headers)

elif WHICH == "zipkin":
    from py_zipkin.request_helpers import create_http_headers, extract_zipkin_attrs_from_headers
    from py_zipkin.zipkin import zipkin_span

    @app.get("/")
    def handle():
        attributes = extract_zipkin_attrs_from_headers(request.headers)
        with zipkin_span(
            service_name="middle",
            span_name="call",
            transport_handler=lambda _: None,
            zipkin_attrs=attributes,
            sample_rate=100.0 if attributes is None else None,
        ):
            return onward(create_http_headers())

elif WHICH == "by-hand":

    @app.get("/")
    def handle():
        names = ("x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled")
        return onward({name: request.headers[name] for name in names if name in request.headers})

else:

    @app.get("/")
    def handle():
        return onward({})


app.run("127.0.0.1", int(os.environ["PORT"]), threaded=True)
