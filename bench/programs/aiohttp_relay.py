"""A relay of aiohttp's server and ClientSession, tuned.

aiohttp_relay.py PORT TARGET_PORT [PORT TARGET_PORT]...
"""

import asyncio
import sys

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "trailer", "proxy-connection"}
#: Answers up to this size are passed on as one piece.
SMALL = 64 * 1024


def kept(headers):
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP]


def relay_to(target, session):
    async def relay(request):
        body = request.content if request.body_exists else None
        url = f"http://127.0.0.1:{target}{request.path_qs}"
        async with session.request(
            request.method, url, headers=kept(request.headers), data=body, allow_redirects=False
        ) as answer:
            if answer.content_length is not None and answer.content_length <= SMALL:
                whole = await answer.read()
                return web.Response(status=answer.status, headers=kept(answer.headers), body=whole)
            response = web.StreamResponse(status=answer.status, headers=kept(answer.headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    return relay


async def main(ports):
    skipped = {"accept-encoding", "user-agent", "accept"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, auto_decompress=False, skip_auto_headers=skipped
    ) as session:
        loop = asyncio.get_running_loop()
        for port, target in zip(ports[::2], ports[1::2], strict=True):
            server = web.Server(relay_to(target, session), access_log=None)
            await loop.create_server(server, "127.0.0.1", port, backlog=1024)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(main([int(each) for each in sys.argv[1:]]))
