"""When a link's ends send PING, and when they count each other as dead, by a clock of the test's own."""

from devroute.tunnel.liveness import AGENT_LIVENESS, EARLY, PROXY_LIVENESS, Heartbeat, Liveness
from tests.support.clock import Clock


class End:
    """One end of a link; what it sends reaches its peer at once, while the wire is whole."""

    def __init__(self, clock: Clock, limits: Liveness) -> None:
        self.clock = clock
        self.pings = 0
        self.death = ""
        self.peer: End | None = None
        self.heartbeat = Heartbeat(clock, limits, self._ping, self._dead)
        self.heartbeat.start()

    def _ping(self) -> None:
        self.pings += 1
        if self.peer is not None:
            self.peer.received()
            self.received()
            self.heartbeat.pong_received()

    def _dead(self, message: str) -> None:
        self.death = message

    def received(self) -> None:
        self.heartbeat.last_received = self.clock.time()
        self.heartbeat.ping_outstanding = False


def ends() -> tuple[Clock, End, End]:
    clock = Clock()
    agent, proxy = End(clock, AGENT_LIVENESS), End(clock, PROXY_LIVENESS)
    agent.peer, proxy.peer = proxy, agent
    return clock, agent, proxy


def test_pings_of_the_agent_keep_an_idle_link_alive_and_the_proxy_sends_none() -> None:
    clock, agent, proxy = ends()
    clock.pass_time(3600)
    assert (agent.death, proxy.death) == ("", "")
    assert agent.pings == 3600 / AGENT_LIVENESS.ping_after
    assert proxy.pings == 0


def test_each_end_counts_a_silent_peer_as_dead_after_one_ping() -> None:
    clock, agent, proxy = ends()
    agent.peer = proxy.peer = None
    clock.pass_time(14.9)
    assert (agent.pings, proxy.pings) == (1, 1)
    assert (agent.death, proxy.death) == ("", "")
    clock.pass_time(0.2)
    assert agent.death == proxy.death == "the tunnel has been idle for 15 s"
    clock.pass_time(3600)
    assert (agent.pings, proxy.pings) == (1, 1)


def test_a_link_that_is_in_use_sends_no_ping() -> None:
    clock, agent, _ = ends()
    for _ in range(100):
        clock.pass_time(AGENT_LIVENESS.ping_after / 2)
        agent.received()
    assert agent.pings == 0


def test_the_loop_looks_at_many_idle_links_at_once_and_pings_none_of_them_late() -> None:
    clock, after = Clock(), PROXY_LIVENESS.ping_after
    links: list[float] = []
    pinged: list[float] = []
    for _ in range(300):
        clock.pass_time(0.005)
        links.append(clock.time())
        Heartbeat(clock, PROXY_LIVENESS, lambda: pinged.append(clock.time()), lambda _: None).start()
    clock.pass_time(after)
    assert all(
        after * (1 - EARLY) - 1e-6 <= ping - since <= after for ping, since in zip(pinged, links, strict=True)
    )
    assert len(set(pinged)) < len(links) / 4


def test_a_probe_pings_at_once_and_waits_no_longer_than_its_limit() -> None:
    clock, agent, _ = ends()
    agent.heartbeat.probe(3)
    assert agent.pings == 1
    clock.pass_time(5)
    assert agent.death == ""
    agent.peer = None
    agent.heartbeat.probe(3)
    clock.pass_time(2.9)
    assert (agent.pings, agent.death) == (2, "")
    clock.pass_time(0.2)
    assert agent.death


def test_a_pong_says_how_long_the_round_trip_takes() -> None:
    clock, agent, _ = ends()
    agent.peer = None
    pong = agent.heartbeat.ping()
    assert agent.heartbeat.ping() is pong, "one ping at a time"
    clock.pass_time(0.25)
    agent.heartbeat.pong_received()
    assert pong.done()
    assert agent.heartbeat.round_trip == 0.25
    assert agent.pings == 1


def test_a_link_that_has_ended_pings_no_more_and_leaves_no_ping_outstanding() -> None:
    clock, agent, _ = ends()
    agent.peer = None
    pong = agent.heartbeat.ping()
    agent.heartbeat.stop()
    assert pong.done()
    clock.pass_time(3600)
    assert (agent.pings, agent.death) == (1, "")
