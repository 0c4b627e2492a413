"""Where settings come from, and which source takes precedence. Pure: cli/invocation.py reads environment and
files. Names, types and defaults are those of agent/settings.py and proxy/settings.py.

Precedence: flags, DEVROUTE_* variables, ./devroute.yaml, ~/.config/devroute/config.yaml. The agent's settings
are at the top of a file, the proxy's under `proxy:`. Credentials go only to servers that the user named
(cli/config/credentials.py).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from devroute.auth.tls import is_exposed
from devroute.cli.config import project_file
from devroute.cli.config.credentials import Source as Source
from devroute.cli.config.credentials import bind, check_confirmed
from devroute.cli.config.names import COMMAND_LINE, ENV_PREFIX, ENVIRONMENT
from devroute.contract.service_spec import with_direct
from devroute.contract.target import Malformed
from devroute.errors import ConfigInvalid
from devroute.quoting import quote
from devroute.settings import Settings

if TYPE_CHECKING:  # of the settings of agent and proxy, a command needs one: each takes 20 ms to import
    from devroute.agent.settings import AgentSettings, ClientSettings
    from devroute.proxy.settings import ProxySettings

#: Settings that no single variable can hold; DEVROUTE_SERVICES is a list.
_NOT_A_VARIABLE = frozenset({"command", "login", "rules", "services", "servers"})
#: Settings that commands make themselves.
_NOT_IN_A_FILE = frozenset({"command", "login"})


# --- where settings come from -------------------------------------------------------------------------------


def read_file(text: str, source: str, *, own: bool = True) -> Source:
    """A configuration file; `own` is false for ./devroute.yaml. Raises ConfigInvalid naming the file."""
    from devroute.yaml_text import line_of, read_document  # yaml takes 15 ms, and many have no file

    document, node = read_document(text, source)  # its errors quote nothing: the file may hold a token
    if document is None:
        return Source(source, {})
    from devroute.agent.settings import AgentSettings

    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise ConfigInvalid(f"{source}: write one setting per line, such as server: https://devroute.example")
    known = {*AgentSettings.model_fields, "proxy"} - _NOT_IN_A_FILE
    for key in document:
        if key not in known:
            raise ConfigInvalid(
                f"{source}: there is no setting {quote(key)}", hint=f"there are {', '.join(sorted(known))}"
            )
        if not own:
            project_file.check(key, document[key], source)
    if document.get("rules") is not None:
        from devroute.inspector.rules.settings import read_rules

        rules = read_rules(document["rules"], lambda index: f"{source}:{line_of(node, 'rules', index)}")
        if not own:
            project_file.check_rules(rules, source)
        document = {**document, "rules": rules}
    return Source(source, document, own)


def read_environment(environment: Mapping[str, str]) -> Source:
    """The DEVROUTE_* variables by the settings that they may name. Empty ones count as absent."""
    found: dict[str, object] = {}
    for variable, value in environment.items():
        name = variable.removeprefix(ENV_PREFIX).lower()
        if value and variable == ENV_PREFIX + name.upper() and name not in _NOT_A_VARIABLE:
            found[name] = value
    if services := environment.get(ENV_PREFIX + "SERVICES"):
        found["services"] = services.replace(",", " ").split()
    return Source(ENVIRONMENT, found)


# --- merging them -------------------------------------------------------------------------------------------

_S = TypeVar("_S", bound=Settings)


def given_settings(sources: Iterable[Source]) -> "AgentSettings":
    """For commands that need no complete settings. Raises ConfigInvalid."""
    from devroute.agent.settings import AgentSettings

    return _bound(AgentSettings, sources)


def server_settings(sources: Iterable[Source]) -> "ClientSettings":
    """For `login` and `logout`, which need a server and no token. Raises ConfigInvalid and
    ServerNotConfirmed."""
    from devroute.agent.settings import ClientSettings

    sources = list(sources)
    settings = _bound(ClientSettings, sources)
    if not settings.server:
        raise ConfigInvalid(
            "which server? none is set up yet", hint="devroute login --server https://devroute.example"
        )
    check_confirmed(sources)
    check_not_exposed(settings)
    return settings


def client_settings(sources: Iterable[Source]) -> "ClientSettings":
    """For `ls` and `status`; sources in order of precedence. Raises ServerNotConfirmed, and ConfigInvalid
    naming source and field."""
    from devroute.agent.settings import ClientSettings

    sources = list(sources)
    settings = _bound(ClientSettings, sources)
    _require(settings)
    check_confirmed(sources)
    return settings


def agent_settings(sources: Iterable[Source]) -> "AgentSettings":
    """For `up`; sources in order of precedence. Raises ConfigInvalid naming source and field, and
    ServerNotConfirmed."""
    from devroute.agent.settings import AgentSettings

    sources = list(sources)
    settings = _bound(AgentSettings, sources)
    _require(settings, services=settings.services or settings.reaches)
    check_confirmed(sources)
    try:
        settings.offer_options.check()
    except Malformed as problem:
        raise ConfigInvalid(f"shadow and except_status: {problem}") from None
    if settings.direct is not None:
        if settings.host_header != "keep":
            raise ConfigInvalid(
                "host_header has no effect with direct: the mesh's requests do not pass this process",
                hint="leave one of them out",
            )
        try:
            services = with_direct(settings.services, settings.direct)
        except Malformed as problem:
            raise ConfigInvalid(f"direct: {problem}") from None
        settings = settings.model_copy(update={"services": services})
    _check_rules(settings)
    return settings


def reach_settings(sources: Iterable[Source]) -> "AgentSettings":
    """For `reach`, which offers no service, whatever a file says; sources in order of precedence. Raises
    ConfigInvalid naming source and field, and ServerNotConfirmed."""
    from devroute.agent.settings import AgentSettings

    sources = list(sources)
    settings = _bound(AgentSettings, sources)
    _require(settings)
    check_confirmed(sources)
    unset = {name: AgentSettings.model_fields[name].default for name in _OF_SERVICES}
    settings = settings.model_copy(update=unset | {"reach_port": settings.reach_port or True})
    _check_rules(settings)
    return settings


#: Settings that concern services which a laptop offers.
_OF_SERVICES = (
    "command",
    "direct",
    "except_status",
    "only_path",
    "reach_env",
    "services",
    "shadow",
    "takeover",
)


def _check_rules(settings: "AgentSettings") -> None:
    if settings.rules and settings.direct is not None:
        raise ConfigInvalid(
            "rules have no effect with direct: the mesh's requests do not pass this process",
            hint="leave one of them out",
        )
    if settings.inspector is False and any(rule.break_ is not None for rule in settings.rules):
        raise ConfigInvalid(
            "rules: break needs the inspector, whose page shows what is held",
            hint="leave out inspector: false, or the rule",
        )


#: What to do about each missing setting.
_REMEDIES: Mapping[str, str] = {
    "server": "server: in a script, set DEVROUTE_SERVER=https://devroute.example",
    "token": "token: devroute login, where there is single sign-on; in a script, set DEVROUTE_TOKEN; the"
    " platform team creates one: devroute token new NAME",
    "services": "services: devroute up b=8001, or for this folder: devroute init --project b=8001",
}


def _require(settings: "ClientSettings", **more: object) -> None:
    """Raises ConfigInvalid that names all missing settings at once, each with its remedy."""
    given = {"server": settings.server, "token": settings.has_credential, **more}
    missing = [name for name, value in given.items() if not value]
    if not missing:
        return
    steps = [_REMEDIES[name] for name in missing]
    if asked := [name for name in missing if name != "services"]:
        steps.insert(0, f"devroute init asks for {' and '.join(asked)}, and saves them")
    listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
    raise ConfigInvalid(f"not set up yet: {listed} missing", hint="\n".join(steps))


def proxy_settings(sources: Iterable[Source]) -> "ProxySettings":
    """For `proxy`; sources in order of precedence. Raises ConfigInvalid naming source and field."""
    from devroute.proxy.settings import ProxySettings

    settings = _build(ProxySettings, sources)
    if (settings.tls_cert is None) is not (settings.tls_key is None):
        raise ConfigInvalid("tls_cert and tls_key belong together; one of them is missing")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ConfigInvalid("tls_client_ca has no effect without tls_cert and tls_key")
    if settings.tls_client_subject != "off" and settings.tls_client_ca is None:
        raise ConfigInvalid("tls_client_subject has no effect without tls_client_ca")
    if settings.oidc_issuer is None:
        if settings.oidc_audience or settings.oidc_jwks or settings.oidc_client_id:
            raise ConfigInvalid(
                "oidc_audience, oidc_jwks and oidc_client_id have no effect without oidc_issuer"
            )
    elif not settings.oidc_audience:
        raise ConfigInvalid(
            "oidc_audience is missing: tokens that the issuer made for other services would be accepted"
        )
    elif settings.oidc_subject_claim == "email" and settings.oidc_email_domain is None:
        raise ConfigInvalid(
            "oidc_email_domain is missing: with oidc_subject_claim: email, it names the domain of the users"
        )
    _check_login(settings)
    return settings


def _check_login(settings: "ProxySettings") -> None:
    client = settings.oidc_client_id
    if client is None:
        if settings.oidc_client_secret is not None:
            raise ConfigInvalid("oidc_client_secret has no effect without oidc_client_id")
    elif settings.oidc_login_token == "id_token" and client not in settings.oidc_audience:
        raise ConfigInvalid(
            f"oidc_audience lacks the client of devroute login, {quote(client)}, for which its ID tokens are",
            hint="add it to oidc_audience, or set oidc_login_token: access_token",
        )


_C = TypeVar("_C", bound="ClientSettings")


def _bound(model: type[_C], sources: Iterable[Source]) -> _C:
    settings = _build(model, project_file.restrict_recording(bind(list(sources))))
    if (settings.client_cert is None) is not (settings.client_key is None):
        raise ConfigInvalid("client_cert and client_key belong together; one of them is missing")
    if settings.token.get_secret_value() or settings.token_command or settings.login:
        check_not_exposed(settings)
    return settings


def check_not_exposed(settings: "ClientSettings") -> None:
    """Raises ConfigInvalid where a token would be sent over plain http."""
    if is_exposed(settings.server) and not settings.insecure_plain_http:
        raise ConfigInvalid(
            f"{settings.server} is plain http: your token could be read on the network",
            hint="use https://, or --insecure-plain-http if the network itself encrypts, as a mesh does",
        )


def _build(model: type[_S], sources: Iterable[Source]) -> _S:
    chosen: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, values, _ in sources:
        section = _section(model, name, values)
        for field, value in section.items():
            if field in model.model_fields and value is not None and field not in chosen:
                chosen[field], origin[field] = value, name
    try:
        return model.model_validate(chosen)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = str(first["loc"][0])
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigInvalid(f"{origin[field]}: {_as_given(field, origin[field])}: {problem}") from None


#: Flags that are not named as their settings, and arguments.
_FLAGS: Mapping[str, str] = {"forward_proxy": "--proxy", "services": "services"}


def _as_given(field: str, source: str) -> str:
    """A setting's name as its source writes it."""
    if source == COMMAND_LINE:
        return _FLAGS.get(field, f"--{field.replace('_', '-')}")
    return f"{ENV_PREFIX}{field.upper()}" if source == ENVIRONMENT else field


def _section(model: type[_S], name: str, values: Mapping[str, object]) -> Mapping[str, object]:
    """The settings that a source has for this model: those of a section where it has that."""
    section = None if model.section is None else values.get(model.section)
    if section is None:
        return values
    if not isinstance(section, Mapping):
        raise ConfigInvalid(
            f"{name}: {model.section}: write one setting per line below it, such as data_port: 8080"
        )
    for key in section:
        if key not in model.model_fields:
            raise ConfigInvalid(f"{name}: {model.section}: there is no setting {quote(str(key))}")
    return section
