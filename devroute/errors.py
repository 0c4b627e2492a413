"""All errors of devroute. Each class has an HTTP status and a stable code; none does I/O.

Codes are part of the public interface: scripts and dashboards match on them, so they never change meaning.

Longer than 350 lines: this is one table, with one entry for each error.
"""

from typing import ClassVar


class DevrouteError(Exception):
    """What was wrong, where, and what to do about it.

    `message` is one line without secrets, `hint` what to do. `service` and `target` are those of the
    contract's entry, where known.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    default_hint: ClassVar[str] = ""

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

    def as_dict(self, request_id: str | None = None) -> dict[str, str | None]:
        """The JSON body of an error response, the same keys for every error."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "service": self.service,
            "target": self.target,
            "request_id": request_id,
        }


# --- the request itself -------------------------------------------------------------------------------------


class RequestMalformed(DevrouteError):
    """The bytes are not an HTTP/1.1 request that may be forwarded (RFC 9112)."""

    code, status = "request-malformed", 400


class HeadTooLarge(DevrouteError):
    code, status = "head-too-large", 431


class BodyTooLarge(DevrouteError):
    """Of a request to the control port. The data port forwards bodies of any size."""

    code, status = "body-too-large", 413


class RequestTimeout(DevrouteError):
    """The client did not finish its head or body in time (RFC 9110 §15.5.9)."""

    code, status = "request-timeout", 408


class ClientClosed(DevrouteError):
    """The client left before its response was complete. Appears only in logs; nginx has the same status."""

    code, status = "client-closed", 499


class NotSupported(DevrouteError):
    """A method or transfer coding that a gateway does not forward (RFC 9110 §15.6.2)."""

    code, status = "not-supported", 501


# --- the contract -------------------------------------------------------------------------------------------


class ContractMissing(DevrouteError):
    code, status = "contract-missing", 400
    default_hint = 'send the header X-devroute: {"SERVICE": "TARGET"}'


class ContractInvalid(DevrouteError):
    """The contract is malformed; the message names the place."""

    code, status = "contract-invalid", 400
    default_hint = "devroute contract check '<contract>' explains a contract"


class ContractUntrusted(DevrouteError):
    """The contract's signature does not verify with a key that the server trusts."""

    code, status = "contract-untrusted", 403
    default_hint = "sign it again: devroute sign CONTRACT --key KEY; the server has to know the key"


class ContractExpired(DevrouteError):
    """A signed contract that has expired."""

    code, status = "contract-expired", 403
    default_hint = "sign it again: devroute sign CONTRACT --key KEY"


class ContractNotYetValid(DevrouteError):
    """A signed contract that is not valid yet."""

    code, status = "contract-not-yet-valid", 403
    default_hint = "check the clock of the machine that signed it"


class ContractUnsigned(DevrouteError):
    """Policy requires signed contracts (`require: signed`)."""

    code, status = "contract-unsigned", 403
    default_hint = "sign it: devroute sign CONTRACT --key KEY"


class ServiceNotInContract(DevrouteError):
    """The sidecar detoured a request for a service that the contract does not name."""

    code, status = "service-not-in-contract", 400


class ConditionUnmet(DevrouteError):
    """The sidecar detoured a request that does not meet the conditions of the contract's entry."""

    code, status = "condition-unmet", 400
    default_hint = "check that the sidecar's filter and the proxy are of the same release"


class PathNotOffered(DevrouteError):
    """The sidecar detoured a request whose path the laptop does not offer (`devroute up --only-path`)."""

    code, status = "path-not-offered", 400
    default_hint = "check that the sidecar's filter and the proxy are of the same release"


class LoopDetected(DevrouteError):
    """The contract leads back to a service that has detoured the request before (RFC 5842 §7.2)."""

    code, status = "loop", 508
    default_hint = "a request is detoured at most once for each service; does the target call the mesh again?"


class VersionMissing(DevrouteError):
    """The mesh has no such version of the service. Raised by the sidecar (lua/devroute.lua)."""

    code, status = "version-missing", 503
    default_hint = "devroute manifests versions generates the DestinationRule that names the versions"


class FaultInjected(DevrouteError):
    """The contract's `abort`; the response has the contract's status."""

    code, status = "fault-injected", 503


class MarkerMissing(DevrouteError):
    """A request reached the data port without the sidecar's x-devroute-matched."""

    code, status = "marker-missing", 400
    default_hint = (
        "the data port is for sidecars that carry the devroute filter; send requests to the service"
    )


# --- who may go where ---------------------------------------------------------------------------------------


class TargetDenied(DevrouteError):
    code, status = "target-denied", 403


class CallerDenied(DevrouteError):
    """Policy does not permit this caller to use this target."""

    code, status = "caller-denied", 403
    default_hint = "the platform team can add a rule to callers in the policy"


class LaptopOffline(DevrouteError):
    code, status = "laptop-offline", 503


class ServiceNotServed(DevrouteError):
    """The laptop is online, but does not offer this service."""

    code, status = "service-not-served", 503


# --- the way to the target ----------------------------------------------------------------------------------


class TargetUnreachable(DevrouteError):
    """No connection to a direct target."""

    code, status = "target-unreachable", 502


class AppUnreachable(DevrouteError):
    """The tunnel works, but nothing listens on the laptop's local port."""

    code, status = "app-unreachable", 502
    default_hint = "start the app on the laptop, then send the request again"


class UpstreamReset(DevrouteError):
    """The connection or stream to the target ended before the response was complete."""

    code, status = "upstream-reset", 502


class UpstreamInvalid(DevrouteError):
    """The target's response is not valid HTTP, or may not be forwarded."""

    code, status = "upstream-invalid", 502


class UpstreamTimeout(DevrouteError):
    code, status = "upstream-timeout", 504


class FailoverFailed(DevrouteError):
    """The laptop declined the request, and the service could not be reached instead."""

    code, status = "failover-failed", 502
    default_hint = "check that the proxy's sidecar has the listener that mesh_egress names"


class CircuitOpen(DevrouteError):
    """The target failed several times in a row and is not tried for a second."""

    code, status = "circuit-open", 503
    default_hint = "check that the laptop is awake and on the network; it is tried again each second"


class TargetOverloaded(DevrouteError):
    """A limit on open requests was reached."""

    code, status = "target-overloaded", 503


# --- registration -------------------------------------------------------------------------------------------


class ShadowDenied(DevrouteError):
    """`devroute up --shadow` for a service whose traffic policy does not permit to mirror."""

    code, status = "shadow-denied", 403


class FailoverUnavailable(DevrouteError):
    """`devroute up --except-status` with a proxy that has no way to the service."""

    code, status = "failover-unavailable", 501
    default_hint = "leave out --except-status, or ask the platform team to set the proxy's mesh_egress"


class TokenInvalid(DevrouteError):
    code, status = "token-invalid", 401
    default_hint = "ask the platform team for a token (devroute token new NAME), and set DEVROUTE_TOKEN"


class TokenExpired(TokenInvalid):
    code = "token-expired"
    default_hint = (
        "get a new token and set DEVROUTE_TOKEN, or let devroute get it each time: --token-command 'COMMAND'"
    )


class TokenCommandFailed(DevrouteError):
    """The laptop's command for a token failed (`token_command`)."""

    code, status = "token-command-failed", 500
    default_hint = "run the command by hand; you may have to log in"


class SubjectInvalid(DevrouteError):
    """The token is valid, but its subject cannot be a laptop's name."""

    code, status = "subject-invalid", 403
    default_hint = "the platform team chooses the claim with oidc_subject_claim"


class KeysUnavailable(DevrouteError):
    """The issuer's keys cannot be fetched, so its tokens cannot be checked."""

    code, status = "keys-unavailable", 503
    default_hint = "try again in some seconds; /readyz on the proxy's admin port shows the problem"


class NameNotOwned(DevrouteError):
    """A subject may only register the names `subject` and `subject-*`."""

    code, status = "name-not-owned", 403


class RegistrationDenied(DevrouteError):
    """Policy does not permit this subject to register this service, or no longer does."""

    code, status = "not-permitted", 403


class NameTaken(DevrouteError):
    code, status = "name-taken", 409


class LinkReplaced(DevrouteError):
    """A newer link of the same subject took this link's name."""

    code, status = "link-replaced", 409


class TooManyLinks(DevrouteError):
    code, status = "too-many-links", 429


class ConnectionUsed(DevrouteError):
    """A tunnel has to be the first request on its connection; an ingress may have used this one before."""

    code, status = "connection-used", 503
    default_hint = "the connection is closed now: try again"


class ProtocolError(DevrouteError):
    """The peer of a tunnel violated tunnel/PROTOCOL.md; the link ends."""

    code, status = "tunnel-protocol", 400


class TunnelFlooded(ProtocolError):
    """The peer of a tunnel sent more control frames or resets than PROTOCOL.md permits; the link ends."""

    code, status = "tunnel-flood", 429


class NotFound(DevrouteError):
    code, status = "not-found", 404


class MethodNotAllowed(DevrouteError):
    code, status = "method-not-allowed", 405


# --- the laptop ---------------------------------------------------------------------------------------------


class ConfigInvalid(DevrouteError):
    """A setting, policy or token file is invalid; the message names the file and the field."""

    code, status = "config-invalid", 500


class ServerUnreachable(DevrouteError):
    code, status = "server-unreachable", 502


class InspectorLocked(DevrouteError):
    """No cookie, or a token that was used before: the browser did not open the link that `up` printed."""

    code, status = "inspector-locked", 401
    default_hint = "open the link that devroute up has printed last"


class NotReplayable(DevrouteError):
    """The capture lacks what is needed to send the request again, or is no single request."""

    code, status = "not-replayable", 409


class HarInvalid(DevrouteError):
    """A HAR file that cannot be read; the message names the entry."""

    code, status = "har-invalid", 400


class InspectorDenied(DevrouteError):
    """The request came from another machine, by another name for this one, or from another site."""

    code, status = "inspector-denied", 403


def _leaves(kind: type[DevrouteError]) -> dict[str, type[DevrouteError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found |= _leaves(child)
    return found


#: Every code with its class, for errors that travel by name (a RESET frame, a GOAWAY, a JSON body).
BY_CODE: dict[str, type[DevrouteError]] = _leaves(DevrouteError)
