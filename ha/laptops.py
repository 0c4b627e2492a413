"""Many agents with an app each: python -m ha.laptops SERVER COUNT, the token in DEVROUTE_TOKEN.

Prints a line of JSON once all are online, and one with the counts of the agents' events for each line of its
standard input; ends with that. The agents are those of `devroute up`, without terminal and inspector.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence

from devroute import descriptors
from devroute.agent.app import Agent
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.reporter import Event, Reporter
from devroute.contract.service_spec import ServiceSpec
from devroute.tunnel.served_stream import Finished, OpenRequest
from ha.apps import port_of, serve

#: The owner of all laptops; their names are this with a number.
SUBJECT = "ha"
SERVICE = "foo"
#: Agents that register at the same time.
AT_ONCE = 25


def name_of(number: int) -> str:
    return f"{SUBJECT}--{number}"


class Counting(Reporter):
    """Counts the events of all agents together."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.is_online = asyncio.Event()
        self._counts = counts

    def show(self, event: Event) -> None:
        self._counts[event.name] += 1
        if event.name == "online":
            self.is_online.set()

    def request(self, finished: Finished) -> None:
        self._counts["requests"] += 1

    def open(self, requests: Sequence[OpenRequest]) -> None: ...
    def round_trip(self, seconds: float | None) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


async def run(server: str, count: int) -> None:
    counts = Counter[str]()
    gate = asyncio.Semaphore(AT_ONCE)
    token = os.environ["DEVROUTE_TOKEN"]

    async def online(number: int, agents: asyncio.TaskGroup) -> None:
        name = name_of(number)
        app = await serve(name)
        settings = AgentSettings.model_validate(
            {
                "server": server,
                "token": token,
                "name": name,
                "services": (ServiceSpec(SERVICE, "127.0.0.1", port_of(app)),),
                "inspector": False,
            }
        )
        reporter = Counting(counts)
        async with gate:
            agents.create_task(Agent(settings, FanOut(reporter)).run())
            await reporter.is_online.wait()

    async with asyncio.TaskGroup() as agents:
        async with asyncio.TaskGroup() as starting:
            for number in range(count):
                starting.create_task(online(number, agents))
        print(json.dumps({"online": count}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(counts), flush=True)
        os._exit(0)  # at once: what becomes of the laptops then is no part of a run


if __name__ == "__main__":
    descriptors.reserve()
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
