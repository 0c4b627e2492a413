"""Which credentials are sent to which server. Pure; cli/config/sources.py applies it before merging sources.

The rule: **a credential of the user goes only to a server that the user named.** Flags, the environment and
the home config are the user's; ./devroute.yaml comes with a repository, whose author must not receive the
user's token. So, where ./devroute.yaml names the server:

- the entry of `servers:` in the home config for that URL is used with it;
- other credentials of the user are used with it only if `server` in the home config is the same URL;
- a token in ./devroute.yaml itself is used with that server once the user has confirmed the server, by an
  entry of `servers:` or by naming it; else the file's author would have a way to the user's apps.

Anything else is refused. `token`, `token_command` and what `devroute login` has saved are one choice: that of
the first source with one of them. A login is an entry for the server that the user logged in to.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from devroute.errors import ConfigInvalid, ServerNotConfirmed
from devroute.quoting import quote

#: Settings that belong together: the first source that has one of a pair decides both.
_TOKEN: Final = ("token", "token_command", "login")
_CERTIFICATE: Final = ("client_cert", "client_key")
_PAIRS: Final = (_TOKEN, _CERTIFICATE)

#: A URL's default port, and its scheme as http or https.
_SCHEMES: Final = {"http": ("http", 80), "ws": ("http", 80), "https": ("https", 443), "wss": ("https", 443)}


class Source(NamedTuple):
    """Settings, and where they were found, for messages: "command line", "devroute.yaml". `own`: the user's,
    and not those of a repository."""

    name: str
    values: Mapping[str, object]
    own: bool = True

    def without(self, keys: Collection[str]) -> Self:
        return self._replace(values={key: value for key, value in self.values.items() if key not in keys})


def bind(sources: Sequence[Source]) -> list[Source]:
    """The sources, in order of precedence, with only the credentials for the server that they name.

    Raises ConfigInvalid for a credential that does not belong to that server.
    """
    named, server = _named(sources)
    bound = [place for source in sources for place in (*_listed(source, server), source)]
    for pair in _PAIRS:
        bound = _first_only(bound, pair)
    trusted = any(source.own and same_server(str(source.values.get("server")), server) for source in sources)
    if named is not None and not named.own and not trusted:
        for source in bound:
            given = next((field for pair in _PAIRS for field in pair if source.values.get(field)), None)
            if given is not None and source.own and not isinstance(source, _Listed):
                raise ConfigInvalid(
                    f"{named.name} names the server {quote(server)}, "
                    f"but the {given} of {source.name} is not for it",
                    hint=f"if you trust that server, name it yourself: --server {server}, or an entry of "
                    "servers: with its token in ~/.config/devroute/config.yaml",
                )
    return [Source(*source[:3]) for source in bound]


def check_confirmed(sources: Sequence[Source]) -> None:
    """For commands that connect. Raises ServerNotConfirmed for a server that only a repository names."""
    named, server = _named(sources)
    if named is None or named.own:
        return
    for source in sources:
        if source.own and (same_server(str(source.values.get("server")), server) or _listed(source, server)):
            return
    raise ServerNotConfirmed(server, named.name)


def _named(sources: Sequence[Source]) -> tuple[Source | None, str]:
    """The first source that names a server, and the server."""
    named = next((source for source in sources if source.values.get("server")), None)
    return named, "" if named is None else str(named.values["server"])


class _Listed(Source):
    """An entry of `servers:`, as a source that precedes its file."""


def _listed(source: Source, server: str) -> list[Source]:
    servers = source.values.get("servers")
    if not source.own or not isinstance(servers, Mapping):
        return []
    for url, values in servers.items():
        if isinstance(values, Mapping) and same_server(str(url), server):
            return [_Listed(f"{source.name}: servers: {url}", values)]
    return []


def _first_only(sources: list[Source], pair: tuple[str, ...]) -> list[Source]:
    """The sources, of which only the first with settings of the pair keeps them."""
    found = False
    kept: list[Source] = []
    for source in sources:
        given = [field for field in pair if source.values.get(field)]
        if pair is _TOKEN and len(given) > 1 and not found:
            raise ConfigInvalid(f"{source.name}: token and token_command are both set; keep one of them")
        if found and given:
            source = source.without(pair)
        found = found or bool(given)
        kept.append(source)
    return kept


def same_server(one: str, other: str) -> bool:
    """Whether two URLs name the same server: ws is http, and a default port may be left out."""
    try:
        return _canonical(one) == _canonical(other)
    except ValueError:
        return False


def server_key(url: str) -> str:
    """One spelling for all URLs of a server. Raises ValueError where it is none."""
    scheme, host, port, path = _canonical(url)
    return f"{scheme}://{host}:{port}{path}"


def _canonical(url: str) -> tuple[str, str, int, str]:
    """Raises ValueError where it is no URL of a server."""
    parts = urlsplit(url.strip())
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError
    scheme, port = _SCHEMES[parts.scheme]
    return scheme, parts.hostname.lower(), parts.port or port, parts.path.rstrip("/")
