"""The app of a pod or a laptop: `python app.py NAME [PORT] [NEXT]`. Imports nothing of devroute.

Any path responds with JSON: `hops` (its name, then those of the apps behind it) and the host that was asked
for. /chain asks NEXT with the contract's headers passed on, /status/503 has that status, /slow/2 takes 2 s,
/missing/a is 404 of apps whose names begin with a, /requests lists what came so far. WebSocket messages are
echoed with the name. gRPC: PORT + 920, /t.T/Echo.
"""

import asyncio
import sys
from typing import Any

from aiohttp import ClientError, ClientSession, WSMsgType, web

PASSED_ON = ("x-devroute", "baggage", "x-request-id", "traceparent")


class App:
    def __init__(self, name: str, following: str) -> None:
        self._name, self._following = name, following
        self.requests: list[dict[str, Any]] = []
        self._session: ClientSession | None = None

    async def respond(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/requests":
            return web.json_response(self.requests)
        described: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "headers": dict(request.headers),
        }
        self.requests.append(described)
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await self._socket(request)
        size = len(await request.read())
        described["size"] = size
        _, what, argument = (*request.path.split("/"), "", "")[:3]
        if what == "slow":
            await asyncio.sleep(float(argument))
        hops, result = ([self._name], None)
        if what == "chain" and self._following:
            behind, result = await self._ask_next(request)
            hops += behind
        body = {"hops": hops, "host": request.host, "next": result, "size": size}
        status = int(argument) if what == "status" else 200
        if what == "missing" and self._name.startswith(argument):
            status = 404
        return web.json_response(body, status=status, headers={"x-app": self._name})

    async def _ask_next(self, request: web.Request) -> tuple[list[str], str | None]:
        if self._session is None:
            self._session = ClientSession()
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        try:
            async with self._session.get(self._following + "chain", headers=headers) as response:
                text, result = await response.text(), response.headers.get("x-devroute-result")
                if response.status != 200:
                    return [f"{response.status}: {text}"], result
                return (await response.json())["hops"], result
        except (ClientError, TimeoutError) as error:
            return [repr(error)], None

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        response.headers["x-app"] = self._name
        await response.prepare(request)
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await response.send_str(f"{self._name}: {message.data}")
        return response


async def serve_grpc(name: str, port: int, requests: list[dict[str, Any]]) -> None:
    import grpc

    async def echo(request: bytes, context: Any) -> bytes:
        requests.append(
            {"method": "Echo", "path": "/t.T/Echo", "headers": dict(context.invocation_metadata())}
        )
        if request == b"unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "as asked for")
        context.set_trailing_metadata((("x-app", name),))
        return name.encode() + b": " + request

    handler = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Echo": handler}),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    await server.start()
    await server.wait_for_termination()


async def main(name: str, port: str = "8080", following: str = "") -> None:
    served = App(name, following)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{any:.*}", served.respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", int(port)).start()
    await serve_grpc(name, int(port) + 920, served.requests)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
