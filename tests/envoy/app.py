"""The app under development on a laptop, as a process of its own: `python app.py NAME PORT` prints "listens".

Imports nothing of devroute. /upload counts, /download and /echo stream, /socket echoes WebSocket messages,
/events sends one for each POST to /tick, any other path responds with the app's name.
"""

import asyncio
import sys
import time
import zlib
from collections.abc import Iterator

from aiohttp import WSMsgType, web

PIECE = 64 * 1024
NAME = web.AppKey("name", str)
TICKS = web.AppKey("ticks", asyncio.Queue[str])


def pieces(size: int) -> Iterator[bytes]:
    """`size` bytes, a multiple of PIECE, of which no two pieces are the same."""
    filling = bytes(range(256)) * (PIECE // 256)
    for number in range(size // PIECE):
        yield number.to_bytes(8) + filling[8:]


async def who(request: web.Request) -> web.Response:
    body = await request.text()
    return web.json_response({"who": request.app[NAME], "id": request.query.get("id"), "body": body})


async def upload(request: web.Request) -> web.Response:
    size = check = 0
    began = None
    async for piece in request.content.iter_any():
        began = began or time.monotonic()
        size, check = size + len(piece), zlib.crc32(piece, check)
    return web.json_response({"who": request.app[NAME], "size": size, "check": check, "began": began})


async def download(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for piece in pieces(int(request.query["size"])):
        await response.write(piece)
    return response


async def echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response


async def socket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse(max_msg_size=0)
    await response.prepare(request)
    async for message in response:
        if message.type is WSMsgType.BINARY:
            await response.send_bytes(message.data)
        else:
            await response.send_str(message.data)
    return response


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    while (tick := await request.app[TICKS].get()) != "end":
        await response.write(f"data: {tick}\n\n".encode())
    return response


async def tick(request: web.Request) -> web.Response:
    request.app[TICKS].put_nowait(await request.text())
    return web.Response()


def create(name: str) -> web.Application:
    app = web.Application(client_max_size=1 << 30)
    app[NAME] = name
    app[TICKS] = asyncio.Queue()
    handlers = [upload, download, echo, socket, events, tick]
    for path, handler in [*((f"/{each.__name__}", each) for each in handlers), ("/{any:.*}", who)]:
        app.router.add_route("*", path, handler)
    return app


async def main() -> None:
    runner = web.AppRunner(create(sys.argv[1]), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[2])).start()
    print("listens", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
