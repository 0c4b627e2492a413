"""Errors of a request's handler as responses."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from devroute.errors import DevrouteError, MethodNotAllowed, NotFound, RequestMalformed


async def as_errors(
    request: web.Request,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    refusal: Callable[[web.Request, DevrouteError], web.Response],
    max_body: int,
) -> web.StreamResponse:
    """The handler's response, or that which `refusal` makes of an error. `max_body`: bytes of the largest
    body that the application accepts."""
    try:
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
        return refusal(request, RequestMalformed(f"the body is larger than {max_body >> 20} MiB"))
