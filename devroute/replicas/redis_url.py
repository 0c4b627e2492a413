"""Redis clients, by the URL of the setting `registry`. The only module that imports redis-py, an extra.

redis://, rediss://, unix://               one server, or what stands for one
redis+sentinel://HOST,HOST.../SERVICE      the master that the sentinels name; also rediss+sentinel
redis+cluster://HOST                       a cluster, found from one node; also rediss+cluster
"""

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from devroute.errors import ConfigInvalid

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

#: Seconds for a connection, and for a response.
TIMEOUT_SECONDS: Final = 2.0

SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


def connect(url: str) -> "Redis | RedisCluster":
    """A client; it connects when it is used. Raises ConfigInvalid, without the URL, which may have a
    password."""
    try:
        from redis.asyncio import Redis
        from redis.asyncio.cluster import RedisCluster
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError, RedisClusterException
    except ImportError:
        raise ConfigInvalid(
            "the registry is in Redis, but the Python package 'redis' is not installed",
            hint="pip install 'devroute[redis]'",
        ) from None
    options: dict[str, Any] = {
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        # Once, since the server closes idle connections; all else is repeated by the replica itself.
        "retry": Retry(NoBackoff(), 1, supported_errors=(ConnectionError,)),
    }
    try:
        parts = urlsplit(url)
        if parts.scheme != "unix" and "@" not in parts.netloc and "@" in parts.path + parts.fragment:
            raise ValueError("what was meant for user and password is something else")
        scheme, _, form = parts.scheme.partition("+")
        plain = scheme + url[url.index(":") :]
        if form == "cluster":
            return RedisCluster.from_url(plain, **options)
        client = _sentinel(plain, options) if form == "sentinel" else Redis.from_url(plain, **options)
        pool: Any = client.connection_pool  # it has no types
        pool.make_connection()  # which looks at the options first
    except (ValueError, TypeError):  # their texts may quote a part of the password
        problem = "its host, port, database or an option cannot be used"
        hint = "percent-encode / ? # [ in the password"
        raise ConfigInvalid(f"registry: {problem}", hint=hint) from None
    except RedisClusterException as error:
        first = str(error).partition("\n")[0]
        raise ConfigInvalid(f"registry: {first}") from None
    return client


def _sentinel(url: str, options: dict[str, Any]) -> "Redis":
    """Options of redis-py stand in the query. User and password are for the sentinels and the server."""
    from redis.asyncio.sentinel import Sentinel

    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service or not hosts:
        raise ConfigInvalid("registry: write it like redis+sentinel://HOST:26379,HOST:26379/SERVICE")
    places = [
        host.rpartition(":") if ":" in host else (host, ":", str(_SENTINEL_PORT)) for host in hosts.split(",")
    ]
    common = {
        **options,
        **dict(parse_qsl(parts.query)),
        **({"username": unquote(user)} if user else {}),
        **({"password": unquote(password)} if password else {}),
        **({"ssl": True} if parts.scheme == "rediss" else {}),
    }
    sentinels = [(host, int(port)) for host, _, port in places]
    found: Any = Sentinel  # it has no types
    client: Redis = found(sentinels, sentinel_kwargs=common, **common, db=int(database or 0)).master_for(
        service
    )
    return client


def places(url: str) -> list[tuple[str, int]]:
    """The hosts and ports that are dialled first: of the server, of a cluster's node, or of the sentinels.
    Without its user, password and options, a URL is no secret."""
    parts = urlsplit(url)
    default = _SENTINEL_PORT if parts.scheme.endswith("+sentinel") else _PORT
    found = []
    for host in parts.netloc.rpartition("@")[2].split(","):
        name, _, port = host.rpartition(":") if ":" in host and not host.endswith("]") else (host, ":", "")
        found.append((name.strip("[]"), int(port) if port.isdigit() else default))
    return found
