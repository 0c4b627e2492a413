"""A certificate is renewed while no descriptor is left for the new listener."""

import asyncio
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from devroute.auth.tls import ServerFiles, client_context
from devroute.proxy.control.tls import TlsListener
from tests.support.authority import Authority
from tests.support.descriptors import exhausted
from tests.support.eventually import eventually
from tests.support.loopback import NoHttp

pytestmark = pytest.mark.asyncio


class Renewed(ServerFiles):
    """Its files are read, and then the descriptors are used up, until `ended` is closed."""

    ended = ExitStack()
    reads = 0

    def context(self) -> ssl.SSLContext:
        context = ServerFiles.context(self)
        Renewed.reads += 1
        if Renewed.reads == 2:
            Renewed.ended.enter_context(exhausted())
        return context


async def test_a_listener_that_cannot_be_replaced_goes_on_and_is_replaced_later(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server("changing")
    trust = client_context(authority.file)
    listener = TlsListener(Renewed(pair.certificate, pair.key), NoHttp)
    port = await listener.start("127.0.0.1", 0, 0.05)

    async def shown() -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
        certificate = writer.get_extra_info("peercert")
        writer.close()
        return str(certificate["serialNumber"])

    first = await shown()
    authority.server("changing")
    with Renewed.ended:
        await eventually(lambda: listener.problem)
        assert "Too many open files" in str(listener.problem)
    await eventually(lambda: listener.problem is None)
    assert await shown() != first
    await listener.close()
