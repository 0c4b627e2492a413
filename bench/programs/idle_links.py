"""Many agents that are online and get no requests: idle_links.py SERVER COUNT SUBJECT FIRST, the token in
DEVROUTE_TOKEN. `FIRST` numbers the first of them.

Prints `online` when all are registered, then answers pings until it is ended.
"""

import asyncio
import os
import sys

from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol import handshake

AT_ONCE = 50


async def register(server, token, name, gate):
    offer = handshake.Offer(service="foo", scheme="http", direct=None)
    greeting = handshake.Hello(agent="bench", name=name, services=(offer,)).encode()

    def make_link(websocket, loop):
        link = AgentLink(websocket, loop, {}, lambda finished: None)
        link.send_hello(greeting)
        return link

    async with gate:
        link = await dial(server, token, make_link)
        await link.welcome
    return link


async def main(server, count, subject, first):
    gate = asyncio.Semaphore(AT_ONCE)
    token = os.environ["DEVROUTE_TOKEN"]
    names = [f"{subject}--{number}" for number in range(first, first + count)]
    links = await asyncio.gather(*(register(server, token, name, gate) for name in names))
    print("online", flush=True)
    await asyncio.wait([link.close_reason for link in links], return_when=asyncio.FIRST_COMPLETED)
    sys.exit("a link ended")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
