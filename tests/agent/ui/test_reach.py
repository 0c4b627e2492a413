"""What `devroute up` prints of the local ports that lead into the mesh."""

import io
import json

from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.reach import LocalPort
from devroute.agent.ui.layout import View, lines
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.errors import ReachDenied
from devroute.tunnel.protocol.handshake import Notice, OtherProcess

PORTS = [
    LocalPort(MeshPort("c.shop", 80), 26510, 26509, {"C_SHOP_URL": "http://127.0.0.1:26510"}),
    LocalPort(
        MeshPort("orders-db", 5432, tcp=True),
        5432,
        5432,
        {"ORDERS_DB_ADDR": "127.0.0.1:5432", "ORDERS_DB_PORT": "5432"},
    ),
]


def test_each_port_is_a_line_that_says_where_it_is_and_which_one_was_taken() -> None:
    terminal = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(terminal))
    reporter.reach(PORTS, 1080)
    reporter.close()
    assert terminal.getvalue().splitlines() == [
        "Reached from this laptop:",
        "  c.shop:80       127.0.0.1:26510  C_SHOP_URL=http://127.0.0.1:26510  (26509 is in use)",
        "  orders-db:5432  127.0.0.1:5432   ORDERS_DB_ADDR=127.0.0.1:5432",
        "  SOCKS and HTTP proxy: socks5h://127.0.0.1:1080, http://127.0.0.1:1080",
        "",
    ]


def test_the_page_of_a_laptop_without_services_invites_no_requests() -> None:
    for services in ([], [("b", "http://localhost:8001")]):
        view = View(name="alice", contract="{}", curl="curl", services=services)
        page = "\n".join("".join(text for text, _ in line) for line in lines(view, 80, 20))
        assert ("X-devroute" in page) is ("line above" in page) is bool(services)


def test_another_process_that_serves_nothing_is_no_news() -> None:
    terminal = io.StringIO()
    reporter = LineReporter("text", TerminalWriter(terminal))
    for services in ((), ("b",)):
        other = {"services": services, "agent": "1", "since": "2026-11-30T00:00:00Z"}
        reporter.shares("alice", OtherProcess(**other))
        reporter.noticed("alice", Notice(event="joined", **other))
    reporter.close()
    shown = terminal.getvalue().splitlines()
    assert len(shown) == 2
    assert all("'b'" in line for line in shown)


def test_a_program_reads_the_same_as_json_and_why_a_connection_failed() -> None:
    terminal = io.StringIO()
    reporter = LineReporter("json", TerminalWriter(terminal))
    reporter.reach(PORTS[1:], None)
    reporter.reach_failed(
        "tcp://orders-db:5432\x1b[2J", ReachDenied("no rule of reach lists orders-db", hint="ask")
    )
    reporter.close()
    reach, failed = map(json.loads, terminal.getvalue().splitlines())
    assert reach["proxy"] is None
    assert reach["ports"] == [
        {
            "service": "tcp://orders-db:5432",
            "local": "127.0.0.1:5432",
            "wanted": 5432,
            "variables": PORTS[1].variables,
        }
    ]
    assert (failed["event"], failed["code"]) == ("reach-failed", "reach-denied")
