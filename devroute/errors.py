"""The one tree of errors. Each leaf carries an HTTP status and a stable code; nothing here does I/O.

Codes are part of the public interface: scripts and dashboards match on them, so they never change meaning.
"""

from typing import ClassVar


class DevrouteError(Exception):
    """Something a person has to hear about: what was wrong, where, and what to do.

    `message` is one line without secrets. `hint` says what to do about it. `service` and `target` name the
    place in the contract where they are known.
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
        """Name the place, unless whoever raised it knew better."""
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
    """Of a request to the control port; the data port takes bodies of any size."""

    code, status = "body-too-large", 413


class RequestTimeout(DevrouteError):
    """The client did not finish its head or body in time (RFC 9110 §15.5.9)."""

    code, status = "request-timeout", 408


class ClientClosed(DevrouteError):
    """The client went away before its answer was complete. Only logs show it; the status is nginx's."""

    code, status = "client-closed", 499


class NotSupported(DevrouteError):
    """A method or transfer coding that a gateway does not forward (RFC 9110 §15.6.2)."""

    code, status = "not-supported", 501


# --- the contract -------------------------------------------------------------------------------------------


class ContractMissing(DevrouteError):
    code, status = "contract-missing", 400
    default_hint = 'send the header X-devroute: {"SERVICE": "TARGET"}'


class ContractInvalid(DevrouteError):
    """The contract breaks its grammar; the message names the place."""

    code, status = "contract-invalid", 400
    default_hint = "devroute contract check '<contract>' explains a contract"


class ContractUntrusted(DevrouteError):
    """Nobody whom the server trusts has signed this contract, or not in this form."""

    code, status = "contract-untrusted", 403
    default_hint = "sign it again: devroute sign CONTRACT --key KEY; the server has to know the key"


class ContractExpired(DevrouteError):
    """A signed contract beyond its time."""

    code, status = "contract-expired", 403
    default_hint = "sign it again: devroute sign CONTRACT --key KEY"


class ContractNotYetValid(DevrouteError):
    """A signed contract before its time."""

    code, status = "contract-not-yet-valid", 403
    default_hint = "is the clock right of the machine that signed it?"


class ContractUnsigned(DevrouteError):
    """Policy wants contracts signed (`require: signed`)."""

    code, status = "contract-unsigned", 403
    default_hint = "sign it: devroute sign CONTRACT --key KEY"


class ServiceNotInContract(DevrouteError):
    """The sidecar matched a service that the contract does not name."""

    code, status = "service-not-in-contract", 400


class ConditionUnmet(DevrouteError):
    """The sidecar detoured a request that the contract leaves to the service."""

    code, status = "condition-unmet", 400
    default_hint = "are the sidecar's filter and the proxy of the same release?"


class PathNotOffered(DevrouteError):
    """The sidecar detoured a request that the laptop does not want (`devroute up --only-path`)."""

    code, status = "path-not-offered", 400
    default_hint = "are the sidecar's filter and the proxy of the same release?"


class LoopDetected(DevrouteError):
    """The contract leads back to a service that has sent the request away before (RFC 5842 §7.2)."""

    code, status = "loop", 508
    default_hint = "each service is detoured at most once for a request; does the target call the mesh again?"


class VersionMissing(DevrouteError):
    """The mesh has no such version of the service. The sidecar finds it out (lua/devroute.lua)."""

    code, status = "version-missing", 503
    default_hint = "devroute manifests versions makes the DestinationRule that names the versions"


class FaultInjected(DevrouteError):
    """What the contract's `abort` asks for; the status is the contract's."""

    code, status = "fault-injected", 503


class MarkerMissing(DevrouteError):
    """A request reached the data port without the sidecar's word for which service it is."""

    code, status = "marker-missing", 400
    default_hint = (
        "the data port is for sidecars that carry the devroute filter; send requests to the service"
    )


# --- who may go where ---------------------------------------------------------------------------------------


class TargetDenied(DevrouteError):
    code, status = "target-denied", 403


class CallerDenied(DevrouteError):
    """Policy does not let this caller's requests go to this target."""

    code, status = "caller-denied", 403
    default_hint = "the platform team can add a rule to callers in the policy"


class LaptopOffline(DevrouteError):
    code, status = "laptop-offline", 503


class ServiceNotServed(DevrouteError):
    """The laptop is online, but serves other services."""

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
    """The connection or stream to the target died before the response was complete."""

    code, status = "upstream-reset", 502


class UpstreamInvalid(DevrouteError):
    """The target's answer is not HTTP/1.1 that may be forwarded."""

    code, status = "upstream-invalid", 502


class UpstreamTimeout(DevrouteError):
    code, status = "upstream-timeout", 504


class FailoverFailed(DevrouteError):
    """The laptop declined, and the real service could not be reached in its place."""

    code, status = "failover-failed", 502
    default_hint = "does the proxy's sidecar have the listener that mesh_egress names?"


class CircuitOpen(DevrouteError):
    """A target that failed several times in a row is left alone for a second."""

    code, status = "circuit-open", 503
    default_hint = "is the laptop awake and on the network? It is tried again each second"


class TargetOverloaded(DevrouteError):
    """A limit of requests in flight."""

    code, status = "target-overloaded", 503


# --- registration -------------------------------------------------------------------------------------------


class ShadowDenied(DevrouteError):
    """`devroute up --shadow` for a service of which policy permits no copies."""

    code, status = "shadow-denied", 403


class FailoverUnavailable(DevrouteError):
    """`devroute up --except-status` at a proxy that has no way to the real service."""

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
    """The laptop's own command for a token; the server has no part in it."""

    code, status = "token-command-failed", 500
    default_hint = "run the command by hand: are you logged in?"


class SubjectInvalid(DevrouteError):
    """The token is good, but what it says of its owner cannot be a laptop's name."""

    code, status = "subject-invalid", 403
    default_hint = "the platform team chooses the claim with oidc_subject_claim"


class KeysUnavailable(DevrouteError):
    """The issuer's keys cannot be had, so no token of it can be judged."""

    code, status = "keys-unavailable", 503
    default_hint = "try again in some seconds; /readyz on the proxy's admin port shows the problem"


class NameNotOwned(DevrouteError):
    """A subject may register `subject` and `subject-*`, nothing else."""

    code, status = "name-not-owned", 403


class RegistrationDenied(DevrouteError):
    """Policy does not let this subject register this service, or does so no longer."""

    code, status = "not-permitted", 403


class NameTaken(DevrouteError):
    code, status = "name-taken", 409


class LinkReplaced(DevrouteError):
    """A newer link of the same owner took this one's name."""

    code, status = "link-replaced", 409


class TooManyLinks(DevrouteError):
    code, status = "too-many-links", 429


class ConnectionUsed(DevrouteError):
    """A tunnel has to be the first request of its connection; an ingress may have used this one before."""

    code, status = "connection-used", 503
    default_hint = "the connection is closed now: try again"


class ProtocolError(DevrouteError):
    """The peer of a tunnel broke tunnel/PROTOCOL.md; the link ends."""

    code, status = "tunnel-protocol", 400


class TunnelFlooded(ProtocolError):
    """The peer of a tunnel sent more of what costs it nothing than PROTOCOL.md allows; the link ends."""

    code, status = "tunnel-flood", 429


class NotFound(DevrouteError):
    code, status = "not-found", 404


class MethodNotAllowed(DevrouteError):
    code, status = "method-not-allowed", 405


# --- the laptop ---------------------------------------------------------------------------------------------


class ConfigInvalid(DevrouteError):
    """A setting, policy or token file is wrong; the message names the file and the field."""

    code, status = "config-invalid", 500


class ServerUnreachable(DevrouteError):
    code, status = "server-unreachable", 502


class InspectorLocked(DevrouteError):
    """No cookie, or a token that was used: whoever asks has not opened the link that the terminal shows."""

    code, status = "inspector-locked", 401
    default_hint = "open the link that devroute up has printed last"


class NotReplayable(DevrouteError):
    """What was kept of a request is not enough to send it again, or it is no single request."""

    code, status = "not-replayable", 409


class HarInvalid(DevrouteError):
    """A HAR file that cannot be read; the message names the entry."""

    code, status = "har-invalid", 400


class InspectorDenied(DevrouteError):
    """Another machine, another name for this one, or another site in the same browser."""

    code, status = "inspector-denied", 403


def _leaves(kind: type[DevrouteError]) -> dict[str, type[DevrouteError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found |= _leaves(child)
    return found


#: Every code with its class, for errors that travel by name (a RESET frame, a GOAWAY, a JSON body).
BY_CODE: dict[str, type[DevrouteError]] = _leaves(DevrouteError)
