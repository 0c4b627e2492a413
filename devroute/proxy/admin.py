"""The admin port: liveness, readiness and metrics, for the kubelet and Prometheus. Changes nothing."""

from collections.abc import Awaitable, Callable, Mapping

from devroute.proxy.ports.message import Request, Response, json_response
from devroute.proxy.ports.routes import Routes


def admin_routes(
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
    readiness: Callable[[], Mapping[str, object]],
) -> Routes:
    """`metrics(accept)` returns the body of /metrics and its Content-Type, `readiness` the body of /readyz,
    whose status is 200 if `ready` in it is true."""

    def healthz(request: Request) -> Response:
        return json_response({"alive": True})

    def readyz(request: Request) -> Response:
        details = readiness()
        return json_response(details, 200 if details["ready"] else 503)

    async def metrics_text(request: Request) -> Response:
        body, content_type = await metrics(", ".join(request.values("accept")))
        return Response(200, {"content-type": content_type}, body)

    routes = Routes("devroute's admin port")
    routes.get("/healthz", healthz)
    routes.get("/readyz", readyz)
    routes.get("/metrics", metrics_text)
    return routes
