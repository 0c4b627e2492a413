// A service that calls DOWNSTREAM for each request; only its tracer knows of headers.
//
// `node app.cjs [jaeger|zipkin]`: a tracer that is called in code. The others are loaded before it (--require).

const { createServer } = require("node:http");

const onward = async (headers) => (await fetch(process.env.DOWNSTREAM, { headers })).text();

function jaeger() {
  const { initTracer } = require("jaeger-client");
  const { FORMAT_HTTP_HEADERS } = require("opentracing");
  const tracer = initTracer({ serviceName: "middle", sampler: { type: "const", param: 1 } }, {});
  return (request) => {
    const span = tracer.startSpan("call", { childOf: tracer.extract(FORMAT_HTTP_HEADERS, request.headers) });
    const headers = {};
    tracer.inject(span, FORMAT_HTTP_HEADERS, headers);
    return onward(headers);
  };
}

function zipkin() {
  const { ExplicitContext, Instrumentation, Tracer, option } = require("zipkin");
  const tracer = new Tracer({ ctxImpl: new ExplicitContext(), recorder: { record() {} }, localServiceName: "middle" });
  const server = new Instrumentation.HttpServer({ tracer, port: 80 });
  const client = new Instrumentation.HttpClient({ tracer, remoteServiceName: "b" });
  return (request) =>
    tracer.scoped(() => {
      server.recordRequest("GET", "/", (name) => {
        const value = request.headers[name.toLowerCase()];
        return value === undefined ? option.None : new option.Some(value);
      });
      return onward(client.recordRequest({ headers: {} }, "http://b/", "GET").headers);
    });
}

const handle = { jaeger, zipkin }[process.argv[2]]?.() ?? (() => onward({}));
createServer(async (request, response) => response.end(await handle(request))).listen(process.env.PORT, "127.0.0.1");
