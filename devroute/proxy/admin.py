"""The admin port: liveness, readiness and counters, for the kubelet and Prometheus. Changes nothing."""

from collections.abc import Callable, Mapping

from aiohttp import web

from devroute.proxy.telemetry.metrics import Metrics


def create_app(
    counters: Metrics, gauges: Callable[[], Mapping[str, int]], readiness: Callable[[], Mapping[str, object]]
) -> web.Application:
    """`readiness` gives the details of /readyz; the proxy is ready where its `ready` is true."""

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        details = readiness()
        return web.json_response(details, status=200 if details["ready"] else 503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            text=counters.as_text(gauges()),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
