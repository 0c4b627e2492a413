"""The package is described in pyproject.toml. This adds one choice: with DEVROUTE_COMPILE=1, mypyc turns
the modules that every request passes through into C, which halves what they cost. Without it they are plain
Python, and behave alike: the tests run with both (`make test-compiled`).

What mypyc 2.4 gets wrong, and compiled modules do without: `__call__` in a class that has a base; slices that
end before they begin; calls inside a slice of what is neither bytes, str nor list (they happen twice).
"""

import os
import re
from pathlib import Path

from setuptools import setup

COMPILED = [
    "agent.finished_requests",
    "agent.reach.byte_pipe",
    "agent.reach.proxy_port",
    "downstream.context",
    "downstream.exchange",
    "downstream.http1",
    "downstream.http1_exchange",
    "downstream.http2",
    "downstream.http2_exchange",
    "downstream.listener",
    "downstream.sampling",
    "http.aio.connection",
    "http.aio.http2_connection",
    "http.aio.http2_stream",
    "http.aio.paused_connection",
    "http.http1.body",
    "http.http1.fields",
    "http.http1.request",
    "http.http1.response",
    "http.http1.shapes",
    "http.http1.validation",
    "http.http2.field_blocks",
    "http.http2.headers",
    "http.message",
    "http.spans",
    "http.trace_context",
    "inspector.body_redactor",
    "inspector.patterns",
    "inspector.recorder",
    "inspector.redaction",
    "inspector.rules.upstream",
    "inspector.store",
    "metrics.instruments",
    "metrics.requests",
    "proxy.egress.tcp",
    "proxy.ports.connection",
    "proxy.ports.heads",
    "proxy.ports.message",
    "proxy.telemetry.access_log",
    "proxy.telemetry.activity",
    "proxy.telemetry.audit",
    "proxy.telemetry.line_writer",
    "proxy.telemetry.metrics",
    "proxy.telemetry.observer",
    "routing.route",
    "routing.route_builder",
    "routing.router",
    "tunnel.agent_link",
    "tunnel.exchange_link",
    "tunnel.link",
    "tunnel.link_stream",
    "tunnel.liveness",
    "tunnel.opened_stream",
    "tunnel.protocol.events",
    "tunnel.protocol.frames",
    "tunnel.protocol.sender",
    "tunnel.protocol.session",
    "tunnel.protocol.stream",
    "tunnel.protocol.websocket",
    "tunnel.protocol.windows",
    "tunnel.proxy_link",
    "tunnel.served_stream",
    "upstream.address_pool",
    "upstream.http1_connection",
    "upstream.http1_pool",
    "upstream.http1_stream",
    "upstream.http2_connection",
    "upstream.http2_pool",
    "upstream.negotiating",
    "upstream.pools",
    "upstream.tcp",
]

extensions = []
if os.environ.get("DEVROUTE_COMPILE"):
    from mypyc.build import mypycify

    extensions = mypycify([f"devroute/{name.replace('.', '/')}.py" for name in COMPILED], opt_level="3")

#: README without pictures, and without links to files of the repository.
README = re.sub(
    r"<picture>.*?</picture>\n+|\[([^]]*)\]\((?!https:)[^)]*\)",
    lambda found: found[1] or "",
    Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    flags=re.DOTALL,
)

setup(ext_modules=extensions, long_description=README, long_description_content_type="text/markdown")
