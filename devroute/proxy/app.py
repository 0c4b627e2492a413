"""`devroute proxy`: its listeners and what they share. Owns their start, periodic work and end.

data     requests that a sidecar detoured, and nothing else (downstream)
control  /resolve and reports for sidecars, the laptops' tunnels, the JSON API (proxy/control)
peer     other replicas, where the registry is shared (proxy/replication.py)
admin    health, readiness, metrics (proxy/admin.py)

Longer than 350 lines: it joins all parts of the process, each in a few lines.
"""

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog

from devroute import __version__, descriptors
from devroute.auth.tls import ServerFiles
from devroute.contract.grammar import ContractLimits
from devroute.contract.verifier import Verifier
from devroute.downstream.listener import Listener
from devroute.errors import ConfigInvalid, FailoverUnavailable
from devroute.http.message import HeadLimits
from devroute.log import configure
from devroute.metrics import table
from devroute.metrics.table import Metric
from devroute.pages.lazy_server import LazyProtocols
from devroute.platforms import freeze_heap, handle_signals, loop_factory, stop_listening
from devroute.proxy import admin
from devroute.proxy.control.control import Control
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.sidecars import sidecar_routes
from devroute.proxy.control.tls import TlsListener
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.dashboard.dashboard import Dashboard
from devroute.proxy.egress.egress import Egress
from devroute.proxy.identity_sources import login_settings
from devroute.proxy.mesh_egress import mesh_upstream, reach_upstream
from devroute.proxy.ports.connection import Port
from devroute.proxy.reload import POLICY, SIGNING_KEYS, LiveConfig
from devroute.proxy.replication import Replication
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.audit_file import OFF, STDOUT
from devroute.proxy.telemetry.background_writer import BackgroundWriter
from devroute.proxy.telemetry.telemetry import Telemetry, report_loop_error, standard_error
from devroute.replicas.local_laptops import LocalLaptops
from devroute.replicas.reports import Reported
from devroute.routing.named_contracts import ContractReader, NamedContracts
from devroute.routing.registry import Registry
from devroute.routing.router import ContractRouter
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.routing.trace import KnownServices
from devroute.tunnel.protocol.handshake import Offer
from devroute.upstream.pools import Pools

#: Seconds between two ticks of the data path's clock; its timeouts are seconds, so it may be coarse.
TICK_SECONDS: Final = 0.5
#: Ticks between two searches for unused pools.
PRUNE_TICKS: Final = 120
#: Ticks between two searches for links whose token has expired or was revoked.
IN_FORCE_TICKS: Final = 2
#: Ticks between two reports of what log and audit trail left out.
LOSS_TICKS: Final = 20
#: Ticks between two searches for metrics of what is not requested any more: ten minutes.
METRICS_TICKS: Final = 1200
#: Ticks whose delays devroute_event_loop_lag_seconds is about: 30 s, the interval of scrapes.
LAG_TICKS: Final = 60

#: The module that serves the API and the team's page, loaded for its first client.
AIOHTTP_APP: Final = "devroute.proxy.aiohttp_app"

log = structlog.stdlib.get_logger("devroute.proxy")


class Proxy:
    """One replica. `start` listens, `stop` drains; in between everything happens in callbacks. `data`: the
    sidecars' connections at the data port."""

    def __init__(self, settings: ProxySettings, log_writer: BackgroundWriter | None = None) -> None:
        """`log_writer` is that of the process's log, if it has one already. Raises ConfigInvalid for a
        policy, token or key file that cannot be used."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._config = LiveConfig(settings)
        self._draining = False
        self._ticks = 0
        self._lags = deque([0.0], LAG_TICKS)  # how late the last ticks were, in seconds
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: list[asyncio.Server] = []
        self.data_port = self.control_port = self.admin_port = self.tls_port = 0
        self.telemetry = Telemetry(settings, self._loop.time, log_writer)
        self._create_routing()
        self._create_listeners()

    def _create_routing(self) -> None:
        settings, config = self._settings, self._config
        self._shadow = ShadowTraffic(self._loop.time)
        self.registry = Registry([self._shadow, self.telemetry.control])
        self._pools = Pools(
            config.policy,
            connect_timeout=settings.connect_timeout,
            max_in_flight=settings.max_in_flight,
            retry_refused=settings.retry_refused,
        )
        self._mesh = mesh_upstream(settings)
        verifier = Verifier(
            config.signing_keys.usable,
            settings.contract_max_ttl,
            config.signing_keys.look_again,
            ContractLimits(settings.max_contract_bytes, settings.max_contract_entries),
        )
        self.named_contracts = NamedContracts()
        self._read_contract = ContractReader(verifier, self.named_contracts, time.time)
        self._router = ContractRouter(
            self.registry,
            config.policy,
            self._pools,
            self._read_contract,
            mesh=self._mesh,
            shadow=self._shadow,
            cacheable=settings.cacheable_responses,
        )
        self.named_contracts.observers.append(lambda _: self._router.forget())

    def _create_listeners(self) -> None:
        settings, config = self._settings, self._config
        now, limits = self._loop.time(), HeadLimits(settings.max_head_bytes, settings.max_header_fields)
        telemetry, observe = self.telemetry, self.telemetry.observer.completed
        self._reach_mesh = reach_upstream(settings)
        self._egress = Egress(settings, config.policy, self._reach_mesh, telemetry.record)
        self.data = Listener(self._router, settings.timeouts, observe, now, limits, telemetry.sampler)
        self._tunnels = Tunnels(
            authenticate=config.identities.authenticate,
            registry=self.registry,
            permit=self._permit_registration,
            record=telemetry.record,
            entries=settings.entry_url,
            entry_links=settings.entry_links,
            round_trip=telemetry.control.round_trips.observe,
            reach=self._egress,
        )
        reported = Reported(telemetry.traces, KnownServices(), self._shadow.comparisons)
        self._dashboard = Dashboard(config, self._tunnels, telemetry, self.named_contracts)
        self.replication = Replication(
            settings,
            LocalLaptops(self.registry, self._pools, telemetry.report_span),
            reported,
            self._tunnels,
            self.named_contracts,
            self._dashboard.answers,
        )
        self._dashboard.join(self.replication.peers, self.replication.count)
        control = self._create_control(reported)
        self._aiohttp = LazyProtocols(
            AIOHTTP_APP,
            lambda module: module.create_runner(control, self._dashboard),
            lambda module, runner: module.connections(runner),
        )
        self._control_listener = ControlListener(
            http=self._aiohttp, tunnels=self._tunnels, routes=sidecar_routes(control)
        )
        self._tls: TlsListener | None = None
        self._admin = Port(admin.admin_routes(self._metrics, self._readiness))

    def _create_control(self, reported: Reported) -> Control:
        return Control(
            directory=self.registry,
            policy=self._config.policy,
            authenticate=self._config.identities.authenticate,
            probe=self._pools.probe,
            probe_timeout=self._settings.probe_timeout,
            traces=reported.traces,
            services=reported.services,
            shadow=self._shadow,
            read=self._read_contract,
            record=self.telemetry.record,
            names=self.named_contracts,
            contracts=self.replication.contracts,
            shared_reports=self.replication.reports,
            replicas=self.replication.for_laptops,
            resolved=self.telemetry.resolved,
            login=login_settings(self._settings),
            entries=self._settings.entry_url,
        )

    # --- start and end

    async def start(self) -> None:
        """Raises ConfigInvalid where a port cannot be had."""
        settings = self._settings
        self._apply_limits()
        self.data_port = await self._listen(self.data.accept, settings.data_host, settings.data_port)
        await self.replication.start(self.data_port)
        self.control_port = await self._listen(
            self._control_listener, settings.control_host, settings.control_port
        )
        self.admin_port = await self._listen(self._admin.accept, settings.admin_host, settings.admin_port)
        await self._listen_tls()
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self._config.start(self.telemetry.record)
        self.telemetry.start()
        log.info(
            "proxy.ready",
            version=__version__,
            data_port=self.data_port,
            control_port=self.control_port,
            admin_port=self.admin_port,
            tls_port=self.tls_port or None,
            peer_port=self.replication.peer_port or None,
        )

    async def _listen(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> int:
        try:
            server = await self._loop.create_server(
                protocol_factory, host, port, backlog=descriptors.backlog()
            )
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="is another proxy running?"
            ) from None
        self._listeners.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _listen_tls(self) -> None:
        settings = self._settings
        if settings.tls_cert is None or settings.tls_key is None:
            return
        required = settings.tls_client_auth == "required"
        files = ServerFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca, required)
        self._tls = TlsListener(files, self._control_listener)
        self.tls_port = await self._tls.start(
            settings.control_host, settings.tls_port, settings.reload_interval
        )

    async def stop(self) -> None:
        """Accept nothing new, let requests in flight finish and laptops dial other replicas for
        `drain_timeout` seconds, then abort what is left."""
        self._draining = True
        self._dashboard.end_pages()
        log.info("proxy.draining", in_flight=self.data.in_flight)
        self.data.drain()
        for listener in self._listeners:
            await stop_listening(listener)
        if self._tls is not None:
            await self._tls.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                moved = self.replication.hand_over(self._settings.drain_timeout)
                await asyncio.gather(self.data.drained.wait(), self._egress.drain(), moved)
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self.data.connections):
            connection.abort()
        await self._config.stop()
        await self._control_listener.close()
        await self._dashboard.close()
        await self.replication.stop()
        await self._pools.close()
        await self._egress.close()
        for mesh in (self._mesh, self._reach_mesh):
            if mesh is not None:
                await mesh.close()
        await self._aiohttp.close()
        await self._admin.close()
        await self.telemetry.stop()
        log.info("proxy.stopped")

    # --- periodic work

    def _tick(self) -> None:
        now = self._loop.time()
        if self._timer is not None:
            self._lags.append(now - self._timer.when())
        self._timer = self._loop.call_later(TICK_SECONDS, self._tick)
        self.data.tick(now)
        self._control_listener.tick(now)
        self._admin.tick(now)
        self._egress.tick(now)
        self._dashboard.tick()
        self._shadow.comparisons.expire()
        self.named_contracts.expire(time.time())
        self._ticks += 1
        if self._ticks % PRUNE_TICKS == 0:
            self._pools.prune()
        if self._ticks % LOSS_TICKS == 0:
            self.telemetry.report_losses()
        if self._ticks % METRICS_TICKS == 0:
            self.telemetry.metrics.requests.prune()
        if self._ticks % IN_FORCE_TICKS == 0:
            identities = self._config.identities
            self._tunnels.review_identities(identities.check_current, time.time(), identities.tokens)
        if self._ticks % max(1, round(self._settings.reload_interval / TICK_SECONDS)) == 0:
            self._apply(self._config.refresh(self.telemetry.record))

    def _apply(self, changed: set[str]) -> None:
        """Put new policy and keys into force for what was decided by the old ones."""
        if changed & {POLICY, SIGNING_KEYS}:
            self._router.forget()
        if POLICY in changed:
            self._apply_limits()
            self._pools.close_idle()
            self._tunnels.review_policy()
            self._egress.review_policy()

    def _apply_limits(self) -> None:
        """The policy's limits, or the settings' where it has none."""
        settings, limits = self._settings, self._config.policy().limits
        per_target = limits.in_flight_per_target or settings.max_in_flight
        self._pools.limit(per_target)
        self.registry.max_links = limits.links_per_subject or settings.max_links_per_subject
        self._egress.max_per_subject = limits.reach_per_subject or settings.max_reach_per_subject
        self._tunnels.quotas.set_limits(
            per_link=min(per_target, limits.streams_per_link or settings.max_streams_per_link),
            per_subject=limits.in_flight_per_subject or settings.max_in_flight_per_subject,
        )

    def reopen_audit(self) -> None:
        """The audit trail's file was moved away (SIGHUP, as log rotation sends it)."""
        self.telemetry.reopen_audit()

    # --- asked by the listeners

    def _permit_registration(self, subject: str, groups: frozenset[str], offer: Offer) -> None:
        """Raises RegistrationDenied, TargetDenied, ShadowDenied or FailoverUnavailable."""
        policy = self._config.policy()
        policy.permit_registration(subject, groups, offer.service)
        if offer.direct is not None:
            policy.permit_target(offer.direct, service=offer.service)
        if offer.terms.shadow is not None:
            policy.permit_shadow(offer.service)
        if offer.terms.except_status and self._mesh is None:
            problem = "failover is not possible: the proxy has no mesh egress"
            raise FailoverUnavailable(f"service '{offer.service}': {problem}", service=offer.service)

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        state: dict[Metric, float] = {
            table.IN_FLIGHT: self.data.in_flight,
            table.SIDECARS: len(self.data.connections),
            table.LAPTOPS: self.registry.owned(),
            table.LINKS: len(self._tunnels.links),
            table.POLICY_SUCCESS: int(self._config.policy_problem is None),
            table.POLICY_TIME: self._config.policy_loaded_at,
            table.LOOP_LAG: max(self._lags),
            **self.replication.metrics(),
        }
        return await self.telemetry.exposed(accept, state, self._egress.series())

    def _readiness(self) -> dict[str, object]:
        return {
            "ready": not self._draining and self.replication.ready,
            "draining": self._draining,
            "tls_problem": None if self._tls is None else self._tls.problem,
            "tls_age_s": None if self._tls is None else self._tls.age_s,
            **self.telemetry.status(),
            **self._config.status(),
            **self.replication.status(),
        }


async def serve(settings: ProxySettings, log_writer: BackgroundWriter) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends without draining."""
    proxy = Proxy(settings, log_writer)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_loop_error)
    ending = asyncio.Event()
    if settings.audit not in (OFF, STDOUT) and hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, proxy.reopen_audit)
    try:
        with handle_signals(loop, lambda _: ending.set()):
            await proxy.start()
            freeze_heap()
            await ending.wait()
    finally:
        await proxy.stop()
    return 0


def run(settings: ProxySettings) -> int:
    """Set up logging and the event loop (uvloop's where installed), then serve. Raises ConfigInvalid."""
    descriptors.reserve()
    log_writer = standard_error()
    configure(settings.log_format, settings.log_level, log_writer.write)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve(settings, log_writer))
    finally:
        log_writer.close()
