"""One redis-server for all tests that do not stop it; each of them finds it empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer, running_redis


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_server: RedisServer) -> RedisServer:
    shared_server.client.flushall()
    return shared_server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """That the test may stop, start and freeze."""
    with running_redis(tmp_path) as server:
        yield server
