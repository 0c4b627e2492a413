"""Apps that do not listen are reported, and once more when they do."""

import asyncio
import time

from devroute.agent.app_watch import AppWatch
from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Address
from tests.support.eventually import eventually


async def test_an_app_that_does_not_listen_is_reported_until_it_does(unused_tcp_port: int) -> None:
    reports: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()
    direct = ServiceSpec("direct", "127.0.0.1", 1, direct=Address("10.0.0.1", 1))
    services = [ServiceSpec("foo", "127.0.0.1", unused_tcp_port), direct]
    watch = AppWatch(services, lambda spec, problem: reports.put_nowait((spec.service, problem)))
    watch.start(patience=0.0)
    async with asyncio.timeout(20):
        assert await reports.get() == ("foo", "does not listen")
        async with await asyncio.start_server(
            lambda reader, writer: writer.close(), "127.0.0.1", unused_tcp_port
        ):
            assert await reports.get() == ("foo", None)
    assert reports.empty()
    await watch.close()


async def test_an_app_that_is_being_started_has_time_and_a_name_has_to_resolve() -> None:
    reports: dict[str, str | None] = {}
    services = [ServiceSpec("foo", "127.0.0.1", 1), ServiceSpec("bar", "no-such-host.invalid", 1)]
    watch = AppWatch(services, lambda spec, problem: reports.update({spec.service: problem}))
    began = time.monotonic()
    watch.start(patience=0.3)
    await eventually(lambda: len(reports) == 2, "both are reported")
    assert time.monotonic() - began >= 0.3
    await watch.close()
    assert reports == {"foo": "does not listen", "bar": "is a name that does not resolve"}
