"""Admits or refuses requests, and turns errors of their handlers into responses."""

from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from devroute.errors import DevrouteError, MethodNotAllowed, NotFound, RequestMalformed
from devroute.http.error_response import error_body

Refusal = Callable[[web.Request, DevrouteError], web.Response]


def as_json(request: web.Request, error: DevrouteError) -> web.Response:
    return web.Response(body=error_body(error), status=error.status, content_type="application/json")


def guard(admit: Callable[[web.Request], None], refusal: Refusal = as_json) -> Middleware:
    """The middleware of an application: `admit` raises why a request is refused, `refusal` makes the response
    to each error."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            admit(request)
            return await handler(request)
        except DevrouteError as error:
            return refusal(request, error)
        except web.HTTPMethodNotAllowed as error:
            response = refusal(request, MethodNotAllowed(f"{request.path} does not support {request.method}"))
            response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
            return response
        except web.HTTPNotFound:
            return refusal(request, NotFound(f"there is no {request.path}"))
        except web.HTTPRequestEntityTooLarge:
            largest = f"{request.client_max_size >> 20} MiB"
            return refusal(request, RequestMalformed(f"the body is larger than {largest}"))

    return guarded
