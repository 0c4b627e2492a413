"""The admin port: liveness, readiness and metrics, for the kubelet and Prometheus. Changes nothing."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web


def create_app(
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
    readiness: Callable[[], Mapping[str, object]],
) -> web.Application:
    """`metrics(accept)` returns the body of /metrics and its Content-Type, `readiness` the body of /readyz,
    whose status is 200 if `ready` in it is true."""

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        details = readiness()
        return web.json_response(details, status=200 if details["ready"] else 503)

    async def metrics_text(request: web.Request) -> web.Response:
        body, content_type = await metrics(", ".join(request.headers.getall("accept", [])))
        return web.Response(body=body, headers={"content-type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_text)
    return app
