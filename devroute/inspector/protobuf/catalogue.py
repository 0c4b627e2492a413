"""Which schema counts for a call: that of the files that the user names, else the app's own by reflection.

An app is asked when one of its messages is looked at, once for each gRPC service, over a connection of its
own that is kept: while it is open, the app has not restarted.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Address
from devroute.errors import ConfigInvalid
from devroute.inspector.protobuf.schema_files import NO_FILES, SchemaFiles
from devroute.upstream.lazy_http2 import load_http2
from devroute.upstream.local_app import local_http2

if TYPE_CHECKING:  # they need the library `protobuf`, and h2
    from devroute.inspector.protobuf.schema import Method, Schema
    from devroute.upstream.http2_pool import Http2Pool

#: Seconds before an app is asked again: because a message does not fit its schema, or it did not respond.
STALE_SECONDS: Final = 5.0
#: gRPC services and types of one app that are remembered, and bytes of its descriptors: callers choose paths.
MAX_SYMBOLS: Final = 500
MAX_BYTES: Final = 16 * 1024 * 1024

#: The oldest library that has all that is used.
_OLDEST: Final = (6, 31)
_INSTALL: Final = "pip install 'devroute[grpc]'"


class Found(NamedTuple):
    """The method of a call and its schema. Without them, `problem` says why and what to do."""

    schema: "Schema | None" = None
    method: "Method | None" = None
    source: str = ""
    problem: str = ""


def library_problem() -> str:
    """Why messages cannot be shown with a schema, "" if they can."""
    try:
        from google.protobuf import __version__
    except ImportError:
        return f"To see messages with their schema, install the library protobuf: {_INSTALL}"
    numbers = tuple(int(part) for part in __version__.split(".")[:2] if part.isdecimal())
    if numbers < _OLDEST:
        return f"protobuf {__version__} is too old to show messages with their schema: {_INSTALL}"
    return ""


class Catalogue:
    """`apps`: those that are asked, by service."""

    def __init__(self, services: Iterable[ServiceSpec] = (), files: SchemaFiles = NO_FILES) -> None:
        self.apps = {spec.service: ReflectedApp(spec) for spec in services}
        self._files = files
        self._file_schema: Schema | None = None
        self._read_at: tuple[float, ...] = ()

    async def serve(self, services: Iterable[ServiceSpec]) -> None:
        """Ask the apps of these services from now on, and no others."""
        before = self.apps
        self.apps = {spec.service: before.get(spec.service) or ReflectedApp(spec) for spec in services}
        for service, app in before.items():
            if service not in self.apps:
                await app.close()

    async def load(self) -> None:
        """Read the files that the user names, if they are new or have changed. Raises ConfigInvalid."""
        changed = self._files.changed()
        if not self._files or changed == self._read_at:
            return
        if problem := library_problem():
            raise ConfigInvalid("descriptor_set and proto need the library protobuf", hint=problem)
        from devroute.inspector.protobuf.descriptor_files import load

        self._read_at = changed  # a file that is wrong now is not read again until it changes
        self._file_schema = await asyncio.to_thread(load, self._files)

    async def find(self, service: str, path: str) -> Found:
        """The schema of a call to `path` of the app of `service`."""
        if problem := library_problem():
            return Found(problem=problem)
        trouble = ""
        try:
            await self.load()
        except ConfigInvalid as error:
            trouble = f"{error.message}. "
        schema = self._file_schema
        method = None if schema is None else schema.method(path)
        if method is not None:
            return Found(schema, method, self._files.words)
        if self._files and not trouble:
            trouble = f"This method is not in {self._files.words}. "
        app = self.apps.get(service)
        if app is None:
            found = Found(problem=f"There is no schema: {service} is not served here.{_FILE_REMEDY}")
        else:
            found = await app.find(path)
        return found if found.method is not None else found._replace(problem=trouble + found.problem)

    async def learn(self, service: str, found: Found, types: Iterable[str]) -> bool:
        """Ask the app for types that its schema lacks; with none, for all of it again. Whether that was
        done."""
        app = self.apps.get(service)
        return app is not None and found.source == REFLECTION and await app.learn(types)

    async def close(self) -> None:
        for app in self.apps.values():
            await app.close()


REFLECTION: Final = "the app's server reflection"
_REMEDY: Final = " Turn on the app's server reflection, or name a descriptor set: --descriptor-set FILE"
_FILE_REMEDY: Final = " Name a descriptor set: --descriptor-set FILE"


class ReflectedApp:
    """What one app's reflection has reported so far. `files`: its descriptors, by file name."""

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self._pool: Http2Pool | None = None
        self._lock = asyncio.Lock()
        self._asked: dict[str, str] = {}  # by symbol: why there is none, or ""
        self._asked_at = 0.0
        self.files: dict[str, bytes] = {}
        self._schema: Schema | None = None
        self._unsupported = ""
        self._unreachable = ""
        self._closed = False

    async def find(self, path: str) -> Found:
        symbol = path.partition("?")[0].removeprefix("/").rpartition("/")[0]
        async with self._lock:
            problem = await self._ask(symbol)
        schema = self._schema
        method = None if schema is None else schema.method(path)
        if method is not None:
            return Found(schema, method, REFLECTION)
        return Found(problem=f"There is no schema: {problem or 'it has no such method'}.{_REMEDY}")

    async def learn(self, types: Iterable[str]) -> bool:
        types = [each for each in types if each not in self._asked][:10]
        async with self._lock:
            if types:
                for each in types:
                    await self._ask(each)
                return True
            if self._age < STALE_SECONDS:
                return False
            self._asked.clear()
            return True

    async def _ask(self, symbol: str) -> str:
        """Ask for a symbol, unless that was done since the app started; what went wrong, or ""."""
        from devroute.inspector.protobuf.reflection import NotReflected, reflect
        from devroute.inspector.protobuf.schema import Schema

        await load_http2()
        if self._closed or (self._unreachable and self._age < STALE_SECONDS):
            return self._unreachable or "devroute up is ending"
        if self._pool is None:
            self._pool = local_http2(self._spec)
        if not self._pool.connected or len(self._asked) >= MAX_SYMBOLS:
            self._asked.clear()
            self._unsupported = ""
        if self._unsupported:
            return self._unsupported
        if symbol in self._asked:
            return self._asked[symbol]
        fresh = not self._asked
        self._asked_at = asyncio.get_running_loop().time()
        try:
            authority = str(Address(self._spec.host, self._spec.port))
            files = await reflect(self._pool, authority, symbol, () if fresh else self.files)
        except NotReflected as problem:
            if problem.final:
                self._unsupported = str(problem)
            if self._pool.connected:
                self._asked[symbol] = str(problem)
            else:
                self._unreachable = str(problem)
            return str(problem)
        self._unreachable = ""
        joined = files if fresh else self.files | files
        self.files = joined if sum(map(len, joined.values())) <= MAX_BYTES else files
        self._schema = await asyncio.to_thread(Schema, list(self.files.values()))
        self._asked[symbol] = ""
        return ""

    @property
    def connected(self) -> bool:
        """Whether the connection is open on which the app was asked: what it reported counts until then."""
        return self._pool is not None and self._pool.connected

    @property
    def _age(self) -> float:
        """Seconds since the app was asked."""
        return asyncio.get_running_loop().time() - self._asked_at

    async def close(self) -> None:
        self._closed = True
        if self._pool is not None:
            await self._pool.close()
