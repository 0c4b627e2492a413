"""The URLs of the setting `registry`, on real servers of each kind."""

from pathlib import Path

import pytest

from devroute.cli.config.sources import Source, proxy_settings
from devroute.errors import ConfigInvalid
from devroute.replicas.redis_url import connect, places
from tests.replicas.replicas import replicas
from tests.support.authority import Authority
from tests.support.eventually import eventually
from tests.support.loopback import App, answer
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, needs_redis, running_redis

#: Of a user in Redis, whose registry has the prefix "test".
RIGHTS = "~{test}:* &{test}:* +@connection +@read +@write +@scripting +@pubsub -@dangerous"


async def shares_a_laptop(url: str) -> None:
    async with replicas(url) as (one, two):
        await one.connect({"foo": App(answer(b"hello"))})
        await eventually(lambda: two.names() == ["alice"])
        assert (one.shared.problem, two.shared.problem) == (None, None)


@needs_redis
async def test_a_cluster(tmp_path: Path) -> None:
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes")
    with running_redis(tmp_path, *options, "--cluster-port", str(free_port())) as server:
        server.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await eventually(lambda: is_up(server))
        await shares_a_laptop(f"redis+cluster://127.0.0.1:{port}")


def is_up(server: RedisServer) -> bool:
    return b"cluster_state:ok" in server.client.execute_command("CLUSTER", "INFO")


@needs_redis
async def test_the_primary_that_sentinels_name(tmp_path: Path) -> None:
    port, sentinel = free_port(), free_port()
    (tmp_path / "sentinel").mkdir()
    file = tmp_path / "sentinel.conf"
    file.write_text(f"bind 127.0.0.1\nsentinel monitor mesh 127.0.0.1 {port} 1\n")
    with (
        running_redis(tmp_path, "--port", str(port), "--bind", "127.0.0.1"),
        running_redis(tmp_path / "sentinel", str(file), "--sentinel", "--port", str(sentinel)),
    ):
        await shares_a_laptop(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/mesh")


@needs_redis
async def test_a_password_of_the_url(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", "only-redis-knows") as server:
        await shares_a_laptop(server.url.replace("unix://", "unix://:only-redis-knows@"))
        async with replicas(server.url, 1) as (one,):
            assert one.shared.problem is not None
            assert "only-redis-knows" not in one.shared.problem


@needs_redis
async def test_tls_and_a_user_who_may_use_the_registrys_keys_alone(tmp_path: Path) -> None:
    """As docs/ha.md has the user's rights."""
    ours, other = Authority(tmp_path), Authority(tmp_path, "other")
    pair, port = ours.server(), free_port()
    options = {"port": "0", "tls-port": str(port), "tls-auth-clients": "no", "bind": "127.0.0.1"}
    options |= {
        "tls-cert-file": str(pair.certificate),
        "tls-key-file": str(pair.key),
        "tls-ca-cert-file": str(ours.file),
    }
    with running_redis(
        tmp_path, *(part for name, text in options.items() for part in (f"--{name}", text))
    ) as server:
        server.client.execute_command("ACL", "SETUSER", "mesh", "on", ">only-redis-knows", *RIGHTS.split())
        server.client.execute_command("ACL", "SETUSER", "default", "off")
        url = f"rediss://mesh:only-redis-knows@localhost:{port}/0"
        await shares_a_laptop(f"{url}?ssl_ca_certs={ours.file}")
        wrong = {
            f"{url}?ssl_ca_certs={other.file}": "its certificate is not trusted",
            url.replace("//mesh", "//nobody") + f"?ssl_ca_certs={ours.file}": "username-password",
        }
        for each, said in wrong.items():
            async with replicas(each, 1) as (one,):
                assert one.shared.problem is not None
                assert said in one.shared.problem
                assert "only-redis-knows" not in one.shared.problem


@pytest.mark.parametrize(
    "url",
    [
        *("redis://127.0.0.1:port", "redis://h/0?db=x", "redis://h?no_such_option=1"),
        *("redis+cluster://", "redis+cluster://h?no_such_option=1"),
        *(
            "redis+sentinel://127.0.0.1:1",
            "redis+sentinel://h:port/mesh",
            "redis+sentinel://h/mesh?no_such=1",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        connect(url.replace("//", "//user:only-redis-knows@"))
    assert "only-redis-knows" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        *(
            "redis://:hunter2/x@redis:6379/0",
            "redis://:hunter2#x@redis:6379",
            "redis://:hunter2?x@redis:6379",
        ),
        *(
            "redis://redis:6379/0?db=hunter2",
            "rediss://:hunter2/x@redis",
            "rediss+cluster://:hunter2/x@redis",
        ),
        *(
            "redis+sentinel://u:hunter2/x@a:1/svc",
            "redis://:0/hunter2@redis",
            "redis+sentinel://[hunter2@a/svc",
        ),
        "redis://:hunter2\u2100@redis",  # which normalises to a/c
    ],
)
def test_no_part_of_a_password_that_is_not_percent_encoded_is_in_an_error(url: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        connect(proxy_settings([Source("flags", {"registry": url})]).registry)
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://redis:7000/0", [("redis", 7000)]),
        ("rediss://user:pass@redis", [("redis", 6379)]),
        ("redis://[fd00::7]:7000", [("fd00::7", 7000)]),
        ("redis://[fd00::7]", [("fd00::7", 6379)]),
        ("redis+sentinel://:p@one:7000,two/mesh", [("one", 7000), ("two", 26379)]),
    ],
)
def test_the_places_of_a_url(url: str, found: list[tuple[str, int]]) -> None:
    assert places(url) == found
