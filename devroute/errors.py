"""All errors of devroute. Each class has an HTTP status and a stable code; none does I/O.

Codes are part of the public interface: scripts and dashboards match on them, so they never change meaning.
Longer than 350 lines: it is one list, and each error is a class with a docstring.
"""

from typing import ClassVar

from devroute.quoting import MAX_MESSAGE, MAX_NAME, quote, shortened


class DevrouteError(Exception):
    """What was wrong, where, and what to do about it.

    `message` is one line without secrets, `hint` what to do. `service` and `target` are those of the
    contract's entry, where known.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    default_hint: ClassVar[str] = ""

    def __init_subclass__(cls, *, code: str, status: int | None = None) -> None:
        """Each error has a code of its own, and its parent's status unless it names one."""
        cls.code = code
        if status is not None:
            cls.status = status

    def __init__(
        self, message: str, *, hint: str | None = None, service: str | None = None, target: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.service = service
        self.target = target

    def at(self, service: str, target: str) -> None:
        """Set service and target, unless they are set already."""
        if self.service is None:
            self.service, self.target = service, target

    def forget_origin(self) -> None:
        """Drop traceback and context, for an error that is kept: its frames refer back to what keeps it, a
        reference cycle that would wait for the garbage collector."""
        self.__traceback__ = self.__context__ = self.__cause__ = None

    def as_dict(self, request_id: str | None = None) -> dict[str, str | None]:
        """The JSON body of an error response, the same keys for every error."""
        return {
            "code": self.code,
            "message": shortened(self.message, MAX_MESSAGE),
            "hint": self.hint,
            "service": None if self.service is None else shortened(self.service, MAX_NAME),
            "target": None if self.target is None else shortened(self.target, MAX_NAME),
            "request_id": request_id,
        }


# --- the request itself -------------------------------------------------------------------------------------


class RequestMalformed(DevrouteError, code="request-malformed", status=400):
    """The bytes are not an HTTP/1.1 request that may be forwarded (RFC 9112)."""


class HeadTooLarge(DevrouteError, code="head-too-large", status=431):
    """The request's head is larger than max_head_bytes."""


class BodyTooLarge(DevrouteError, code="body-too-large", status=413):
    """The body of a request to the control port is too large. The data port forwards bodies of any size."""


class RequestTimeout(DevrouteError, code="request-timeout", status=408):
    """The client did not finish its head or body in time (RFC 9110 §15.5.9)."""


class ClientClosed(DevrouteError, code="client-closed", status=499):
    """The client left before its response was complete. Appears only in logs; nginx has the same status."""


class NotSupported(DevrouteError, code="not-supported", status=501):
    """A method or transfer coding that a gateway does not forward (RFC 9110 §15.6.2)."""


# --- the contract -------------------------------------------------------------------------------------------


class ContractMissing(DevrouteError, code="contract-missing", status=400):
    """The request has no contract."""

    default_hint = 'send the header X-devroute: {"SERVICE": "TARGET"}'


class ContractInvalid(DevrouteError, code="contract-invalid", status=400):
    """The contract is malformed; the message names the place. `corrected` is a valid one that was likely
    meant, which the hint states too; None if there is none."""

    default_hint = "devroute contract check '<contract>' explains a contract"
    corrected: str | None = None


class ContractUnknown(DevrouteError, code="contract-unknown", status=400):
    """No contract is saved under this name; the message says so, and the hint who to ask."""

    default_hint = "devroute contract list shows all names"


class ContractsUnavailable(DevrouteError, code="contracts-unavailable", status=503):
    """The saved contracts are not known yet, or cannot be changed: the replicas' registry is not reached."""

    default_hint = "try again in a few seconds; /readyz on the proxy's admin port shows the problem"


class ContractUntrusted(DevrouteError, code="contract-untrusted", status=403):
    """The contract's signature does not verify with a key that the server trusts."""

    default_hint = "sign it again: devroute sign CONTRACT --key KEY; the server has to know the key"


class ContractExpired(DevrouteError, code="contract-expired", status=403):
    """A signed contract that has expired."""

    default_hint = "sign it again: devroute sign CONTRACT --key KEY"


class ContractNotYetValid(DevrouteError, code="contract-not-yet-valid", status=403):
    """A signed contract that is not valid yet."""

    default_hint = "check the clock of the machine that signed it"


class ContractUnsigned(DevrouteError, code="contract-unsigned", status=403):
    """Policy requires signed contracts (`require: signed`)."""

    default_hint = "sign it: devroute sign CONTRACT --key KEY"


class ServiceNotInContract(DevrouteError, code="service-not-in-contract", status=400):
    """The sidecar detoured a request for a service that the contract does not name."""


class ConditionUnmet(DevrouteError, code="condition-unmet", status=400):
    """The sidecar detoured a request that does not meet the conditions of the contract's entry."""

    default_hint = "check that the sidecar's filter and the proxy are of the same release"


class PathNotOffered(DevrouteError, code="path-not-offered", status=400):
    """The sidecar detoured a request whose path the laptop does not offer (`devroute up --only-path`)."""

    default_hint = "check that the sidecar's filter and the proxy are of the same release"


class LoopDetected(DevrouteError, code="loop", status=508):
    """The contract leads back to a service that has detoured the request before (RFC 5842 §7.2)."""

    default_hint = "a request is detoured at most once for each service; does the target call the mesh again?"


class VersionMissing(DevrouteError, code="version-missing", status=503):
    """The mesh has no such version of the service. Raised by the sidecar (lua/decide.lua)."""

    default_hint = "devroute manifests versions generates the DestinationRule that names the versions"


class FaultInjected(DevrouteError, code="fault-injected", status=503):
    """The contract's `abort`; the response has the contract's status."""


class MarkerMissing(DevrouteError, code="marker-missing", status=400):
    """A request reached the data port without the sidecar's x-devroute-matched."""

    default_hint = (
        "the data port is for sidecars that carry the devroute filter; send requests to the service"
    )


# --- who may go where ---------------------------------------------------------------------------------------


class TargetDenied(DevrouteError, code="target-denied", status=403):
    """Policy does not permit this target."""


class CallerDenied(DevrouteError, code="caller-denied", status=403):
    """Policy does not permit this caller to use this target."""

    default_hint = "the platform team can add a rule to callers in the policy"


class LaptopOffline(DevrouteError, code="laptop-offline", status=503):
    """No laptop is registered under this name."""


class ServiceNotServed(DevrouteError, code="service-not-served", status=503):
    """The laptop is online, but does not offer this service."""


# --- the way to the target ----------------------------------------------------------------------------------


class TargetUnreachable(DevrouteError, code="target-unreachable", status=502):
    """No connection to a direct target."""


class AppUnreachable(DevrouteError, code="app-unreachable", status=502):
    """The tunnel works, but nothing listens on the laptop's local port."""

    default_hint = "start the app on the laptop, then send the request again"


class AppNotListening(AppUnreachable, code="app-not-listening"):
    """`devroute up --wait` has waited too long for an app."""


class UpstreamReset(DevrouteError, code="upstream-reset", status=502):
    """The connection or stream to the target ended before the response was complete."""


class UpstreamInvalid(DevrouteError, code="upstream-invalid", status=502):
    """The target's response is not valid HTTP, or may not be forwarded."""


class UpstreamTimeout(DevrouteError, code="upstream-timeout", status=504):
    """The target sent nothing in time, or the whole request took too long."""


class FailoverFailed(DevrouteError, code="failover-failed", status=502):
    """The laptop declined the request, and the service could not be reached instead."""

    default_hint = "check that the proxy's sidecar has the listener that mesh_egress names"


class CircuitOpen(DevrouteError, code="circuit-open", status=503):
    """The target failed several times in a row and is not tried for a moment."""

    default_hint = "check that the laptop is awake and on the network; it is tried again all the time"


class TargetOverloaded(DevrouteError, code="target-overloaded", status=503):
    """A limit on open requests was reached."""


# --- registration -------------------------------------------------------------------------------------------


class ShadowDenied(DevrouteError, code="shadow-denied", status=403):
    """`devroute up --shadow` for a service whose requests policy does not permit to be copied."""


class ReachDenied(DevrouteError, code="reach-denied", status=403):
    """Policy does not let this laptop reach this service; the hint has the rule that would."""


class ReachUnavailable(DevrouteError, code="reach-unavailable", status=501):
    """A laptop reaches a service by HTTP, and the proxy has no way into the mesh."""

    default_hint = "the platform team sets the proxy's mesh_egress (devroute manifests install --mesh-egress)"


class ReachRefused(DevrouteError, code="reach-refused", status=403):
    """The service's own sidecar refused a laptop's request: an AuthorizationPolicy of the mesh."""


class ServiceUnknown(DevrouteError, code="service-unknown", status=502):
    """The mesh has no service of this name and port, or none that is ready."""


class MeshTlsRequired(DevrouteError, code="mesh-tls-required", status=502):
    """A laptop's TCP connection was closed at its first bytes, as services do that accept the mesh's TLS
    only."""


class FailoverUnavailable(DevrouteError, code="failover-unavailable", status=501):
    """`devroute up --except-status` with a proxy that has no way to the service."""

    default_hint = "leave out --except-status, or ask the platform team to set the proxy's mesh_egress"


class TokenInvalid(DevrouteError, code="token-invalid", status=401):
    """There is no token, or it does not verify."""

    default_hint = "ask the platform team for a token (devroute token new NAME), and set DEVROUTE_TOKEN"


class TokenExpired(TokenInvalid, code="token-expired"):
    """The token was valid, and has expired."""

    default_hint = (
        "get a new token and set DEVROUTE_TOKEN, or let devroute get it each time: --token-command 'COMMAND'"
    )


class TokenCommandFailed(DevrouteError, code="token-command-failed", status=500):
    """The laptop's command for a token failed (`token_command`)."""

    default_hint = "run the command by hand; you may have to log in"


class LoginRequired(TokenInvalid, code="login-required"):
    """The login of this laptop has ended: its refresh token is not accepted any more, or there is none."""

    default_hint = "log in again: devroute login"


class LoginFailed(DevrouteError, code="login-failed", status=500):
    """`devroute login` got no token of the issuer; the message has the issuer's own reason."""

    default_hint = "docs/sso.md has what an issuer needs"


class SubjectInvalid(DevrouteError, code="subject-invalid", status=403):
    """The token is valid, but its subject cannot be a laptop's name."""

    default_hint = "the platform team chooses the claim with oidc_subject_claim"


class KeysUnavailable(DevrouteError, code="keys-unavailable", status=503):
    """Keys cannot be fetched: the issuer's, so its tokens cannot be checked, or those of signed contracts."""

    default_hint = "try again in a few seconds; /readyz on the proxy's admin port shows the problem"


class NameNotOwned(DevrouteError, code="name-not-owned", status=403):
    """A subject may only register the names `subject` and `subject--*`."""


class RegistrationDenied(DevrouteError, code="not-permitted", status=403):
    """Policy does not permit this subject to register this service, or no longer does."""


class ContractNotOwned(DevrouteError, code="contract-not-owned", status=403):
    """Another subject has saved a contract under this name; administrators may change it, too."""


class TooManyContracts(DevrouteError, code="too-many-contracts", status=429):
    """The subject, or all of them together, have as many saved contracts as there may be."""

    default_hint = "delete some: devroute contract list, devroute contract delete NAME"


class NameTaken(DevrouteError, code="name-taken", status=409):
    """Another process of the same subject serves one of these services under this name."""


class LinkReplaced(DevrouteError, code="link-replaced", status=409):
    """Another process of the same subject, or a newer link of the same process, has this link's services."""


class TooManyLinks(DevrouteError, code="too-many-links", status=429):
    """The subject has as many processes online as it may have."""


class SubjectBlocked(DevrouteError, code="subject-blocked", status=403):
    """An administrator has blocked this subject for a time."""

    default_hint = "ask the administrator, or wait; the message has both"


class RegistrationEnded(DevrouteError, code="registration-ended", status=403):
    """An administrator has ended this registration."""

    default_hint = "ask the administrator before you start devroute up again"


class ConnectionUsed(DevrouteError, code="connection-used", status=503):
    """A tunnel has to be the first request on its connection; an ingress may have used this one before."""

    default_hint = "the connection is closed now: try again"


class ProtocolError(DevrouteError, code="tunnel-protocol", status=400):
    """The peer of a tunnel violated tunnel/PROTOCOL.md; the link ends."""


class TunnelFlooded(ProtocolError, code="tunnel-flood", status=429):
    """The peer of a tunnel sent more control frames or resets than PROTOCOL.md permits; the link ends."""


class NotFound(DevrouteError, code="not-found", status=404):
    """The port has no such path."""


class MethodNotAllowed(DevrouteError, code="method-not-allowed", status=405):
    """The path does not support this method."""


# --- the team's page ----------------------------------------------------------------------------------------


class SessionEnded(DevrouteError, code="session-ended", status=401):
    """The browser has no session, or it has ended: its time is over, or its token is not valid any more."""

    default_hint = "open the page again: devroute dashboard"


class LoginLinkInvalid(DevrouteError, code="login-link-invalid", status=401):
    """A link to the page that was used before, is older than a minute, or was never made."""

    default_hint = "make another one: devroute dashboard"


class OriginDenied(DevrouteError, code="origin-denied", status=403):
    """A request with a session or a client certificate that another site sent, or that came by another name
    of the server."""

    default_hint = "open the page by the link that devroute dashboard prints"


class AdminRequired(DevrouteError, code="admin-required", status=403):
    """Only those that the policy lists in `admins` may do this."""

    default_hint = "the platform team can add you to admins in the policy"


class TooManyPages(DevrouteError, code="too-many-pages", status=429):
    """As many pages and `devroute ls --watch` are open as may be."""

    default_hint = "close one of them"


# --- the laptop ---------------------------------------------------------------------------------------------


class ConfigInvalid(DevrouteError, code="config-invalid", status=500):
    """A setting, policy or token file is invalid; the message names the file and the field."""


class ServerNotConfirmed(ConfigInvalid, code="server-not-confirmed"):
    """Only a repository's file names `server` and its token, and the user has not confirmed it."""

    def __init__(self, server: str, file: str) -> None:
        super().__init__(
            f"{file} names the server {quote(server)} and brings the token for it: its author could send"
            " requests to your apps",
            hint=f"if you trust that server, name it yourself: --server {shortened(server, MAX_NAME)}",
        )
        self.server = server


class ServerUnreachable(DevrouteError, code="server-unreachable", status=502):
    """The proxy's control port cannot be reached."""


class LastService(DevrouteError, code="last-service", status=409):
    """The only service of a `devroute up` cannot be taken away."""

    default_hint = "end it as a whole: devroute down"


class ControlDenied(DevrouteError, code="control-denied", status=403):
    """A request to the control API of a `devroute up` that is not from its own user, or from a browser."""

    default_hint = "use the commands of devroute, or the socket, as the user who runs devroute up"


class TooManyFollowers(DevrouteError, code="too-many-followers", status=429):
    """More clients follow a `devroute up` than it serves."""

    default_hint = "end one of them"


class InspectorLocked(DevrouteError, code="inspector-locked", status=401):
    """No cookie, or a token that was used before: the browser did not open the link that `up` printed."""

    default_hint = "open the link that devroute up printed last"


class NotReplayable(DevrouteError, code="not-replayable", status=409):
    """The capture lacks what is needed to send the request again, or is no single request."""


class QueryInvalid(DevrouteError, code="query-invalid", status=400):
    """A query of the inspector that cannot be read; the message names the term."""


class HarInvalid(DevrouteError, code="har-invalid", status=400):
    """A HAR file that cannot be read; the message names the entry."""


class InspectorDenied(DevrouteError, code="inspector-denied", status=403):
    """The request came from another machine, by another name for this one, or from another site."""


class ReachPageDenied(DevrouteError, code="reach-page-denied", status=403):
    """A local port for services of the mesh got a request of a web site's page, or by another name."""


class ReachOutside(DevrouteError, code="reach-outside", status=403):
    """The port of `devroute reach` was asked for something that is no service of the mesh."""


def _leaves(kind: type[DevrouteError]) -> dict[str, type[DevrouteError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found |= _leaves(child)
    return found


#: Every code with its class, for errors that travel by name (a RESET frame, a GOAWAY, a JSON body).
BY_CODE: dict[str, type[DevrouteError]] = _leaves(DevrouteError)
