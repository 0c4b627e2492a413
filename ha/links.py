"""Links without an agent: python -m ha.links COUNT SERVER..., the token in DEVROUTE_TOKEN. They register
names at the servers in turn, print a line once all have, and answer pings until standard input ends.
"""

import asyncio
import os
import secrets
import sys

from devroute import descriptors
from devroute.agent.registration import WELCOME_SECONDS, receive_welcome
from devroute.errors import ServerUnreachable
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket
from ha.laptops import SERVICE, name_of

#: That register at the same time.
AT_ONCE = 30
#: Of a registration while thousands are on their way; an agent would try again without end.
ATTEMPTS = 5


def hello_of(name: str, *, takeover: bool = False) -> handshake.Hello:
    """Of another process than all before."""
    offer = handshake.Offer(service=SERVICE, scheme="http", direct=None)
    instance = secrets.token_hex(16)
    return handshake.Hello(agent="ha", name=name, services=(offer,), instance=instance, takeover=takeover)


async def register(server: str, token: str, hello: handshake.Hello) -> AgentLink:
    """A link that has been sent HELLO. Raises DevrouteError."""

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, {}, lambda finished: None)
        link.send_hello(hello.encode())
        return link

    return await dial(server, token, make)


async def online(server: str, token: str, name: str) -> AgentLink:
    """A link that is registered. Raises DevrouteError."""
    hello = hello_of(name)
    for attempt in range(ATTEMPTS):
        try:
            link = await register(server, token, hello)
            await receive_welcome(link, WELCOME_SECONDS)
        except ServerUnreachable:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            break
    return link


async def run(count: int, servers: list[str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    token = os.environ["DEVROUTE_TOKEN"]

    async def one(number: int) -> AgentLink:
        async with gate:
            return await online(servers[number % len(servers)], token, name_of(number))

    links = await asyncio.gather(*map(one, range(count)))
    print("online", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    lost = sum(link.close_error is not None for link in links)
    print(lost, flush=True)
    os._exit(0)


if __name__ == "__main__":
    descriptors.reserve()
    asyncio.run(run(int(sys.argv[1]), sys.argv[2:]))
