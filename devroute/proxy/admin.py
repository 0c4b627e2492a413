"""The admin port: liveness, readiness and metrics, for the kubelet and Prometheus. Changes nothing."""

from collections.abc import Callable, Mapping

from aiohttp import web

from devroute.proxy.telemetry.telemetry import Telemetry


def create_app(
    telemetry: Telemetry,
    gauges: Callable[[], Mapping[str, int]],
    readiness: Callable[[], Mapping[str, object]],
    counters: Callable[[], Mapping[str, int]],
) -> web.Application:
    """`counters` are added to those of `telemetry`. `readiness` returns the body of /readyz; its status is
    200 if `ready` in it is true."""

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        details = readiness()
        return web.json_response(details, status=200 if details["ready"] else 503)

    async def metrics_text(request: web.Request) -> web.Response:
        return web.Response(
            text=telemetry.metrics.as_text(gauges(), {**telemetry.counters(), **counters()}),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_text)
    return app
