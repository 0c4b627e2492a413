"""`devroute up`: keeps a laptop online, and runs the app as a child process.

Owns the first registration and the order of the shutdown. link_keeper.py keeps the link; requests pass
through tunnel/agent_link.py and never through here.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from devroute.agent.app_advice import AppAdvisor
from devroute.agent.app_upstreams import app_upstreams
from devroute.agent.app_watch import START_SECONDS, AppWatch
from devroute.agent.controlled_agent import ControlledAgent
from devroute.agent.finished_requests import FinishedRequests
from devroute.agent.inspection import captures_for, inspection_of, metrics_of
from devroute.agent.link_keeper import LinkKeeper, first_result
from devroute.agent.link_monitor import LinkMonitor
from devroute.agent.log_file import keep_small
from devroute.agent.notices import MoveReceiver, NoticeReceiver
from devroute.agent.open_requests import OpenRequestWatch
from devroute.agent.outgoing import OutgoingRequests
from devroute.agent.readiness import Readiness
from devroute.agent.rule_switch import RuleSwitch
from devroute.agent.second_link import Held
from devroute.agent.services import Services
from devroute.agent.settings import AgentSettings
from devroute.agent.token_source import TokenSource
from devroute.agent.ui.choice import reporter_for
from devroute.agent.ui.fan_out import FanOut
from devroute.inspector.inspection import About
from devroute.inspector.port import taken_as_configured
from devroute.inspector.recorder import App, Recorder
from devroute.inspector.redaction import redaction
from devroute.inspector.replay import Replayer
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.state import InspectorState
from devroute.platforms import INTERRUPTED, freeze_heap, handle_signals, typed_keys
from devroute.routing.shadow.notifier import COMPARISON_SERVICE
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol.handshake import MOVE_SERVICE, NOTICE_SERVICE, Notice
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.upstream.interface import Upstream

if TYPE_CHECKING:  # imported where they are used, which takes a while
    from devroute.agent.child_process import ChildProcess
    from devroute.agent.comparisons import ComparisonResult
    from devroute.agent.reach.laptop_reach import LaptopReach


async def run(
    settings: AgentSettings,
    state_folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    readiness: Readiness | None = None,
    log: Path | None = None,
) -> int:
    """Stay online until a signal comes or the app ends; returns the exit code. Arguments as of Agent; `log`:
    the file of the output of one in the background.

    Raises any error of the first registration, later only those of FINAL, ConfigInvalid for an app that
    cannot be started, and what `readiness` does.
    """
    reporter = FanOut(reporter_for(settings))
    agent = Agent(settings, reporter, state_folder, readiness)
    agent.variables = variables or {}
    agent.controlled.log = log
    services = [spec.service for spec in settings.services]
    state = InspectorState(state_folder, settings.server, settings.name, services)
    kept: AbstractAsyncContextManager[None] = nullcontext()
    if agent.inspection is not None and settings.inspector_history:
        from devroute.inspector.history import keep_if_possible

        kept = keep_if_possible(agent.inspection, state, reporter.inspector_history)
    port = taken_as_configured(agent.inspection, settings.inspector, reporter, state)
    try:
        if agent.inspection is not None:
            await agent.inspection.decoder.load()
        async with kept, port as agent.controlled.inspector:
            with typed_keys(sys.stdin, agent.rule_switch.typed, wanted=reporter.reads_keys):
                return await (agent.run() if log is None else first_result(agent.run(), keep_small(log)))
    finally:
        try:
            reporter.close()
        finally:
            await agent.controlled.close()  # the last: who has asked for the end waits for it


class Agent:
    """`state_folder`: where other commands find this process, and of what is remembered; None for neither."""

    def __init__(
        self,
        settings: AgentSettings,
        reporter: FanOut,
        state_folder: Path | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """Longer than 40 lines: it makes all parts of one `devroute up`."""
        self._settings = settings
        #: Of the app's environment, besides this process' own.
        self.variables: Mapping[str, str] = {}
        self._reporter = reporter
        self._redaction = redaction(settings.redact)
        self._loop = asyncio.get_running_loop()
        captures = captures_for(settings, self._redaction, self._loop)
        recorder = self.recorder = None if captures is None else Recorder(captures, self._loop)
        self._rules = RuleList(settings.rules)
        self.rule_switch = RuleSwitch(self._rules, reporter)
        around = app_upstreams(settings, self._rules, self._redaction, recorder)
        self.services = Services(settings.services, around, lambda *change: self.controlled.changed(*change))
        self._own_upstreams = self._receivers(recorder)
        self._advisor = AppAdvisor(self.services.specs, settings.host_header, self._advised)
        self.finished = FinishedRequests(reporter, self._redaction, self._loop, self._advisor.observe)
        #: What sees the requests from this laptop to services of the mesh.
        self.outgoing = OutgoingRequests(self._rules, self._redaction, recorder, self.finished.observe)
        #: Sends captured requests again.
        self.replayer = Replayer(self.services.upstreams, self.outgoing.recorded)
        self.about = About({spec.service: spec.url for spec in settings.services})
        #: What the inspector shows and acts on; None where there is no inspector.
        self.inspection = inspection_of(captures, self.replayer, self.about, settings, self._rules)
        self._child: ChildProcess | None = None
        self._ending: asyncio.Future[int] = self._loop.create_future()  # the exit code that was asked for
        self._ended_by = "app"
        self._last_notice: Notice | None = None
        self._monitor = LinkMonitor(reporter, self._loop)
        make, reaches = self._make_link, settings.reaches
        source = TokenSource(settings)
        self._keeper = LinkKeeper(settings, source, make, self._monitor, reporter, reach=reaches)
        self._metrics = metrics_of(self.inspection, settings, self.services.specs.keys(), self._keeper)
        self.reach = self._reach_of(state_folder) if settings.reaches else None
        self.finished.count = None if self._metrics is None else self._metrics.finished
        self.finished.ended = None if self.reach is None else self.reach.ended
        report = partial(reporter.app, started=bool(settings.command))
        self._watch = AppWatch(settings.services, report)
        self._open_requests = OpenRequestWatch(
            lambda: [*self._keeper.links, self.outgoing], self._reporter.open, self._redaction
        )
        self._state_folder = state_folder
        self._readiness = readiness or Readiness()
        #: What others see and change of this process.
        self.controlled = ControlledAgent(
            settings,
            reporter,
            self.services,
            self._keeper,
            self._watch,
            self.about,
            self.inspection,
            end=lambda: self._end("down", 0),
            reach=self.reach,
        )

    def _reach_of(self, state_folder: Path | None) -> "LaptopReach":
        from devroute.agent.reach.laptop_reach import LaptopReach  # takes long to import

        mesh, around, clock = self._keeper.mesh, self.outgoing.around, self._loop.time
        return LaptopReach(
            self._settings,
            state_folder,
            mesh,
            around,
            self._reporter,
            clock,
            lambda: self.controlled.contract,
        )

    def _receivers(self, recorder: Recorder | None) -> dict[str, App]:
        """The upstreams of what the proxy sends to the agent itself."""
        settings = self._settings
        found: dict[str, App] = {}
        if settings.shadow is not None:
            from devroute.agent.comparisons import ComparisonReceiver
            from devroute.inspector.compare import IgnoreRules

            found[COMPARISON_SERVICE] = ComparisonReceiver(
                IgnoreRules.parse(settings.ignore), self._redaction, self._compared, recorder
            )
        found[NOTICE_SERVICE] = NoticeReceiver(self._noticed)
        return found

    async def run(self) -> int:
        with handle_signals(self._loop, self._signalled, hangup=True), self._monitor.on_the_network():
            try:
                code = await first_result(self._exit_code(), self._serve())
                self._reporter.ended(self._ended_by, code)
                return code
            finally:
                await self._close()

    async def _serve(self) -> int:
        """Stay online until the app ends; returns its exit code."""
        if self.reach is not None:
            await self.reach.open()
            self.about.reached, self.about.reach_proxy = self.reach.urls, self.reach.proxy_url
        first = await self._first()
        self._monitor.start()
        self._open_requests.start()
        if not self._settings.command:
            self._watch.start(patience=0.0)
            self._open_to_others()
            await self._keeper.stay(first)
        from devroute.agent.child_process import ChildProcess

        variables = {**self.variables, **({} if self.reach is None else self.reach.environment())}
        self._child = await ChildProcess.start(self._settings.command, variables=variables)
        self._readiness.app_started(self.controlled.log)
        self._watch.start(patience=START_SECONDS)
        self._open_to_others()
        return await first_result(self._keeper.stay(first), self._child.wait())

    def _open_to_others(self) -> None:
        self.controlled.open(self._state_folder)
        self._readiness.start(
            self._settings.services, self._watch, self.controlled.status_with_link, self._failed
        )

    # --- the link

    async def _first(self) -> Held:
        first = await self._readiness.first(self._keeper.first)
        welcome = first.welcome
        name, invited = welcome.name, self.controlled.invite(welcome)
        page = None if self.controlled.inspector is None else self.controlled.inspector.access.url
        mode, services = self._settings.offer_options.in_words(), list(self.services.specs.values())
        self._reporter.online(name, self._settings.server, services, invited, page, mode)
        if self.reach is not None:
            self.reach.welcomed(welcome)
        self.rule_switch.start()
        for each in welcome.taken_over:
            self._reporter.took_over(name, each)
        for each in welcome.others:
            self._reporter.shares(name, each)
        freeze_heap()
        return first

    def _make_link(self, websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        moves = MoveReceiver(lambda move: self._keeper.asked_to_move(link, move))
        served: dict[str, Upstream] = {**self.services.upstreams, **self._own_upstreams, MOVE_SERVICE: moves}
        if self.reach is not None:
            served = {name: self.reach.watched(each) for name, each in served.items()}
        link = AgentLink(websocket, loop, served, self.finished.observe)
        link.counted = self.finished.counted
        if self._metrics is not None:
            self._metrics.follow(link)
        return link

    # --- what is reported

    def _noticed(self, notice: Notice) -> None:
        if notice == self._last_notice:
            return  # each link's server sends it
        self._last_notice = notice
        if notice.event == "taken-over":
            self._keeper.registrar.drop(notice.services)
            self.services.taken_over(notice.services)
        self._reporter.noticed(self.about.name, notice)

    def _advised(self, service: str, text: str) -> None:
        self.finished.flush()  # its request comes before it
        self._reporter.advice(service, text)

    def _compared(self, result: "ComparisonResult", lost: int) -> None:
        self._reporter.compared(result, lost)
        self.finished.flush_soon()

    # --- the shutdown

    async def _exit_code(self) -> int:
        return await self._ending

    def _signalled(self, number: int) -> None:
        if not self._ending.done():
            self._end("signal", INTERRUPTED if number == signal.SIGINT else 0)
        else:
            self._keeper.end_at_once()

    def _failed(self, error: BaseException) -> None:
        if not self._ending.done():
            self._ending.set_exception(error)

    def _end(self, by: str, code: int) -> None:
        if not self._ending.done():
            self._ended_by = by
            self._ending.set_result(code)

    async def _close(self) -> None:
        self._monitor.stop()
        self._open_requests.stop()
        await self._readiness.close()
        await self._watch.close()
        await self._advisor.close()
        await self._keeper.close()
        self.finished.close()
        if self._child is not None:
            await self._child.stop()
        if self.reach is not None:
            await self.reach.close()
        self.replayer.close()
        if self.inspection is not None:
            await self.inspection.decoder.close()
        await self.services.close()
        for upstream in self._own_upstreams.values():
            await upstream.close()
        if self.recorder is not None:
            self.recorder.flush()  # for the history
