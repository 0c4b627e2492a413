// A service that calls DOWNSTREAM for each request; only its tracer, the first argument, knows of headers.
package main

import (
	"io"
	"log"
	"net/http"
	"os"

	datadog "github.com/DataDog/dd-trace-go/contrib/net/http/v2"
	"github.com/DataDog/dd-trace-go/v2/ddtrace/tracer"
	"github.com/opentracing-contrib/go-stdlib/nethttp"
	"github.com/opentracing/opentracing-go"
	"github.com/openzipkin/zipkin-go"
	zipkinhttp "github.com/openzipkin/zipkin-go/middleware/http"
	"github.com/openzipkin/zipkin-go/reporter"
	"github.com/uber/jaeger-client-go"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/trace"
)

var (
	client = http.DefaultClient
	send   = func(r *http.Request) (*http.Response, error) { return client.Do(r) }
)

func handle(w http.ResponseWriter, r *http.Request) {
	request, err := http.NewRequestWithContext(r.Context(), "GET", os.Getenv("DOWNSTREAM"), nil)
	if err == nil {
		var reply *http.Response
		if reply, err = send(request); err == nil {
			defer reply.Body.Close()
			io.Copy(w, reply.Body)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadGateway)
}

func main() {
	var handler http.Handler = http.HandlerFunc(handle)
	switch os.Args[1] {
	case "otel":
		handler = withOpenTelemetry(handler, nil)
	case "otel-tracecontext":
		handler = withOpenTelemetry(handler, propagation.TraceContext{})
	case "otel-tracecontext-baggage":
		both := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
		handler = withOpenTelemetry(handler, both)
	case "datadog":
		tracer.Start()
		handler = datadog.WrapHandler(handler, "middle", "/")
		client = datadog.WrapClient(&http.Client{})
	case "jaeger":
		handler = withJaeger(handler)
	case "zipkin":
		handler = withZipkin(handler)
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), handler))
}

func withOpenTelemetry(handler http.Handler, propagator propagation.TextMapPropagator) http.Handler {
	otel.SetTracerProvider(trace.NewTracerProvider())
	if propagator != nil {
		otel.SetTextMapPropagator(propagator)
	}
	client = &http.Client{Transport: otelhttp.NewTransport(http.DefaultTransport)}
	return otelhttp.NewHandler(handler, "middle")
}

func withJaeger(handler http.Handler) http.Handler {
	tracer, _ := jaeger.NewTracer("middle", jaeger.NewConstSampler(true), jaeger.NewNullReporter())
	opentracing.SetGlobalTracer(tracer)
	client = &http.Client{Transport: &nethttp.Transport{}}
	send = func(r *http.Request) (*http.Response, error) {
		traced, call := nethttp.TraceRequest(tracer, r)
		defer call.Finish()
		return client.Do(traced)
	}
	return nethttp.Middleware(tracer, handler)
}

func withZipkin(handler http.Handler) http.Handler {
	endpoint, err := zipkin.NewEndpoint("middle", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	tracer, err := zipkin.NewTracer(reporter.NewNoopReporter(), zipkin.WithLocalEndpoint(endpoint))
	if err != nil {
		log.Fatal(err)
	}
	transport, err := zipkinhttp.NewTransport(tracer)
	if err != nil {
		log.Fatal(err)
	}
	client = &http.Client{Transport: transport}
	return zipkinhttp.NewServerMiddleware(tracer)(handler)
}
