"""`devroute proxy`: the three listeners in the mesh, and what they share. Owns their start, reload and end.

data     requests that a sidecar detoured, and nothing else (proxy/downstream/listener.py,
proxy/downstream/exchange.py)
control  /resolve, the laptops' tunnels and the JSON API (proxy/control/tunnels.py, inspector/api.py)
admin    health, readiness, metrics (proxy/admin.py)
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web

from devroute import __version__
from devroute.auth.tls import ServerFiles
from devroute.contract.grammar import ContractLimits
from devroute.contract.offer_options import OfferOptions
from devroute.contract.verifier import Verifier
from devroute.errors import ConfigInvalid, HandbackUnavailable
from devroute.http.message import HeadLimits
from devroute.log import configure
from devroute.platforms import freeze_heap, loop_factory
from devroute.policy.policy import Policy
from devroute.proxy import admin
from devroute.proxy.control import api, http
from devroute.proxy.control.tls import TlsListener
from devroute.proxy.control.tunnels import TunnelListener
from devroute.proxy.downstream.listener import Listener
from devroute.proxy.identity_sources import IdentitySources
from devroute.proxy.settings import ProxySettings
from devroute.proxy.signing_keys import SigningKeySource
from devroute.proxy.telemetry.access_log import request_log
from devroute.proxy.telemetry.audit import OFF, STDOUT, Audit, AuditFile
from devroute.proxy.telemetry.audit_events import RecordEvent, discard_event
from devroute.proxy.telemetry.metrics import Metrics
from devroute.proxy.telemetry.observer import Observer
from devroute.proxy.watched_file import WatchedFile
from devroute.routing.registry import Registry
from devroute.routing.route import CompletedExchange, Timeouts
from devroute.routing.router import ContractRouter
from devroute.routing.shadow.comparison import PendingComparisons
from devroute.routing.trace import Traces
from devroute.tunnel.protocol.handshake import Offer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.pools import Pools

#: How coarse the data path's clock is; its timeouts are seconds.
TICK_SECONDS: Final = 0.5

#: Pools that nobody uses are looked for this often, in ticks.
PRUNE_TICKS: Final = 120

#: Links whose token has expired or was revoked are looked for this often, in ticks.
IN_FORCE_TICKS: Final = 2

#: What the audit trail left out is told this often, in ticks.
OMISSION_TICKS: Final = 20

#: Sidecars open many connections at once when a proxy starts.
BACKLOG: Final = 1024

log = structlog.stdlib.get_logger("devroute.proxy")


class Proxy:
    """One replica. `start` listens, `stop` drains; in between everything happens in callbacks."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raises ConfigInvalid for a policy or token file that cannot be used."""
        self._settings = settings
        self._policy = WatchedFile(settings.policy, Policy.parse, Policy())
        self._admission = IdentitySources(settings)
        self._signers = SigningKeySource(settings.contract_keys)
        self._signers_in_force = self._signers.keys()
        self._audit = None if settings.audit == OFF else Audit(AuditFile(settings.audit))
        self._record: RecordEvent = discard_event if self._audit is None else self._audit.record
        self._counters = Metrics()
        log_exchange, self._flush_log = request_log(settings.log_format, settings.log_level)
        self._traces = Traces()
        self._comparisons = PendingComparisons(asyncio.get_running_loop().time)
        self._draining = False
        self._ticks = 0
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.registry = Registry(max_links_per_subject=settings.max_links_per_subject)
        self._pools = Pools(
            self.policy, connect_timeout=settings.connect_timeout, max_in_flight=settings.max_in_flight
        )
        sizes = ContractLimits(settings.max_contract_bytes, settings.max_contract_entries)
        read = Verifier(self._signers.keys, settings.contract_max_ttl, self._signers.look_again, sizes)
        self._mesh: Http1Pool | None = None
        if (egress := settings.mesh_egress) is not None:
            self._mesh = Http1Pool(
                egress.host,
                egress.port,
                permit=lambda ip, port: (
                    None
                ),  # the operator's own listener, on this machine (cli/config/sources.py)
                connect_timeout=settings.connect_timeout,
                max_in_flight=settings.max_in_flight,
            )
        self._router = ContractRouter(
            self.registry,
            self.policy,
            self._pools,
            read,
            mesh=self._mesh,
            comparisons=self._comparisons,
            shadows=self.registry,
        )
        timeouts = Timeouts(
            head=settings.head_timeout,
            body=settings.body_timeout,
            first_byte=settings.first_byte_timeout,
            idle=settings.idle_timeout,
            keep_alive=settings.keep_alive_timeout,
            total=settings.total_timeout,
        )
        limits = HeadLimits(settings.max_head_bytes, settings.max_header_fields)
        observer = Observer(self._counters, log_exchange, self._audit, self._traced)
        self._server = Listener(self._router, timeouts, observer.completed, loop.time(), limits)
        self._control = http.create_runner(
            api.create_app(
                api.Control(
                    directory=self.registry,
                    policy=self.policy,
                    authenticate=self._admission.authenticate,
                    probe=self._pools.probe,
                    probe_timeout=settings.probe_timeout,
                    traces=self._traces,
                    comparisons=self._comparisons,
                    shadows=self.registry,
                    read=read,
                    record=self._record,
                )
            )
        )
        self._admin = web.AppRunner(
            admin.create_app(self._counters, self._gauges, self._readiness),
            access_log=None,
            handle_signals=False,
        )
        self._listeners: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tunnels: TunnelListener | None = None
        self._tls: TlsListener | None = None
        self.data_port = self.control_port = self.admin_port = self.tls_port = 0

    def policy(self) -> Policy:
        return self._policy.value

    def _permit_registration(self, subject: str, groups: frozenset[str], offer: Offer) -> None:
        policy = self.policy()
        policy.permit_registration(subject, groups, offer.service)
        if offer.direct is not None:
            policy.permit_target(offer.direct, service=offer.service)
        self._permit_options(offer.service, offer.terms)

    def _permit_options(self, service: str, options: OfferOptions) -> None:
        if options.shadow is not None:
            self.policy().permit_shadow(service)
        if options.except_status and self._mesh is None:
            raise HandbackUnavailable(
                f"service '{service}': requests cannot be handed back: the proxy has no way into the mesh",
                service=service,
            )

    def _limit(self) -> None:
        """The settings' limits, or the policy's where it has some."""
        settings, policy = self._settings, self.policy().limits
        per_target = policy.in_flight_per_target or settings.max_in_flight
        self._pools.limit(per_target)
        self.registry.max_links = policy.links_per_subject or settings.max_links_per_subject
        if self._tunnels is not None:
            self._tunnels.shares.limit(
                per_link=min(per_target, policy.streams_per_link or settings.max_streams_per_link),
                per_subject=policy.in_flight_per_subject or settings.max_in_flight_per_subject,
            )

    # --- life

    async def start(self) -> None:
        """Raises ConfigInvalid where a port cannot be had."""
        settings = self._settings
        await self._control.setup()
        await self._admin.setup()
        assert self._control.server is not None
        assert self._admin.server is not None
        self._tunnels = TunnelListener(
            http=http.connections(self._control),
            authenticate=self._admission.authenticate,
            registry=self.registry,
            server_version=__version__,
            permit=self._permit_registration,
            record=self._record,
        )
        self._limit()
        self.control_port = await self._listen(self._tunnels, settings.control_host, settings.control_port)
        self.data_port = await self._listen(self._server, settings.data_host, settings.data_port)
        self.admin_port = await self._listen(self._admin.server, settings.admin_host, settings.admin_port)
        if settings.tls_cert is not None and settings.tls_key is not None:
            files = ServerFiles(
                settings.tls_cert,
                settings.tls_key,
                settings.tls_client_ca,
                settings.tls_client_auth == "required",
            )
            self._tls = TlsListener(files, self._tunnels)
            self.tls_port = await self._tls.start(
                settings.control_host, settings.tls_port, settings.reload_interval
            )
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._admission.start()
        self._signers.start()
        for what, file in self._files():
            if file.path is not None:
                self._record("change", what=what, outcome="loaded", path=str(file.path), reason="")
        log.info(
            "proxy.ready",
            version=__version__,
            data_port=self.data_port,
            control_port=self.control_port,
            admin_port=self.admin_port,
            tls_port=self.tls_port or None,
        )

    async def _listen(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> int:
        try:
            server = await self._loop.create_server(protocol_factory, host, port, backlog=BACKLOG)
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="is another proxy running?"
            ) from None
        self._listeners.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Take nothing new, let what runs come to its end for `drain_timeout` seconds, then break it off."""
        self._draining = True
        log.info("proxy.draining", in_flight=self._server.in_flight)
        self._server.drain()
        for listener in self._listeners:
            listener.close()
        if self._tls is not None:
            await self._tls.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                await self._server.quiet.wait()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._server.connections):
            connection.abort()
        await self._admission.stop()
        await self._signers.stop()
        if self._tunnels is not None:
            await self._tunnels.close()
        await self._pools.close()
        if self._mesh is not None:
            await self._mesh.close()
        await self._control.cleanup()
        await self._admin.cleanup()
        self._flush_log()
        if self._audit is not None:
            self._audit.close()
        log.info("proxy.stopped")

    # --- while it runs

    def reopen_audit(self) -> None:
        """The audit's file was moved away (SIGHUP, as log rotation sends it)."""
        if self._audit is not None:
            self._audit.reopen()

    def _traced(self, exchange: CompletedExchange, key: str) -> None:
        """`devroute trace` wants to know how long it took, and who answered."""
        if (route := exchange.route) is not None:
            self._traces.add_response(
                key,
                route.service,
                route.target,
                exchange.status,
                "" if exchange.error is None else exchange.error.message,
                exchange.elapsed(),
                self._loop.time(),
            )

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._server.tick(self._loop.time())
        self._comparisons.expire()
        self._ticks += 1
        if self._ticks % PRUNE_TICKS == 0:
            self._pools.prune()
        if self._ticks % OMISSION_TICKS == 0 and self._audit is not None:
            self._audit.tell_omitted()
        if self._ticks % IN_FORCE_TICKS == 0 and self._tunnels is not None:
            self._tunnels.end_unless(self._admission.still_in_force, time.time(), self._admission.tokens)
        if self._ticks % max(1, round(self._settings.reload_interval / TICK_SECONDS)) == 0:
            changed = {what for what, file in self._files() if self._refreshed(what, file)}
            if self._signers_in_force is not (keys := self._signers.keys()):
                self._signers_in_force = keys
                self._router.forget()
            if "policy" in changed:
                self._router.forget()
                self._limit()
                self._pools.close_idle()
                if self._tunnels is not None:
                    self._tunnels.review()

    def _files(self) -> list[tuple[str, WatchedFile[Any]]]:
        """What is read again when it changes, as the audit trail names it."""
        return [
            ("policy", self._policy),
            *self._signers.files(),
            *self._admission.files(),
        ]

    def _refreshed(self, what: str, file: WatchedFile[Any]) -> bool:
        problem = file.problem
        changed = file.refresh()
        if changed or file.problem not in (None, problem):
            outcome = "loaded" if changed else "rejected"
            self._record("change", what=what, outcome=outcome, path=str(file.path), reason=file.problem or "")
        return changed

    def _gauges(self) -> dict[str, int]:
        return {
            "requests_in_flight": self._server.in_flight,
            "sidecar_connections": len(self._server.connections),
            "laptops_online": len(self.registry.listing()),
        }

    def _readiness(self) -> dict[str, object]:
        return {
            "ready": not self._draining,
            "draining": self._draining,
            "policy_problem": self._policy.problem,
            "contract_keys_problem": self._signers.problem(),
            "audit_problem": None if self._audit is None else self._audit.trail.problem,
            "tls_problem": None if self._tls is None else self._tls.problem,
        } | self._admission.status()


async def serve(settings: ProxySettings) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends without draining."""
    proxy = Proxy(settings)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    if settings.audit not in (OFF, STDOUT) and hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, proxy.reopen_audit)
    for name in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C arrives as KeyboardInterrupt
            loop.add_signal_handler(name, ending.set)
    try:
        await proxy.start()
        freeze_heap()
        await ending.wait()
    finally:
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(name)
        await proxy.stop()
    return 0


def run(settings: ProxySettings) -> int:
    """Set up logging and the event loop (uvloop's if it is there), then serve. Raises ConfigInvalid."""
    configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(settings))
