"""Which handler a request is for: the paths of sidecars, gateways, the kubelet and Prometheus, each one whole
path without a variable."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from devroute.errors import MethodNotAllowed, NotFound
from devroute.proxy.ports.message import Request, Response, error_response, failure

#: What a handler returns: the response, or what there is to be awaited for it.
Outcome = Response | Coroutine[Any, Any, Response]
Handler = Callable[[Request], Outcome]


class Routes:
    """`port`: what errors call it."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._handlers: dict[str, dict[str, Handler]] = {}
        self._paths: set[bytes] = set()

    def get(self, path: str, handler: Handler) -> None:
        """HEAD has the same handler; the server leaves out the body."""
        self._add(path, "GET", handler)
        self._add(path, "HEAD", handler)

    def post(self, path: str, handler: Handler) -> None:
        self._add(path, "POST", handler)

    def _add(self, path: str, method: str, handler: Handler) -> None:
        self._handlers.setdefault(path, {})[method] = handler
        self._paths.add(path.encode())

    def __contains__(self, path: bytes) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[tuple[str, str, Handler]]:
        """Method, path and handler of each route."""
        for path, methods in self._handlers.items():
            for method, handler in methods.items():
                yield method, path, handler

    def serve(self, request: Request) -> Outcome:
        """Never raises; what it returns to be awaited may."""
        handlers = self._handlers.get(request.path)
        if handlers is None:
            return error_response(no_such_path(request.path, self._port))
        handler = handlers.get(request.method)
        if handler is None:
            return not_allowed(request.method, request.path, handlers)
        try:
            return handler(request)
        except Exception as error:  # noqa: BLE001  # `failure` logs it
            return failure(error, request.path)


def no_such_path(path: str, port: str) -> NotFound:
    return NotFound(f"there is no {path}", hint=f"this is {port}")


def not_allowed(method: str, path: str, allowed: Iterable[str]) -> Response:
    response = error_response(MethodNotAllowed(f"{method} is not for {path}"))
    response.fields["allow"] = ", ".join(sorted(allowed))
    return response
